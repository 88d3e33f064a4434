//! Metrics of a step, fetched separately.

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
    /// κ/‖Δ‖₂ where κ fired: what Δ was multiplied with; 1 where it did not. Known for FAdam with a finite κ; `None` in a
    /// skipped step.
    pub update_clip: Option<f64>,
    /// Steps clipped by κ so far.
    pub clipped_updates: u64,
    /// How the coordinates of all parameters of the step lay. Known for FAdam with [`norms`](crate::Builder::norms); `None`
    /// in a skipped step.
    pub coordinates: Option<Coordinates>,
}

/// How coordinates lay in a step of [`FAdam`](crate::FAdam): how many of them ε_t, and not the gradients, decided over, and
/// of how many the decay took how much. See [Watching a run](crate#watching-a-run).
///
/// ```
/// use fadam::{FAdam, Optimizer, Update};
/// let mut optimizer = Optimizer::builder(FAdam { eps0: 1e-4, ..FAdam::default() }).norms(true).build()?;
/// let w = optimizer.register("w", 3)?;
/// optimizer.step(&mut [Update::new(w, &mut [1.0_f32; 3], &[0.0_f32, 5e-4, 1.0])])?; // d = 1e-4, 6e-4 and 1
/// let coordinates = optimizer.report()?.coordinates.unwrap();
/// assert_eq!((coordinates.count, coordinates.near_eps), (3, [1, 2, 2, 2]));
/// assert_eq!(optimizer.norms_of(w)?.unwrap().coordinates, Some(coordinates));
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Coordinates {
    /// How many there were.
    pub count: u64,
    /// Of how many ε_t made up more than 1/2, 1/10, 1/100 and 1/1000 of d = √ŝ + ε_t: d < 2ε_t, 10ε_t, 100ε_t and 1000ε_t, so
    /// each one counts those before it, too. d is the f32 number that the step divides by; the multiples are computed in f64
    /// and rounded once.
    pub near_eps: [u64; 4],
    /// Of how many ηλ/d, before [`decay_cap`](crate::FAdam::decay_cap) bounds it, was more than 1, 1/10 and 1/100 of its limit
    /// L, which is the cap; without one it is 1, where a step takes away all of θ (from 2 on it diverges). Compared is λ/d in
    /// f32, with L/η, L/(10η) and L/(100η), computed in f64 and rounded once; η is the scheduled learning rate of the
    /// parameter's group. All 0 without weight decay.
    pub near_decay_limit: [u64; 3],
}

#[cfg(feature = "cuda")]
impl From<crate::args::Coordinates> for Coordinates {
    fn from(counts: crate::args::Coordinates) -> Self {
        let crate::args::Coordinates { count, near_eps, near_decay_limit } = counts;
        Self { count, near_eps, near_decay_limit }
    }
}

/// Norms and coordinates of one parameter in the last step that it took part in, with [`norms`](crate::Builder::norms).
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
    /// How the parameter's coordinates lay; `None` for other algorithms than FAdam.
    pub coordinates: Option<Coordinates>,
}
