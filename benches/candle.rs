//! candle-nn's AdamW against this crate's, over the same variables and gradients, in turns; prints how many times faster
//! ours is. Not criterion: what counts is the ratio within one run.
//!
//!     cargo bench -p fadam --features candle --bench candle -- [SHAPE] [--rounds N] [--json]
//!
//! SHAPE is 1048576, 16777216 (the two by default) or gpt2, one step of which takes candle-nn seconds.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use fadam::Adam;
use std::time::{Duration, Instant};

/// In the shared cache, in memory.
const SHAPES: [&str; 2] = ["1048576", "16777216"];
const ROUNDS: usize = 9;
/// A turn lasts at least this long, and at least one step.
const TURN: Duration = Duration::from_millis(20);

struct Options {
    shapes: Vec<String>,
    rounds: usize,
    json: bool,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self { shapes: Vec::new(), rounds: ROUNDS, json: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {} // from cargo
                "--test" => options.rounds = 1,
                "--json" => options.json = true,
                "--rounds" => match arguments.next().and_then(|rounds| rounds.parse().ok()) {
                    Some(rounds) if rounds > 0 => options.rounds = rounds,
                    _ => bail!("--rounds needs a number of at least 1"),
                },
                _ => options.shapes.push(argument),
            }
        }
        if options.shapes.is_empty() {
            options.shapes = SHAPES.map(String::from).to_vec();
        }
        Ok(options)
    }
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    if !options.json {
        println!("{:>10} {:>14} {:>10} {:>7}", "shape", "candle-nn ms", "fadam ms", "ratio");
    }
    for shape in &options.shapes {
        let vars = variables(shape)?;
        let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for var in &vars {
            let direction = Tensor::randn(0_f32, 1., var.dims(), &Device::Cpu)?;
            loss = (loss + (var.as_tensor() * direction)?.sum_all()?)?;
        }
        let grads = loss.backward()?;
        let mut theirs = AdamW::new(vars.clone(), ParamsAdamW::default())?;
        let mut ours = fadam::candle::Adam::new(vars, Adam::adamw())?;
        let (mut their_times, mut our_times) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            their_times.push(turn(|| theirs.step(&grads))?);
            our_times.push(turn(|| ours.step(&grads))?);
        }
        let ratios = their_times.iter().zip(&our_times).map(|(theirs, ours)| theirs / ours).collect();
        let (theirs, ours, ratio) = (median(their_times) * 1e3, median(our_times) * 1e3, median(ratios));
        if options.json {
            println!(r#"{{"shape":"{shape}","candle_nn_ms":{theirs},"fadam_ms":{ours},"ratio":{ratio}}}"#);
        } else {
            println!("{shape:>10} {theirs:>14.3} {ours:>10.3} {ratio:>7.1}");
        }
    }
    Ok(())
}

fn variables(shape: &str) -> Result<Vec<Var>> {
    let lengths = match (shape, shape.parse()) {
        ("gpt2", _) => gpt2(),
        (_, Ok(elements)) => vec![elements],
        _ => bail!("a shape is gpt2 or a number of elements, not {shape}"),
    };
    lengths.into_iter().map(|length| Var::randn(0_f32, 1., length, &Device::Cpu)).collect()
}

/// The tensors of GPT-2 124M, as `throughput` has them.
fn gpt2() -> Vec<usize> {
    const WIDTH: usize = 768;
    let norm = [WIDTH, WIDTH];
    let linear = |inputs: usize, outputs: usize| [inputs * outputs, outputs];
    let mut lengths = vec![50257 * WIDTH, 1024 * WIDTH];
    for _ in 0..12 {
        for part in [norm, linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH), norm] {
            lengths.extend(part);
        }
        lengths.extend(linear(WIDTH, 4 * WIDTH));
        lengths.extend(linear(4 * WIDTH, WIDTH));
    }
    lengths.extend(norm);
    lengths
}

/// Seconds for one step, after one that is not timed.
fn turn(mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    step()?;
    let start = Instant::now();
    let mut steps = 0;
    while steps == 0 || start.elapsed() < TURN {
        step()?;
        steps += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(steps))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
