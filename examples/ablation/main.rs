//! What FAdam does for training, and which part of it does it: tasks × optimizers × learning rates × seeds.
//!
//! `cargo run --release --example ablation` needs no option and no download.

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
#[path = "../../tests/common/calls.rs"]
mod calls;
#[path = "../common/canvas.rs"]
mod canvas;
#[path = "../train_lm/corpus.rs"]
mod corpus;
mod diagnosis;
#[path = "../common/files.rs"]
mod files;
mod fisher;
#[path = "../common/folder.rs"]
mod folder;
mod log;
#[path = "../train_lm/model.rs"]
mod model;
mod page;
mod plan;
mod plot;
mod progress;
mod results;
mod run;
mod stats;
mod table;
mod task;
mod tasks;
#[path = "../common/threads.rs"]
mod threads;
mod variant;
#[path = "../common/weights.rs"]
mod weights;
mod work;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use corpus::Corpus;
use folder::Folder;
use log::{Log, RUNS};
use plan::Plan;
use progress::Progress;
use results::Results;
use std::path::PathBuf;
use std::process::ExitCode;
use variant::{BASELINE, FADAM};

/// Compare FAdam, its parts and its peers on small real tasks: learning rates tuned alike, several seeds.
#[derive(Parser)]
#[command(name = "ablation")]
struct Options {
    /// How long to train: on two cores about this many minutes. Decides on steps, so the numbers depend on it
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true, value_parser = minutes)]
    minutes: f64,

    /// Tasks, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(tasks::NAMES),
        default_value = "lm,digits,vqvae,ink,bins")]
    task: Vec<String>,

    /// A file, or a folder with text files, for the language model (lm)
    #[arg(long, value_name = "PATH")]
    corpus: Option<PathBuf>,

    /// A Markdown page whose tables, each between `<!-- table: NAME -->` and `<!-- end -->`, are written anew
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,

    /// The folder for runs, tables and plots. Runs that are there are not done again
    #[arg(long, value_name = "DIR", default_value = "target/ablation")]
    out: PathBuf,
}

impl Options {
    fn needs_corpus(&self) -> bool {
        self.task.iter().any(|name| name == tasks::LANGUAGE)
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|&minutes: &f64| minutes > 0.0 && minutes <= 10_000.0);
    minutes.ok_or_else(|| "a number of minutes is above 0, and at most 10000: a week".into())
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.corpus.is_some() && !options.needs_corpus() {
        let message = "--corpus is for the task lm, which is not among --task";
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

fn run(options: &Options) -> Result<()> {
    let threads = threads::count()?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    println!("device    cpu, {threads} threads, a run on each");
    let corpus = match options.needs_corpus() {
        true => Some(Corpus::load(options.corpus.as_deref())?),
        false => None,
    };
    if let Some(corpus) = &corpus {
        println!("corpus    {}", corpus.describe());
    }
    let tasks = tasks::some(&options.task, corpus)?;
    let variants = variant::all();
    let plan = Plan { tasks: &tasks, variants: &variants, minutes: options.minutes };
    let output = Folder::open(&options.out, &[RUNS.to_owned()])?;
    if let Some(page) = &options.page {
        page::check(page, &table::names(&plan))?;
    }
    let mut log = Log::open(&output.path(RUNS))?;
    println!("runs      {} in all, kept in {}", plan.runs(), output.path(RUNS).display());

    let mut progress = Progress::new(plan.runs())?;
    let results = Results::collect(&plan, threads, &mut log, &mut progress)?;
    progress.finish();
    log.finish(&results.specs)?;
    let mut tables = table::all(&plan, &results)?;
    for (name, plot) in plot::PLOTS {
        output.write(name, &plot(&plan, &results)?)?;
    }
    tables.push(("diagnosis".to_owned(), diagnosis(&plan, &results, &output)?));
    if let Some(table) = fisher(&plan, &results, &output)? {
        tables.push(("fisher".to_owned(), table));
    }
    output.write("tables.md", table::page(&tables).as_bytes())?;
    if let Some(page) = &options.page {
        page::fill(page, &tables)?;
        println!("wrote {}", page.display());
    }
    println!("\n{}", table::headline(&tables));
    Ok(())
}

/// Watches FAdam on the first task.
fn diagnosis(plan: &Plan<'_>, results: &Results, output: &Folder) -> Result<String> {
    let task = &*plan.tasks[0];
    let lr = results.row(0, FADAM)?.lr;
    let found = diagnosis::diagnose(task, plan.variant(FADAM)?, lr, plan.steps(task))?;
    output.write("diagnosis.csv", found.csv().as_bytes())?;
    output.write("diagnosis.png", &found.plot()?)?;
    Ok(found.table())
}

/// Compares the Fisher and its empirical stand-in, where both ways to learn the pixels are among the tasks.
fn fisher(plan: &Plan<'_>, results: &Results, output: &Folder) -> Result<Option<String>> {
    let Some(places) = plan.pixels() else { return Ok(None) };
    let labels = ["as a number (ink)", "as a level (bins)"];
    let mut found = Vec::new();
    for ((pixels, task), label) in tasks::pixels()?.iter().zip(places).zip(labels) {
        let (variant, lr) = (plan.variant(BASELINE)?, results.row(task, BASELINE)?.lr);
        let case = fisher::Case { pixels, label, variant, lr, steps: plan.steps(&*plan.tasks[task]) };
        found.push(fisher::measure(&case)?);
    }
    output.write("fisher.png", &fisher::plot(&found)?)?;
    Ok(Some(fisher::table(&found)))
}
