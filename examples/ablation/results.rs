//! Does the runs of a plan, stage by stage, and holds what came of them.

use crate::log::Log;
use crate::plan::{Cell, Plan, SEEDS, TUNING_SEEDS, choose};
use crate::progress::Progress;
use crate::run::{Outcome, Spec};
use crate::variant::{SWEEPS, Sweep, Variant};
use crate::work::run_all;
use anyhow::{Context, Result};

/// An optimizer on a task.
pub(crate) struct Row {
    /// By the plan's order.
    pub(crate) task: usize,
    pub(crate) variant: String,
    /// The learning rate that was chosen.
    pub(crate) lr: f64,
    /// Mean validation loss of each learning rate; infinite where a run failed.
    pub(crate) rates: Vec<f64>,
    /// The runs at the chosen one, by seed.
    pub(crate) runs: Vec<Outcome>,
}

/// A setting on a task.
pub(crate) struct Swept {
    pub(crate) task: usize,
    pub(crate) sweep: &'static Sweep,
    /// Validation losses by value and seed, in the order of the values.
    pub(crate) points: Vec<(f64, Vec<Option<f64>>)>,
}

pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    swept: Vec<Swept>,
    /// All runs, in the order of the plan.
    pub(crate) specs: Vec<Spec>,
}

impl Row {
    /// The measure of number `index` on test data, by seed.
    pub(crate) fn test(&self, index: usize) -> Vec<Option<f64>> {
        self.runs.iter().map(|run| run.test.get(index).copied()).collect()
    }

    pub(crate) fn training(&self) -> Vec<Option<f64>> {
        self.runs.iter().map(Outcome::final_training).collect()
    }

    fn validation(&self) -> Vec<Option<f64>> {
        self.runs.iter().map(|run| run.validation).collect()
    }
}

impl Results {
    pub(crate) fn row(&self, task: usize, variant: &str) -> Result<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.task == task && row.variant == variant).context("an optimizer was not run")
    }

    /// A setting on all tasks.
    pub(crate) fn swept(&self, sweep: &Sweep) -> Vec<&Swept> {
        let of_it = |swept: &&Swept| swept.sweep.name == sweep.name && swept.sweep.of == sweep.of;
        self.swept.iter().filter(of_it).collect()
    }

    /// Does what the log does not have.
    pub(crate) fn collect(
        plan: &Plan<'_>,
        threads: usize,
        log: &mut Log,
        progress: &mut Progress,
    ) -> Result<Self> {
        let cells = plan.cells();
        let mut specs = Vec::new();

        progress.stage("learning rates");
        let jobs: Vec<_> = cells.iter().flat_map(|&cell| plan.tuning(cell)).collect();
        let tuned = run_all(&jobs, threads, log, progress)?;
        let (per_rate, per_cell) = (TUNING_SEEDS.len(), jobs.len() / cells.len());
        let chosen: Vec<_> = tuned.chunks(per_cell).map(|runs| choose(runs, per_rate)).collect();
        specs.extend(jobs.into_iter().map(|job| job.spec));

        progress.stage("comparison");
        let jobs: Vec<_> =
            cells.iter().zip(&chosen).flat_map(|(&cell, &(lr, _))| plan.compared(cell, lr)).collect();
        let compared = run_all(&jobs, threads, log, progress)?;
        specs.extend(jobs.into_iter().map(|job| job.spec));
        let rows = cells.iter().zip(chosen).zip(compared.chunks(SEEDS.len()));
        let rows = rows.map(|((cell, (lr, rates)), runs)| Row {
            task: cell.task,
            variant: cell.variant.name.clone(),
            lr,
            rates,
            runs: runs.to_vec(),
        });
        let mut results = Self { rows: rows.collect(), swept: Vec::new(), specs };

        progress.stage("settings");
        results.sweep(plan, threads, log, progress)?;
        Ok(results)
    }

    fn sweep(
        &mut self,
        plan: &Plan<'_>,
        threads: usize,
        log: &mut Log,
        progress: &mut Progress,
    ) -> Result<()> {
        let sweeps: Vec<(&'static Sweep, Vec<(f64, Variant)>)> =
            SWEEPS.iter().map(|sweep| (sweep, sweep.variants(plan.variants))).collect();
        let mut jobs = Vec::new();
        for task in 0..plan.tasks.len() {
            for (sweep, variants) in &sweeps {
                let lr = self.row(task, sweep.of)?.lr;
                jobs.extend(variants.iter().flat_map(|(_, variant)| plan.swept(Cell { task, variant }, lr)));
            }
        }
        let outcomes = run_all(&jobs, threads, log, progress)?;
        let mut outcomes = outcomes.chunks(SEEDS.len());
        for task in 0..plan.tasks.len() {
            for (sweep, variants) in &sweeps {
                let mut points = vec![(sweep.preset, self.row(task, sweep.of)?.validation())];
                for ((value, _), runs) in variants.iter().zip(&mut outcomes) {
                    points.push((*value, runs.iter().map(|run| run.validation).collect()));
                }
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.swept.push(Swept { task, sweep, points });
            }
        }
        self.specs.extend(jobs.into_iter().map(|job| job.spec));
        Ok(())
    }
}
