//! How an element-wise kernel walks a chunk: rows of LANES elements, vector by vector, the last row on padded copies.

use super::simd::{Isa, LANES, Program, Simd, Vector, fold};
use crate::Dtype;
use std::marker::PhantomData;

/// The memory of one chunk (or of a vector in it). A null pointer stands for an array that the kernel does not use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Parameter, first and second moment, largest second moment.
    pub(super) arrays: [*mut f32; 4],
    pub(super) gradient: *const u8,
    pub(super) gradient_dtype: Dtype,
    pub(super) len: usize,
}

/// Where one vector of each array lies.
pub(super) struct At {
    pub(super) parameter: *mut f32,
    pub(super) exp_avg: *mut f32,
    pub(super) exp_avg_sq: *mut f32,
    pub(super) max_exp_avg_sq: *mut f32,
    pub(super) gradient: *const u8,
}

/// Sums over one chunk: of g², Δ² (or n², m²) and θ² (or w²). 0 where the kernel does not take it.
pub(super) type Sums = [f32; 3];

/// The arithmetic of one vector, by the numbered steps of kernels/*.cuh.
///
/// Zeros in every array must leave zeros and add nothing to the sums: that is what the last row is padded with.
pub(super) trait Kernel {
    /// Which sums it takes.
    const SUMS: [bool; 3];
    /// Reads the gradient by `G`, writes in place, and adds to `sums` lane by lane.
    ///
    /// # Safety
    /// Every array that the kernel uses is valid for one vector at `at`.
    unsafe fn vector<S: Isa, G: Gradient>(&self, isa: S, at: At, sums: &mut [S::V; 3]);
}

/// How a gradient is read.
pub(super) trait Gradient {
    const SIZE: usize;
    /// # Safety
    /// `from` is valid for one vector of this type.
    unsafe fn load<S: Isa>(isa: S, from: *const u8) -> S::V;
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

/// Runs a kernel over one chunk and returns its sums.
///
/// # Safety
/// The level is available; every array that the kernel uses is valid for the chunk's length, and nothing else touches
/// it meanwhile (the gradient may be read by others).
pub(super) unsafe fn run<K: Kernel>(simd: Simd, kernel: K, chunk: Chunk) -> Sums {
    // SAFETY: forwarded.
    unsafe {
        match chunk.gradient_dtype {
            Dtype::F32 => simd.run(Walk::<K, F32> { kernel, chunk, gradient: PhantomData }),
            Dtype::Bf16 => simd.run(Walk::<K, Bf16> { kernel, chunk, gradient: PhantomData }),
        }
    }
}

struct Walk<K, G> {
    kernel: K,
    chunk: Chunk,
    gradient: PhantomData<G>,
}

impl<K: Kernel, G: Gradient> Program for Walk<K, G> {
    type Output = Sums;

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) -> Sums {
        let Self { kernel, chunk, .. } = self;
        let mut lanes = [isa.zero_lanes(); 3];
        let rows = chunk.len / LANES;
        for row in 0..rows {
            let start = row * LANES;
            // SAFETY: the row lies within the chunk, by the contract of `run`.
            unsafe { self::row::<S, K, G>(isa, &kernel, chunk.arrays, chunk.gradient, start, &mut lanes) };
        }
        let rest = chunk.len % LANES;
        if rest > 0 {
            // SAFETY: the last `rest` elements of the chunk.
            unsafe { last_row::<S, K, G>(isa, &kernel, &chunk, rows * LANES, rest, &mut lanes) };
        }
        let mut sums = [0.0; 3];
        for slot in 0..3 {
            if K::SUMS[slot] {
                sums[slot] = fold::<S>(lanes[slot]);
            }
        }
        sums
    }
}

/// LANES elements from `start` on.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "one vector of each of three arrays")]
unsafe fn row<S: Isa, K: Kernel, G: Gradient>(
    isa: S,
    kernel: &K,
    arrays: [*mut f32; 4],
    gradient: *const u8,
    start: usize,
    lanes: &mut [S::Lanes; 3],
) {
    let [parameter, exp_avg, exp_avg_sq, max_exp_avg_sq] = arrays;
    let vectors = LANES / S::V::WIDTH;
    for i in 0..vectors {
        let offset = start + i * S::V::WIDTH;
        let mut sums = [lanes[0][i], lanes[1][i], lanes[2][i]];
        let at = At {
            parameter: parameter.wrapping_add(offset),
            exp_avg: exp_avg.wrapping_add(offset),
            exp_avg_sq: exp_avg_sq.wrapping_add(offset),
            max_exp_avg_sq: max_exp_avg_sq.wrapping_add(offset),
            gradient: gradient.wrapping_add(offset * G::SIZE),
        };
        // SAFETY: the caller's row.
        unsafe { kernel.vector::<S, G>(isa, at, &mut sums) };
        for slot in 0..3 {
            if K::SUMS[slot] {
                lanes[slot][i] = sums[slot];
            }
        }
    }
}

/// The last, short row, on copies padded with zeros: the same code, the same order of sums.
#[inline(always)]
unsafe fn last_row<S: Isa, K: Kernel, G: Gradient>(
    isa: S,
    kernel: &K,
    chunk: &Chunk,
    start: usize,
    rest: usize,
    lanes: &mut [S::Lanes; 3],
) {
    let mut copies = [[0.0_f32; LANES]; 4];
    let mut gradient = [0.0_f32; LANES]; // room for LANES elements of any type, aligned for each
    let mut arrays = chunk.arrays;
    // SAFETY: `rest` elements from `start` lie within the chunk, and `rest` < LANES.
    unsafe {
        let from = chunk.gradient.add(start * G::SIZE);
        from.copy_to_nonoverlapping(gradient.as_mut_ptr().cast(), rest * G::SIZE);
        for (array, copy) in arrays.iter_mut().zip(&mut copies).filter(|(array, _)| !array.is_null()) {
            array.add(start).copy_to_nonoverlapping(copy.as_mut_ptr(), rest);
            *array = copy.as_mut_ptr();
        }
        row::<S, K, G>(isa, kernel, arrays, gradient.as_ptr().cast(), 0, lanes);
        for (array, copy) in chunk.arrays.iter().zip(&copies).filter(|(array, _)| !array.is_null()) {
            copy.as_ptr().copy_to_nonoverlapping(array.add(start), rest);
        }
    }
}
