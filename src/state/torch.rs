//! State of PyTorch's Adam and AdamW, by the names that their `state_dict()` has: `state.<i>.step`, `state.<i>.exp_avg`, …

use super::fault::{Fault, shown, wrong};
use super::file;
use super::header::{Header, Tensor};
use super::read::Plan;
use super::slot::{Slot, Stored};
use super::write::{self, Content, write_to};
use crate::args::Progress;
use crate::{Algorithm, Optimizer};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// PyTorch counts steps in an f32, which is exact so far.
const MOST_STEPS: u64 = 1 << 24;

pub(super) fn save(optimizer: &mut Optimizer, path: &Path, names: &[&str]) -> Result<(), Fault> {
    let mut tensors = Vec::new();
    for (i, index) in numbered(optimizer, names)?.into_iter().enumerate() {
        let step = optimizer.ask(|backend| backend.progress(index))?.step;
        if step > MOST_STEPS {
            let name = shown(names[i]);
            return wrong(format!("{name} has {step} steps, and PyTorch counts to {MOST_STEPS} alone"));
        }
        tensors.push(write::Tensor {
            name: format!("state.{i}.step"),
            stored: Stored::F32,
            shape: Vec::new(),
            content: Content::Number(step as f32),
        });
        for slot in Slot::MOMENTS {
            let Some(stored) = optimizer.backend.slot(index, slot) else { continue };
            tensors.push(write::Tensor {
                name: name(i, slot),
                stored,
                shape: vec![optimizer.parameters[index].len],
                content: Content::Slot(index, slot),
            });
        }
    }
    tensors.sort_by_key(|tensor| Reverse(tensor.stored.size)); // so that each is aligned for its type
    let mut metadata = serde_json::Map::new();
    metadata.insert("format".into(), "pt".into()); // as safetensors' own writer for PyTorch says
    let header = write::header(&metadata, &tensors)?;
    file::replace(path, |file| write_to(file, &header, optimizer, &tensors).map(drop))
}

pub(super) fn load(
    optimizer: &mut Optimizer,
    source: &mut (impl Read + Seek),
    names: &[&str],
) -> Result<(), Fault> {
    let indices = numbered(optimizer, names)?;
    let mut header = Header::read(source)?;
    let mut plan = Plan::default();
    let mut last = (Progress::START, (0.0, 0.0));
    for (i, index) in indices.into_iter().enumerate() {
        let slots = Slot::MOMENTS.map(|slot| name(i, slot));
        let step = format!("state.{i}.step");
        match header.tensors.remove(&step) {
            Some(tensor) => {
                let count = count(source, &step, &tensor)?;
                let betas = optimizer.groups[optimizer.parameters[index].group].1.betas();
                if last != (Progress { step: count, ..last.0 }, betas) {
                    last = (powers(count, betas), betas);
                }
                plan.parameter(optimizer, index, last.0, &mut header, &Slot::MOMENTS, |slot| name(i, slot))?;
            }
            None if slots.iter().any(|slot| header.tensors.contains_key(slot)) => {
                return wrong(format!("it has no `{step}`"));
            }
            None => plan.restart(optimizer, index),
        }
    }
    if let Some(tensor) = header.tensors.keys().next() {
        let of = names.len();
        return wrong(format!("it has {}, which is no state of the {of} parameters named", shown(tensor)));
    }
    plan.carry_out(optimizer, source)
}

fn name(i: usize, slot: Slot) -> String {
    format!("state.{i}.{}", slot.name())
}

/// The parameter behind each of PyTorch's numbers.
fn numbered(optimizer: &Optimizer, names: &[&str]) -> Result<Vec<usize>, Fault> {
    if !matches!(optimizer.algorithm, Algorithm::Adam(_)) {
        let algorithm = super::manifest::algorithm_name(&optimizer.algorithm);
        return wrong(format!("PyTorch has state of `adam` alone, this optimizer is `{algorithm}`"));
    }
    let mut seen = HashSet::new();
    let mut number = |name| match optimizer.by_name.get(name) {
        None => wrong(format!("no parameter {} is registered", shown(name))),
        Some(index) if !seen.insert(index) => wrong(format!("parameter {} is named twice", shown(name))),
        Some(index) => Ok(*index),
    };
    names.iter().map(|name| number(name)).collect()
}

/// A step count, as one f32.
fn count(source: &mut (impl Read + Seek), name: &str, tensor: &Tensor) -> Result<u64, Fault> {
    if tensor.dtype != Stored::F32.dtype || tensor.elements != 1 {
        let Tensor { dtype, elements, .. } = tensor;
        return wrong(format!("`{name}` is {elements} of {dtype}, expected one F32"));
    }
    let mut bytes = [0; 4];
    let mut read = || {
        source.seek(SeekFrom::Start(tensor.begin))?;
        source.read_exact(&mut bytes)
    };
    read().map_err(super::fault::io("reading"))?;
    let count = f32::from_le_bytes(bytes);
    if !(0.0..=MOST_STEPS as f32).contains(&count) || count.fract() != 0.0 {
        return wrong(format!("`{name}` is {count}, expected a whole number from 0 to {MOST_STEPS}"));
    }
    Ok(count as u64)
}

/// As many multiplications as steps, so that the bits are those of an optimizer that has made them. Master and average,
/// which PyTorch has not, begin with the parameter's value.
fn powers(count: u64, betas: (f64, f64)) -> Progress {
    let progress = (0..count).fold(Progress::START, |progress, _| progress.next(betas));
    Progress { start: 0, ..progress }
}
