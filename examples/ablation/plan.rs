//! Which runs there are. Steps follow from the budget alone, never from a clock, so the same command gives the same numbers
//! on a slow machine, too.

use crate::corpus::fnv1a;
use crate::run::{Outcome, Spec};
use crate::task::Task;
use crate::variant::{SWEEPS, Variant};
use crate::work::Job;
use anyhow::{Context, Result};

/// Peak learning rates that are tried, the same for each optimizer.
pub(crate) const LEARNING_RATES: [f64; 7] = [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128];
/// Seeds of the runs that choose a learning rate, and of those that are compared.
pub(crate) const TUNING_SEEDS: [u64; 2] = [1000, 1001];
pub(crate) const SEEDS: [u64; 6] = [0, 1, 2, 3, 4, 5];
/// The fewest steps of a run.
const FEWEST: usize = 10;

/// Tasks, optimizers and how long to train.
pub(crate) struct Plan<'a> {
    pub(crate) tasks: &'a [Box<dyn Task>],
    pub(crate) variants: &'a [Variant],
    pub(crate) minutes: f64,
}

/// An optimizer on a task, by the task's place in the plan.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub(crate) task: usize,
    pub(crate) variant: &'a Variant,
}

impl<'a> Plan<'a> {
    /// Every optimizer on every task.
    pub(crate) fn cells(&self) -> Vec<Cell<'a>> {
        let cells = |task| self.variants.iter().map(move |variant| Cell { task, variant });
        (0..self.tasks.len()).flat_map(cells).collect()
    }

    /// The optimizer of this name.
    pub(crate) fn variant(&self, name: &str) -> Result<&'a Variant> {
        self.variants.iter().find(|variant| variant.name == name).context("there is no such optimizer")
    }

    /// The places of the tasks that learn the pixels as a number and as levels, where both are there.
    pub(crate) fn pixels(&self) -> Option<[usize; 2]> {
        let place = |name| self.tasks.iter().position(|task| task.name() == name);
        Some([place("ink")?, place("bins")?])
    }

    /// Of a run.
    pub(crate) fn steps(&self, task: &dyn Task) -> usize {
        ((task.steps_per_minute() * self.minutes) as usize).max(FEWEST)
    }

    /// How many runs there are in all.
    pub(crate) fn runs(&self) -> usize {
        let swept: usize = SWEEPS.iter().map(|sweep| sweep.variants(self.variants).len()).sum();
        let tuned = LEARNING_RATES.len() * TUNING_SEEDS.len() + SEEDS.len();
        self.tasks.len() * (self.variants.len() * tuned + swept * SEEDS.len())
    }

    /// The runs that choose this cell's learning rate: for each rate those of all seeds.
    pub(crate) fn tuning(&self, cell: Cell<'a>) -> Vec<Job<'a>> {
        let runs = LEARNING_RATES.iter().flat_map(|&lr| TUNING_SEEDS.map(|seed| (lr, seed)));
        runs.map(|(lr, seed)| self.job(cell, lr, seed, false)).collect()
    }

    /// The runs that are compared, with the chosen learning rate.
    pub(crate) fn compared(&self, cell: Cell<'a>, lr: f64) -> [Job<'a>; SEEDS.len()] {
        SEEDS.map(|seed| self.job(cell, lr, seed, true))
    }

    /// The runs of a setting, with the learning rate of its optimizer. No test data: settings are chosen by these.
    pub(crate) fn swept(&self, cell: Cell<'a>, lr: f64) -> [Job<'a>; SEEDS.len()] {
        SEEDS.map(|seed| self.job(cell, lr, seed, false))
    }

    fn job(&self, Cell { task, variant }: Cell<'a>, lr: f64, seed: u64, test: bool) -> Job<'a> {
        let task = &*self.tasks[task];
        let spec = Spec {
            task: task.name().to_owned(),
            variant: variant.name.clone(),
            lr,
            seed,
            steps: self.steps(task),
            test,
            settings: format!("{:016x}", fnv1a(&[task.about().as_bytes(), variant.settings().as_bytes()])),
        };
        Job { task, variant, spec }
    }
}

/// The learning rate with the lowest mean validation loss over its `seeds` runs, and that mean for each rate: infinite where
/// a run failed, so that such a rate is chosen only if all are.
pub(crate) fn choose(outcomes: &[Outcome], seeds: usize) -> (f64, Vec<f64>) {
    let mean = |runs: &[Outcome]| {
        let losses = runs.iter().map(|run| run.validation.unwrap_or(f64::INFINITY));
        losses.sum::<f64>() / runs.len() as f64
    };
    let means: Vec<f64> = outcomes.chunks(seeds).map(mean).collect();
    let best = (0..means.len()).min_by(|&a, &b| means[a].total_cmp(&means[b])).unwrap_or(0);
    (LEARNING_RATES[best], means)
}
