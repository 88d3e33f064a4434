use super::{check_betas, mix_flags, non_negative, non_negative_f32, positive};
use crate::Error;
use crate::args::{self, FisherAdamClip, FisherAdamDamping, FisherAdamHyper, FisherAdamStep, Progress};

/// The optimizer published as FAdam: Algorithm 1 of Hwang 2024, "FAdam: Adam is a natural gradient optimizer using diagonal
/// empirical Fisher information" ([arXiv:2405.12807](https://arxiv.org/abs/2405.12807)). Preconditioning, then clipping, then
/// momentum. [`FAdam`](crate::FAdam) is another formulation.
///
/// Per tensor:
/// ```text
/// β̂2 = β2 (1−β2^(t−1)) / (1−β2^t)          f is its own bias-corrected value; at t = 1, f = g²
/// f  ← β̂2 f + (1−β̂2) g²
/// ε̂  = min(ε, ε2 · RMS(g))                  RMS(g) = 0: ε̂ = ε
/// d  = f^ρ + ε̂^(2ρ)
/// n  = g / d ;  n ← n / max(1, RMS(n)/c)    natural gradient, clipped
/// m  ← β1 m + (1−β1) n                      without bias correction
/// w  = θ / d ;  w ← w / max(1, RMS(w)/c)    decay gradient, clipped, on the θ before this step
/// θ  ← θ − η (m + λ w)
/// ```
///
/// # Variants in circulation
/// Published ports disagree on ε̂ and on the clip for c ≠ 1. This form is the one of `pytorch_optimizer` 4.1.0; its 3.9.0
/// has `ε̂ = ε·min(1, RMS(g))`, and lessw2020's port has `ε̂ = ε·max(1, RMS(g))` and clips to `c·n / max(1, RMS(n))`.
///
/// # Cost
/// Three sweeps, 44 bytes of memory traffic a parameter (40 with λ = 0); tensors that fit the cache are read once. With
/// neither clipping nor finite check the first sweep falls away on the CPU; on a GPU it would cost a launch to do so.
///
/// ρ ≠ ½ costs a `pow` an element and is outside the promise of the same bits on every device (all CPU levels agree).
///
/// ```
/// use fadam::{FisherAdam, Optimizer};
/// let optimizer = Optimizer::new(FisherAdam { lr: 1e-4, ..FisherAdam::default() })?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FisherAdam {
    /// Learning rate η, finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// (β1, β2), each in [0, 1). Default (0.9, 0.999).
    pub betas: (f64, f64),
    /// ε, the largest ε̂, finite and ≥ 0. Default 1e-8.
    pub eps: f64,
    /// ε2, ε̂ in units of RMS(g), finite and ≥ 0. Default 0.01.
    pub eps2: f64,
    /// ρ, the exponent of the Fisher diagonal, finite and > 0. Default ½: the square root, as in Adam.
    pub rho: f64,
    /// c, the largest RMS of n and of w over one tensor, finite and > 0. Default 1.
    pub clip: f64,
    /// λ, finite and ≥ 0. Default 0.1, the source's. Much for a short run: in five small tasks (`docs/evidence.md`) 0.01 and less
    /// were better by up to 40 %.
    pub weight_decay: f64,
}

impl Default for FisherAdam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, eps2: 0.01, rho: 0.5, clip: 1.0, weight_decay: 0.1 }
    }
}

impl FisherAdam {
    pub(crate) fn hyper(&self) -> Result<FisherAdamHyper, Error> {
        non_negative_f32("lr", self.lr)?;
        check_betas(self.betas)?;
        non_negative_f32("eps", self.eps)?;
        non_negative("eps2", self.eps2)?;
        positive("rho", self.rho)?;
        non_negative_f32("rho", self.rho)?;
        positive("clip", self.clip)?;
        non_negative_f32("weight_decay", self.weight_decay)?;
        let mut flags = mix_flags(self.betas);
        if self.weight_decay != 0.0 {
            flags |= args::FADAM_WEIGHT_DECAY;
        }
        if self.rho != 0.5 {
            flags |= args::FADAM_RHO;
        }
        Ok(FisherAdamHyper {
            lr: self.lr,
            beta1: self.betas.0,
            beta2: self.betas.1,
            eps: self.eps,
            eps2: self.eps2,
            rho: self.rho,
            clip: self.clip,
            weight_decay: self.weight_decay,
            flags,
        })
    }
}

impl FisherAdamHyper {
    /// The scalars of one step; `before` and `now` are the progress without and with this step.
    pub(crate) fn step(&self, before: &Progress, now: &Progress, grad_scale: f64) -> FisherAdamStep {
        let beta2_hat = self.beta2 * (1.0 - before.beta2_power) / (1.0 - now.beta2_power);
        let about_new = |flag| self.flags & flag != 0;
        let mix = |about_new, beta: f64| if about_new { beta } else { 1.0 - beta } as f32;
        FisherAdamStep {
            grad_scale: grad_scale as f32,
            exp_avg_mix: mix(about_new(args::FADAM_EXP_AVG_NEW), self.beta1),
            fisher_mix: mix(about_new(args::FADAM_EXP_AVG_SQ_NEW), beta2_hat),
            neg_lr: -self.lr as f32,
            weight_decay: self.weight_decay as f32,
            rho: self.rho as f32,
            flags: self.flags,
        }
    }

    /// Whether ε̂ = ε at this RMS(g) of a tensor; else it is smaller.
    pub(crate) fn eps_is_full(&self, grad_rms: f64) -> bool {
        let smaller = self.eps2 * grad_rms < self.eps; // a NaN keeps ε
        grad_rms == 0.0 || !smaller
    }

    /// ε̂^(2ρ) of a tensor whose effective gradient has this RMS.
    pub(crate) fn damping(&self, grad_rms: f64) -> FisherAdamDamping {
        let eps = if self.eps_is_full(grad_rms) { self.eps } else { self.eps2 * grad_rms };
        let power = if self.flags & args::FADAM_RHO != 0 { libm::pow(eps, 2.0 * self.rho) } else { eps };
        FisherAdamDamping { eps: power as f32 }
    }

    /// What Σn² and Σw² over a tensor of `len` elements leave of n and of λw: nothing where the sum overflowed.
    pub(crate) fn clip(&self, natural_sum: f64, decay_sum: f64, len: usize) -> FisherAdamClip {
        let shrink = |sum: f64| {
            let excess = (sum / len as f64).sqrt() / self.clip;
            if excess == f64::INFINITY {
                0.0
            } else if excess > 1.0 {
                1.0 / excess
            } else {
                1.0
            }
        };
        FisherAdamClip {
            natural: shrink(natural_sum) as f32,
            decay: (self.weight_decay * shrink(decay_sum)) as f32,
        }
    }
}
