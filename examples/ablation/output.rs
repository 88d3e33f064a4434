//! The folder that takes the results. Every file appears whole or not at all, but for the log, which grows.

use crate::files;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The log of runs.
pub(crate) const RUNS: &str = "runs.jsonl";

/// A folder that has been tried out.
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Makes the folder, if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        files::try_out(folder, &[RUNS.to_owned()])?;
        Ok(Self { folder: folder.to_path_buf() })
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
