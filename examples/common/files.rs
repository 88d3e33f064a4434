//! Files, by the library's own writer: they appear whole or not at all.
#![allow(dead_code)] // each program uses its part

#[path = "../../src/state/file.rs"]
mod file;

use anyhow::{Context, Error, Result};
use file::Failed;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write, stderr};
use std::path::Path;

/// More than any file of these programs has: what is longer is another's, and would only fill the memory.
const LONGEST: u64 = 1 << 28;

/// Puts these bytes where the file is, or is to be.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let all = |file: &mut File| file.write_all(bytes).map_err(|source| Failed { doing: "writing", source });
    file::replace(path, all).map_err(|failed| cannot("write", path, failed))
}

/// Does all of [`write`] that can be done without a change, so that a program does not end with results that it cannot keep.
///
/// # Errors
/// A name that is no regular file's; a folder that cannot be written to.
pub(crate) fn try_out(path: &Path) -> Result<()> {
    match file::replace(path, |_| Err(None)) {
        Err(Some(failed)) => Err(cannot("write", path, failed)),
        _ => Ok(()),
    }
}

/// What is in a file. Refuses pipes and devices.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = file::open(path).map_err(|failed| cannot("read", path, failed))?;
    contents(&file).with_context(|| format!("cannot read `{}`", path.display()))
}

/// What is in a file from here on.
pub(crate) fn contents(file: &File) -> io::Result<Vec<u8>> {
    if file.metadata()?.len() > LONGEST {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is longer than any file of this program"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file to read and to write it, on which the caller has a lock. One that is not there is made.
pub(crate) fn edit(path: &Path) -> Result<File> {
    match file::open(path) {
        Err(failed) if failed.source.kind() != ErrorKind::NotFound => {
            return Err(cannot("read", path, failed));
        }
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("cannot write `{}`", path.display()))
}

/// As files are named by it, and checked.
pub(crate) fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    file::fnv1a(bytes)
}

/// Brings the names in a folder to the disk, where the system can.
pub(crate) fn sync_folder(folder: &Path) {
    file::sync_folder(folder);
}

/// Where tests write: in memory, where they can, since they sync thousands of files.
#[cfg(test)]
pub(crate) fn in_memory() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() }
}

/// Says something that is no error. Where stderr is closed, there is nobody to say it to.
pub(crate) fn note(text: &str) {
    if !cfg!(test) {
        let _ = writeln!(stderr(), "note: {text}");
    }
}

fn cannot(what: &str, path: &Path, Failed { doing, source }: Failed) -> Error {
    Error::new(source).context(format!("cannot {what} `{}`: {doing} it", path.display()))
}
