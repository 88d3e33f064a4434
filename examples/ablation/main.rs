//! What FAdam does for training, and which part of it does it: tasks × optimizers × learning rates × seeds.
//!
//! `cargo run --release --example ablation` needs no option and no download.

#[path = "../train_lm/corpus.rs"]
mod corpus;
#[path = "../common/files.rs"]
mod files;
mod log;
#[path = "../train_lm/model.rs"]
mod model;
mod plan;
mod progress;
#[path = "../common/random.rs"]
mod random;
mod run;
mod task;
mod tasks;
#[path = "../common/threads.rs"]
mod threads;
mod variant;
mod work;

use anyhow::{Context, Result};
use clap::Parser;
use corpus::Corpus;
use log::Log;
use plan::Plan;
use progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare FAdam, its parts and its peers on small real tasks: learning rates tuned alike, several seeds.
#[derive(Parser)]
#[command(name = "ablation")]
struct Options {
    /// How long to train: on two cores about this many minutes. Decides on steps, so the numbers depend on it
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,

    /// Tasks, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    task: Option<Vec<String>>,

    /// A file, or a folder with text files, for the language model
    #[arg(long, value_name = "PATH")]
    corpus: Option<PathBuf>,

    /// The folder for runs, tables and plots. Runs that are there are not done again
    #[arg(long, value_name = "DIR", default_value = "target/ablation")]
    out: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|minutes: &f64| minutes.is_finite() && *minutes > 0.0);
    minutes.ok_or_else(|| "a number of minutes is finite and above 0".into())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let threads = threads::count()?;
    let corpus = Corpus::load(options.corpus.as_deref())?;
    let tasks = tasks::all(corpus)?;
    let variants = variant::all();
    let plan = Plan { tasks: &tasks, variants: &variants, minutes: options.minutes };
    std::fs::create_dir_all(&options.out).context("out")?;
    let mut log = Log::open(&options.out.join("runs.jsonl"))?;
    let mut progress = Progress::new(plan.runs())?;
    for cell in plan.cells() {
        if options.task.as_ref().is_some_and(|t| !t.contains(&cell.task.name().to_owned())) { continue }
        let begin = std::time::Instant::now();
        let outcomes = work::run_all(&plan.tuning(cell), threads, &mut log, &mut progress)?;
        let (lr, means) = plan::choose(&outcomes);
        let test = work::run_all(&plan.test(cell, lr), threads, &mut log, &mut progress)?;
        let m: f64 = test.iter().map(|o| o.test.first().copied().unwrap_or(f64::NAN)).sum::<f64>() / test.len() as f64;
        let tr: f64 = test.iter().map(|o| o.final_training().unwrap_or(f64::NAN)).sum::<f64>() / test.len() as f64;
        println!("{:6} {:18} lr {lr:.4} test {m:.5} train {tr:.5} s/run {:.2} {:.4?}", cell.task.name(), cell.variant.name, begin.elapsed().as_secs_f64() / 18.0 * 2.0, means);
    }
    Ok(())
}
