//! The two moments and the preconditioned direction that Adam and FAdam share: kernels/moments.cuh, line by line.

use super::kernel::At;
use super::simd::{Isa, Vector};
use crate::args::{FADAM_EXP_AVG_NEW, FADAM_EXP_AVG_SQ_NEW, Moments};

/// m ← β1 m + (1−β1) g
#[inline(always)]
pub(super) fn exp_avg<S: Isa>(isa: S, m: S::V, g: S::V, mix: f32, flags: u32) -> S::V {
    let mix = isa.splat(mix);
    if flags & FADAM_EXP_AVG_NEW != 0 {
        mix.mul_add(m - g, g) // M1'
    } else {
        mix.mul_add(g - m, m) // M1
    }
}

/// v ← β2 v + (1−β2) g²
#[inline(always)]
pub(super) fn exp_avg_sq<S: Isa>(isa: S, v: S::V, g: S::V, mix: f32, flags: u32) -> S::V {
    let mix = isa.splat(mix);
    if flags & FADAM_EXP_AVG_SQ_NEW != 0 {
        let q = g * g; // M2'
        mix.mul_add(v - q, q) // M3'
    } else {
        mix.mul_add(g.mul_sub(g, v), v) // M2
    }
}

/// d = √(v / (1−β2^t)) + ε
#[inline(always)]
pub(super) fn denominator<S: Isa>(isa: S, v: S::V, k: &Moments) -> S::V {
    v.sqrt().mul_add(isa.splat(k.inv_sqrt_bias2), isa.splat(k.eps)) // M4
}

/// Δ = m / (1−β1^t) / d
#[inline(always)]
pub(super) fn direction<S: Isa>(isa: S, m: S::V, d: S::V, k: &Moments) -> S::V {
    (m * isa.splat(k.inv_bias1)).div_or_zero(d) // M5
}

/// The exponential moving average of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ema {
    /// 1 − decay: what the new value counts.
    pub(super) weight: f32,
    /// It begins with the parameter's value in this step.
    pub(super) starts: bool,
}

impl Ema {
    /// After a step to `next`; nothing where no average is kept.
    ///
    /// # Safety
    /// The EMA is null or valid for one vector at `at`.
    #[inline(always)]
    pub(super) unsafe fn update<S: Isa>(&self, isa: S, at: &At, next: S::V) {
        if at.ema.is_null() {
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            let ema = if self.starts { next } else { exp_avg(isa, isa.load(at.ema), next, self.weight, 0) };
            ema.store(at.ema);
        }
    }

    /// After the correction of a step, from `before` to `next`.
    ///
    /// # Safety
    /// As for `update`.
    #[inline(always)]
    pub(super) unsafe fn correct<S: Isa>(&self, isa: S, at: &At, before: S::V, next: S::V) {
        if at.ema.is_null() {
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            let moved = isa.splat(self.weight).mul_add(next - before, isa.load(at.ema));
            if self.starts { next } else { moved }.store(at.ema);
        }
    }
}
