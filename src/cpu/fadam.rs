//! `fadam`: kernels/fadam.cuh, line by line; one sweep, or two where κ wants them.

use super::kernel::{At, COUNTS, Counter, Counts, Gradient, Kernel, Moments, Use};
use super::moments::{Ema, denominator, direction, exp_avg, exp_avg_sq};
use super::optimizer::Cpu;
use super::simd::{Isa, Scalar, Vector};
use super::task::{Step, run_all, total};
use crate::algorithm;
use crate::args::{
    FADAM_DECAY_CAP, FADAM_NEAR_EPS, FADAM_WEIGHT_DECAY, FAdamScalars, FAdamStep, FAdamThresholds,
};
use crate::settings::Policy;

/// `fadam_moments`, steps 1 to 3: the effective gradient, and the new moments as they will be stored.
///
/// # Safety
/// Gradient and moments are valid for one vector at `at`.
#[inline(always)]
unsafe fn moments<S: Isa, G: Gradient, M: Moments>(isa: S, step: &FAdamStep, at: &At) -> (S::V, S::V, S::V) {
    let k = &step.moments;
    // SAFETY: the caller's.
    let (grad, m, s) = unsafe { (G::load(isa, at.gradient), isa.load(at.exp_avg), isa.load(at.exp_avg_sq)) };
    let g = grad * isa.splat(k.grad_scale); // 1
    let m = exp_avg(isa, m, g, k.exp_avg_mix, k.flags); // 2
    let s = exp_avg_sq(isa, s, g, k.exp_avg_sq_mix, k.flags); // 3
    // SAFETY: the caller's.
    unsafe { (g, M::round::<S>(m, at.exp_avg_random), M::round::<S>(s, at.exp_avg_sq_random)) }
}

const NEAR_EPS: usize = FADAM_NEAR_EPS as usize;

/// Where coordinates lie.
#[derive(Clone, Copy)]
struct Place<V> {
    d: V,
    /// The decay of θ before its cap and η; 0 without it.
    q: V,
}

/// `fadam_count`: one vector.
#[inline(always)]
fn count<V: Vector>(step: &FAdamStep, Place { d, q }: Place<V>, counter: &mut Counter<V>) {
    let Counter { thresholds, counts } = counter;
    for i in 0..NEAR_EPS {
        counts[i] = counts[i].count_less(d, thresholds[i]);
    }
    if step.moments.flags & FADAM_WEIGHT_DECAY != 0 {
        for i in NEAR_EPS..COUNTS {
            counts[i] = counts[i].count_less(thresholds[i], q);
        }
    }
}

fn in_a_row(thresholds: &FAdamThresholds) -> [f32; COUNTS] {
    let [a, b, c, d] = thresholds.eps;
    let [e, f, g] = thresholds.limit;
    [a, b, c, d, e, f, g]
}

/// How one coordinate with s = 0 counts.
fn counts_of_zeros(step: &FAdamStep, thresholds: &FAdamThresholds) -> Counts {
    let (_, _, place) = apply(Scalar, step, 1.0, 0.0, 0.0, 0.0);
    let mut counter = Counter { thresholds: in_a_row(thresholds), counts: [0.0; COUNTS] };
    count(step, place, &mut counter);
    counter.counts.map(f32::to_bits)
}

/// `fadam_apply`: the new θ, Δ before clipping, and where the coordinates lie.
#[inline(always)]
fn apply<S: Isa>(
    isa: S,
    step: &FAdamStep,
    clip: f32,
    p: S::V,
    m: S::V,
    s: S::V,
) -> (S::V, S::V, Place<S::V>) {
    let k = &step.moments;
    let d = denominator(isa, s, k); // 4
    let delta = direction(isa, m, d, k); // 5
    let mut r = isa.splat(clip) * delta; // 6
    let mut place = Place { d, q: isa.splat(0.0) };
    if k.flags & FADAM_WEIGHT_DECAY != 0 {
        let mut q = isa.splat(step.weight_decay).div_or_zero(d); // 7
        place.q = q;
        if k.flags & FADAM_DECAY_CAP != 0 {
            q = q.select_min(isa.splat(step.decay_cap)); // 8
        }
        r = q.mul_add(p, r); // 9
    }
    (isa.splat(step.neg_lr).mul_add(r, p), delta, place) // 10
}

