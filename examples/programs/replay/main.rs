//! Replays recorded gradients through an optimizer of `fadam`, so that any other library can be compared with it.
//!
//! IN → [`recording`] (with [`config`], [`keys`], [`json`]) → [`steps`] → [`output`] → OUT.

mod config;
#[path = "../../common/files.rs"]
mod files;
#[path = "../gpu/mod.rs"]
mod gpu;
mod json;
mod keys;
mod output;
mod recording;
mod steps;

use anyhow::{Context, Result};
use clap::Parser;
use fadam::{Device, Simd};
use recording::Recording;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

const FORMAT: &str = "\
IN holds
  param/<name>      F32|BF16 a parameter before the first step
  grad/<t>/<name>   F32|BF16 its gradient in step t = 1..T; a missing one: it takes no part in that step
  metadata `optimizer`, one JSON object:
    algorithm       adam | fadam | fisher_adam
    lr              a number, or a list of T numbers
    beta1, beta2, weight_decay, max_grad_norm (null: off), grad_scale, non_finite (skip | error | propagate)
    adam            eps, decay (l2 | decoupled), amsgrad, maximize
    fadam           eps0, eps_decay, kappa (null: infinite), decay_cap (null: none)
    fisher_adam     eps, eps2, rho, clip
    for BF16        master (f32 | remainder | none) of BF16 parameters, moments (f32 | bf16) of all; rounding (nearest |
                    stochastic) of BF16 parameters with `master` none and of bf16 moments, refused where `master` is f32 or
                    remainder and `moments` f32; seed (of stochastic, from 0 to 2^64 - 1)
  Keys left out take the library's defaults; an unknown one is an error. Other metadata is ignored.

OUT holds
  param/<name>      after step T, F32 or BF16 as in IN
  exp_avg/<name>, exp_avg_sq/<name>, and with amsgrad max_exp_avg_sq/<name>   the stored moments, F32
  master/<name>     F32, of BF16 parameters where one is kept, for `remainder` put together
  metadata `report`, a JSON list with one object for every t:
    step, grad_norm (unscaled, unclipped; null if not finite), clip_coefficient, update_norm (fadam with kappa),
    skipped. Figures of a skipped step are null.
It is written only when everything has gone well.";

/// Replay recorded gradients through one of fadam's optimizers
#[derive(Parser)]
#[command(name = "replay", after_help = FORMAT)]
struct Args {
    /// The recording, a safetensors file (format below)
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Where the result goes, a safetensors file
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,
    /// best, cpu, or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "best", value_parser = device_name)]
    device: String,
    /// Threads of the CPU, at least 1 [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Instruction set of the CPU [default: the best the machine has]
    #[arg(long, value_name = "LEVEL", value_parser = ["scalar", "avx2", "avx512", "neon"])]
    simd: Option<String>,
}

/// A name that means a device; whether the machine has it is not the command line's mistake.
fn device_name(name: &str) -> Result<String, String> {
    let number = |n: &str| n.parse::<u32>().is_ok();
    match name {
        "best" | "cpu" | "cuda" => Ok(name.to_string()),
        _ if name.strip_prefix("cuda:").is_some_and(number) => Ok(name.to_string()),
        _ => Err("expected best, cpu, cuda or cuda:N".to_string()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// A tensor's name may hold line breaks and escape sequences of a terminal.
fn one_line(message: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    message.chars().map(escape).collect()
}

fn run(args: &Args) -> Result<()> {
    let device: Device = args.device.parse()?;
    let simd: Option<Simd> = args.simd.as_deref().map(str::parse).transpose()?;
    let file =
        std::fs::read(&args.input).with_context(|| format!("cannot read `{}`", args.input.display()))?;
    let mut recording = Recording::read(&file).with_context(|| args.input.display().to_string())?;
    let optimizer = steps::optimizer(&recording.config, device, simd)?;
    files::try_out(&args.output)?;

    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = args.threads {
        pool = pool.num_threads(threads.get());
    }
    let pool = pool.build().context("cannot start the threads")?;
    let cpu = || {
        let simd = simd.unwrap_or_else(Simd::best);
        format!("{device} ({simd}, {} threads)", pool.current_num_threads())
    };
    say(&format!("device: {}", gpu::describe(device)?.unwrap_or_else(cpu)));
    let replayed = pool.install(|| steps::replay(&mut recording, optimizer, device))?;
    files::write(&args.output, &output::serialize(&recording, &replayed)?)?;

    let elements: usize = recording.parameters.iter().map(|parameter| parameter.value.len()).sum();
    say(&format!(
        "{}: {} steps ({} skipped), {} parameters, {elements} elements",
        recording.config.name(),
        replayed.report.len(),
        replayed.report.iter().filter(|line| line.skipped).count(),
        recording.parameters.len(),
    ));
    say(&format!("wrote {}", args.output.display()));
    Ok(())
}

/// To stdout. A reader that has gone away does not make the replay fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
