//! OUT: the whole file appears at once, or not at all.

use crate::recording::Recording;
use crate::steps::Replayed;
use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

struct F32Tensor<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for F32Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// The file's bytes: the same for the same results, since tensors are sorted by name and there is one metadata entry.
pub(crate) fn serialize(recording: &Recording<'_>, replayed: &Replayed) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (parameter, state) in recording.parameters.iter().zip(&replayed.states) {
        let mut add = |kind: &str, values| {
            tensors
                .push((format!("{kind}/{}", parameter.name), F32Tensor { shape: &parameter.shape, values }));
        };
        add("param", parameter.value.as_slice());
        add("exp_avg", &state.exp_avg);
        add("exp_avg_sq", &state.exp_avg_sq);
        if let Some(max_exp_avg_sq) = &state.max_exp_avg_sq {
            add("max_exp_avg_sq", max_exp_avg_sq);
        }
    }
    let report = serde_json::to_string(&replayed.report)?;
    Ok(safetensors::serialize(tensors, Some(HashMap::from([("report".to_string(), report)])))?)
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
