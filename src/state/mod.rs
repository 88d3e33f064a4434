//! State in files: [`Optimizer::save`], whose documentation has the format, [`Optimizer::load`], and PyTorch's.
//!
//! Whatever a file says is checked before it is believed, and all of it before the optimizer changes. Neither way has more
//! than [`PIECE`] bytes of it in memory.

mod checksum;
mod fault;
mod file;
mod header;
mod json;
mod manifest;
mod read;
mod slot;
mod torch;
mod write;

pub(crate) use slot::{Slot, Stored};

use crate::{Error, Optimizer};
use fault::{Fault, io, shown, wrong};
use header::{Header, PREFIX};
use manifest::Manifest;
use read::Plan;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use write::{Content, Tensor};

const FORMAT: &str = "fadam-state";
const VERSION: u32 = 1;
/// Bytes that are in memory at a time, whatever the size of the state; a multiple of every element's size.
const PIECE: usize = 4 << 20;

/// What [`Optimizer::load_matching`] left out.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("fadam-doc-loaded-{}", std::process::id()));
/// use fadam::{Adam, Loaded, Optimizer};
/// let mut pretrained = Optimizer::new(Adam::adamw())?;
/// pretrained.register("body", 3)?;
/// pretrained.register("head", 1)?;
/// pretrained.save(&path)?;
///
/// let mut fine_tuned = Optimizer::new(Adam::adamw())?;
/// fine_tuned.register("body", 3)?;
/// fine_tuned.register("new_head", 2)?;
/// let Loaded { missing, unexpected, .. } = fine_tuned.load_matching(&path)?;
/// assert_eq!((missing, unexpected), (vec!["new_head".to_string()], vec!["head".to_string()]));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// Parameters of the optimizer that the file does not have, in the order of registration.
    pub missing: Vec<String>,
    /// Parameters of the file that the optimizer does not have, in the file's order.
    pub unexpected: Vec<String>,
}

