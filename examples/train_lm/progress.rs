//! A progress bar on a terminal; else a line now and then on stdout.

use crate::optimizer::Choice;
use crate::train::{Point, due};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};

/// Lines in a run without a terminal.
const LINES: usize = 4;
const BAR: &str = "{prefix:>11} {wide_bar:.cyan/blue} {pos}/{len} steps {msg} {eta} left";

/// What tells a person how a run goes.
pub(crate) struct Progress {
    choice: Choice,
    steps: usize,
    /// None when stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of a run that has made `done` of its steps.
    pub(crate) fn new(choice: Choice, steps: usize, done: usize) -> Result<Self> {
        if !stderr().is_terminal() {
            return Ok(Self { choice, steps, bar: None });
        }
        let bar = ProgressBar::new(steps as u64).with_prefix(choice.to_string());
        bar.set_style(ProgressStyle::with_template(BAR)?);
        bar.set_position(done as u64);
        bar.reset_eta();
        Ok(Self { choice, steps, bar: Some(bar) })
    }

    /// To be called after every step. `share` is the optimizer's part of the time.
    pub(crate) fn report(&self, point: &Point, tokens_per_second: f64, share: f64) {
        let training = point.training.unwrap_or(f64::NAN);
        let pace = format!("{:.1}k tokens/s, optimizer {:.1} %", tokens_per_second / 1e3, share * 100.0);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {training:.3}, {pace}"));
            bar.inc(1);
        } else if due(point.step, self.steps, LINES) {
            let held_out = point.held_out.map(|loss| format!("  held-out {loss:.3}")).unwrap_or_default();
            let Self { choice, steps, .. } = self;
            println!("{choice:<11}  step {:>5} of {steps}  loss {training:.3}{held_out}  {pace}", point.step);
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
