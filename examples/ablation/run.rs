//! One run: a task, an optimizer, a learning rate, a seed.

use crate::task::{Model, Part, Task};
use crate::variant::Variant;
use crate::weights::{elements, generator};
use anyhow::Result;
use fadam::candle::Optimizer;
use fadam::{Builder, Schedule};
use serde::{Deserialize, Serialize};

/// The part of the steps in which the learning rate rises to its peak; from there it falls to 0 along a cosine.
const WARM_UP: f64 = 0.05;
/// Points of a curve.
pub(crate) const POINTS: usize = 20;

/// All that a run's numbers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) task: String,
    pub(crate) variant: String,
    /// The peak learning rate.
    pub(crate) lr: f64,
    /// Of weights and batches.
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    /// Whether the test data are looked at, too.
    pub(crate) test: bool,
    /// Of all else, a hash: the task's description, the optimizer's settings.
    pub(crate) settings: String,
}

/// What came of it. Nothing is known of a run whose loss was not finite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The loss on validation data, at the end.
    pub(crate) validation: Option<f64>,
    /// The task's measures on test data, at the end.
    pub(crate) test: Vec<f64>,
    /// The training loss: means over [`POINTS`] equal parts of the run.
    pub(crate) training: Vec<f64>,
}

impl Outcome {
    /// The training loss in the last part of the run.
    pub(crate) fn final_training(&self) -> Option<f64> {
        self.validation.and(self.training.last().copied())
    }
}

/// The optimizer of a run.
pub(crate) fn optimizer(model: &dyn Model, variant: &Variant, lr: f64, steps: usize) -> Result<Optimizer> {
    Ok(Optimizer::from_varmap(model.weights(), builder(model, variant, lr, steps))?)
}

/// The same, still open to what does not change its steps.
pub(crate) fn builder(model: &dyn Model, variant: &Variant, lr: f64, steps: usize) -> Builder {
    let warm_up = (steps as f64 * WARM_UP) as u64;
    variant.builder(lr, elements(model.weights())).schedule(Schedule::cosine(warm_up, steps as u64, 0.0))
}

/// Trains.
pub(crate) fn run(task: &dyn Task, variant: &Variant, spec: &Spec) -> Result<Outcome> {
    use candle_nn::Optimizer as _;
    let model = task.model(&mut generator(spec.seed, 0))?;
    let mut batches = generator(spec.seed, 1);
    let mut optimizer = optimizer(&*model, variant, spec.lr, spec.steps)?;
    let mut losses = Vec::with_capacity(spec.steps);
    for _ in 0..spec.steps {
        let loss = model.loss(&mut batches)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Ok(Outcome::default());
        }
        losses.push(value);
        optimizer.step(&loss.backward()?)?;
    }
    let validation = model.measure(Part::Validation)?[0];
    let test = if spec.test { model.measure(Part::Test)? } else { Vec::new() };
    if !test.iter().chain([&validation]).all(|measure| measure.is_finite()) {
        return Ok(Outcome::default());
    }
    Ok(Outcome {
        validation: Some(validation),
        test,
        training: if spec.test { means(&losses) } else { Vec::new() },
    })
}

/// Over equal parts; fewer where there are fewer steps.
fn means(losses: &[f64]) -> Vec<f64> {
    let points = losses.len().min(POINTS);
    let part = |i: usize| &losses[i * losses.len() / points..(i + 1) * losses.len() / points];
    (0..points).map(|i| part(i).iter().sum::<f64>() / part(i).len() as f64).collect()
}
