//! The folder that takes the results. Every file appears whole or not at all, but for the log, which grows.

use crate::files;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The log of runs.
pub(crate) const RUNS: &str = "runs.jsonl";

/// A folder that has been written to, so that the program does not end with results that it cannot keep.
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Makes the folder and tries it out.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let cannot = || format!("cannot write to {}", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let output = Self { folder: folder.to_path_buf() };
        let runs = output.path(RUNS);
        if runs.is_dir() {
            bail!("cannot write {}: it is a folder", runs.display());
        }
        let partial = files::partial(&runs);
        fs::write(&partial, []).and_then(|()| fs::remove_file(&partial)).with_context(cannot)?;
        Ok(output)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `name`, whole.
    pub(crate) fn write(&self, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.path(name);
        files::write(&path, write)?;
        println!("wrote {}", path.display());
        Ok(())
    }
}
