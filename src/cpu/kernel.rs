//! How an element-wise kernel walks a chunk: rows of LANES elements, vector by vector. What is not kept as f32, and the
//! last, short row, is brought into rows of f32 before the kernel and out of them afterwards.

use super::simd::{Isa, LANES, Program, Simd, Vector, count, fold};
use super::stage::{BLOCK, Random, Stage};
use crate::args::{FADAM_NEAR_DECAY_LIMIT, FADAM_NEAR_EPS};
use crate::{Dtype, Tensor};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

/// The memory of one chunk. A null pointer stands for an array that is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) parameter: Parameter,
    /// First and second moment, largest second moment: f32 or bf16.
    pub(super) moments: [*mut u8; 3],
    pub(super) moments_dtype: Dtype,
    pub(super) ema: *mut f32,
    pub(super) gradient: *const u8,
    pub(super) gradient_dtype: Dtype,
    /// The chunk's first element in the tensor.
    pub(super) start: usize,
    pub(super) len: usize,
    /// How bf16 is rounded; `None` is to nearest.
    pub(super) random: Option<Random>,
}

/// How a parameter is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter {
    F32(*mut f32),
    Bf16 {
        value: *mut u16,
        master: Master,
        /// Else the master begins with the value in this step.
        has_master: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Master {
    None,
    F32(*mut f32),
    Remainder(*mut u16),
}

impl Chunk {
    /// An f32 tensor, or null, and a gradient, outside an optimizer.
    pub(super) fn outside(parameter: *mut u8, gradient: &Tensor<'_>) -> Self {
        Self {
            parameter: Parameter::F32(parameter.cast()),
            moments: [null_mut(); 3],
            moments_dtype: Dtype::F32,
            ema: null_mut(),
            gradient: gradient.host(),
            gradient_dtype: gradient.dtype,
            start: 0,
            len: gradient.len,
            random: None,
        }
    }

    /// Its elements from `start` on, at most `len` of them.
    pub(super) fn part(&self, start: usize, len: usize) -> Self {
        let offset = |array: *mut u8, dtype: Dtype| {
            if array.is_null() { array } else { array.wrapping_add(start * dtype.size()) }
        };
        Self {
            parameter: match self.parameter {
                Parameter::F32(array) => Parameter::F32(array.wrapping_add(start)),
                Parameter::Bf16 { value, master, has_master } => Parameter::Bf16 {
                    value: value.wrapping_add(start),
                    master: match master {
                        Master::None => Master::None,
                        Master::F32(array) => Master::F32(array.wrapping_add(start)),
                        Master::Remainder(array) => Master::Remainder(array.wrapping_add(start)),
                    },
                    has_master,
                },
            },
            moments: self.moments.map(|array| offset(array, self.moments_dtype)),
            ema: offset(self.ema.cast(), Dtype::F32).cast(),
            gradient: self.gradient.wrapping_add(start * self.gradient_dtype.size()),
            start: self.start + start,
            len: (self.len - start).min(len),
            ..*self
        }
    }
}

/// Whole rows of each array in f32, and of the gradient in its own type.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) parameter: *mut f32,
    pub(super) moments: [*mut f32; 3],
    pub(super) ema: *mut f32,
    pub(super) gradient: *const u8,
    /// Random bits for the first and the second moment; null where they are rounded to nearest, or not at all.
    pub(super) random: [*const u16; 2],
}

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

/// Runs a kernel over one chunk and returns its sums and counts.
///
/// # Safety
/// The level is available; every array that the kernel uses is valid for the chunk's length, and nothing else touches
/// it meanwhile (the gradient may be read by others).
pub(super) unsafe fn run<K: Kernel>(simd: Simd, kernel: K, chunk: Chunk) -> Found {
    // SAFETY: forwarded.
    unsafe {
        match (chunk.gradient_dtype, chunk.moments_dtype) {
            (Dtype::F32, Dtype::F32) => simd.run(Walk::<K, F32, F32> { kernel, chunk, types: PhantomData }),
            (Dtype::Bf16, Dtype::F32) => simd.run(Walk::<K, Bf16, F32> { kernel, chunk, types: PhantomData }),
            (Dtype::F32, Dtype::Bf16) => simd.run(Walk::<K, F32, Bf16> { kernel, chunk, types: PhantomData }),
            (Dtype::Bf16, Dtype::Bf16) => {
                simd.run(Walk::<K, Bf16, Bf16> { kernel, chunk, types: PhantomData })
            }
        }
    }
}

struct Walk<K, G, M> {
    kernel: K,
    chunk: Chunk,
    types: PhantomData<(G, M)>,
}

