//! Step and ceiling in turns: short blocks, many rounds, medians.

use crate::case::Case;
use crate::ceiling::Ceiling;
use crate::output::Machine;
use crate::step::Step;
use anyhow::Result;
use rayon::ThreadPool;
use std::time::{Duration, Instant};

/// What a block should last: far above the clock's resolution, below the scheduler's time slice.
const BLOCK: Duration = Duration::from_millis(1);
/// What a block's warm-up should last: the caches and the pool's sleeping threads are then its own.
const WARM_UP: Duration = Duration::from_micros(300);
/// From here on, one run through the arrays needs no warm-up: they are far larger than any cache.
const LONG: Duration = Duration::from_millis(20);
const LEAST_ROUNDS: usize = 5;
/// A kind of ceiling that was this much slower at first is not timed again.
const HOPELESS: f64 = 1.3;

/// One row of the table. Times are seconds for one step.
pub(crate) struct Measured {
    pub(crate) params: usize,
    pub(crate) tensors: usize,
    pub(crate) bytes_per_param: usize,
    pub(crate) step: f64,
    pub(crate) ceiling: f64,
    /// The ceiling's time over the step's in each round, sorted.
    shares: Vec<f64>,
}

impl Measured {
    fn gb_per_s(&self, seconds: f64) -> f64 {
        (self.bytes_per_param * self.params) as f64 / seconds * 1e-9
    }

    pub(crate) fn step_gb_per_s(&self) -> f64 {
        self.gb_per_s(self.step)
    }

    pub(crate) fn ceiling_gb_per_s(&self) -> f64 {
        self.gb_per_s(self.ceiling)
    }

    pub(crate) fn share(&self) -> f64 {
        self.shares[self.shares.len() / 2]
    }
}

/// # Errors
/// No memory, or hyper-parameters that the library refuses.
pub(crate) fn measure(case: &Case, machine: &Machine, pool: &ThreadPool, time: Duration) -> Result<Measured> {
    let mut step = Step::new(case, machine.device, machine.simd)?;
    // A training loop calls the step from where its threads are awake; so does this.
    pool.install(|| step.run());
    let kappa_acts = case.kappa.zip(step.update_norm()?).is_some_and(|(kappa, norm)| norm > kappa);
    let sweeps = case.sweeps(kappa_acts);
    let ceiling = Ceiling::new(case, &sweeps, machine.simd)?;
    let tensors = case.shape.tensors();
    let (step, ceiling, shares) = pool.install(|| rounds(&mut step, &ceiling, machine.threads, time));
    Ok(Measured {
        params: tensors.iter().sum(),
        tensors: tensors.len(),
        bytes_per_param: case.bytes(&sweeps),
        step,
        ceiling,
        shares,
    })
}

/// A contestant: its block's length in runs, and seconds for one run in each round.
struct Arm {
    warm_up: usize,
    times: usize,
    seconds: Vec<f64>,
}

impl Arm {
    /// Sizes the blocks by one run after another.
    fn new(mut time: impl FnMut(usize, usize) -> Duration) -> Self {
        let mut once = time(1, 1);
        if once < LONG {
            once = once.min(time(1, 2) / 2);
        }
        let runs = |length: Duration| (length.as_secs_f64() / once.as_secs_f64().max(1e-9)).ceil() as usize;
        let warm_up = if once < LONG { runs(WARM_UP) } else { 0 };
        Self { warm_up, times: runs(BLOCK), seconds: Vec::new() }
    }

    fn block(&mut self, time: impl FnOnce(usize, usize) -> Duration) {
        self.seconds.push(time(self.warm_up, self.times).as_secs_f64() / self.times as f64);
    }
}

fn rounds(step: &mut Step, ceiling: &Ceiling, threads: usize, time: Duration) -> (f64, f64, Vec<f64>) {
    let begin = Instant::now();
    let mut run_step = |warm_up: usize, times: usize| {
        (0..warm_up).for_each(|_| step.run());
        let start = Instant::now();
        (0..times).for_each(|_| step.run());
        start.elapsed()
    };
    let run_ceiling = |threads: usize| move |warm_up, times| ceiling.time(threads, warm_up, times);
    let mut steps = Arm::new(&mut run_step);
    let mut ceilings: Vec<(usize, Arm)> = Vec::new();
    for threads in [1, threads] {
        if ceilings.iter().all(|(earlier, _)| *earlier != threads) {
            ceilings.push((threads, Arm::new(run_ceiling(threads))));
        }
    }
    while steps.seconds.len() < LEAST_ROUNDS || begin.elapsed() < time {
        let step_first = steps.seconds.len() % 2 == 0; // so that a drift favours neither
        if step_first {
            steps.block(&mut run_step);
        }
        for (threads, arm) in &mut ceilings {
            arm.block(run_ceiling(*threads));
        }
        if !step_first {
            steps.block(&mut run_step);
        }
        if steps.seconds.len() == LEAST_ROUNDS {
            let best = ceilings.iter().map(|(_, arm)| median(&arm.seconds)).fold(f64::INFINITY, f64::min);
            ceilings.retain(|(_, arm)| median(&arm.seconds) <= HOPELESS * best);
        }
    }
    let best =
        ceilings.iter().map(|(_, arm)| arm).min_by(|a, b| median(&a.seconds).total_cmp(&median(&b.seconds)));
    let ceiling = best.map_or(&[][..], |arm| &arm.seconds);
    let mut shares: Vec<f64> =
        ceiling.iter().zip(&steps.seconds).map(|(ceiling, step)| ceiling / step).collect();
    shares.sort_unstable_by(f64::total_cmp);
    (median(&steps.seconds), median(ceiling), shares)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
