//! Where a run is saved while it goes: weights, the optimizer's state, and a small JSON file that names both. That file is
//! renamed into place when the other two are there, so a run that is killed finds the last whole checkpoint.

use crate::corpus::fnv1a;
use crate::model::Model;
use crate::optimizer::Choice;
use crate::output::Output;
use crate::stepper::Stepper;
use crate::train::{Point, Setup, Time};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

/// How far a run is.
#[derive(Serialize, Deserialize)]
struct Saved {
    settings: Value,
    step: usize,
    points: Vec<Point>,
    step_seconds: f64,
    optimizer_seconds: f64,
    weights: String,
    state: String,
}

/// The checkpoints of one run.
pub(crate) struct Checkpoints<'a> {
    output: &'a Output,
    choice: Choice,
    settings: Value,
}

/// What a run goes on from.
pub(crate) struct Progressed {
    pub(crate) step: usize,
    pub(crate) points: Vec<Point>,
    pub(crate) time: Time,
}

impl<'a> Checkpoints<'a> {
    pub(crate) fn new(output: &'a Output, choice: Choice, setup: &Setup<'_>) -> Self {
        Self { output, choice, settings: settings(setup) }
    }

    fn index(&self) -> String {
        format!("{}.checkpoint.json", self.choice)
    }

    /// Of every other file of every run's checkpoints.
    fn prefix(&self) -> String {
        format!("{}.checkpoint-", self.choice)
    }

    /// Of this run's, so that another run with the same folder does not write to what the index still names.
    fn own_prefix(&self) -> String {
        format!("{}{:016x}-", self.prefix(), fnv1a(&[self.settings.to_string().as_bytes()]))
    }

    pub(crate) fn save(
        &self,
        model: &Model,
        optimizer: &mut Stepper,
        points: &[Point],
        time: &Time,
    ) -> Result<()> {
        let step = points.last().map_or(0, |point| point.step);
        let name = |what| format!("{}{step}.{what}.safetensors", self.own_prefix());
        let saved = Saved {
            settings: self.settings.clone(),
            step,
            points: points.to_vec(),
            step_seconds: time.steps.as_secs_f64(),
            optimizer_seconds: time.optimizer.as_secs_f64(),
            weights: name("weights"),
            state: name("state"),
        };
        self.output.write(&saved.weights, |path| Ok(model.weights.save(path)?))?;
        optimizer.save(&self.output.path(&saved.state))?;
        self.output.write(&self.index(), |path| Ok(fs::write(path, serde_json::to_vec(&saved)?)?))?;
        self.remove_all_but(&saved)
    }

    /// Checkpoints of before, and what a killed run has left of one.
    fn remove_all_but(&self, saved: &Saved) -> Result<()> {
        for entry in fs::read_dir(self.output.path(""))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.contains(&self.prefix()) && name != saved.weights && name != saved.state {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove {name}"))?;
            }
        }
        Ok(())
    }

    /// Brings model and optimizer to where the last checkpoint was made, if there is one.
    ///
    /// # Errors
    /// A checkpoint of a run with other settings, or one that cannot be read.
    pub(crate) fn load(&self, model: &mut Model) -> Result<Option<(Progressed, String)>> {
        let path = self.output.path(&self.index());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let cannot = || format!("cannot resume from {}", path.display());
        let saved: Saved = serde_json::from_slice(&bytes).with_context(cannot)?;
        if let Some(difference) = difference(&saved.settings, &self.settings) {
            bail!("{}: it is of a run with {difference}", cannot());
        }
        let weights = self.output.path(&saved.weights);
        model.weights.load(&weights).with_context(|| format!("cannot read {}", weights.display()))?;
        let time = Time {
            steps: Duration::try_from_secs_f64(saved.step_seconds).with_context(cannot)?,
            optimizer: Duration::try_from_secs_f64(saved.optimizer_seconds).with_context(cannot)?,
        };
        Ok(Some((Progressed { step: saved.step, points: saved.points, time }, saved.state)))
    }

    pub(crate) fn load_state(&self, optimizer: &mut Stepper, name: &str) -> Result<()> {
        optimizer.load(&self.output.path(name))
    }
}

/// All that a run's numbers depend on. Not the device: they do not.
fn settings(setup: &Setup<'_>) -> Value {
    json!({
        "steps": setup.steps,
        "seed": setup.seed,
        "lr": setup.lr,
        "dtype": setup.weights.to_string(),
        "corpus": setup.corpus.fingerprint(),
    })
}

/// The first setting that differs, as the checkpoint has it.
fn difference(saved: &Value, here: &Value) -> Option<String> {
    let object = here.as_object()?;
    let (name, here) = object.iter().find(|(name, value)| saved.get(name) != Some(value))?;
    let saved = saved.get(name).unwrap_or(&Value::Null);
    Some(format!("{name} {saved}, this one has {here}"))
}
