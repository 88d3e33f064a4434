//! `fisher_adam`: kernels/fisher_adam.cuh, line by line; a kernel whose sums decide the clipping, and one that applies.

use super::kernel::{At, Counter, Gradient, Kernel, Moments, Use};
use super::moments::{Ema, exp_avg, exp_avg_sq};
use super::simd::{Isa, Vector, pow};
use crate::args::{
    FADAM_RHO, FADAM_WEIGHT_DECAY, FisherAdamClip, FisherAdamDamping, FisherAdamHyper, FisherAdamStep,
    Progress,
};

#[inline(always)]
fn denominator<S: Isa>(isa: S, step: &FisherAdamStep, damping: FisherAdamDamping, f: S::V) -> S::V {
    let root = if step.flags & FADAM_RHO != 0 { pow(isa, f, step.rho) } else { f.sqrt() };
    root + isa.splat(damping.eps) // 3
}

/// The sweep whose sums decide the clipping, of g², n² and w².
/// COMMIT writes the new f; without it f already holds this step's value.
pub(super) struct FisherAdamSums<const COMMIT: bool> {
    step: FisherAdamStep,
    damping: FisherAdamDamping,
}

impl<const COMMIT: bool> Kernel for FisherAdamSums<COMMIT> {
    const SUMS: [bool; 3] = [true; 3];
    const PARAMETER: Use = Use::Reads;
    const MOMENTS: [Use; 3] = [Use::No, if COMMIT { Use::Writes } else { Use::Reads }, Use::No];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        let step = &self.step;
        // SAFETY: the caller's.
        let (grad, mut f) = unsafe { (G::load(isa, at.gradient), isa.load(at.exp_avg_sq)) };
        let g = grad * isa.splat(step.grad_scale); // 1
        if COMMIT {
            f = exp_avg_sq(isa, f, g, step.fisher_mix, step.flags); // 2
            // SAFETY: the caller's.
            unsafe {
                f = M::round::<S>(f, at.exp_avg_sq_random);
                f.store(at.exp_avg_sq);
            }
        }
        let d = denominator(isa, step, self.damping, f);
        let n = g.div_or_zero(d);
        sums[0] = g.mul_add(g, sums[0]);
        sums[1] = n.mul_add(n, sums[1]);
        if step.flags & FADAM_WEIGHT_DECAY != 0 {
            // SAFETY: the caller's.
            let w = unsafe { isa.load(at.parameter) }.div_or_zero(d);
            sums[2] = w.mul_add(w, sums[2]);
        }
    }
}

/// Momentum and the step itself. With NORMS, sums m² and θ² (before the step).
pub(super) struct FisherAdamApply<const NORMS: bool> {
    step: FisherAdamStep,
    damping: FisherAdamDamping,
    clip: FisherAdamClip,
    ema: Ema,
}

impl<const NORMS: bool> Kernel for FisherAdamApply<NORMS> {
    const SUMS: [bool; 3] = [false, NORMS, NORMS];
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::Writes, Use::Reads, Use::No];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        let Self { step, damping, clip, ema } = self;
        // SAFETY: the caller's.
        let (grad, p, m, f) = unsafe {
            let grad = G::load(isa, at.gradient);
            (grad, isa.load(at.parameter), isa.load(at.exp_avg), isa.load(at.exp_avg_sq))
        };
        let g = grad * isa.splat(step.grad_scale); // 1
        let d = denominator(isa, step, *damping, f);
        let n = if clip.natural == 0.0 {
            isa.splat(0.0)
        } else {
            g.div_or_zero(d) * isa.splat(clip.natural) // 4
        };
        let m = exp_avg(isa, m, n, step.exp_avg_mix, step.flags); // 5
        // SAFETY: the caller's.
        let m = unsafe { M::round::<S>(m, at.exp_avg_random) };
        let mut r = m;
        if step.flags & FADAM_WEIGHT_DECAY != 0 && clip.decay != 0.0 {
            r = isa.splat(clip.decay).mul_add(p.div_or_zero(d), r); // 6
        }
        let next = isa.splat(step.neg_lr).mul_add(r, p); // 7
        // SAFETY: the caller's.
        unsafe {
            next.store(at.parameter);
            m.store(at.exp_avg);
            ema.update(isa, &at, next);
        }
        if NORMS {
            sums[1] = m.mul_add(m, sums[1]);
            sums[2] = p.mul_add(p, sums[2]);
        }
    }
}

/// The scalars of one tensor's step, and what its sums decide on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct FisherAdam {
    hyper: FisherAdamHyper,
    step: FisherAdamStep,
    damping: FisherAdamDamping,
    clip: FisherAdamClip,
    ema: Ema,
    /// ε̂ was taken to be ε, and was not.
    pub(super) mistaken: bool,
}

impl FisherAdam {
    /// Before any sum is known: ε̂ = ε, which is right whenever RMS(g) ≥ ε/ε2.
    pub(super) fn new(
        hyper: &FisherAdamHyper,
        before: &Progress,
        now: &Progress,
        grad_scale: f64,
        ema: Ema,
    ) -> Self {
        Self {
            hyper: *hyper,
            step: hyper.step(before, now, grad_scale),
            damping: hyper.damping(0.0),
            clip: FisherAdamClip { natural: 1.0, decay: 0.0 },
            ema,
            mistaken: false,
        }
    }

    /// Takes in RMS(g) of the effective gradient.
    pub(super) fn settle_damping(&mut self, grad_rms: f64) {
        self.mistaken = !self.hyper.eps_is_full(grad_rms);
        self.damping = self.hyper.damping(grad_rms);
    }

    pub(super) fn settle_clip(&mut self, natural_sum: f64, decay_sum: f64, len: usize) {
        self.clip = self.hyper.clip(natural_sum, decay_sum, len);
    }

    pub(super) fn sums<const COMMIT: bool>(&self) -> FisherAdamSums<COMMIT> {
        FisherAdamSums { step: self.step, damping: self.damping }
    }

    pub(super) fn apply<const NORMS: bool>(&self) -> FisherAdamApply<NORMS> {
        FisherAdamApply { step: self.step, damping: self.damping, clip: self.clip, ema: self.ema }
    }
}
