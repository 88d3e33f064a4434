//! One run: a model, an optimizer, and the steps between them.

use crate::batches::{self, BATCH, Shard};
use crate::checkpoint::{Checkpoints, Progressed};
use crate::corpus::Corpus;
use crate::folder::Folder;
use crate::model::{CONTEXT, Model};
use crate::optimizer::{Choice, MAX_GRAD_NORM, Weights};
use crate::progress::Progress;
use crate::stepper::Stepper;
use crate::weights::{elements, generator};
use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device};
use fadam::Schedule;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How often the held-out loss is measured and a checkpoint made in a run, after the first time.
const MEASUREMENTS: usize = 16;
/// Of the model: most tensors of a shard stay in the cache.
const WIDTH: usize = 128;
/// The part of the steps in which the learning rate rises to its peak.
const WARM_UP: f64 = 0.05;
/// The final training loss is a mean over this part of the steps, at the end.
const FINAL: f64 = 0.05;

/// What is the same for every optimizer.
pub(crate) struct Setup<'a> {
    pub(crate) corpus: &'a Corpus,
    pub(crate) steps: usize,
    pub(crate) seed: u64,
    /// The peak learning rate.
    pub(crate) lr: f64,
    pub(crate) device: &'a Device,
    pub(crate) optimizer_device: fadam::Device,
    pub(crate) weights: Weights,
}

impl Setup<'_> {
    /// The model and the steps, in a line.
    pub(crate) fn describe(&self) -> Result<String> {
        let parameters = elements(&self.model()?.weights);
        let Self { steps, seed, weights, .. } = self;
        Ok(format!(
            "{parameters} parameters ({weights}), {steps} steps of {BATCH} sequences of {CONTEXT} bytes, seed {seed}"
        ))
    }

    fn model(&self) -> Result<Model> {
        Model::new(WIDTH, &mut generator(self.seed, 0), self.weights.dtype(), self.device)
    }
}

/// A row of `loss.csv`. Losses are in nats per byte.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    /// Steps taken so far.
    pub(crate) step: usize,
    /// On the batch of that step, before it; none before the first.
    pub(crate) training: Option<f64>,
    /// After that step, where it was measured.
    pub(crate) held_out: Option<f64>,
}

/// What came of training with one optimizer.
pub(crate) struct Run {
    pub(crate) choice: Choice,
    pub(crate) model: Model,
    pub(crate) points: Vec<Point>,
    pub(crate) time: Time,
}

/// Where the time went.
#[derive(Clone, Copy, Default)]
pub(crate) struct Time {
    /// Batches, gradients and the optimizer; not the held-out loss.
    pub(crate) steps: Duration,
    pub(crate) optimizer: Duration,
}

impl Time {
    /// The optimizer's part of the steps.
    pub(crate) fn share(&self) -> f64 {
        self.optimizer.as_secs_f64() / self.steps.as_secs_f64()
    }
}

impl Run {
    /// Mean training loss at the end, in nats per byte.
    pub(crate) fn training_loss(&self) -> f64 {
        let losses: Vec<f64> = self.points.iter().filter_map(|point| point.training).collect();
        let last = ((losses.len() as f64 * FINAL) as usize).max(1);
        losses[losses.len() - last..].iter().sum::<f64>() / last as f64
    }

    /// Held-out loss at the end, in nats per byte.
    pub(crate) fn held_out_loss(&self) -> f64 {
        self.points.iter().rev().find_map(|point| point.held_out).unwrap_or(f64::NAN)
    }
}

