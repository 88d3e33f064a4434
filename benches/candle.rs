//! candle-nn's AdamW against this crate's, over the same variable and gradient, in turns; prints how many times faster
//! ours is. Not criterion: what counts is the ratio within one run.

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use fadam::Adam;
use std::time::{Duration, Instant};

/// In the shared cache, in memory.
const SIZES: [usize; 2] = [1 << 20, 1 << 24];
const ROUNDS: usize = 9;
/// A turn lasts at least this long, and at least one step.
const TURN: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let rounds = if std::env::args().any(|argument| argument == "--test") { 1 } else { ROUNDS };
    println!("{:>10} {:>14} {:>10} {:>7}", "parameters", "candle-nn ms", "fadam ms", "ratio");
    for elements in SIZES {
        let var = Var::randn(0_f32, 1., elements, &Device::Cpu)?;
        let direction = Tensor::randn(0_f32, 1., elements, &Device::Cpu)?;
        let grads = (var.as_tensor() * direction)?.sum_all()?.backward()?;
        let mut theirs = AdamW::new(vec![var.clone()], ParamsAdamW::default())?;
        let mut ours = fadam::candle::Adam::new(vec![var], Adam::adamw())?;
        let (mut their_times, mut our_times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            their_times.push(turn(|| theirs.step(&grads))?);
            our_times.push(turn(|| ours.step(&grads))?);
        }
        let ratios = their_times.iter().zip(&our_times).map(|(theirs, ours)| theirs / ours).collect();
        let (theirs, ours) = (median(their_times) * 1e3, median(our_times) * 1e3);
        println!("{elements:>10} {theirs:>14.3} {ours:>10.3} {:>7.1}", median(ratios));
    }
    Ok(())
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
