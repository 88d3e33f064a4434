//! Measures the optimizer step against what the machine's memory gives, in one process: the ceiling is a loop with the
//! same reads and writes and no arithmetic, timed in turns with the step.

mod case;
mod ceiling;
mod cores;
#[path = "../gpu/mod.rs"]
mod gpu;
mod gpu_ceiling;
mod gpu_graph;
mod gpu_measure;
mod gpu_step;
mod measure;
mod memory;
mod options;
mod output;
mod shapes;
mod step;

use anyhow::{Context, Result};
use clap::Parser;
use options::Options;
use std::process::ExitCode;

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
    let cases = options.cases()?;
    let device = options.device()?;
    let stream = options.stream(device)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads()?)
        .start_handler(cores::keep_to)
        .build()
        .context("cannot start the thread pool")?;
    let machine =
        output::Machine { device, stream, simd: options.simd(), threads: pool.current_num_threads() };
    let mut output = output::Output::new(options.json, &machine, &cases)?;
    for case in &cases {
        let measured = measure::measure(case, &machine, &pool, options.seconds)
            .with_context(|| format!("{} on {}", case.algorithm, case.shape))?;
        output.row(case, &measured)?;
    }
    output.end()
}
