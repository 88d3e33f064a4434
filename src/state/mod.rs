//! State in files: [`Optimizer::save`], whose documentation has the format, [`Optimizer::load`], and PyTorch's. No arithmetic.
//!
//! Whatever a file says is checked before it is believed, and all of it before the optimizer changes. Besides the header,
//! neither way has more than some [`PIECE`]s of it in memory, and whatever grows with a file is allocated by
//! [`crate::allocation`].
//!
//! ```text
//! save   save, torch → describe (the header) → write (tensors) → file (replaced)
//! load   file (opened) → header, json → manifest → load, torch (does it fit?) → read (verify, then copy)
//! ```

mod checksum;
mod describe;
mod fault;
mod file;
mod header;
mod json;
mod load;
mod manifest;
mod read;
mod save;
mod torch;
mod values;
mod write;

use crate::environment::with_default_environment;
use crate::slot::Slot;
use crate::{Error, Optimizer};
use fault::Fault;
use std::io::{Read, Seek};
use std::path::Path;

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
    /// Parameters of both that have another number of elements in the file, in the file's order.
    pub resized: Vec<String>,
}

impl Optimizer {
    /// Saves the optimizer's state: moments, masters, averages, step counts, the place in the schedule, the loss
    /// scale, and the counts of the [report](Self::report). A new optimizer that is built as this one was, with the same
    /// hyper-parameters, schedule, seed and gradient scale, and that [loads](Self::load) it, continues with the same bits, on
    /// whichever device; norms, and the rest of the last report, begin anew. Waits for the device.
    ///
    /// Parameters are the caller's to save, and to restore to the same bits.
    ///
    /// The file is replaced atomically, also if the process is killed or the power fails: a temporary file in the same folder
    /// (`.fadam-*.tmp`) is written, synced and renamed. What a killed process has left is removed by the next save to the same
    /// path (on a file system without file locks it stays). Several processes may save to one path; the last one wins. A
    /// symbolic link stays, and its target is replaced.
    ///
    /// The temporary file is private (mode 0600). In the end a replaced file has the mode and, where permitted, the owner of
    /// the old one, and a new file the mode that the umask gives it; ACLs and extended attributes are not copied. A file system
    /// that does not support modes, owners, locks or syncing a folder does not make a save fail.
    ///
    /// Besides the header (about 200 bytes a tensor), at most 4 MiB of the file are in memory.
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
    /// dtype in which they are kept; of a bf16 parameter `master/<name>` (f32) or `remainder/<name>` (i16); with
    /// [`ema`](crate::Builder::ema) `ema/<name>` (f32). The metadata:
    ///
    /// | key | what |
    /// |---|---|
    /// | `format`, `version` | `fadam-state`, `1` |
    /// | `optimizer` | JSON: algorithm, hyper-parameters and policies as they stand, as the example `replay` takes them |
    /// | `groups` | JSON: the hyper-parameters of each group, the default one first |
    /// | `parameters` | JSON, in the order of registration: name, length, dtype, group, step count, the step in which master and average began (0: the next one), and β1^t and β2^t as the bits of their f64 in hexadecimal |
    /// | `counters` | JSON: how often `step` was called, and skipped, and κ fired; the next step's place in the schedule; the loss scale, as the bits of an f64 (0: none), and the good steps since it changed |
    /// | `checksums` | JSON: the CRC-32 of each tensor's bytes, in hexadecimal |
    /// | `header_checksum` | the CRC-32 of the header with `00000000` in the place of this one |
    ///
    /// # Errors
    /// The old file, or none, is still there: [`Error::Io`] names the call that failed; [`Error::State`] for a path that names
    /// no file; [`Error::OutOfMemory`]; [`Error::Lost`]; on a GPU [`Error::Cuda`], [`Error::Capture`].
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.exchange(path, |optimizer| save::save(optimizer, path))
    }

    /// Takes the state that [`save`](Self::save) has written. The file must be of this algorithm, and of the same
    /// parameters: names, order of registration, lengths, dtypes, betas. Every other hyper-parameter stays what it is here,
    /// the groups included.
    ///
    /// Parameters must be those that were saved with it: a master that is loaded is θ from then on, whatever the bf16 value
    /// says ([`reset_master`](Self::reset_master) where it is the value that counts). What is kept (the kind of master, the
    /// moments' type, an average) must be the same.
    ///
    /// Everything is read and checked, checksums included, before anything changes; then it is read again, and checked again
    /// while it is written into the optimizer. A file that is modified in place meanwhile is never accepted
    /// ([`save`](Self::save) replaces files, and does not modify them).
    ///
    /// Only regular files are read. A header may have four times the length that this optimizer's own would have, and at least
    /// 4 MiB; reading it takes a small multiple of its length in memory.
    ///
    /// # Errors
    /// Nothing has changed: [`Error::State`] names what is damaged, or the first difference; [`Error::Io`];
    /// [`Error::OutOfMemory`]; [`Error::Lost`], [`Error::Capture`]. A failure of the second reading ([`Error::Io`],
    /// [`Error::Cuda`], [`Error::State`] for a file that has been modified) leaves the optimizer lost: every later call returns
    /// [`Error::Lost`].
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.exchange(path, |optimizer| load::load(optimizer, &mut file::open(path)?, false)).map(drop)
    }

    /// As [`load`](Self::load), of those parameters that both the file and the optimizer have, in any order: for
    /// fine-tuning. (Another order of registration is another order of sums, and other draws of stochastic rounding.) Others
    /// of the optimizer's keep their state. The counts of the report stay too: the steps of the file were another run's, and
    /// so were its schedule and loss scale. A parameter with another number of elements keeps its state, too, and is named in
    /// [`Loaded::resized`]; another dtype and other betas are errors as they are in `load`.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_matching(&mut self, path: impl AsRef<Path>) -> Result<Loaded, Error> {
        let path = path.as_ref();
        self.exchange(path, |optimizer| load::load(optimizer, &mut file::open(path)?, true))
    }

    /// [`load`](Self::load) from anything that can be read twice. For fuzzing.
    #[doc(hidden)]
    pub fn load_from(&mut self, source: &mut (impl Read + Seek)) -> Result<(), Error> {
        self.exchange(Path::new("(memory)"), |optimizer| load::load(optimizer, source, false)).map(drop)
    }

    /// [`load_torch`](Self::load_torch) from anything that can be read twice. For fuzzing.
    #[doc(hidden)]
    pub fn load_torch_from(&mut self, source: &mut (impl Read + Seek), names: &[&str]) -> Result<(), Error> {
        self.exchange(Path::new("(memory)"), |optimizer| torch::load(optimizer, source, names))
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
        self.exchange(path, |optimizer| torch::save(optimizer, path, names))
    }

    /// Takes state of PyTorch's `Adam` or `AdamW`, from a file as [`save_torch`](Self::save_torch) describes it; in PyTorch:
    ///
    /// ```python
    /// state = optimizer.state_dict()["state"]
    /// flat = {f"state.{i}.{key}": value.contiguous() for i, s in state.items() for key, value in s.items()}
    /// safetensors.torch.save_file(flat, "adam.safetensors")
    /// ```
    ///
    /// A tensor may have any shape with the parameter's number of elements, row by row. Moments must be of the type that they
    /// are kept in here; bf16 and f16 are also converted to f32, which is exact. A step count is a whole number in F32, F64, I32
    /// or I64. A master, and an average, begin with the parameter's value in the next step. A named parameter of which the file
    /// has nothing has made no step yet, and begins anew; one that is not named keeps its state. The file says nothing of betas:
    /// they must be PyTorch's (after t steps, their powers are t multiplications). It has no checksums either, so a damaged
    /// value is noticed only where Adam cannot have written it.
    ///
    /// # Errors
    /// [`Error::State`] where the algorithm is not Adam, for a name that is unknown or occurs twice, for a tensor that is
    /// missing, of another length or dtype, or of no named parameter, and for a value that is NaN or infinite, a negative second
    /// moment, or a moment that is not 0 before the first step; otherwise as [`load`](Self::load).
    pub fn load_torch(&mut self, path: impl AsRef<Path>, names: &[&str]) -> Result<(), Error> {
        let path = path.as_ref();
        self.exchange(path, |optimizer| torch::load(optimizer, &mut file::open(path)?, names))
    }

    /// What every way in and out has in common.
    fn exchange<T>(
        &mut self,
        path: &Path,
        work: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.check_named()?;
        with_default_environment(|| work(self)).map_err(|fault| fault.at(path))
    }
}

/// As a file of this optimizer's calls it.
fn tensor_name(slot: Slot, parameter: &str) -> String {
    format!("{}/{parameter}", slot.name())
}
