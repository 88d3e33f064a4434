//! `adam`: kernels/adam.cuh, line by line; one sweep.

use super::kernel::{At, Counter, Gradient, Kernel, Moments, Use};
use super::moments::{Ema, denominator, direction, exp_avg, exp_avg_sq};
use super::optimizer::Cpu;
use super::simd::{Isa, Vector};
use super::task::{Step, run_all};
use crate::args::{AdamStep, FADAM_AMSGRAD, FADAM_DECOUPLED, FADAM_WEIGHT_DECAY};

/// One step. With NORMS, sums g² (as it enters the step), Δ² and θ² (before the step).
pub(super) struct Adam<const NORMS: bool> {
    pub(super) step: AdamStep,
    pub(super) ema: Ema,
}

impl<const NORMS: bool> Kernel for Adam<NORMS> {
    const SUMS: [bool; 3] = [NORMS; 3];
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::Writes; 3];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        let AdamStep { moments: k, neg_lr, weight_decay } = &self.step;
        let decay = k.flags & FADAM_WEIGHT_DECAY != 0;
        let decoupled = k.flags & FADAM_DECOUPLED != 0;
        // SAFETY: the caller's.
        let (grad, p, m, v) = unsafe {
            let grad = G::load(isa, at.gradient);
            (grad, isa.load(at.parameter), isa.load(at.exp_avg), isa.load(at.exp_avg_sq))
        };
        let scaled = grad * isa.splat(k.grad_scale); // 1
        let g = if decay && !decoupled { isa.splat(*weight_decay).mul_add(p, scaled) } else { scaled }; // 2
        let m = exp_avg(isa, m, g, k.exp_avg_mix, k.flags); // 3
        let v = exp_avg_sq(isa, v, g, k.exp_avg_sq_mix, k.flags); // 4
        // SAFETY: the caller's.
        let (m, v) = unsafe { (M::round::<S>(m, at.exp_avg_random), M::round::<S>(v, at.exp_avg_sq_random)) };
        let mut second = v;
        if k.flags & FADAM_AMSGRAD != 0 {
            // SAFETY: the caller's; under amsgrad the array is there.
            unsafe {
                second = v.select_max(isa.load(at.max_exp_avg_sq)); // 5
                second.store(at.max_exp_avg_sq);
            }
        }
        let d = denominator(isa, second, k); // 6
        let delta = direction(isa, m, d, k); // 7
        let r = if decay && decoupled { isa.splat(*weight_decay).mul_add(p, delta) } else { delta }; // 8
        let next = isa.splat(*neg_lr).mul_add(r, p); // 9
        // SAFETY: the caller's.
        unsafe {
            next.store(at.parameter);
            m.store(at.exp_avg);
            v.store(at.exp_avg_sq);
            self.ema.update(isa, &at, next);
        }
        if NORMS {
            sums[0] = scaled.mul_add(scaled, sums[0]);
            sums[1] = delta.mul_add(delta, sums[1]);
            sums[2] = p.mul_add(p, sums[2]);
        }
    }
}

impl Cpu {
    pub(super) fn adam<const NORMS: bool>(&mut self) {
        run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
            Step::Adam(step) => Some(Adam::<NORMS> { step, ema: task.ema }),
            _ => None,
        });
    }
}
