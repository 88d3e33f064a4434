//! How an element-wise kernel walks a chunk: rows of LANES elements, vector by vector. What is not kept as f32, and the
//! last, short row, is brought into rows of f32 before the kernel and out of them afterwards.

use super::chunk::{Chunk, Parameter, Rows};
use super::kernel::{At, Bf16, COUNTS, Counter, F32, Found, Gradient, Kernel, Moments, Use};
use super::simd::{Isa, LANES, Program, Simd, Vector, count, fold};
use super::stage::{BLOCK, Stage};
use crate::tensor::Dtype;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

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