impl Optimizer {
    /// Writes everything that later steps depend on, parameters aside: moments, step counts, and the counts of the
    /// [report](Self::report). A new optimizer that [loads](Self::load) it continues with the same bits, on whichever
    /// device; norms, and the rest of the last report, begin anew. Waits for the device.
    ///
    /// The file appears whole or not at all, even where the machine fails: it is written under another name in the same
    /// folder (`.fadam-*.tmp`; a process that is killed leaves it there), brought to the disk and renamed. Through a symbolic
    /// link its target is replaced. Of several that save to one path the last wins. In memory there are 4 MiB of it at a
    /// time.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("fadam-doc-save-{}", std::process::id()));
    /// use fadam::{FAdam, Optimizer, Update};
    /// let mut optimizer = Optimizer::new(FAdam::default())?;
    /// let w = optimizer.register("w", 2)?;
    /// let mut weight = [1.0_f32, 2.0];
    /// optimizer.step(&mut [Update::new(w, &mut weight, &[0.1_f32, 0.2])])?;
    /// optimizer.save(&path)?;
    ///
    /// let mut resumed = Optimizer::new(FAdam::default())?;
    /// let w = resumed.register("w", 2)?;
    /// resumed.load(&path)?;
    /// assert_eq!(resumed.state(w)?.step, 1);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), fadam::Error>(())
    /// ```
    ///
    /// # The file
    /// It is [safetensors](https://github.com/huggingface/safetensors): any tool for that reads it. Of each parameter it has
    /// `exp_avg/<name>`, `exp_avg_sq/<name>` (FisherAdam's Fisher diagonal) and, with amsgrad, `max_exp_avg_sq/<name>`, in the
    /// dtype in which they are kept. The metadata:
    ///
    /// | key | what |
    /// |---|---|
    /// | `format`, `version` | `fadam-state`, `1` |
    /// | `optimizer` | JSON: algorithm, hyper-parameters and policies as they stand, as the example `replay` takes them |
    /// | `groups` | JSON: the hyper-parameters of each group, the default one first |
    /// | `parameters` | JSON, in the order of registration: name, length, dtype, group, step count, and β1^t and β2^t as the bits of their f64 in hexadecimal |
    /// | `counters` | JSON: how often `step` was called, and skipped |
    /// | `checksums` | JSON: the CRC-32 of each tensor's bytes, in hexadecimal |
    /// | `header_checksum` | the CRC-32 of the header with `00000000` in the place of this one |
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::State`] for a path that names no file; [`Error::Lost`]; on a GPU [`Error::Cuda`],
    /// [`Error::Capture`].
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        save(self, path).map_err(|fault| fault.at(path))
    }

    /// Takes the state that [`save`](Self::save) has written. The file must be of this algorithm, and of the same
    /// parameters: names, order of registration, lengths, dtypes, betas. Every other hyper-parameter stays what it is here,
    /// the groups included.
    ///
    /// The whole file is read and checked, checksums included, before anything changes; then it is read again. It must not be
    /// written to meanwhile ([`save`](Self::save) never writes to a file that is there).
    ///
    /// # Errors
    /// [`Error::State`] names what is damaged or the first difference, [`Error::Io`]; nothing has changed. [`Error::Io`] and
    /// [`Error::Cuda`] from the second reading leave the optimizer lost: every later call says [`Error::Lost`].
    /// Before: [`Error::Lost`], [`Error::Capture`].
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        open(path).and_then(|mut file| load(self, &mut file, true)).map(drop).map_err(|fault| fault.at(path))
    }

    /// As [`load`](Self::load), of those parameters that both the file and the optimizer have, in any order: for
    /// fine-tuning. Others of the optimizer's keep their state. The counts of the report stay too: the steps of the file
    /// were another run's. A parameter that both have must fit; another length, dtype or other betas are errors as they are
    /// in `load`.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_matching(&mut self, path: impl AsRef<Path>) -> Result<Loaded, Error> {
        let path = path.as_ref();
        open(path).and_then(|mut file| load(self, &mut file, false)).map_err(|fault| fault.at(path))
    }

    /// [`load`](Self::load) from anything that can be read twice. For fuzzing.
    #[doc(hidden)]
    pub fn load_from(&mut self, source: &mut (impl Read + Seek)) -> Result<(), Error> {
        load(self, source, true).map(drop).map_err(|fault| fault.at(Path::new("(memory)")))
    }

    /// Writes state of [`Adam`](crate::Adam) as PyTorch's `Adam` and `AdamW` call it. `names[i]` is the parameter that PyTorch
    /// numbers `i`: its place in the list that the PyTorch optimizer was made of.
    ///
    /// The file is safetensors with `state.<i>.step` (an f32 scalar), `state.<i>.exp_avg`, `state.<i>.exp_avg_sq` and, with
    /// amsgrad, `state.<i>.max_exp_avg_sq`. The moments have one dimension: in PyTorch, give them their parameter's shape
    /// (`view_as`) and put them into the `state` of a `state_dict()`, whose `param_groups` remain PyTorch's.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("fadam-doc-torch-{}", std::process::id()));
    /// use fadam::{Adam, Optimizer};
    /// let mut optimizer = Optimizer::new(Adam::adamw())?;
    /// optimizer.register("weight", 6)?;
    /// optimizer.register("bias", 2)?;
    /// optimizer.save_torch(&path, &["weight", "bias"])?; // in the order of model.parameters()
    /// optimizer.load_torch(&path, &["weight", "bias"])?;
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), fadam::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::State`] where the algorithm is not Adam, for a name that is unknown or occurs twice, and beyond 2^24 steps,
    /// where PyTorch's count ends; otherwise as [`save`](Self::save).
    pub fn save_torch(&mut self, path: impl AsRef<Path>, names: &[&str]) -> Result<(), Error> {
        let path = path.as_ref();
        torch::save(self, path, names).map_err(|fault| fault.at(path))
    }

    /// Takes state of PyTorch's `Adam` or `AdamW`, from a file as [`save_torch`](Self::save_torch) describes it; in PyTorch:
    ///
    /// ```python
    /// state = optimizer.state_dict()["state"]
    /// flat = {f"state.{i}.{key}": value.contiguous() for i, s in state.items() for key, value in s.items()}
    /// safetensors.torch.save_file(flat, "adam.safetensors")
    /// ```
    ///
    /// A tensor may have any shape with the parameter's number of elements, row by row. Moments must be f32. A named
    /// parameter of which the file has nothing has made no step yet, and begins anew; one that is not named keeps its state.
    /// The file says nothing of betas: they must be PyTorch's (after t steps, their powers are t multiplications). It has no
    /// checksums either.
    ///
    /// # Errors
    /// [`Error::State`] where the algorithm is not Adam, for a name that is unknown or occurs twice, for a tensor that is
    /// missing, of another length or dtype, or of no named parameter; otherwise as [`load`](Self::load).
    pub fn load_torch(&mut self, path: impl AsRef<Path>, names: &[&str]) -> Result<(), Error> {
        let path = path.as_ref();
        open(path).and_then(|mut file| torch::load(self, &mut file, names)).map_err(|fault| fault.at(path))
    }
}

