//! How a step is to go, apart from its tensors: hyper-parameters by group, and what goes for all of them.

use crate::algorithm::{Algorithm, Hyper};
use crate::environment::with_default_environment;
use crate::error::Error;
use crate::loss_scale::LossScale;
use crate::schedule::Schedule;

/// What a step does with a gradient that is infinite or NaN, or whose squares overflow f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// Nothing changes anywhere, the step counts included, and the report says so. The default. The check reads the
    /// gradients once more (4 bytes a parameter), unless clipping reads them anyway.
    #[default]
    Skip,
    /// As `Skip`, and [`Error::NonFinite`]: from `step` itself on the CPU; on a GPU from the next `report`, `synchronize` or
    /// `step` that finds it (`step` without waiting, so perhaps some steps later, and not once a step was captured).
    Error,
    /// No check: IEEE arithmetic carries NaN and ∞ into parameters and moments.
    Propagate,
}

/// Hyper-parameters that a group of parameters has for its own; `None` takes the optimizer's. Everything else belongs
/// to the optimizer.
///
/// ```
/// use fadam::{Adam, Dtype, Group, Optimizer};
/// let mut optimizer = Optimizer::new(Adam::adamw())?;
/// let no_decay = optimizer.add_group(Group { weight_decay: Some(0.0), ..Group::default() })?;
/// let bias = optimizer.register_in(no_decay, "bias", 768, Dtype::F32)?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    /// Learning rate η.
    pub lr: Option<f64>,
    /// (β1, β2).
    pub betas: Option<(f64, f64)>,
    /// ε (FAdam: ε0).
    pub eps: Option<f64>,
    /// λ.
    pub weight_decay: Option<f64>,
}

impl Algorithm {
    /// The algorithm as one group sees it, checked.
    pub(crate) fn resolve(mut self, group: &Group) -> Result<Hyper, Error> {
        let (lr, betas, eps, weight_decay) = match &mut self {
            Self::Adam(a) => (&mut a.lr, &mut a.betas, &mut a.eps, &mut a.weight_decay),
            Self::FAdam(a) => (&mut a.lr, &mut a.betas, &mut a.eps0, &mut a.weight_decay),
            Self::FisherAdam(a) => (&mut a.lr, &mut a.betas, &mut a.eps, &mut a.weight_decay),
        };
        *lr = group.lr.unwrap_or(*lr);
        *betas = group.betas.unwrap_or(*betas);
        *eps = group.eps.unwrap_or(*eps);
        *weight_decay = group.weight_decay.unwrap_or(*weight_decay);
        with_default_environment(|| match self {
            Self::Adam(a) => a.hyper().map(Hyper::Adam),
            Self::FAdam(a) => a.hyper().map(Hyper::FAdam),
            Self::FisherAdam(a) => a.hyper().map(Hyper::FisherAdam),
        })
    }
}

/// Step-wide settings, the same for every parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) max_grad_norm: Option<f64>,
    pub(crate) grad_scale: f64,
    /// Of a [`LossScaler`], as it was at the last step; else 1.
    pub(crate) shared_scale: f64,
    pub(crate) non_finite: NonFinite,
    pub(crate) norms: bool,
    /// κ of FAdam.
    pub(crate) kappa: Option<f64>,
    /// FAdam applies Δ before its norm is known.
    pub(crate) speculate: bool,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) loss_scale: Option<LossScale>,
}

impl Policy {
    /// What the gradients were multiplied by, apart from a loss scale that the device keeps.
    pub(crate) fn fixed_scale(&self) -> f64 {
        self.grad_scale * self.shared_scale
    }

    /// Whether a pass over the gradients goes before the step.
    pub(crate) fn reads_gradients(&self) -> bool {
        self.max_grad_norm.is_some() || self.non_finite != NonFinite::Propagate
    }
}
