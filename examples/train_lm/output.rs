//! The folder that takes the results. Every file appears whole or not at all.

use crate::files;
use crate::optimizer::Choice;
use crate::train::Run;
use anyhow::Result;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A folder that has been tried out.
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Makes the folder, if it is not there.
    pub(crate) fn open(folder: &Path, choices: &[Choice]) -> Result<Self> {
        let mut names = vec!["loss.csv".to_owned(), "loss.png".to_owned()];
        names.extend(choices.iter().map(|&choice| weights(choice)));
        files::try_out(folder, &names)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `name`, whole.
    pub(crate) fn write(&self, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        files::write(&path, write)?;
        Ok(path)
    }
}

/// The trained weights.
pub(crate) fn weights(choice: Choice) -> String {
    format!("{choice}.safetensors")
}

/// A row per step; an empty cell is a loss that was not measured there. Nats per byte.
pub(crate) fn csv(runs: &[Run]) -> String {
    let mut csv = String::from("optimizer,step,training_loss,held_out_loss\n");
    let cell = |loss: Option<f64>| loss.map(|loss| format!("{loss:.6}")).unwrap_or_default();
    for run in runs {
        for point in &run.points {
            let (training, held_out) = (cell(point.training), cell(point.held_out));
            // A `String` takes everything.
            let _ = writeln!(csv, "{},{},{training},{held_out}", run.choice, point.step);
        }
    }
    csv
}

/// The results, for reading.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut table = format!(
        "{:<11} {:>13} {:>13} {:>9} {:>10} {:>16}\n{:<11} {:>13} {:>13} {:>9} {:>10} {:>16}\n",
        "optimizer",
        "training loss",
        "held-out loss",
        "held-out",
        "perplexity",
        "optimizer time",
        "",
        "nats/byte",
        "nats/byte",
        "bits/byte",
        "per byte",
        "seconds (share)",
    );
    for run in runs {
        let loss = run.held_out_loss();
        let time = format!("{:.2} ({:.1} %)", run.time.optimizer.as_secs_f64(), run.time.share() * 100.0);
        let _ = writeln!(
            table,
            "{:<11} {:>13.4} {loss:>13.4} {:>9.3} {:>10.3} {time:>16}",
            run.choice,
            run.training_loss(),
            loss / std::f64::consts::LN_2,
            loss.exp(),
        );
    }
    table
}