impl<K: Kernel, G: Gradient, M: Moments> Program for Walk<K, G, M> {
    type Output = Found;

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) -> Found {
        let Self { kernel, chunk, .. } = self;
        let mut lanes = [isa.zero_lanes(); 3];
        let mut counter = Counter { thresholds: [isa.splat(0.0); COUNTS], counts: [isa.splat(0.0); COUNTS] };
        for (lanes, threshold) in counter.thresholds.iter_mut().zip(kernel.thresholds()) {
            *lanes = isa.splat(threshold);
        }
        let in_place = direct::<K, M>(&chunk);
        let mut stage = Stage::new();
        let mut start = 0;
        while start < chunk.len {
            // As many rows as there are in place, else what the stage holds: one loop for both.
            let whole = (chunk.len - start) / LANES * LANES;
            let part = match in_place {
                Some(_) if whole > 0 => chunk.part(start, whole),
                _ => chunk.part(start, BLOCK),
            };
            let staged = in_place.is_none() || whole == 0;
            // SAFETY: the part lies within the chunk, by the contract of `run`.
            unsafe {
                let arrays = match in_place {
                    Some(arrays) if !staged => arrays, // from the chunk's beginning: they come first
                    _ => stage.bring_in::<S, K, G, M>(isa, &part),
                };
                for row in 0..part.len.div_ceil(LANES) {
                    self::row::<S, K, G, M>(isa, &kernel, &arrays, row * LANES, &mut lanes, &mut counter);
                }
                if staged {
                    stage.take_out::<S, K, M>(isa, &part);
                }
            }
            start += part.len;
        }
        let mut sums = [0.0; 3];
        for slot in 0..3 {
            if K::SUMS[slot] {
                sums[slot] = fold::<S>(lanes[slot]);
            }
        }
        let mut counts = None;
        if K::COUNTS {
            let padding = (chunk.len.next_multiple_of(LANES) - chunk.len) as u32;
            let mut of_chunk = kernel.counts_of_zeros();
            for (into, &lanes) in of_chunk.iter_mut().zip(&counter.counts) {
                *into = count::<S>(lanes) - padding * *into;
            }
            counts = Some(of_chunk);
        }
        Found { sums, counts }
    }
}

/// The arrays themselves, where all that the kernel uses are kept as f32.
#[inline(always)]
fn direct<K: Kernel, M: Moments>(chunk: &Chunk) -> Option<Rows> {
    let parameter = match chunk.parameter {
        Parameter::F32(parameter) => Some(parameter),
        Parameter::Bf16 { .. } => (K::PARAMETER == Use::No).then(null_mut),
    };
    let moments = M::DTYPE == Dtype::F32 || K::MOMENTS.iter().all(|&moment| moment == Use::No);
    parameter.filter(|_| moments).map(|parameter| Rows {
        parameter,
        moments: chunk.moments.map(<*mut u8>::cast),
        ema: chunk.ema,
        gradient: chunk.gradient,
        random: [null(); 2],
    })
}

/// LANES elements from `start` on.
///
/// # Safety
/// They lie within the arrays.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "one vector of each of three arrays")]
unsafe fn row<S: Isa, K: Kernel, G: Gradient, M: Moments>(
    isa: S,
    kernel: &K,
    arrays: &Rows,
    start: usize,
    lanes: &mut [S::Lanes; 3],
    counter: &mut Counter<S::V>,
) {
    let [exp_avg, exp_avg_sq, max_exp_avg_sq] = arrays.moments;
    let vectors = LANES / S::V::WIDTH;
    for i in 0..vectors {
        let offset = start + i * S::V::WIDTH;
        let mut sums = [lanes[0][i], lanes[1][i], lanes[2][i]];
        let or_null = |array: *mut f32| if array.is_null() { array } else { array.wrapping_add(offset) };
        let random = |array: *const u16| if array.is_null() { array } else { array.wrapping_add(offset) };
        let at = At {
            parameter: arrays.parameter.wrapping_add(offset),
            exp_avg: exp_avg.wrapping_add(offset),
            exp_avg_sq: exp_avg_sq.wrapping_add(offset),
            max_exp_avg_sq: max_exp_avg_sq.wrapping_add(offset),
            ema: or_null(arrays.ema),
            gradient: arrays.gradient.wrapping_add(offset * G::SIZE),
            exp_avg_random: random(arrays.random[0]),
            exp_avg_sq_random: random(arrays.random[1]),
        };
        // SAFETY: the caller's row.
        unsafe { kernel.vector::<S, G, M>(isa, at, &mut sums, counter) };
        for slot in 0..3 {
            if K::SUMS[slot] {
                lanes[slot][i] = sums[slot];
            }
        }
    }
}
