//! Files that appear whole or not at all.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Has `write` fill a temporary file beside `path`, which then takes its place.
pub(crate) fn write(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = partial(path);
    let kept = || File::open(&partial)?.sync_all().and_then(|()| fs::rename(&partial, path));
    let written = write(&partial).and_then(|()| Ok(kept()?));
    if written.is_err() {
        // The error to report is the first one; this one would only say that there is nothing to remove.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The temporary file. What is its own stands in front of the name, because a plot's format goes by the end of it.
pub(crate) fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".partial-{}-{name}", std::process::id()))
}
