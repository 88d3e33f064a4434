//! Shares runs out among threads. A run stays on one thread, so how many there are does not show in its numbers.

use crate::log::Log;
use crate::progress::Progress;
use crate::run::{self, Outcome, Spec};
use crate::task::Task;
use crate::variant::Variant;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// A run to do.
pub(crate) struct Job<'a> {
    pub(crate) task: &'a dyn Task,
    pub(crate) variant: &'a Variant,
    pub(crate) spec: Spec,
}

/// Does the jobs that the log does not have, and returns what came of each.
pub(crate) fn run_all(
    jobs: &[Job<'_>],
    threads: usize,
    log: &mut Log,
    progress: &mut Progress,
) -> Result<Vec<Outcome>> {
    let mut missing = Vec::new();
    for job in jobs {
        match log.get(&job.spec)? {
            Some(_) => progress.found(),
            None => missing.push(job),
        }
    }
    // The tasks in turns: the time that is left can be told early.
    let mut turns = HashMap::new();
    missing.sort_by_cached_key(|job| {
        let turn = turns.entry(job.task.name()).or_insert(0);
        *turn += 1;
        *turn
    });
    let next = AtomicUsize::new(0);
    let (results, done) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.min(missing.len()) {
            let (results, next, missing) = (results.clone(), &next, &missing);
            scope.spawn(move || {
                // A pool of its own, so that no step waits for another run.
                let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(1).build() else { return };
                while let Some(job) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = pool.install(|| run::run(job.task, job.variant, &job.spec));
                    if results.send((job, outcome)).is_err() {
                        return; // the program ends
                    }
                }
            });
        }
        drop(results);
        for (job, outcome) in done {
            let named = || format!("{}, {}", job.spec.task, job.spec.variant);
            log.add(job.spec.clone(), outcome.with_context(named)?)?;
            progress.done(&job.spec);
        }
        anyhow::Ok(())
    })?;
    let outcome = |job: &Job<'_>| {
        log.get(&job.spec)?.cloned().context("a run was not done: no thread could be started")
    };
    jobs.iter().map(outcome).collect()
}
