//! Is the empirical Fisher information the Fisher information? Where the loss is the negative log-likelihood of a distribution
//! that the model fits, nearly; else it has whatever scale the loss has. The traces of both are compared while a network
//! learns the same pixels as a number and as one of 17 levels.

use crate::canvas::{self, Axis, BLUE, ORANGE, Panel, Series};
use crate::run;
use crate::stats::Estimate;
use crate::table::markdown;
use crate::task::Model as _;
use crate::tasks::{Guesser, Pixels};
use crate::variant::Variant;
use crate::weights::generator;
use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_nn::Optimizer as _;
use fadam::{Device, EmpiricalFisher};
use plotters::prelude::SeriesLabelPosition;
use rayon::prelude::*;
use std::sync::PoisonError;

/// Pixels that the traces are taken over.
const SAMPLES: usize = 200;
/// Equal parts of a run: traces are taken at its beginning and after each.
const PARTS: usize = 8;
const SEEDS: [u64; 4] = [0, 1, 2, 3];

/// A way to learn the pixels, and how.
pub(crate) struct Case<'a> {
    pub(crate) pixels: &'a Pixels,
    pub(crate) label: &'static str,
    pub(crate) variant: &'a Variant,
    pub(crate) lr: f64,
    pub(crate) steps: usize,
}

/// The ratio of the empirical Fisher's trace to the Fisher's, after each part of the run.
pub(crate) struct Ratios {
    label: &'static str,
    steps: usize,
    ratios: Vec<Estimate>,
}

/// Trains, and takes the traces.
pub(crate) fn measure(case: &Case<'_>) -> Result<Ratios> {
    let by_seed: Vec<Vec<f64>> =
        SEEDS.into_par_iter().map(|seed| ratios(case, seed)).collect::<Result<_>>()?;
    let ratios =
        (0..=PARTS).map(|part| Estimate::of(&by_seed.iter().map(|ratios| ratios[part]).collect::<Vec<_>>()));
    let ratios = ratios.collect::<Option<_>>().context("a seed is no estimate")?;
    Ok(Ratios { label: case.label, steps: case.steps, ratios })
}

fn ratios(case: &Case<'_>, seed: u64) -> Result<Vec<f64>> {
    let guesser = case.pixels.guesser(&mut generator(seed, 0))?;
    let mut batches = generator(seed, 1);
    let mut optimizer = run::optimizer(&guesser, case.variant, case.lr, case.steps)?;
    let mut ratios = vec![ratio(&guesser, seed)?];
    for part in 0..PARTS {
        for _ in part * case.steps / PARTS..(part + 1) * case.steps / PARTS {
            optimizer.step(&guesser.loss(&mut batches)?.backward()?)?;
        }
        ratios.push(ratio(&guesser, seed)?);
    }
    Ok(ratios)
}

/// The mean square of gradients at what the data say over that at what the model says.
fn ratio(guesser: &Guesser<'_>, seed: u64) -> Result<f64> {
    let mut rng = generator(seed, 2);
    let mut vars: Vec<_> = {
        let named = guesser.weights().data().lock().unwrap_or_else(PoisonError::into_inner);
        named.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    };
    vars.sort_by(|a, b| a.0.cmp(&b.0));
    let elements = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut by_data = EmpiricalFisher::new(Device::Cpu, elements)?;
    let mut by_model = EmpiricalFisher::new(Device::Cpu, elements)?;
    for _ in 0..SAMPLES {
        let (inputs, levels) = guesser.batch(1, &mut rng)?;
        let said = guesser.forward(&inputs)?;
        let losses = [guesser.mismatch(&said, &levels)?, guesser.own_mismatch(&said, &mut rng)?];
        for (fisher, loss) in [&mut by_data, &mut by_model].into_iter().zip(losses) {
            let gradients = loss.backward()?;
            let flat = |(_, var): &(String, candle_core::Var)| {
                let gradient: &Tensor = gradients.get(var).context("a weight has no gradient")?;
                Ok(gradient.flatten_all()?.to_vec1::<f32>()?)
            };
            fisher.add(&vars.iter().map(flat).collect::<Result<Vec<_>>>()?.concat())?;
        }
    }
    let trace = |fisher: &EmpiricalFisher| -> Result<f64> {
        Ok(fisher.diagonal()?.into_iter().map(f64::from).sum::<f64>())
    };
    Ok(trace(&by_data)? / trace(&by_model)?)
}

/// The ratios by step.
pub(crate) fn table(found: &[Ratios]) -> String {
    let parts = (0..=PARTS).map(|part| format!("{part}/{PARTS}"));
    let mut cells =
        vec![["trace of empirical Fisher / trace of Fisher".to_owned()].into_iter().chain(parts).collect()];
    for Ratios { label, ratios, .. } in found {
        let ratios = ratios.iter().map(|ratio| format!("{:.3} ± {:.3}", ratio.mean, ratio.half_width));
        cells.push([(*label).to_owned()].into_iter().chain(ratios).collect());
    }
    markdown(&cells)
}

/// The ratios over the steps.
pub(crate) fn plot(found: &[Ratios]) -> Result<Vec<u8>> {
    let steps = found.iter().map(|ratios| ratios.steps).max().unwrap_or(1);
    let log = |ratio: f64| ratio.max(1e-9).log10();
    let (mut low, mut high) = (0.0_f64, 0.0_f64);
    let mut series = Vec::new();
    for (Ratios { label, steps, ratios }, color) in found.iter().zip([BLUE, ORANGE]) {
        let mut curve = Series::new(*label, color);
        for (part, ratio) in ratios.iter().enumerate() {
            let x = (part * steps / PARTS) as f64;
            curve.line.push((x, log(ratio.mean)));
            curve.points.push((x, log(ratio.mean)));
            let ends = [ratio.mean - ratio.half_width, ratio.mean + ratio.half_width].map(log);
            if ends[0] > log(ratio.mean / 10.0) {
                curve.whiskers.push(ends.map(|y| (x, y)));
            }
            (low, high) = (low.min(log(ratio.mean)), high.max(log(ratio.mean)));
        }
        series.push(curve);
    }
    let x = Axis::numbers("step", (0.0, steps as f64));
    let y = Axis::numbers("log10 of the ratio of traces", (low - 0.3, high + 0.6));
    let mut panel = Panel::new("Empirical Fisher over Fisher", x, y);
    panel.series = series;
    panel.y_marks = vec![0.0];
    panel.legend = Some(SeriesLabelPosition::UpperRight);
    canvas::draw((900, 520), &[vec![panel]])
}
