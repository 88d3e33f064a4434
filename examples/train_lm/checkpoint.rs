//! Where a run is saved while it goes: weights, the optimizer's state, and the index, a small JSON file with all else. There are
//! two sets of weights and state. They are written in turn, and the index tells which one is whole. So a run that is killed,
//! or whose machine is, finds the last whole checkpoint.
//!
//! What has not been synced may come to the disk in any order. The folder is synced before the index names a set, and before
//! the other set is written anew, which an older index on the disk would still name. (Each file's writer has done that already.
//! It goes on where that fails; twice is enough for one failure, and the index's checksums tell of what two may do.)

use crate::corpus::fnv1a;
use crate::files;
use crate::folder::Folder;
use crate::model::Model;
use crate::optimizer::Choice;
use crate::stepper::Stepper;
use crate::train::{Point, Setup, Time};
use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use candle_nn::VarMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// Longer than any run; sums of such times are times, too.
const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How far a run is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    settings: Value,
    /// One for every step, and one before the first.
    points: Vec<Point>,
    step_seconds: f64,
    optimizer_seconds: f64,
    set: Set,
    /// FNV-1a, as the others.
    weights: String,
    state: String,
    /// Of this with none.
    index: String,
}

impl Index {
    fn checksum(&self) -> Result<String> {
        let Self { settings, points, step_seconds, optimizer_seconds, set, weights, state, .. } = self;
        let all = (settings, points, step_seconds, optimizer_seconds, set, weights, state);
        Ok(checksum(&serde_json::to_vec(&all)?))
    }
}

/// Of the two that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Set {
    A,
    B,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// The checkpoints of one run.
pub(crate) struct Checkpoints<'a> {
    output: &'a Folder,
    choice: Choice,
    settings: Value,
}

/// What a run goes on from.
pub(crate) struct Progressed {
    pub(crate) set: Set,
    pub(crate) points: Vec<Point>,
    pub(crate) time: Time,
}

fn index(choice: Choice) -> String {
    format!("{choice}.checkpoint.json")
}

/// Refuses to resume where there is nothing to resume from.
pub(crate) fn require_any(folder: &Path, choices: &[Choice]) -> Result<()> {
    for &choice in choices {
        let path = folder.join(index(choice));
        if path.try_exists().with_context(|| format!("cannot read `{}`", path.display()))? {
            return Ok(());
        }
    }
    bail!("there is no checkpoint in `{}` to resume from; without --resume a run begins", folder.display())
}

impl<'a> Checkpoints<'a> {
    pub(crate) fn new(output: &'a Folder, choice: Choice, setup: &Setup<'_>) -> Self {
        Self { output, choice, settings: settings(setup) }
    }

    pub(crate) fn save(
        &self,
        model: &Model,
        optimizer: &mut Stepper,
        points: &[Point],
        time: &Time,
    ) -> Result<()> {
        let set = self.free_set()?;
        let [weights_path, state_path] = self.paths(set);
        let sync = || files::sync_folder(&self.output.path(""));
        sync();
        let weights = bytes(&model.weights)?;
        files::write(&weights_path, &weights)?;
        optimizer.save(&state_path)?;
        let mut saved = Index {
            settings: self.settings.clone(),
            points: points.to_vec(),
            step_seconds: time.steps.as_secs_f64(),
            optimizer_seconds: time.optimizer.as_secs_f64(),
            set,
            weights: checksum(&weights),
            state: checksum(&files::read(&state_path)?),
            index: String::new(),
        };
        saved.index = saved.checksum()?;
        sync();
        files::write(&self.output.path(&index(self.choice)), &serde_json::to_vec(&saved)?)
    }

    /// The set that the index does not name: of whichever run it is, it stays whole until there is another.
    fn free_set(&self) -> Result<Set> {
        #[derive(Deserialize)]
        struct Named {
            set: Set,
        }
        let named = self.read_index()?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(match named {
            Some(Named { set: Set::A }) => Set::B,
            Some(Named { set: Set::B }) | None => Set::A,
        })
    }

    fn read_index(&self) -> Result<Option<Vec<u8>>> {
        let path = self.output.path(&index(self.choice));
        let there = path.try_exists().with_context(|| format!("cannot read `{}`", path.display()))?;
        there.then(|| files::read(&path)).transpose()
    }

