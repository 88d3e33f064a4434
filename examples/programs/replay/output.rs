//! OUT: the whole file appears at once, or not at all.

use crate::gpu::Values;
use crate::recording::{Parameter, Recording};
use crate::steps::Replayed;
use anyhow::{Context, Result, ensure};
use fadam::{Master, State, join};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

struct OutTensor<'a> {
    shape: &'a [usize],
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl<'a> OutTensor<'a> {
    fn f32(shape: &'a [usize], values: &[f32]) -> Self {
        Self { shape, dtype: Dtype::F32, bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    fn of(shape: &'a [usize], values: &Values) -> Self {
        match values {
            Values::F32(values) => Self::f32(shape, values),
            Values::Bf16(values) => {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                Self { shape, dtype: Dtype::BF16, bytes }
            }
        }
    }
}

impl View for OutTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The file's bytes: the same for the same results, since tensors are sorted by name and there is one metadata entry.
pub(crate) fn serialize(recording: &Recording<'_>, replayed: &Replayed) -> Result<Vec<u8>> {
    let kept = recording.config.storage.master.unwrap_or_default();
    let mut tensors = Vec::new();
    for (Parameter { name, shape, value }, state) in recording.parameters.iter().zip(&replayed.states) {
        let mut add = |kind: &str, tensor| tensors.push((format!("{kind}/{name}"), tensor));
        add("param", OutTensor::of(shape, value));
        add("exp_avg", OutTensor::f32(shape, &state.exp_avg));
        add("exp_avg_sq", OutTensor::f32(shape, &state.exp_avg_sq));
        if let Some(max_exp_avg_sq) = &state.max_exp_avg_sq {
            add("max_exp_avg_sq", OutTensor::f32(shape, max_exp_avg_sq));
        }
        if let Some(master) = master(value, state, kept) {
            add("master", OutTensor::f32(shape, &master));
        }
    }
    let report = serde_json::to_string(&replayed.report)?;
    Ok(safetensors::serialize(tensors, Some(HashMap::from([("report".to_string(), report)])))?)
}

/// A parameter's master, where it has one. Before its first step that is its value.
fn master(value: &Values, state: &State, kept: Master) -> Option<Vec<f32>> {
    let Values::Bf16(value) = value else { return None };
    match (kept, &state.master, &state.remainder) {
        (Master::None, ..) => None,
        (_, Some(master), _) => Some(master.clone()),
        (.., Some(remainder)) => Some(value.iter().zip(remainder).map(|(&x, &r)| join(x, r)).collect()),
        _ => Some(value.iter().map(|x| x.to_f32()).collect()),
    }
}

/// A file beside OUT that is gone when this is dropped, unless it has become OUT.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // after the rename there is nothing left to remove
    }
}

impl Temporary {
    fn beside(out: &Path) -> io::Result<Self> {
        let name = out.file_name().ok_or_else(|| io::Error::other("it does not end in a file name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let path = out.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { path, file })
    }
}

/// Refuses what could not be written, before any work goes into it. Leaves nothing behind.
pub(crate) fn check_writable(out: &Path) -> Result<()> {
    let failed = || format!("cannot write `{}`", out.display());
    if let Ok(existing) = fs::metadata(out) {
        // A rename would replace a device such as /dev/null by a file.
        ensure!(existing.is_file(), "{}: it exists and is no regular file", failed());
    }
    Temporary::beside(out).with_context(failed)?;
    Ok(())
}

/// Temporary file in the same folder, fsync, rename.
pub(crate) fn write(out: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut temporary = Temporary::beside(out)?;
        temporary.file.write_all(bytes)?;
        temporary.file.sync_all()?;
        fs::rename(&temporary.path, out)
    };
    write().with_context(|| format!("cannot write `{}`", out.display()))?;
    sync_folder(out);
    Ok(())
}

/// Makes the rename itself durable, where the system can. OUT is complete either way.
fn sync_folder(out: &Path) {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
