//! A progress bar on a terminal; else a line now and then on stdout.

use crate::optimizer::Choice;
use crate::train::Point;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};

const BAR: &str = "{prefix:>11} {wide_bar:.cyan/blue} {pos}/{len} steps {msg} {eta} left";

/// What tells a person how a run goes.
pub(crate) struct Progress {
    choice: Choice,
    /// None when stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(choice: Choice, steps: usize) -> Result<Self> {
        if !stderr().is_terminal() {
            return Ok(Self { choice, bar: None });
        }
        let bar = ProgressBar::new(steps as u64).with_prefix(choice.to_string());
        bar.set_style(ProgressStyle::with_template(BAR)?);
        Ok(Self { choice, bar: Some(bar) })
    }

    /// To be called after every step. `share` is the optimizer's part of the time.
    pub(crate) fn report(&self, point: &Point, tokens_per_second: f64, share: f64) {
        let training = point.training.unwrap_or(f64::NAN);
        let pace = format!("{:.1}k tokens/s, optimizer {:.1} %", tokens_per_second / 1e3, share * 100.0);
        match (&self.bar, point.held_out) {
            (Some(bar), _) => {
                bar.set_message(format!("loss {training:.3}, {pace}"));
                bar.inc(1);
            }
            (None, Some(held_out)) => println!(
                "{:>11}  step {:>5}  training loss {training:.3}  held-out loss {held_out:.3}  {pace}",
                self.choice.to_string(),
                point.step
            ),
            (None, None) => {}
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
