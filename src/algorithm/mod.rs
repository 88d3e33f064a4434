//! What each optimizer computes: hyper-parameters, their domains, and the scalars of one step. No devices, no unsafe.

mod adam;
mod fadam;
mod fisher_adam;

pub use adam::{Adam, Decay};
pub use fadam::FAdam;
pub use fisher_adam::FisherAdam;

use crate::Error;
use crate::args::{self, AdamHyper, FAdamHyper, FisherAdamHyper, Moments, Progress};

/// Any of the three optimizers: what [`Optimizer::builder`](crate::Optimizer::builder) takes, and what an application
/// holds that lets its user choose.
///
/// ```
/// use fadam::{Adam, Algorithm, FAdam};
/// let algorithm: Algorithm = if cfg!(feature = "candle") { FAdam::default().into() } else { Adam::adamw().into() };
/// assert_eq!(algorithm.learning_rate(), 1e-3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Algorithm {
    /// Adam or AdamW.
    Adam(Adam),
    /// Adam as natural gradient descent.
    FAdam(FAdam),
    /// Hwang's Fisher Adam.
    FisherAdam(FisherAdam),
}

impl From<Adam> for Algorithm {
    fn from(adam: Adam) -> Self {
        Self::Adam(adam)
    }
}

impl From<FAdam> for Algorithm {
    fn from(fadam: FAdam) -> Self {
        Self::FAdam(fadam)
    }
}

impl From<FisherAdam> for Algorithm {
    fn from(fisher_adam: FisherAdam) -> Self {
        Self::FisherAdam(fisher_adam)
    }
}

/// Hyper-parameters of one group, resolved: what a backend works with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hyper {
    Adam(AdamHyper),
    FAdam(FAdamHyper),
    FisherAdam(FisherAdamHyper),
}

impl Algorithm {
    /// The learning rate η of parameters whose group has none of its own.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Adam(a) => a.lr,
            Self::FAdam(a) => a.lr,
            Self::FisherAdam(a) => a.lr,
        }
    }

    pub(crate) fn with_learning_rate(mut self, lr: f64) -> Self {
        match &mut self {
            Self::Adam(a) => a.lr = lr,
            Self::FAdam(a) => a.lr = lr,
            Self::FisherAdam(a) => a.lr = lr,
        }
        self
    }
}

impl Hyper {
    pub(crate) fn betas(&self) -> (f64, f64) {
        match self {
            Self::Adam(h) => (h.beta1, h.beta2),
            Self::FAdam(h) => (h.beta1, h.beta2),
            Self::FisherAdam(h) => (h.beta1, h.beta2),
        }
    }

    /// With the learning rate that the schedule makes of it.
    pub(crate) fn scheduled(mut self, factor: f64) -> Self {
        let lr = match &mut self {
            Self::Adam(h) => &mut h.lr,
            Self::FAdam(h) => &mut h.lr,
            Self::FisherAdam(h) => &mut h.lr,
        };
        *lr *= factor;
        self
    }

    /// Whether |m̂/√v̂| has a bound: (1−β1)/√((1−β2)(1−β1²/β2)), if β1² < β2.
    pub(crate) fn bounds_update(&self) -> bool {
        let (beta1, beta2) = self.betas();
        beta1 * beta1 < beta2
    }
}

impl Progress {
    /// Before the first step: β⁰ = 1.
    pub(crate) const START: Self = Self { step: 0, start: 0, beta1_power: 1.0, beta2_power: 1.0 };

    /// One step further. β^t is a running product, so that every device computes the same bits.
    pub(crate) fn next(self, (beta1, beta2): (f64, f64)) -> Self {
        Self {
            step: self.step + 1,
            start: if self.start == 0 { self.step + 1 } else { self.start },
            beta1_power: self.beta1_power * beta1,
            beta2_power: self.beta2_power * beta2,
        }
    }
}

/// 1/(1−β^t) and the rest of a step's shared scalars; `progress` already counts this step.
fn moments(
    (beta1, beta2): (f64, f64),
    eps: f64,
    grad_scale: f64,
    progress: &Progress,
    flags: u32,
) -> Moments {
    let about_new = |flag| flags & flag != 0;
    Moments {
        grad_scale: grad_scale as f32,
        exp_avg_mix: if about_new(args::FADAM_EXP_AVG_NEW) { beta1 } else { 1.0 - beta1 } as f32,
        exp_avg_sq_mix: if about_new(args::FADAM_EXP_AVG_SQ_NEW) { beta2 } else { 1.0 - beta2 } as f32,
        inv_bias1: (1.0 / (1.0 - progress.beta1_power)) as f32,
        inv_sqrt_bias2: (1.0 / (1.0 - progress.beta2_power).sqrt()) as f32,
        eps: eps as f32,
        flags,
    }
}

/// The structure that follows from β alone: about which value each moment is interpolated.
fn mix_flags((beta1, beta2): (f64, f64)) -> u32 {
    let mut flags = 0;
    if beta1 < 0.5 {
        flags |= args::FADAM_EXP_AVG_NEW;
    }
    if beta2 < 0.5 {
        flags |= args::FADAM_EXP_AVG_SQ_NEW;
    }
    flags
}

pub(crate) fn check(ok: bool, name: &'static str, found: f64, expected: &'static str) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Hyperparameter { name, found, expected }) }
}

pub(crate) const FINITE_NON_NEGATIVE: &str = "a finite number of at least 0";
pub(crate) const FINITE_POSITIVE: &str = "a finite number greater than 0";

pub(crate) fn non_negative(name: &'static str, value: f64) -> Result<(), Error> {
    check(value.is_finite() && value >= 0.0, name, value, FINITE_NON_NEGATIVE)
}

/// For what a kernel takes as an f32: a value beyond its range would turn a product with 0 into a NaN.
pub(crate) fn non_negative_f32(name: &'static str, value: f64) -> Result<(), Error> {
    check(
        (value as f32).is_finite() && value >= 0.0,
        name,
        value,
        "a number of at least 0 within f32's range",
    )
}

pub(crate) fn positive(name: &'static str, value: f64) -> Result<(), Error> {
    check(value.is_finite() && value > 0.0, name, value, FINITE_POSITIVE)
}

fn check_betas((beta1, beta2): (f64, f64)) -> Result<(), Error> {
    check((0.0..1.0).contains(&beta1), "betas.0", beta1, "a number in [0, 1)")?;
    check((0.0..1.0).contains(&beta2), "betas.1", beta2, "a number in [0, 1)")
}
