//! Step and ceiling in turns: short blocks, many rounds, medians over the rounds in which no other program took a core
//! away (over all rounds where there are too few of those).

use crate::case::Case;
use crate::ceiling::Ceiling;
use crate::gpu_measure::{self, OnGpu};
use crate::output::Machine;
use crate::step::Step;
use anyhow::Result;
use fadam::Device;
use rayon::ThreadPool;
use std::time::{Duration, Instant};

/// What a block should last: far above the clock's resolution, below the scheduler's time slice.
const BLOCK: Duration = Duration::from_micros(500);
/// What a block's warm-up should last: the caches and the pool's sleeping threads are then its own.
const WARM_UP: Duration = Duration::from_micros(200);
/// From here on, one run through the arrays needs no warm-up: they are far larger than any cache.
const LONG: Duration = Duration::from_millis(20);
/// What threads of the block before are given to leave their cores: a thread that wakes meanwhile lands on a busy one.
const PAUSE: Duration = Duration::from_micros(200);
const LEAST_ROUNDS: usize = 5;
/// Of the two kinds of ceiling, one that was this much slower at first is not timed again, where a run is long.
const HOPELESS: f64 = 1.3;

/// Seconds for one step and for its traffic alone, and the share round by round.
#[derive(Clone, Copy)]
pub(crate) struct Medians {
    pub(crate) step: f64,
    pub(crate) ceiling: f64,
    pub(crate) share: f64,
    pub(crate) busy: bool,
}

/// One row of the table.
pub(crate) struct Measured {
    pub(crate) params: usize,
    pub(crate) tensors: usize,
    pub(crate) bytes_per_param: usize,
    pub(crate) medians: Medians,
    pub(crate) on_gpu: Option<OnGpu>,
}

impl Measured {
    pub(crate) fn milliseconds(&self) -> f64 {
        self.medians.step * 1e3
    }

    pub(crate) fn gb_per_s(&self) -> f64 {
        self.bytes() / self.medians.step * 1e-9
    }

    pub(crate) fn ceiling_gb_per_s(&self) -> f64 {
        self.bytes() / self.medians.ceiling * 1e-9
    }

    pub(crate) fn share(&self) -> f64 {
        self.medians.share
    }

    /// Whether other programs took cores away in most rounds: then the figures are to be distrusted.
    pub(crate) fn busy(&self) -> bool {
        self.medians.busy
    }

    fn bytes(&self) -> f64 {
        (self.bytes_per_param * self.params) as f64
    }
}

/// # Errors
/// No memory, or hyper-parameters that the library refuses.
pub(crate) fn measure(case: &Case, machine: &Machine, pool: &ThreadPool, time: Duration) -> Result<Measured> {
    if let Device::Cuda(ordinal) = machine.device {
        return gpu_measure::measure(case, ordinal, machine.stream.unwrap_or_default(), time);
    }
    let mut step = Step::new(case, machine.simd)?;
    // A training loop calls the step from where its threads are awake; so does this.
    pool.install(|| step.run());
    let kappa_acts = case.kappa.zip(step.update_norm()?).is_some_and(|(kappa, norm)| norm > kappa);
    let sweeps = case.sweeps(kappa_acts, false);
    let ceiling = Ceiling::new(case, &sweeps, machine.simd)?;
    let tensors = case.shape.tensors();
    let medians = pool.install(|| rounds(&mut step, &ceiling, machine.threads, time));
    Ok(Measured {
        params: tensors.iter().sum(),
        tensors: tensors.len(),
        bytes_per_param: case.bytes(&sweeps),
        medians,
        on_gpu: None,
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

    /// The rounds that count.
    fn kept(&self, rounds: &[bool]) -> Vec<f64> {
        self.seconds.iter().zip(rounds).filter(|(_, kept)| **kept).map(|(seconds, _)| *seconds).collect()
    }

    fn block(&mut self, time: impl FnOnce(usize, usize) -> Duration) {
        let start = Instant::now();
        while start.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
        self.seconds.push(time(self.warm_up, self.times).as_secs_f64() / self.times as f64);
    }
}

/// Seconds are counted from here; the step runs in the pool's thread that calls this.
fn rounds(step: &mut Step, ceiling: &Ceiling, threads: usize, time: Duration) -> Medians {
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
    let mut undisturbed = Vec::new();
    while steps.seconds.len() < LEAST_ROUNDS || begin.elapsed() < time {
        let before = preemptions();
        let step_first = steps.seconds.len().is_multiple_of(2); // so that a drift favours neither
        if step_first {
            steps.block(&mut run_step);
        }
        for (threads, arm) in &mut ceilings {
            arm.block(run_ceiling(*threads));
        }
        if !step_first {
            steps.block(&mut run_step);
        }
        undisturbed.push(preemptions() == before);
        if steps.seconds.len() == LEAST_ROUNDS && ceilings.iter().all(|(_, arm)| arm.warm_up == 0) {
            let best = ceilings.iter().map(|(_, arm)| median(&arm.seconds)).fold(f64::INFINITY, f64::min);
            ceilings.retain(|(_, arm)| median(&arm.seconds) <= HOPELESS * best);
        }
    }
    let kept = undisturbed.iter().filter(|&&round| round).count();
    let busy = 2 * kept < undisturbed.len();
    if kept < LEAST_ROUNDS {
        undisturbed.fill(true);
    }
    let ceiling = ceilings.into_iter().map(|(_, arm)| arm.kept(&undisturbed));
    let ceiling = ceiling.min_by(|a, b| median(a).total_cmp(&median(b))).unwrap_or_default();
    let step = steps.kept(&undisturbed);
    let shares: Vec<f64> = ceiling.iter().zip(&step).map(|(ceiling, step)| ceiling / step).collect();
    Medians { step: median(&step), ceiling: median(&ceiling), share: median(&shares), busy }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// How often the system took a core from a thread of this program that had more to do.
fn preemptions() -> i64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = std::mem::MaybeUninit::zeroed();
        // SAFETY: `usage` has room for what the call writes; all zeros are a valid value where it writes nothing.
        unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init().ru_nivcsw
        }
    }
    #[cfg(not(target_os = "linux"))]
    0
}