    /// Of weights and state.
    fn paths(&self, set: Set) -> [PathBuf; 2] {
        ["weights", "state"]
            .map(|what| self.output.path(&format!("{}.checkpoint-{set}.{what}.safetensors", self.choice)))
    }

    /// Brings the model to where the last checkpoint was made, if there is one.
    ///
    /// # Errors
    /// A checkpoint of a run with other settings, or one that cannot be read.
    pub(crate) fn load(&self, model: &Model) -> Result<Option<Progressed>> {
        let Some(bytes) = self.read_index()? else { return Ok(None) };
        let path = self.output.path(&index(self.choice));
        let progressed = self.resume(&bytes, model);
        progressed.map(Some).with_context(|| format!("cannot resume from `{}`", path.display()))
    }

    fn resume(&self, bytes: &[u8], model: &Model) -> Result<Progressed> {
        let saved: Index = serde_json::from_slice(bytes)?;
        ensure!(saved.checksum()? == saved.index, "it is damaged");
        if let Some(difference) = difference(&saved.settings, &self.settings) {
            bail!("it is of a run with {difference}");
        }
        check(&saved.points, &self.settings)?;
        let time = |seconds| {
            let time = Duration::try_from_secs_f64(seconds).ok().filter(|&time| time < A_CENTURY);
            time.with_context(|| format!("a time of {seconds} s"))
        };
        let time = Time { steps: time(saved.step_seconds)?, optimizer: time(saved.optimizer_seconds)? };
        let [weights, state] = self.paths(saved.set);
        let whole = |path: &Path, expected: &str| {
            let bytes = files::read(path)?;
            ensure!(
                checksum(&bytes) == expected,
                "`{}` is damaged, or of another checkpoint",
                path.display()
            );
            Ok(bytes)
        };
        whole(&state, &saved.state)?;
        let bytes = whole(&weights, &saved.weights)?;
        set_weights(&model.weights, &bytes).with_context(|| format!("`{}`", weights.display()))?;
        Ok(Progressed { set: saved.set, points: saved.points, time })
    }

    pub(crate) fn load_state(&self, optimizer: &mut Stepper, set: Set) -> Result<()> {
        let [_, state] = self.paths(set);
        optimizer.load(&state)
    }
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", fnv1a(&[bytes]))
}

/// Refuses points that are not those of a run's first steps.
fn check(points: &[Point], settings: &Value) -> Result<()> {
    let in_order = points.iter().enumerate().all(|(step, point)| point.step == step);
    let measured = points.iter().skip(1).all(|point| point.training.is_some());
    ensure!(in_order && measured && points.len() > 1, "its points are not those of a run");
    let most = settings["steps"].as_u64().unwrap_or(0);
    ensure!(points.len() as u64 - 1 <= most, "it has {} steps of {most}", points.len() - 1);
    Ok(())
}

/// Weights as a file has them, in the safetensors format.
pub(crate) fn bytes(weights: &VarMap) -> Result<Vec<u8>> {
    let vars = weights.data().lock().unwrap_or_else(PoisonError::into_inner);
    let tensors = vars.iter().map(|(name, var)| (name, var.as_tensor()));
    Ok(safetensors::serialize(tensors, None)?)
}

/// # Errors
/// Weights of another model.
fn set_weights(weights: &VarMap, bytes: &[u8]) -> Result<()> {
    let vars = weights.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = candle_core::safetensors::load_buffer(bytes, &candle_core::Device::Cpu)?;
    for (name, var) in vars.iter() {
        let tensor = found.remove(name).with_context(|| format!("there is no {name}"))?;
        let kind = |tensor: &Tensor| (tensor.dtype(), tensor.dims().to_vec());
        let (here, there) = (kind(var), kind(&tensor));
        ensure!(here == there, "{name} is {there:?}, not {here:?}");
        var.set(&tensor.to_device(var.device())?)?;
    }
    match found.keys().min() {
        Some(name) => bail!("there is {name}, which the model has not"),
        None => Ok(()),
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

#[cfg(test)]
mod tests;
