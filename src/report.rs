//! What a step says of itself, fetched apart from the step.

/// The last call of [`step`](crate::Optimizer::step), in figures. A figure that the step did not need is `None`.
///
/// ```
/// use fadam::{Adam, Optimizer, Update};
/// let mut optimizer = Optimizer::builder(Adam::default()).max_grad_norm(1.0).build()?;
/// let w = optimizer.register("w", 2)?;
/// let mut weight = [1.0_f32, 1.0];
/// optimizer.step(&mut [Update::new(w, &mut weight, &[3.0_f32, 4.0])])?;
/// let report = optimizer.report()?;
/// assert_eq!(report.grad_norm, Some(5.0));
/// assert!((report.clip_coefficient.unwrap() - 0.2).abs() < 1e-6);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The number of calls of `step` so far, skipped ones included.
    pub step: u64,
    /// Whether the last call changed nothing because a gradient was not finite.
    pub skipped: bool,
    /// How many calls were skipped so far.
    pub skipped_steps: u64,
    /// ‖g‖₂ over all gradients of the step, after unscaling and before clipping. Known with clipping, with the finite
    /// check (the default) and with [`norms`](crate::Builder::norms).
    pub grad_norm: Option<f64>,
    /// What clipping by `max_grad_norm` multiplied the gradients with; 1 when it is off, `None` in a skipped step.
    pub clip_coefficient: Option<f64>,
    /// What the [`Schedule`](crate::Schedule) multiplied the learning rates with; 1 without one, `None` in a skipped step.
    pub learning_rate_factor: Option<f64>,
    /// What [`LossScale`](crate::LossScale) had the loss of this step multiplied with; `None` without it. The next one's is
    /// [`Optimizer::loss_scale`](crate::Optimizer::loss_scale).
    pub loss_scale: Option<f64>,
    /// ‖Δ‖₂ over all parameters of the step, before the learning rate, weight decay and κ. For FisherAdam, ‖m‖₂.
    /// Known for FAdam with a finite κ and with [`norms`](crate::Builder::norms); `None` in a skipped step.
    pub update_norm: Option<f64>,
}

/// Norms of one parameter in the last step that it took part in, with [`norms`](crate::Builder::norms).
///
/// ```
/// use fadam::{Adam, Optimizer, Update};
/// let mut optimizer = Optimizer::builder(Adam::default()).norms(true).build()?;
/// let w = optimizer.register("w", 2)?;
/// optimizer.step(&mut [Update::new(w, &mut [1.0_f32, 1.0], &[3.0_f32, 4.0])])?;
/// assert_eq!(optimizer.norms_of(w)?.unwrap().grad, 5.0);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Norms {
    /// ‖g‖₂ after unscaling, before clipping.
    pub grad: f64,
    /// ‖Δ‖₂ before the learning rate, weight decay and κ; for FisherAdam ‖m‖₂.
    pub update: f64,
    /// ‖θ‖₂ before the step.
    pub parameter: f64,
}
