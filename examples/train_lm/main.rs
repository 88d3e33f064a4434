//! Trains a small byte-level transformer on real text with several optimizers of this crate, and shows how they fare.
//!
//! `cargo run --release --example train_lm` needs no option and no download.

mod batches;
#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
#[path = "../../tests/common/calls.rs"]
mod calls;
#[path = "../common/canvas.rs"]
mod canvas;
mod checkpoint;
mod corpus;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/folder.rs"]
mod folder;
#[path = "../programs/gpu/mod.rs"]
mod gpu;
mod model;
mod optimizer;
mod output;
mod plot;
mod progress;
mod sample;
mod stepper;
#[path = "../common/threads.rs"]
mod threads;
mod train;
#[path = "../common/weights.rs"]
mod weights;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use corpus::Corpus;
use fadam::Master;
use folder::Folder;
use optimizer::{Choice, Weights};
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Instant;
use train::Setup;

/// Train a small byte-level transformer with several optimizers, each from the same weights on the same batches.
///
/// Without options the text is Rust source that cargo has already fetched. Results are a table, and in the folder
/// --out a plot, the losses as CSV, the trained weights, and checkpoints from which --resume goes on.
#[derive(Parser)]
#[command(name = "train_lm")]
struct Options {
    /// Optimizers to compare, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "adamw,fadam,fisher_adam")]
    optimizer: Vec<Choice>,

    /// Steps to train with each optimizer
    #[arg(long, default_value_t = 600, value_parser = steps)]
    steps: usize,

    /// Peak learning rate; it rises to it over the first 5 % of the steps and falls to 0 along a cosine
    #[arg(long, default_value_t = optimizer::LEARNING_RATE, allow_negative_numbers = true, value_parser = learning_rate)]
    lr: f64,

    /// Decides on initial weights, batches and the sample of text
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Type of the weights; the model computes in f32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeName,

    /// What the optimizer keeps beside bf16 weights: f32, remainder or none [default: remainder]
    #[arg(long)]
    master: Option<Master>,

    /// Go on from the checkpoints in --out, to the same bits as a run that was not interrupted. An optimizer without one
    /// begins; where none has one it is an error
    #[arg(long)]
    resume: bool,

    /// Where the optimizer runs: best, cpu, cuda or cuda:N; the model is on the CPU
    #[arg(long, default_value = "best", value_parser = device)]
    device: String,

    /// A file, or a folder with text files, to train on instead
    #[arg(long, value_name = "PATH")]
    corpus: Option<PathBuf>,

    /// The folder for loss.csv, loss.png, weights and checkpoints, of one program at a time
    #[arg(long, value_name = "DIR", default_value = "target/train_lm")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DtypeName {
    F32,
    Bf16,
}

impl Options {
    fn weights(&self) -> Weights {
        match self.dtype {
            DtypeName::F32 => Weights::F32,
            DtypeName::Bf16 => Weights::Bf16(self.master.unwrap_or_default()),
        }
    }
}

fn steps(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&steps| steps > 0).ok_or_else(|| "a number of steps is at least 1".into())
}

fn learning_rate(text: &str) -> Result<f64, String> {
    let lr = text.parse().ok().filter(|lr: &f64| lr.is_finite() && *lr > 0.0);
    lr.ok_or_else(|| "a learning rate is a finite number above 0".into())
}

/// Whether the name can be one of a device; [`fadam::Device`] knows whether it is one of this machine.
fn device(name: &str) -> Result<String, String> {
    let index = name.strip_prefix("cuda:").map(str::parse::<u32>);
    let known = matches!(name, "best" | "cpu" | "cuda") || matches!(index, Some(Ok(_)));
    known.then(|| name.to_owned()).ok_or_else(|| "a device is best, cpu, cuda or cuda:N".into())
}

fn repeated(choices: &[Choice]) -> Option<Choice> {
    choices.iter().enumerate().find(|&(i, choice)| choices[..i].contains(choice)).map(|(_, &choice)| choice)
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(choice) = repeated(&options.optimizer) {
        let message = format!("--optimizer names {choice} twice");
        Options::command().error(ErrorKind::ValueValidation, message).exit()
    }
    if options.master.is_some() && options.dtype == DtypeName::F32 {
        let message = "--master concerns bf16 weights; add --dtype bf16";
        Options::command().error(ErrorKind::ArgumentConflict, message).exit()
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// When the program is interrupted.
fn name_resume(folder: &Path) -> Result<()> {
    let folder = folder.display().to_string();
    ctrlc::set_handler(move || {
        // Where stderr is closed, there is nobody to tell.
        let _ = writeln!(stderr(), "\ninterrupted: --resume goes on from the last checkpoint in {folder}");
        process::exit(130)
    })?;
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let choices = &options.optimizer;
    let device: fadam::Device = options.device.parse()?;
    let threads = threads::count()?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let place = gpu::describe(device)?.map(|gpu| format!("optimizer on {gpu}; model on "));
    println!("device    {}cpu, {threads} threads", place.unwrap_or_default());
    if options.resume {
        checkpoint::require_any(&options.out, choices)?;
    }
    let output = Folder::open(&options.out, &output::names(choices))?;
    name_resume(&options.out)?;
    let corpus = Corpus::load(options.corpus.as_deref())?;
    corpus.require(batches::SPAN)?;
    println!("corpus    {}", corpus.describe());

    let candle_device = candle_core::Device::Cpu;
    let setup = Setup {
        corpus: &corpus,
        steps: options.steps,
        seed: options.seed,
        lr: options.lr,
        device: &candle_device,
        optimizer_device: device,
        weights: options.weights(),
    };
    println!("model     {}", setup.describe()?);
    let begin = Instant::now();
    let train = |&choice| train::train(choice, &setup, &output, options.resume);
    let runs = choices.iter().map(train).collect::<Result<Vec<_>>>()?;
    println!("\n{}", output::table(&runs));
    let prompt = if options.corpus.is_some() { "" } else { "    pub fn new(" };
    for run in &runs {
        let text = sample::sample(&run.model, prompt, &mut weights::generator(options.seed, 2))?;
        println!("{} writes:\n{text}\n", run.choice);
    }
    output::save(&output, &runs)?;
    println!("trained for {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}
