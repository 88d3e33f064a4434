//! Dynamic loss scaling.

use crate::Error;
use crate::algorithm::{check, positive};
use std::ops::RangeInclusive;

/// 2⁻¹²⁶ and 2¹²⁶: within, the scale and its inverse are normal f32 numbers.
const MIN: f64 = f32::MIN_POSITIVE as f64;
const MAX: f64 = 1.0 / MIN;

/// Dynamic loss scaling, with the semantics, names and defaults of PyTorch's `GradScaler`: multiply each loss with
/// [`Optimizer::loss_scale`](crate::Optimizer::loss_scale) before the backward pass, so that small gradients do not underflow
/// a narrow type, and the step divides them by it again.
///
/// A step whose gradients are not finite is skipped, and the scale is multiplied with `backoff_factor`. After
/// `growth_interval` good steps in a row it is multiplied with `growth_factor`. Scale and count live where the step runs and
/// change there: no step waits for it, and a captured one adapts them. To ask for the scale of the next loss waits for the
/// last step.
///
/// Unlike PyTorch's, the scale is an f64 and stays within [2⁻¹²⁶, 2¹²⁶], where its inverse is a normal f32 too: a backoff
/// ends at the floor, and a growth beyond the ceiling is left out.
///
/// For one loss with several optimizers there is [`LossScaler`](crate::LossScaler).
///
/// It needs the finite check: [`NonFinite::Skip`](crate::NonFinite) or `Error`. A fixed scale is
/// [`set_grad_scale`](crate::Optimizer::set_grad_scale), by which gradients are divided as well.
///
/// ```
/// use fadam::{Adam, LossScale, Optimizer, Update};
/// let mut optimizer = Optimizer::builder(Adam::adamw()).loss_scale(LossScale::default()).build()?;
/// let w = optimizer.register("w", 1)?;
/// let mut weight = [1.0_f32];
/// assert_eq!(optimizer.loss_scale()?, 65536.0);
/// optimizer.step(&mut [Update::new(w, &mut weight, &[f32::INFINITY])])?;
/// assert!(optimizer.report()?.skipped);
/// assert_eq!(optimizer.loss_scale()?, 32768.0);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// The first scale, in [2⁻¹²⁶, 2¹²⁶]. Default 65536.
    pub init_scale: f64,
    /// What `growth_interval` good steps multiply it with, finite and > 1. Default 2.
    pub growth_factor: f64,
    /// What a gradient that is not finite multiplies it with, in (0, 1). Default 0.5.
    pub backoff_factor: f64,
    /// How many good steps in a row make it grow, at least 1. Default 2000.
    pub growth_interval: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { init_scale: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

impl LossScale {
    pub(crate) const RANGE: RangeInclusive<f64> = MIN..=MAX;

    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self { init_scale, growth_factor, backoff_factor, growth_interval } = *self;
        check(Self::RANGE.contains(&init_scale), "init_scale", init_scale, "a number in [2^-126, 2^126]")?;
        positive("growth_factor", growth_factor)?;
        check(growth_factor > 1.0, "growth_factor", growth_factor, "a finite number greater than 1")?;
        positive("backoff_factor", backoff_factor)?;
        check(backoff_factor < 1.0, "backoff_factor", backoff_factor, "a number in (0, 1)")?;
        check(growth_interval > 0, "growth_interval", growth_interval as f64, "at least 1 step")
    }

    /// Scale and good steps after a step: `adapt_loss_scale` of kernels/finalize.cuh.
    pub(crate) fn adapt(&self, scale: f64, good_steps: u64, finite: bool) -> (f64, u64) {
        if !finite {
            let smaller = scale * self.backoff_factor;
            return (if smaller < MIN { MIN } else { smaller }, 0);
        }
        if good_steps + 1 < self.growth_interval {
            return (scale, good_steps + 1);
        }
        let larger = scale * self.growth_factor;
        (if larger <= MAX { larger } else { scale }, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Target};
    use crate::job::Counters;
    use crate::settings::Policy;
    use crate::{Adam, Algorithm, Device, Group, NonFinite, Optimizer, Schedule};

    /// On the CPU, and on a GPU where there is one.
    #[test]
    #[cfg_attr(miri, ignore = "looks for a driver, which miri cannot load")]
    fn counters_go_on_where_they_are_set() {
        let algorithm = Algorithm::from(Adam::default());
        let groups = [(Group::default(), algorithm.resolve(&Group::default()).unwrap())];
        let storage = Optimizer::builder(algorithm).storage().unwrap();
        let policy = Policy {
            max_grad_norm: None,
            grad_scale: 1.0,
            shared_scale: 1.0,
            non_finite: NonFinite::Skip,
            norms: false,
            kappa: None,
            speculate: false,
            schedule: Some(Schedule::linear(0, 10, 0.0)),
            loss_scale: Some(LossScale { growth_interval: 5, ..LossScale::default() }),
        };
        let mut devices = vec![Device::Cpu];
        devices.extend(Device::best().ok().filter(|&best| best != Device::Cpu));
        for device in devices {
            println!("on {device}");
            let mut backend =
                Backend::new(Some(Target::Device(device)), None, &algorithm, false, storage).unwrap();
            assert_eq!(backend.counters().unwrap(), Counters::default());
            let saved = Counters {
                step: 9,
                skipped_steps: 2,
                clipped_updates: 1,
                schedule_step: 7,
                loss_scale: 64.0,
                good_steps: 3,
            };
            backend.set_counters(&saved).unwrap();
            assert_eq!(backend.counters().unwrap(), saved);
            let mut step = || {
                assert!(backend.step(&[], &groups, &policy).is_ok_and(|bad| bad.is_none()));
                (backend.counters().unwrap(), backend.report().unwrap().0)
            };
            let (counters, report) = step();
            assert_eq!((report.step, report.skipped_steps), (10, 2));
            assert_eq!((report.learning_rate_factor, report.loss_scale), (Some(0.3), Some(64.0)));
            assert_eq!(counters, Counters { step: 10, schedule_step: 8, good_steps: 4, ..saved });
            let counters = step().0;
            let grown = Counters { step: 11, schedule_step: 9, good_steps: 0, loss_scale: 128.0, ..saved };
            assert_eq!(counters, grown);
            // Those of an optimizer without a loss scale.
            backend.set_counters(&Counters { step: 1, ..Counters::default() }).unwrap();
            let kept = Counters { step: 1, loss_scale: 128.0, ..Counters::default() };
            assert_eq!(backend.counters().unwrap(), kept);
        }
    }
}
