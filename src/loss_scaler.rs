//! One loss scale for several optimizers.

use crate::environment::with_default_environment;
use crate::{Error, LossScale};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A loss scale that several optimizers share: for one loss whose gradients go to more than one optimizer, as PyTorch's
/// `GradScaler` over several. Each optimizer divides its gradients by the scale and skips its own step where they are not
/// finite; an overflow in any of them makes the scale smaller for all. Clones are handles of one and the same scale.
///
/// Call [`update`](Self::update) once an iteration, after the steps of all optimizers. With a single optimizer
/// [`Builder::loss_scale`](crate::Builder::loss_scale) does that by itself.
///
/// ```
/// use fadam::{Adam, LossScale, LossScaler, Optimizer, Update};
/// let scaler = LossScaler::new(LossScale::default())?;
/// let mut encoder = Optimizer::builder(Adam::adamw()).loss_scaler(&scaler).build()?;
/// let mut decoder = Optimizer::builder(Adam::adamw()).loss_scaler(&scaler).build()?;
/// let (e, d) = (encoder.register("e", 1)?, decoder.register("d", 1)?);
/// let (mut e_weight, mut d_weight) = ([1.0_f32], [1.0_f32]);
///
/// let scale = scaler.scale() as f32; // multiply the loss with it
/// encoder.step(&mut [Update::new(e, &mut e_weight, &[f32::INFINITY])])?;
/// decoder.step(&mut [Update::new(d, &mut d_weight, &[0.5 * scale])])?;
/// scaler.update();
///
/// assert!(encoder.report()?.skipped && !decoder.report()?.skipped);
/// assert_eq!(scaler.scale(), 32768.0);
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// On a GPU a step of such an optimizer waits for its outcome, as PyTorch's does, and cannot be captured into a graph.
///
/// [`Optimizer::save`](crate::Optimizer::save) writes scale and count of good steps with each optimizer's state, and
/// [`Optimizer::load`](crate::Optimizer::load) sets the shared ones to those of its file: save all optimizers at one point,
/// after `update`.
#[derive(Clone, Debug)]
pub struct LossScaler {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    settings: LossScale,
    scale: f64,
    /// In a row, since the scale last changed.
    good_steps: u64,
    /// Whether optimizers have stepped since the last update, and whether one of them found an overflow.
    stepped: bool,
    overflowed: bool,
}

impl LossScaler {
    /// Begins with `init_scale`.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`].
    pub fn new(settings: LossScale) -> Result<Self, Error> {
        with_default_environment(|| settings.check())?;
        let scale = settings.init_scale;
        let shared = Shared { settings, scale, good_steps: 0, stepped: false, overflowed: false };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// What to multiply the next loss with.
    pub fn scale(&self) -> f64 {
        self.lock().scale
    }

    /// Adapts the scale to what the steps since the last call have found: smaller where one was skipped, larger after
    /// `growth_interval` calls without any. Without a step in between it does nothing.
    pub fn update(&self) {
        let mut shared = self.lock();
        if shared.stepped {
            let Shared { settings, scale, good_steps, overflowed, .. } = *shared;
            let next = with_default_environment(|| settings.adapt(scale, good_steps, !overflowed));
            (shared.scale, shared.good_steps) = next;
            (shared.stepped, shared.overflowed) = (false, false);
        }
    }

    /// An optimizer has stepped, or has found an overflow.
    pub(crate) fn note(&self, overflowed: bool) {
        let mut shared = self.lock();
        shared.stepped = true;
        shared.overflowed |= overflowed;
    }

    /// Scale and good steps, for a file of state.
    pub(crate) fn state(&self) -> (f64, u64) {
        let shared = self.lock();
        (shared.scale, shared.good_steps)
    }

    /// Those of a file.
    pub(crate) fn restore(&self, scale: f64, good_steps: u64) {
        let mut shared = self.lock();
        (shared.scale, shared.good_steps) = (scale, good_steps);
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
