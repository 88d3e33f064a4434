//! Files that appear whole or not at all.

use anyhow::{Context, Result, bail};
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

/// Makes the folder and tries it out, so that a program does not end with results that it cannot keep.
///
/// # Errors
/// A name that is a folder's; a folder that cannot be written to.
pub(crate) fn try_out(folder: &Path, names: &[String]) -> Result<()> {
    let cannot = || format!("cannot write to {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    for name in names {
        let path = folder.join(name);
        if path.is_dir() {
            bail!("cannot write {}: it is a folder", path.display());
        }
        let partial = partial(&path);
        fs::write(&partial, []).and_then(|()| fs::remove_file(&partial)).with_context(cannot)?;
    }
    Ok(())
}

/// The temporary file. What is its own stands in front of the name, because a plot's format goes by the end of it.
fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".partial-{}-{name}", std::process::id()))
}