/// The whole step in one sweep, Δ unclipped. With UPDATE, sums Δ²; with NORMS, g² and θ², and
/// counts coordinates.
struct FAdam<const UPDATE: bool, const NORMS: bool> {
    step: FAdamStep,
    ema: Ema,
    thresholds: FAdamThresholds,
}

impl<const UPDATE: bool, const NORMS: bool> Kernel for FAdam<UPDATE, NORMS> {
    const SUMS: [bool; 3] = [NORMS, UPDATE, NORMS];
    const COUNTS: bool = NORMS;
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::Writes, Use::Writes, Use::No];

    fn thresholds(&self) -> [f32; COUNTS] {
        in_a_row(&self.thresholds)
    }

    fn counts_of_zeros(&self) -> Counts {
        counts_of_zeros(&self.step, &self.thresholds)
    }

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        counter: &mut Counter<S::V>,
    ) {
        let step = &self.step;
        // SAFETY: the caller's.
        let ((g, m, s), p) = unsafe { (moments::<S, G, M>(isa, step, &at), isa.load(at.parameter)) };
        let (next, delta, place) = apply(isa, step, 1.0, p, m, s);
        // SAFETY: the caller's.
        unsafe {
            next.store(at.parameter);
            m.store(at.exp_avg);
            s.store(at.exp_avg_sq);
            self.ema.update(isa, &at, next);
        }
        if UPDATE {
            sums[1] = delta.mul_add(delta, sums[1]);
        }
        if NORMS {
            sums[0] = g.mul_add(g, sums[0]);
            sums[2] = p.mul_add(p, sums[2]);
            count(&self.step, place, counter);
        }
    }
}

/// Commits the moments and sums Δ², with NORMS also g²: the first of two sweeps.
struct FAdamMoments<const NORMS: bool> {
    step: FAdamStep,
}

impl<const NORMS: bool> Kernel for FAdamMoments<NORMS> {
    const SUMS: [bool; 3] = [NORMS, true, false];
    const PARAMETER: Use = Use::No;
    const MOMENTS: [Use; 3] = [Use::Writes, Use::Writes, Use::No];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        // SAFETY: the caller's.
        let (g, m, s) = unsafe { moments::<S, G, M>(isa, &self.step, &at) };
        // SAFETY: the caller's.
        unsafe {
            m.store(at.exp_avg);
            s.store(at.exp_avg_sq);
        }
        let k = &self.step.moments;
        let delta = direction(isa, m, denominator(isa, s, k), k); // 4, 5
        sums[1] = delta.mul_add(delta, sums[1]);
        if NORMS {
            sums[0] = g.mul_add(g, sums[0]);
        }
    }
}

/// Applies the committed moments, Δ clipped: the second of two sweeps. With NORMS, sums θ² and counts
/// coordinates.
struct FAdamApply<const NORMS: bool> {
    step: FAdamStep,
    ema: Ema,
    /// κ/‖Δ‖, or 1.
    clip: f32,
    thresholds: FAdamThresholds,
}