/// Trains a model with `choice`, from its beginning or, to `resume`, from its last checkpoint.
pub(crate) fn train(choice: Choice, setup: &Setup<'_>, output: &Folder, resume: bool) -> Result<Run> {
    let model = setup.model()?;
    let mut rng = generator(setup.seed, 1);
    let checkpoints = Checkpoints::new(output, choice, setup);
    let held_out = batches::held_out(setup.corpus);
    let last = if resume { checkpoints.load(&model)? } else { None };
    let warm_up = (setup.steps as f64 * WARM_UP) as u64;
    let mut builder = fadam::Optimizer::builder(choice.algorithm(setup.lr))
        .max_grad_norm(MAX_GRAD_NORM)
        .schedule(Schedule::cosine(warm_up, setup.steps as u64, 0.0))
        .seed(setup.seed);
    if let Weights::Bf16(master) = setup.weights {
        builder = builder.master(master);
    }
    let mut optimizer = Stepper::new(&model, builder, setup.optimizer_device)?;
    let (done, mut points, mut time) = match last {
        Some(Progressed { set, points, time }) => {
            checkpoints.load_state(&mut optimizer, set)?;
            let step = points.len() - 1;
            println!("{choice:<11}  goes on after step {step}");
            (step, points, time)
        }
        None => {
            let begin = Point { step: 0, training: None, held_out: Some(measure(&model, &held_out)?) };
            (0, vec![begin], Time::default())
        }
    };
    for _ in 0..done {
        batches::training(setup.corpus, &mut rng); // what those steps drew
    }
    let progress = Progress::new(choice, setup.steps, done)?;
    for step in done + 1..=setup.steps {
        let begin = Instant::now();
        let (loss, gradients) = gradients(&model, &batches::training(setup.corpus, &mut rng))?;
        check(choice, step, loss)?;
        let before = Instant::now();
        optimizer.step(&gradients)?;
        time.optimizer += before.elapsed();
        time.steps += begin.elapsed();
        let measured = due(step, setup.steps, MEASUREMENTS);
        let held_out = if measured { Some(measure(&model, &held_out)?) } else { None };
        check(choice, step, held_out.unwrap_or(0.0))?;
        let point = Point { step, training: Some(loss), held_out };
        progress.report(&point, (step * BATCH * CONTEXT) as f64 / time.steps.as_secs_f64(), time.share());
        points.push(point);
        if measured {
            checkpoints.save(&model, &mut optimizer, &points, &time)?;
        }
    }
    progress.finish();
    Ok(Run { choice, model, points, time })
}

fn check(choice: Choice, step: usize, loss: f64) -> Result<()> {
    ensure!(loss.is_finite(), "{choice}: the loss is {loss} at step {step}; a smaller --lr may help");
    Ok(())
}

/// Whether something that happens `times` times in a run, at even distances and at its end, happens after `step`.
pub(crate) fn due(step: usize, steps: usize, times: usize) -> bool {
    step * times / steps > (step - 1) * times / steps
}

/// Loss in nats per byte, and its gradient: both the mean over the shards, which threads compute independently and
/// which are added in their order, so that the number of threads does not show.
fn gradients(model: &Model, shards: &[Shard<'_>]) -> Result<(f64, GradStore)> {
    let weight = 1.0 / shards.len() as f64;
    let parts: Vec<(f64, GradStore)> = shards
        .par_iter()
        .map(|shard| {
            let loss = (model.loss(shard)? * weight)?;
            Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
        })
        .collect::<Result<_>>()?;
    let loss = parts.iter().map(|part| part.0).sum();
    let mut parts = parts.into_iter().map(|part| part.1);
    let first = parts.next().context("a batch has no shard")?;
    Ok((loss, parts.try_fold(first, |sum, gradients| add(model, sum, &gradients))?))
}

/// In f32, whatever the weights are.
fn add(model: &Model, mut sum: GradStore, gradients: &GradStore) -> Result<GradStore> {
    for var in model.weights.all_vars() {
        if let (Some(a), Some(b)) = (sum.get(&var), gradients.get(&var)) {
            let total = (a.to_dtype(DType::F32)? + b.to_dtype(DType::F32)?)?;
            sum.insert(&var, total);
        }
    }
    Ok(sum)
}

/// Mean loss in nats per byte.
fn measure(model: &Model, shards: &[Shard<'_>]) -> Result<f64> {
    let losses: Vec<f64> = shards
        .par_iter()
        .map(|shard| Ok(f64::from(model.loss(shard)?.to_scalar::<f32>()?)))
        .collect::<Result<_>>()?;
    Ok(losses.iter().sum::<f64>() / losses.len() as f64)
}