fn open(path: &Path) -> Result<File, Fault> {
    File::open(path).map_err(io("opening"))
}

/// Offset and length of each piece.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..bytes).step_by(PIECE).map(move |offset| (offset, PIECE.min(bytes - offset)))
}

/// As a file of this optimizer's calls it.
fn tensor_name(slot: Slot, parameter: &str) -> String {
    format!("{}/{parameter}", slot.name())
}

fn save(optimizer: &mut Optimizer, path: &Path) -> Result<(), Fault> {
    let mut metadata = manifest::describe(optimizer)?;
    let mut tensors = Vec::new();
    for (index, parameter) in optimizer.parameters.iter().enumerate() {
        for slot in Slot::ALL {
            let Some(stored) = optimizer.backend.slot(index, slot) else { continue };
            tensors.push(Tensor {
                name: tensor_name(slot, &parameter.name),
                stored,
                shape: vec![parameter.len],
                content: Content::Slot(index, slot),
            });
        }
    }
    let mut sealed = |sums: &[u32]| {
        let sum = |(i, tensor): (usize, &Tensor)| {
            let sum = sums.get(i).copied().unwrap_or_default();
            (tensor.name.clone(), checksum::hex(sum).into())
        };
        let sums: Map<String, Value> = tensors.iter().enumerate().map(sum).collect();
        metadata.insert("checksums".into(), Value::Object(sums).to_string().into());
        metadata.insert(checksum::FIELD.into(), checksum::hex(0).into());
        let mut header = write::header(&metadata, &tensors)?;
        checksum::seal(&mut header);
        Ok::<_, Fault>(header)
    };
    // The tensors' checksums are known when the tensors are written; the header has their room by then.
    let room = sealed(&[])?;
    file::replace(path, |file| {
        let sums = write_to(file, &room, optimizer, &tensors)?;
        let header = sealed(&sums)?;
        file.seek(SeekFrom::Start(PREFIX as u64)).and_then(|_| file.write_all(&header)).map_err(io("writing"))
    })
}

/// A whole file. The tensors' CRC-32s.
fn write_to(
    file: &mut File,
    header: &[u8],
    optimizer: &mut Optimizer,
    tensors: &[Tensor],
) -> Result<Vec<u32>, Fault> {
    write::write_header(file, header)?;
    write::write_tensors(optimizer, file, tensors)
}

