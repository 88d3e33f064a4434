//! A file that appears whole or not at all.

use super::fault::{Fault, io, wrong};
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// As many as Linux follows.
const LONGEST_CHAIN_OF_LINKS: usize = 40;

/// A file under another name, removed unless it has been renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The error to report is the one that led here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file beside `path` and puts it in its place when it is on the disk. A link stays, its target is replaced.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<(), Fault>) -> Result<(), Fault> {
    let path = follow(path)?;
    if path.file_name().is_none() {
        return wrong("the path names no file");
    }
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let old = fs::metadata(&path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        // Else a device or a pipe would be replaced.
        let kind = if path.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::InvalidInput };
        return Err(Fault::Io("replacing", Error::new(kind, "not a file")));
    }
    let (mut file, mut temporary) = create(folder)?;
    if let Some(old) = old {
        file.set_permissions(old.permissions()).map_err(io("keeping the permissions of"))?;
    }
    write(&mut file)?;
    file.sync_all().map_err(io("writing"))?;
    drop(file);
    fs::rename(&temporary.path, &path).map_err(io("replacing"))?;
    temporary.renamed = true;
    sync_folder(folder)
}

/// Where a chain of links ends, whether a file is there or not.
fn follow(path: &Path) -> Result<PathBuf, Fault> {
    let mut path = path.to_path_buf();
    for _ in 0..LONGEST_CHAIN_OF_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path), // no link, or nothing there
        }
    }
    wrong("the path leads through too many symbolic links")
}

/// A name of its own: another process may be saving to the same path, and one that was killed may have left its file.
fn create(folder: &Path) -> Result<(File, Temporary), Fault> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".fadam-{}-{number}.tmp", process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, Temporary { path, renamed: false })),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Fault::Io("creating a temporary file beside", error)),
        }
    }
}

/// The new name is on the disk only when the folder is.
#[cfg(all(unix, not(miri)))]
fn sync_folder(folder: &Path) -> Result<(), Fault> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()), // a file system that knows no such thing
        result => result.map_err(io("syncing the folder of")),
    }
}

/// Elsewhere a folder cannot be opened as a file, and miri cannot sync one.
#[cfg(not(all(unix, not(miri))))]
fn sync_folder(_: &Path) -> Result<(), Fault> {
    Ok(())
}
