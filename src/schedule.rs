//! Learning-rate schedules: what the base learning rates are multiplied with, step by step.

use crate::Error;
use crate::algorithm::check;
use crate::environment::with_default_environment;

/// A schedule of the learning rate: a factor in [0, 1] for each step, by which every group's learning rate is multiplied.
///
/// Steps count from 0, as in PyTorch's `LambdaLR`: the first call of [`step`](crate::Optimizer::step) takes
/// [`factor(0)`](Self::factor), which is 0 where there is a warm-up, as in Hugging Face's `get_cosine_schedule_with_warmup`
/// and its siblings. From its last step on, [`steps`](Self::steps), a schedule keeps its value.
///
/// A skipped step does not advance the schedule, unless [`counting_skipped`](Self::counting_skipped) says so.
///
/// The factors are f64, by basic operations and one cosine of `libm`: the same bits everywhere. A GPU is given the whole
/// table (8 bytes a step) when the schedule is set, and reads it by a counter of its own: a captured step advances.
///
/// ```
/// use fadam::{Adam, Optimizer, Schedule};
/// let schedule = Schedule::cosine(100, 1000, 0.1); // warm-up, steps, floor
/// assert_eq!((schedule.factor(0), schedule.factor(50), schedule.factor(100)), (0.0, 0.5, 1.0));
/// assert_eq!((schedule.factor(1000), schedule.factor(u64::MAX)), (0.1, 0.1));
/// let optimizer = Optimizer::builder(Adam::adamw()).schedule(schedule).build()?;
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// Nothing is checked before [`Builder::build`](crate::Builder::build) or
/// [`set_schedule`](crate::Optimizer::set_schedule): steps make at most 2²⁴ in all, a floor lies in [0, 1], and there is at
/// least one step of decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    warmup_steps: u64,
    decay: Decay,
    counts_skipped: bool,
}

/// What follows the warm-up. Steps count from the schedule's beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decay {
    None,
    Cosine { steps: u64, floor: f64 },
    Linear { from: u64, steps: u64, floor: f64 },
    InverseSqrt { steps: u64 },
}

/// 128 MiB of factors.
const MAX_STEPS: u64 = 1 << 24;

impl Schedule {
    /// 1, after a linear warm-up from 0 over `warmup_steps` (0: none).
    ///
    /// ```
    /// use fadam::Schedule;
    /// assert_eq!([0, 1, 2, 3].map(|step| Schedule::constant(2).factor(step)), [0.0, 0.5, 1.0, 1.0]);
    /// assert_eq!(Schedule::constant(0).factor(0), 1.0);
    /// ```
    pub fn constant(warmup_steps: u64) -> Self {
        Self { warmup_steps, decay: Decay::None, counts_skipped: false }
    }

    /// Half a cosine from 1 down to `floor` in step `steps`, after a linear warm-up (Loshchilov & Hutter 2017). Hugging
    /// Face's `get_cosine_schedule_with_warmup`, and with a floor `get_cosine_with_min_lr_schedule_with_warmup`.
    ///
    /// ```
    /// let schedule = fadam::Schedule::cosine(0, 4, 0.0);
    /// assert_eq!([0, 2, 4].map(|step| schedule.factor(step)), [1.0, 0.5, 0.0]);
    /// ```
    pub fn cosine(warmup_steps: u64, steps: u64, floor: f64) -> Self {
        Self { decay: Decay::Cosine { steps, floor }, ..Self::constant(warmup_steps) }
    }

    /// A line from 1 down to `floor` in step `steps`, after a linear warm-up. With a floor of 0 Hugging Face's
    /// `get_linear_schedule_with_warmup`.
    ///
    /// ```
    /// let schedule = fadam::Schedule::linear(2, 6, 0.5);
    /// assert_eq!([1, 2, 4, 6].map(|step| schedule.factor(step)), [0.5, 1.0, 0.75, 0.5]);
    /// ```
    pub fn linear(warmup_steps: u64, steps: u64, floor: f64) -> Self {
        Self { decay: Decay::Linear { from: warmup_steps, steps, floor }, ..Self::constant(warmup_steps) }
    }