fn load(optimizer: &mut Optimizer, source: &mut (impl Read + Seek), strict: bool) -> Result<Loaded, Fault> {
    optimizer.check_lost()?;
    let mut header = Header::read(source)?;
    let manifest = Manifest::read(&mut header)?;
    verify(source, &header, manifest.checksums)?;
    let here = manifest::algorithm_name(&optimizer.algorithm);
    if manifest.algorithm != here {
        return wrong(format!("it is of {}, this optimizer is `{here}`", shown(&manifest.algorithm)));
    }
    if strict {
        same_order(optimizer, &manifest.parameters)?;
    }
    let mut plan = Plan::default();
    let mut loaded = Loaded::default();
    let mut known = HashSet::new();
    for saved in manifest.parameters {
        let name = saved.name.clone();
        if !known.insert(name.clone()) {
            return wrong(format!("it has parameter {} twice", shown(&name)));
        }
        let Some(&index) = optimizer.by_name.get(&name) else {
            for slot in Slot::ALL {
                header.tensors.remove(&tensor_name(slot, &name));
            }
            loaded.unexpected.push(name);
            continue;
        };
        fits(optimizer, index, &saved)?;
        plan.parameter(optimizer, index, saved.progress, &mut header, &Slot::ALL, |slot| {
            tensor_name(slot, &name)
        })?;
    }
    if let Some(tensor) = header.tensors.keys().next() {
        return wrong(format!("it has {}, which this optimizer does not keep", shown(tensor)));
    }
    let names = optimizer.parameters.iter().map(|parameter| &parameter.name);
    loaded.missing = names.filter(|name| !known.contains(*name)).cloned().collect();
    plan.counters = strict.then_some(manifest.counters);
    plan.carry_out(optimizer, source)?;
    Ok(loaded)
}

/// All data against their checksums.
fn verify(
    source: &mut (impl Read + Seek),
    header: &Header,
    mut checksums: json::Fields,
) -> Result<(), Fault> {
    let mut row: Vec<_> = header.tensors.iter().collect();
    row.sort_unstable_by_key(|(_, tensor)| tensor.begin); // as the disk has them
    for (name, tensor) in row {
        if checksums.text(name)? != checksum::hex(read::sum(source, tensor)?) {
            return wrong(format!("{} is damaged: its checksum differs", shown(name)));
        }
    }
    checksums.finish()
}

/// The same names in the same order.
fn same_order(optimizer: &Optimizer, saved: &[manifest::Parameter]) -> Result<(), Fault> {
    for (i, (here, there)) in optimizer.parameters.iter().zip(saved).enumerate() {
        if here.name != there.name {
            let (here, there) = (shown(&here.name), shown(&there.name));
            return wrong(format!("parameter {i} is {there} in the file, {here} here"));
        }
    }
    if let Some(more) = optimizer.parameters.get(saved.len()) {
        return wrong(format!("it has no parameter {}", shown(&more.name)));
    }
    match saved.get(optimizer.parameters.len()) {
        Some(more) => wrong(format!("it has a parameter {}, this optimizer has not", shown(&more.name))),
        None => Ok(()),
    }
}

fn fits(optimizer: &Optimizer, index: usize, saved: &manifest::Parameter) -> Result<(), Fault> {
    let here = &optimizer.parameters[index];
    let name = shown(&here.name);
    let differs = |what: &str, there: &str, here: &str| {
        wrong(format!("{what} of parameter {name} is {there} in the file, {here} here"))
    };
    if saved.len != here.len as u64 {
        return differs("the length", &saved.len.to_string(), &here.len.to_string());
    }
    if saved.dtype != here.dtype.name() {
        return differs("the dtype", &shown(&saved.dtype), here.dtype.name());
    }
    let betas = optimizer.groups[here.group].1.betas();
    for (what, there, here) in [("beta1", saved.betas.0, betas.0), ("beta2", saved.betas.1, betas.1)] {
        if there != here {
            return differs(what, &there.to_string(), &here.to_string());
        }
    }
    Ok(())
}
