use super::{check_betas, mix_flags, moments, non_negative_f32};
use crate::Error;
use crate::args::{self, AdamHyper, AdamStep, Progress};

/// How [`Adam`] applies its weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// `g ← g + λθ`: Adam's, the decay goes through the moments.
    #[default]
    L2,
    /// `θ ← θ − ηλθ`: AdamW's, the decay goes past them.
    Decoupled,
}

/// Adam (Kingma & Ba 2015, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)) and, with [`Decay::Decoupled`], AdamW
/// (Loshchilov & Hutter 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)).
///
/// ```text
/// g  ← g + λθ                        decay = L2
/// m  ← β1 m + (1−β1) g
/// v  ← β2 v + (1−β2) g²
/// m̂  = m / (1−β1^t)     v̂ = v / (1−β2^t)
/// Δ  = m̂ / (√v̂ + ε)
/// θ  ← θ − ηΔ − ηλθ                  the last term with decay = Decoupled
/// ```
///
/// 28 bytes of memory traffic a parameter (32 with clipping or the finite check; amsgrad adds 8). Semantics, names and
/// defaults are PyTorch's `torch.optim.Adam` and `AdamW`.
///
/// ```
/// use fadam::{Adam, Optimizer};
/// let optimizer = Optimizer::new(Adam { lr: 3e-4, weight_decay: 0.1, ..Adam::adamw() })?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate η, finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// (β1, β2), each in [0, 1). Default (0.9, 0.999).
    pub betas: (f64, f64),
    /// ε, finite and ≥ 0. Default 1e-8. Where the denominator is 0 (ε = 0 and no gradient yet), Δ is 0.
    pub eps: f64,
    /// λ, finite and ≥ 0. Default 0; [`Adam::adamw`] 0.01.
    pub weight_decay: f64,
    /// Where λ enters. Default L2.
    pub decay: Decay,
    /// Use the largest `v` so far (Reddi et al. 2018) in place of `v`. Default false; costs 8 bytes a parameter.
    pub amsgrad: bool,
    /// Ascend instead of descend: g ← −g. Default false.
    pub maximize: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            decay: Decay::L2,
            amsgrad: false,
            maximize: false,
        }
    }
}

impl Adam {
    /// AdamW's defaults: decoupled decay with λ = 0.01.
    ///
    /// ```
    /// assert_eq!(fadam::Adam::adamw().weight_decay, 0.01);
    /// ```
    pub fn adamw() -> Self {
        Self { weight_decay: 0.01, decay: Decay::Decoupled, ..Self::default() }
    }

    pub(crate) fn hyper(&self) -> Result<AdamHyper, Error> {
        non_negative_f32("lr", self.lr)?;
        check_betas(self.betas)?;
        non_negative_f32("eps", self.eps)?;
        non_negative_f32("weight_decay", self.weight_decay)?;
        let mut flags = mix_flags(self.betas);
        if self.weight_decay != 0.0 {
            flags |= args::FADAM_WEIGHT_DECAY;
        }
        if self.decay == Decay::Decoupled {
            flags |= args::FADAM_DECOUPLED;
        }
        if self.amsgrad {
            flags |= args::FADAM_AMSGRAD;
        }
        Ok(AdamHyper {
            lr: self.lr,
            beta1: self.betas.0,
            beta2: self.betas.1,
            eps: self.eps,
            weight_decay: self.weight_decay,
            flags,
            maximize: self.maximize.into(),
        })
    }
}

impl AdamHyper {
    /// The scalars of one step; `grad_scale` is clip coefficient / grad_scale, and `progress` counts this step.
    pub(crate) fn step(&self, progress: &Progress, grad_scale: f64) -> AdamStep {
        let sign = if self.maximize != 0 { -1.0 } else { 1.0 };
        AdamStep {
            moments: moments((self.beta1, self.beta2), self.eps, sign * grad_scale, progress, self.flags),
            neg_lr: -self.lr as f32,
            weight_decay: self.weight_decay as f32,
        }
    }
}