impl<const NORMS: bool> Kernel for FAdamApply<NORMS> {
    const SUMS: [bool; 3] = [false, false, NORMS];
    const COUNTS: bool = NORMS;
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::Reads, Use::Reads, Use::No];

    fn thresholds(&self) -> [f32; COUNTS] {
        in_a_row(&self.thresholds)
    }

    fn counts_of_zeros(&self) -> Counts {
        counts_of_zeros(&self.step, &self.thresholds)
    }

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        sums: &mut [S::V; 3],
        counter: &mut Counter<S::V>,
    ) {
        // SAFETY: the caller's.
        let (p, m, s) = unsafe { (isa.load(at.parameter), isa.load(at.exp_avg), isa.load(at.exp_avg_sq)) };
        let (next, _, place) = apply(isa, &self.step, self.clip, p, m, s);
        // SAFETY: the caller's.
        unsafe {
            next.store(at.parameter);
            self.ema.update(isa, &at, next);
        }
        if NORMS {
            sums[2] = p.mul_add(p, sums[2]);
            count(&self.step, place, counter);
        }
    }
}

/// Takes back what a speculative step applied too much.
struct FAdamCorrect {
    step: FAdamStep,
    ema: Ema,
    /// η (1 − κ/‖Δ‖).
    back: f32,
}

impl Kernel for FAdamCorrect {
    const SUMS: [bool; 3] = [false; 3];
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::Reads, Use::Reads, Use::No];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        _: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        let k = &self.step.moments;
        // SAFETY: the caller's.
        let (p, m, s) = unsafe { (isa.load(at.parameter), isa.load(at.exp_avg), isa.load(at.exp_avg_sq)) };
        let delta = direction(isa, m, denominator(isa, s, k), k); // 4, 5
        let next = isa.splat(self.back).mul_add(delta, p); // 11
        // SAFETY: the caller's.
        unsafe {
            next.store(at.parameter);
            self.ema.correct(isa, &at, p, next);
        }
    }
}

impl Cpu {
    pub(super) fn fadam(&mut self, policy: &Policy) {
        match policy.kappa {
            None if policy.norms => self.fadam_direct::<true, true>(),
            None => self.fadam_direct::<false, false>(),
            Some(kappa) if policy.speculate => {
                if policy.norms {
                    self.fadam_direct::<true, true>();
                } else {
                    self.fadam_direct::<true, false>();
                }
                let norm = total(&self.tasks, &self.partials.sums[1]).sqrt();
                self.report.update_norm = Some(norm);
                let clip = algorithm::FAdam::clip(kappa, norm);
                self.report_clip(clip);
                if clip != 1.0 {
                    self.masters_have_begun();
                    run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
                        Step::FAdam(FAdamScalars { step, .. }, lr) => {
                            Some(FAdamCorrect { step, ema: task.ema, back: (lr * (1.0 - clip)) as f32 })
                        }
                        _ => None,
                    });
                }
            }
            Some(kappa) if policy.norms => self.fadam_two_sweeps::<true>(kappa),
            Some(kappa) => self.fadam_two_sweeps::<false>(kappa),
        }
    }

    /// Whether κ has fired, and how.
    fn report_clip(&mut self, clip: f64) {
        self.report.update_clip = Some(clip);
        self.report.clipped_updates += u64::from(clip != 1.0);
    }

    fn fadam_direct<const UPDATE: bool, const NORMS: bool>(&mut self) {
        run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
            Step::FAdam(FAdamScalars { step, thresholds }, _) => {
                Some(FAdam::<UPDATE, NORMS> { step, ema: task.ema, thresholds })
            }
            _ => None,
        });
    }

    fn fadam_two_sweeps<const NORMS: bool>(&mut self, kappa: f64) {
        run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
            Step::FAdam(FAdamScalars { step, .. }, _) => Some(FAdamMoments::<NORMS> { step }),
            _ => None,
        });
        let norm = total(&self.tasks, &self.partials.sums[1]).sqrt();
        self.report.update_norm = Some(norm);
        let clip = algorithm::FAdam::clip(kappa, norm);
        self.report_clip(clip);
        let clip = clip as f32;
        run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
            Step::FAdam(FAdamScalars { step, thresholds }, _) => {
                Some(FAdamApply::<NORMS> { step, ema: task.ema, clip, thresholds })
            }
            _ => None,
        });
    }
}
