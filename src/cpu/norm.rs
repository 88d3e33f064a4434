//! `norm_partial`: Σ(g·scale)² of one chunk; and the second pass, over a tensor's chunks.

use super::kernel::{At, Counter, Gradient, Kernel, Moments, Use};
use super::simd::{Isa, Vector};
use crate::args::FADAM_FOLD_LANES;

pub(super) struct NormPartial {
    /// f32(1 / grad_scale).
    pub(super) scale: f32,
}

impl Kernel for NormPartial {
    const SUMS: [bool; 3] = [true, false, false];
    const PARAMETER: Use = Use::No;
    const MOMENTS: [Use; 3] = [Use::No; 3];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        // SAFETY: the caller's.
        let g = unsafe { G::load(isa, at.gradient) } * isa.splat(self.scale);
        sums[0] = g.mul_add(g, sums[0]);
    }
}

/// Sums a tensor's chunk partials in f64: lane j takes partials j, j + 256, …, then the lanes fold by halves.
/// Part of the numerics contract.
pub(crate) fn fold_partials(partials: &[f32]) -> f64 {
    const LANES: usize = FADAM_FOLD_LANES as usize;
    let mut lanes = [0.0_f64; LANES];
    for row in partials.chunks(LANES) {
        for (lane, &partial) in lanes.iter_mut().zip(row) {
            *lane += f64::from(partial);
        }
    }
    // Lanes beyond the partials hold +0 and every partial is +0 or more (or NaN): adding them changes nothing.
    let mut width = partials.len().next_power_of_two().min(LANES);
    while width > 1 {
        width /= 2;
        for j in 0..width {
            lanes[j] += lanes[j + width];
        }
    }
    lanes[0]
}
