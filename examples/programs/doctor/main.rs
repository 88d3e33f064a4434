//! What a person runs first on a new machine: what there is, whether it computes the right bits, how fast it is.

#[path = "../gpu/mod.rs"]
mod gpu;
mod large;
mod parts;
mod ptx;
mod self_test;
mod speed;

use anyhow::Result;
use clap::Parser;
use fadam::{Device, Simd};
use std::io::Write;
use std::process::ExitCode;

/// Look at this machine: driver, GPUs, compiler, kernels; step every algorithm on the CPU and on each GPU and compare the
/// bits; measure each device once. Ends with 0 if everything that is present works.
#[derive(Parser)]
#[command(name = "doctor", version)]
struct Options {
    /// Also step a tensor of more than 2³² elements on each GPU that has room for it (69 GB), from end to end
    #[arg(long)]
    large: bool,
    /// Elements of the tensor whose step is timed
    #[arg(long, value_name = "N", default_value_t = 1 << 24)]
    elements: usize,
    /// Seconds of timing for each device
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(faults) if faults.is_empty() => {
            say("everything that is present works");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in faults {
                eprintln!("error: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What does not work, of what is there.
fn run(options: &Options) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    say(&format!("fadam     {}", env!("CARGO_PKG_VERSION")));
    let levels: Vec<Simd> = Simd::ALL.into_iter().filter(|simd| simd.is_available()).collect();
    let names: Vec<String> = levels.iter().map(Simd::to_string).collect();
    say(&format!("cpu       {} threads, {}", rayon::current_num_threads(), names.join(", ")));
    let gpus = parts::gpus(&mut faults)?;

    let expected = self_test::expected()?;
    for &simd in &levels {
        let verdict = self_test::on_cpu(simd, &expected);
        tell(&format!("cpu, {simd}"), verdict, &mut faults);
    }
    for &ordinal in &gpus {
        tell(&format!("cuda:{ordinal}"), self_test::on_gpu(ordinal, &expected), &mut faults);
    }
    for device in std::iter::once(Device::Cpu).chain(gpus.iter().map(|&ordinal| Device::Cuda(ordinal))) {
        match speed::measure(device, options.elements, options.seconds) {
            Ok(speed) => say(&format!("speed     {device}: {speed}")),
            Err(error) => faults.push(format!("timing a step on {device}: {error:#}")),
        }
    }
    if options.large {
        for &ordinal in &gpus {
            match large::step(ordinal) {
                Ok(verdict) => say(&format!("large     cuda:{ordinal}: {verdict}")),
                Err(error) => faults.push(format!("a large tensor on cuda:{ordinal}: {error:#}")),
            }
        }
    }
    Ok(faults)
}

fn tell(device: &str, verdict: Result<String>, faults: &mut Vec<String>) {
    match verdict {
        Ok(verdict) => say(&format!("self-test {device}: {verdict}")),
        Err(error) => faults.push(format!("self-test on {device}: {error:#}")),
    }
}

/// To stdout. A reader that has gone away does not make the doctor fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
