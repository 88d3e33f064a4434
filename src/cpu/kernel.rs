//! What a kernel is: the arithmetic of one vector, and how it reads what is kept in other types.

use super::simd::{Isa, Vector};
use crate::args::{FADAM_NEAR_DECAY_LIMIT, FADAM_NEAR_EPS};
use crate::tensor::Dtype;

/// Where one vector of each array lies.
pub(super) struct At {
    pub(super) parameter: *mut f32,
    pub(super) exp_avg: *mut f32,
    pub(super) exp_avg_sq: *mut f32,
    pub(super) max_exp_avg_sq: *mut f32,
    pub(super) ema: *mut f32,
    pub(super) gradient: *const u8,
    pub(super) exp_avg_random: *const u16,
    pub(super) exp_avg_sq_random: *const u16,
}

/// Sums over one chunk: of g², Δ² (or n², m²) and θ² (or w²). 0 where the kernel does not take it.
pub(super) type Sums = [f32; 3];

/// Thresholds that a kernel may count coordinates against, and how many elements of one chunk lie beyond each.
pub(super) const COUNTS: usize = (FADAM_NEAR_EPS + FADAM_NEAR_DECAY_LIMIT) as usize;
pub(super) type Counts = [u32; COUNTS];

/// The counts as they grow, lane by lane, each beside its threshold in every lane.
pub(super) struct Counter<V> {
    pub(super) thresholds: [V; COUNTS],
    pub(super) counts: [V; COUNTS],
}

/// What comes of one chunk.
pub(super) struct Found {
    pub(super) sums: Sums,
    pub(super) counts: Option<Counts>,
}

/// What a kernel does with an array that is there.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Use {
    No,
    Reads,
    Writes,
}

/// The arithmetic of one vector, by the numbered steps of kernels/*.cuh.
///
/// Zeros in every array must leave zeros and add nothing to the sums: that is what the last row is padded with.
pub(super) trait Kernel {
    /// Which sums it takes.
    const SUMS: [bool; 3];
    /// Whether it counts coordinates.
    const COUNTS: bool = false;
    /// What it does with the parameter, and with each moment. The EMA goes with the parameter.
    const PARAMETER: Use;
    const MOMENTS: [Use; 3];
    /// What it counts against.
    fn thresholds(&self) -> [f32; COUNTS] {
        [0.0; COUNTS]
    }
    /// How zeros in every array count, which padding is not to.
    fn counts_of_zeros(&self) -> Counts {
        [0; COUNTS]
    }
    /// Reads the gradient by `G`, rounds moments by `M`, writes in place, and adds to `sums` and `counter` lane by lane.
    ///
    /// # Safety
    /// Every array that the kernel uses is valid for one vector at `at`.
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        counter: &mut Counter<S::V>,
    );
}

/// How a gradient is read.
pub(super) trait Gradient {
    const SIZE: usize;
    /// # Safety
    /// `from` is valid for one vector of this type.
    unsafe fn load<S: Isa>(isa: S, from: *const u8) -> S::V;
}

/// How moments are kept: what a step computes from them is computed from them as stored.
pub(super) trait Moments {
    const DTYPE: Dtype;
    /// # Safety
    /// `random` is null or valid for one vector.
    unsafe fn round<S: Isa>(m: S::V, random: *const u16) -> S::V;
}

pub(super) struct F32;
pub(super) struct Bf16;

impl Gradient for F32 {
    const SIZE: usize = Dtype::F32.size();
    #[inline(always)]
    unsafe fn load<S: Isa>(isa: S, from: *const u8) -> S::V {
        // SAFETY: the caller's.
        unsafe { isa.load(from.cast()) }
    }
}

impl Gradient for Bf16 {
    const SIZE: usize = Dtype::Bf16.size();
    #[inline(always)]
    unsafe fn load<S: Isa>(isa: S, from: *const u8) -> S::V {
        // SAFETY: the caller's.
        unsafe { isa.load_bf16(from.cast()) }
    }
}

impl Moments for F32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    unsafe fn round<S: Isa>(m: S::V, _: *const u16) -> S::V {
        m
    }
}

impl Moments for Bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    unsafe fn round<S: Isa>(m: S::V, random: *const u16) -> S::V {
        if random.is_null() {
            return m.nearest_bf16();
        }
        // SAFETY: the caller's.
        unsafe { m.stochastic_bf16(random) }
    }
}
