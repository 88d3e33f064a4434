use super::{check_betas, mix_flags, moments, non_negative, non_negative_f32, positive};
use crate::Error;
use crate::args::{self, FAdamHyper, FAdamScalars, FAdamStep, FAdamThresholds, Progress};

/// Adam as natural gradient descent with a diagonal empirical Fisher; not the optimizer published as FAdam (Hwang 2024), which
/// is [`FisherAdam`](crate::FisherAdam).
///
/// The formulation is that of the article [Adam Through the Lens of Information Geometry: A Diagonal Fisher
/// Approximation](https://jiha-kim.github.io/series/optimization-theory-for-machine-learning/12-adam-info-geo)
/// (J. Kim, 2025), which cites the paper: momentum before the preconditioner, an adaptive ε, and one κ for all parameters.
///
/// ```text
/// m  ← β1 m + (1−β1) g
/// s  ← β2 s + (1−β2) g⊙g            diagonal empirical Fisher, F̂ ≈ ŝ
/// m̂  = m / (1−β1^t)     ŝ = s / (1−β2^t)
/// ε_t = ε0 / (1 + λ_ε t)            adaptive ε
/// d  = √ŝ + ε_t
/// Δ  = m̂ / d                        the natural gradient
/// if ‖Δ‖₂ > κ:  Δ ← κ Δ / ‖Δ‖₂      clipped, over all parameters of the step together
/// θ  ← θ − ηΔ − ηλ θ/d              Riemannian weight decay, on the θ before this step
/// ```
///
/// With λ = 0, λ_ε = 0 and κ = ∞, the defaults, this **is** Adam, bit for bit. The article gives no defaults; these are
/// ours.
///
/// # Cost
/// 28 bytes of memory traffic a parameter with κ = ∞. With a finite κ ≥ ½√N (N = registered elements) and
/// β1² < β2 the step is *speculative*: it applies Δ and sums its norm in one sweep, and takes back the surplus in a
/// second one only when the norm turns out above κ. Otherwise moments are committed first and Δ is applied in a second
/// sweep (36 bytes). The two forms round differently; which one runs follows from the configuration alone. The finite
/// check or clipping of the gradient adds 4 bytes.
///
/// # Settings
/// What to begin with, by what five small tasks showed (`docs/evidence.md` in the repository has the runs, and how far they can
/// be trusted):
///
/// | setting | begin with | |
/// |---|---|---|
/// | [`lr`](Self::lr) | AdamW's | the best rates were AdamW's or half of it |
/// | [`kappa`](Self::kappa) | 0.5·√N, N the number of elements | bounds the first steps; the steady ‖Δ‖₂ was 0.13·√N to 0.28·√N, and a κ below that costs |
/// | [`eps0`](Self::eps0), [`eps_decay`](Self::eps_decay) | 1e-8 to 1e-4, 0 | larger ones helped a language model; that ε shrinks helped nowhere |
/// | [`weight_decay`](Self::weight_decay), [`decay_cap`](Self::decay_cap) | 1e-4, 1e-3 | where AdamW is good with λ = 0.1, for losses in nats; else 0. λ/d grows as the loss's scale shrinks |
///
/// ```
/// use fadam::{FAdam, Optimizer};
/// let optimizer = Optimizer::new(FAdam { lr: 3e-4, kappa: Some(100.0), ..FAdam::default() })?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FAdam {
    /// Learning rate η, finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// (β1, β2), each in [0, 1). Default (0.9, 0.999).
    pub betas: (f64, f64),
    /// ε0, finite and ≥ 0. Default 1e-8.
    pub eps0: f64,
    /// λ_ε, how fast ε shrinks, finite and ≥ 0. Default 0: ε_t = ε0.
    pub eps_decay: f64,
    /// κ, the largest ‖Δ‖₂ over all parameters of a step, > 0. Default `None`: ∞, and no norm is computed.
    /// ‖Δ‖₂ grows as √N; an RMS(Δ) of 0.1 to 0.4 is usual in steady training. How often it fires is
    /// [`Report::clipped_updates`](crate::Report::clipped_updates).
    pub kappa: Option<f64>,
    /// λ of the Riemannian decay, finite and ≥ 0. Default 0.
    ///
    /// **Hazard.** The decay multiplies θ by 1 − ηλ/d, which diverges where d < ηλ/2. A coordinate that never receives
    /// a gradient has d = ε_t, so with ε0 = 1e-8 almost any λ throws it away. Set [`decay_cap`](Self::decay_cap), or
    /// give such parameters a group of their own with λ = 0; how many there are is
    /// [`Coordinates::near_decay_limit`](crate::Coordinates::near_decay_limit). (λ/d itself must lie within f32's range, even with η = 0:
    /// with ε0 > 1e-37 it does.)
    pub weight_decay: f64,
    /// The largest ηλ/d, > 0. Default `None`: the exact formulation. 0.1, say, lets no coordinate shrink by more than
    /// a tenth in one step, whatever η is.
    pub decay_cap: Option<f64>,
}

impl Default for FAdam {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps0: 1e-8,
            eps_decay: 0.0,
            kappa: None,
            weight_decay: 0.0,
            decay_cap: None,
        }
    }
}

impl FAdam {
    pub(crate) fn hyper(&self) -> Result<FAdamHyper, Error> {
        non_negative_f32("lr", self.lr)?;
        check_betas(self.betas)?;
        non_negative_f32("eps0", self.eps0)?;
        non_negative("eps_decay", self.eps_decay)?;
        non_negative_f32("weight_decay", self.weight_decay)?;
        if let Some(kappa) = self.kappa {
            positive("kappa", kappa)?;
        }
        if let Some(cap) = self.decay_cap {
            positive("decay_cap", cap)?;
        }
        let mut flags = mix_flags(self.betas);
        if self.weight_decay != 0.0 {
            flags |= args::FADAM_WEIGHT_DECAY;
        }
        if self.decay_cap.is_some() {
            flags |= args::FADAM_DECAY_CAP;
        }
        Ok(FAdamHyper {
            lr: self.lr,
            beta1: self.betas.0,
            beta2: self.betas.1,
            eps0: self.eps0,
            eps_decay: self.eps_decay,
            weight_decay: self.weight_decay,
            decay_cap: self.decay_cap.unwrap_or(f64::INFINITY),
            flags,
        })
    }

    /// κ/‖Δ‖ where the natural gradient is longer than κ, else 1.
    pub(crate) fn clip(kappa: f64, update_norm: f64) -> f64 {
        if update_norm > kappa { kappa / update_norm } else { 1.0 }
    }
}

impl FAdamHyper {
    /// The scalars of one step; `grad_scale` is clip coefficient / grad_scale, and `progress` counts this step.
    pub(crate) fn step(&self, progress: &Progress, grad_scale: f64) -> FAdamScalars {
        let eps = self.eps0 / (1.0 + self.eps_decay * progress.step as f64);
        let limit = if self.flags & args::FADAM_DECAY_CAP != 0 { self.decay_cap } else { 1.0 };
        FAdamScalars {
            step: FAdamStep {
                moments: moments((self.beta1, self.beta2), eps, grad_scale, progress, self.flags),
                neg_lr: -self.lr as f32,
                weight_decay: self.weight_decay as f32,
                decay_cap: (self.decay_cap / self.lr) as f32,
            },
            thresholds: FAdamThresholds {
                eps: [2.0, 10.0, 100.0, 1000.0].map(|multiple| (multiple * eps) as f32),
                limit: [1.0, 10.0, 100.0].map(|part| (limit / (part * self.lr)) as f32),
            },
        }
    }
}
