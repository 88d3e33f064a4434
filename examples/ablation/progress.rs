//! A progress bar on a terminal; else a line now and then on stdout.

use crate::run::Spec;
use anyhow::Result;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

const BAR: &str = "{prefix} {wide_bar:.cyan/blue} {pos}/{len} runs, {msg}, {eta} left";
/// Between two lines without a terminal.
const PAUSE: Duration = Duration::from_secs(20);

/// What tells a person how far it is.
pub(crate) struct Progress {
    runs: usize,
    found: usize,
    done: usize,
    begin: Instant,
    last: Instant,
    /// None when stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of `runs` runs.
    pub(crate) fn new(runs: usize) -> Result<Self> {
        let bar = stderr().is_terminal().then(|| ProgressBar::new(runs as u64));
        if let Some(bar) = &bar {
            bar.set_style(ProgressStyle::with_template(BAR)?);
        }
        let now = Instant::now();
        Ok(Self { runs, found: 0, done: 0, begin: now, last: now, bar })
    }

    /// What is done next.
    pub(crate) fn stage(&self, name: &'static str) {
        match &self.bar {
            Some(bar) => bar.set_prefix(name),
            None => println!("{name}"),
        }
    }

    /// A run was there already.
    pub(crate) fn found(&mut self) {
        self.found += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.reset_eta();
        }
    }

    /// A run is done.
    pub(crate) fn done(&mut self, spec: &Spec) {
        self.done += 1;
        let Spec { task, variant, lr, .. } = spec;
        let message = format!("{task}, {variant}, lr {lr}");
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            bar.inc(1);
        } else if self.last.elapsed() > PAUSE {
            self.last = Instant::now();
            let finished = self.found + self.done;
            let left = self.begin.elapsed().mul_f64((self.runs - finished) as f64 / self.done as f64);
            println!("  {finished:>5} of {} runs, {message}; about {} left", self.runs, HumanDuration(left));
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        if self.found > 0 {
            println!("{} of {} runs were there already", self.found, self.runs);
        }
    }
}
