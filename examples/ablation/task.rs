//! What a task is. One of your own goes into `tasks/`, beside the others, and into the list of `tasks::all`.

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::VarMap;
use rand_chacha::ChaCha8Rng;

/// Data, and a model to train on them.
pub(crate) trait Task: Sync {
    /// Its name on the command line and in tables.
    fn name(&self) -> &'static str;
    /// What it is, in a line for the report.
    fn about(&self) -> String;
    /// What [`Model::measure`] returns, the loss first.
    fn measures(&self) -> &'static [Measure];
    /// Steps of a run for each minute of the whole program's budget.
    fn steps_per_minute(&self) -> f64;
    /// A model with initial weights drawn from `rng`.
    fn model(&self, rng: &mut ChaCha8Rng) -> Result<Box<dyn Model + '_>>;
}

/// A model while it is trained.
pub(crate) trait Model {
    /// What the optimizer steps.
    fn weights(&self) -> &VarMap;
    /// The mean loss over a batch that is drawn from `rng`.
    fn loss(&self, rng: &mut ChaCha8Rng) -> Result<Tensor>;
    /// On data that it is not trained on.
    fn measure(&self, part: Part) -> Result<Vec<f64>>;
}

/// A figure that a model is judged by.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
}

/// Data that no model is trained on.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Chooses learning rates and settings.
    Validation,
    /// Is looked at when everything is chosen.
    Test,
}
