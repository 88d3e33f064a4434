//! What comes of the runs.

use crate::checkpoint;
use crate::folder::Folder;
use crate::optimizer::Choice;
use crate::plot;
use crate::train::Run;
use anyhow::Result;
use std::fmt::Write;

const CSV: &str = "loss.csv";
const PLOT: &str = "loss.png";

/// The files that [`save`] writes.
pub(crate) fn names(choices: &[Choice]) -> Vec<String> {
    let weights = choices.iter().map(|&choice| weights(choice));
    weights.chain([CSV.to_owned(), PLOT.to_owned()]).collect()
}

pub(crate) fn save(output: &Folder, runs: &[Run]) -> Result<()> {
    for run in runs {
        output.write(&weights(run.choice), &checkpoint::bytes(&run.model.weights)?)?;
    }
    output.write(CSV, csv(runs).as_bytes())?;
    output.write(PLOT, &plot::plot(runs)?)
}

/// The trained weights.
fn weights(choice: Choice) -> String {
    format!("{choice}.safetensors")
}

/// A row per step; an empty cell is a loss that was not measured there. Nats per byte.
fn csv(runs: &[Run]) -> String {
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
