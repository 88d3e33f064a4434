//! The folder that takes a program's results.

use crate::files;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The name of a file that stays: who removed it might remove it from under the lock of another.
const LOCK: &str = ".lock";

/// A folder that has been tried out, and that no other program of these writes to.
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked while it is open.
    _lock: Option<File>,
}

impl Folder {
    /// Makes the folder, if it is not there. Of these files each must be one that can be written.
    pub(crate) fn open(path: &Path, names: &[String]) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot write to `{}`", path.display()))?;
        let folder = Self { path: path.to_path_buf(), _lock: lock(path)? };
        for name in names {
            files::try_out(&folder.path(name))?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file, whole, and says so.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        files::write(&path, bytes)?;
        println!("wrote {}", path.display());
        Ok(())
    }
}

/// Some file systems have no locks; there it is the user who sees to it.
fn lock(folder: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(folder.join(LOCK)).map_err(TryLockError::Error);
    match file.and_then(|file| file.try_lock().map(|()| file)) {
        Ok(file) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => bail!("another program is writing to `{}`", folder.display()),
        Err(TryLockError::Error(error)) => {
            let folder = folder.display();
            files::note(&format!("nothing keeps a second program from writing to `{folder}`: {error}"));
            Ok(None)
        }
    }
}