    /// √(`warmup_steps` / step) up to step `steps`, after a linear warm-up of at least one step (Vaswani et al. 2017).
    /// Hugging Face's `get_inverse_sqrt_schedule`.
    ///
    /// ```
    /// let schedule = fadam::Schedule::inverse_sqrt(4, 100);
    /// assert_eq!([2, 4, 16, 100].map(|step| schedule.factor(step)), [0.5, 1.0, 0.5, 0.2]);
    /// ```
    pub fn inverse_sqrt(warmup_steps: u64, steps: u64) -> Self {
        Self { decay: Decay::InverseSqrt { steps }, ..Self::constant(warmup_steps) }
    }

    /// WSD (Hu et al. 2024, [arXiv:2404.06395](https://arxiv.org/abs/2404.06395)): a linear warm-up, then 1 for
    /// `stable_steps`, then a line down to `floor` over `decay_steps`. With a floor of 0 Hugging Face's
    /// `get_wsd_schedule(decay_type="linear")`.
    ///
    /// ```
    /// let schedule = fadam::Schedule::warmup_stable_decay(2, 10, 4, 0.0);
    /// assert_eq!([1, 2, 12, 13, 16].map(|step| schedule.factor(step)), [0.5, 1.0, 1.0, 0.75, 0.0]);
    /// ```
    pub fn warmup_stable_decay(warmup_steps: u64, stable_steps: u64, decay_steps: u64, floor: f64) -> Self {
        let from = warmup_steps.saturating_add(stable_steps);
        let decay = Decay::Linear { from, steps: from.saturating_add(decay_steps), floor };
        Self { decay, ..Self::constant(warmup_steps) }
    }

    /// Whether a step that was skipped for a gradient that is not finite advances the schedule. Default: no.
    ///
    /// ```
    /// let schedule = fadam::Schedule::linear(0, 100, 0.0).counting_skipped(true); // 100 batches, whatever they hold
    /// ```
    pub fn counting_skipped(mut self, counts: bool) -> Self {
        self.counts_skipped = counts;
        self
    }

    /// What the learning rates are multiplied with in the step number `step`, counted from 0.
    ///
    /// ```
    /// assert_eq!(fadam::Schedule::constant(10).factor(3), 0.3);
    /// ```
    pub fn factor(&self, step: u64) -> f64 {
        with_default_environment(|| self.compute(step))
    }

    fn compute(&self, step: u64) -> f64 {
        let step = step.min(self.steps());
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let to_floor = |factor: f64, floor: f64| factor * (1.0 - floor) + floor;
        match self.decay {
            Decay::None => 1.0,
            Decay::Cosine { steps, floor } => {
                let progress = (step - self.warmup_steps) as f64 / (steps - self.warmup_steps) as f64;
                to_floor(0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)), floor)
            }
            Decay::Linear { from, .. } if step < from => 1.0,
            Decay::Linear { from, steps, floor } => {
                to_floor((steps - step) as f64 / (steps - from) as f64, floor)
            }
            Decay::InverseSqrt { .. } => 1.0 / (step as f64 / self.warmup_steps as f64).sqrt(),
        }
    }

    /// The last step whose factor differs from that of the step before it, at the most: it goes for all later ones.
    ///
    /// ```
    /// assert_eq!(fadam::Schedule::warmup_stable_decay(10, 80, 10, 0.0).steps(), 100);
    /// ```
    pub fn steps(&self) -> u64 {
        match self.decay {
            Decay::None => self.warmup_steps,
            Decay::Cosine { steps, .. } | Decay::Linear { steps, .. } | Decay::InverseSqrt { steps } => steps,
        }
    }

    pub(crate) fn counts_skipped(&self) -> bool {
        self.counts_skipped
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let steps = self.steps();
        check(steps <= MAX_STEPS, "schedule.steps", steps as f64, "at most 2^24 steps in all")?;
        match self.decay {
            Decay::None => Ok(()),
            Decay::Cosine { floor, .. } => {
                check_decay(self.warmup_steps, steps)?;
                check_floor(floor)
            }
            Decay::Linear { from, floor, .. } => {
                check_decay(from, steps)?;
                check_floor(floor)
            }
            Decay::InverseSqrt { .. } => {
                let warmup = self.warmup_steps as f64;
                check(self.warmup_steps > 0, "schedule.warmup_steps", warmup, "at least 1")?;
                check_decay(self.warmup_steps, steps)
            }
        }
    }
}

fn check_decay(from: u64, steps: u64) -> Result<(), Error> {
    check(from < steps, "schedule.steps", steps as f64, "more steps than come before the decay")
}

fn check_floor(floor: f64) -> Result<(), Error> {
    check((0.0..=1.0).contains(&floor), "schedule.floor", floor, "a number in [0, 1]")
}
