//! A file that appears whole or not at all, whatever fails meanwhile. Nothing here knows what is in it.
//!
//! ```text
//! follow links, look at what is there          an error: nothing has happened
//! remove what killed saves have left           may fail
//! create a temporary file, 0600, and lock it   an error: nothing has happened
//! write                                        ⎫
//! old owner and mode, or those of a new file   ⎬ may fail (the middle one), else an error: the temporary file goes
//! bring it to the disk                         ⎭
//! rename                                       an error: as above, and the old file stands
//! bring the folder to the disk                 may fail
//! ```
//!
//! What may fail without an error is worth less than a checkpoint, and some file systems (CIFS, FUSE) know no modes, owners,
//! locks, or syncing of folders. After the rename nothing can be taken back, so nothing there is an error.
//!
//! A temporary file's name tells which file it was to become, so that the next save to that one can remove what is left of
//! killed saves. Whether its save still runs, the lock tells, which a process loses when it ends. A save that finds a file
//! unlocked locks it and removes it; a save that has created a file and locked it looks whether it is still there. Names are
//! random and never occur twice, so that a name means the same file for as long as it means one.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind, Result as IoResult};
use std::path::{Path, PathBuf};
use std::process;

/// As many as Linux follows.
const LONGEST_CHAIN_OF_LINKS: usize = 40;

/// What was being done when the system refused; as of [`replace`], nothing has changed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) doing: &'static str,
    pub(crate) source: Error,
}

fn failed(doing: &'static str) -> impl Fn(Error) -> Failed {
    move |source| Failed { doing, source }
}

fn refused(doing: &'static str, kind: ErrorKind, why: &'static str) -> Failed {
    Failed { doing, source: Error::new(kind, why) }
}

/// Has `write` fill a file beside `path`, and puts that in its place when it is on the disk. A link stays, its target is
/// replaced.
pub(crate) fn replace<E: From<Failed>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let (path, old) = look(path)?;
    let Some(name) = path.file_name() else {
        return Err(refused("replacing", ErrorKind::InvalidInput, "the path names no file").into());
    };
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let prefix = format!(".fadam-{:016x}-", fnv1a(name.as_encoded_bytes().iter()));
    remove_leftovers(folder, &prefix);
    let like = old.or_else(|| usual(folder, &prefix));
    let (mut file, mut temporary) = create(folder, &prefix)?;
    write(&mut file)?;
    if let Some(like) = like {
        dress(&file, &like);
    }
    file.sync_all().map_err(failed("syncing"))?;
    match uninterrupted(|| fs::rename(&temporary.path, &path)) {
        // A network file system may report an error of a rename that it has done.
        Err(error) if !is_at(&file, &path) => return Err(failed("replacing")(error).into()),
        _ => temporary.renamed = true,
    }
    sync_folder(folder);
    Ok(())
}

/// Opens a file to read. A pipe would block, and a device might do anything.
pub(crate) fn open(path: &Path) -> Result<File, Failed> {
    let check = |found: Metadata| is_file(&found).map_err(failed("opening"));
    check(uninterrupted(|| fs::metadata(path)).map_err(failed("opening"))?)?;
    let mut options = OpenOptions::new();
    let file = match without_waiting(options.read(true)).open(path) {
        // Somebody has a lease of the file (Samba, an NFS server), and gives it back.
        Err(error) if error.kind() == ErrorKind::WouldBlock => File::open(path),
        opened => opened,
    };
    let file = file.map_err(failed("opening"))?;
    check(uninterrupted(|| file.metadata()).map_err(failed("opening"))?)?; // it may be another one by now
    Ok(file)
}

fn is_file(found: &Metadata) -> IoResult<()> {
    if found.is_file() {
        return Ok(());
    }
    let kind = if found.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::InvalidInput };
    Err(Error::new(kind, "not a regular file"))
}

/// Where a chain of links ends, and the file that is there.
fn look(path: &Path) -> Result<(PathBuf, Option<Metadata>), Failed> {
    let mut path = path.to_path_buf();
    for _ in 0..LONGEST_CHAIN_OF_LINKS {
        match uninterrupted(|| fs::symlink_metadata(&path)) {
            Ok(found) if found.is_symlink() => {
                let target =
                    uninterrupted(|| fs::read_link(&path)).map_err(failed("following the link at"))?;
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            // Else a device or a pipe would be replaced.
            Ok(found) => return is_file(&found).map_err(failed("replacing")).map(|()| (path, Some(found))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok((path, None));
            }
            Err(error) => return Err(failed("looking at")(error)),
        }
    }
    Err(refused("following the links at", ErrorKind::InvalidInput, "too many symbolic links"))
}

/// A hash that is the same in every process and every release.
pub(crate) fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A name that no file has had.
fn fresh(folder: &Path, prefix: &str) -> PathBuf {
    folder.join(format!("{prefix}{:016x}.tmp", RandomState::new().hash_one(process::id())))
}

/// Files of saves to the same name that no process is writing to. Whatever cannot be told or done is left to the next save.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let ours = name.starts_with(prefix) && name.ends_with(".tmp");
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let mut options = OpenOptions::new();
        if let Ok(file) = without_waiting(options.write(true)).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file under another name, removed unless it has been renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The error to report is the one that led here; what stays is removed by the next save.
            let _ = uninterrupted(|| fs::remove_file(&self.path));
        }
    }
}

/// A file that is locked while it is open.
fn create(folder: &Path, prefix: &str) -> Result<(File, Temporary), Failed> {
    let mut prefix = prefix;
    loop {
        let path = fresh(folder, prefix);
        let file = match new_file(&path, 0o600) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            file => file.map_err(failed("creating a temporary file beside"))?,
        };
        let temporary = Temporary { path, renamed: false };
        if prefix == UNLOCKED {
            return Ok((file, temporary));
        }
        match file.try_lock() {
            Ok(()) if !is_gone(&temporary.path) => return Ok((file, temporary)),
            // Another save took it for a leftover, before it was locked.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // No locks here: a save that could lock it might remove it.
            Err(TryLockError::Error(_)) => prefix = UNLOCKED,
        }
    }
}

/// Of files that nobody removes but their own save.
const UNLOCKED: &str = ".fadam-unlocked-";

/// Of this mode, less the umask, where there are modes.
fn new_file(path: &Path, mode: u32) -> IoResult<File> {
    let mut options = OpenOptions::new();
    with_mode(options.write(true).create_new(true), mode).open(path)
}

fn is_gone(path: &Path) -> bool {
    uninterrupted(|| fs::symlink_metadata(path)).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn uninterrupted<T>(call: impl Fn() -> IoResult<T>) -> IoResult<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(unix)]
mod system {
    use super::{File, Metadata, OpenOptions, Path, fresh, fs, new_file};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};

    /// Neither for a pipe's other end nor for a device. Miri knows no such flag.
    pub(super) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
        if cfg!(miri) { options } else { options.custom_flags(libc::O_NONBLOCK) }
    }

    pub(super) fn with_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
        options.mode(mode)
    }

    /// What the system gives a new file here (0666 less the umask): a look at one that is gone again. The umask itself can
    /// only be read by changing it, for all threads.
    pub(super) fn usual(folder: &Path, prefix: &str) -> Option<Metadata> {
        let path = fresh(folder, prefix);
        let file = new_file(&path, 0o666).ok()?;
        let found = file.metadata();
        let _ = fs::remove_file(path);
        found.ok()
    }

    /// Owner and mode of another file. Who may not give files away keeps the group at the least; where not even that, the
    /// group that the file has now may do no more with it than others may.
    pub(super) fn dress(file: &File, like: &Metadata) {
        let own = |file: &File| file.metadata().map(|own| (own.uid(), own.gid()));
        let (uid, gid) = (like.uid(), like.gid());
        if own(file).is_ok_and(|own| own != (uid, gid)) && fchown(file, Some(uid), Some(gid)).is_err() {
            let _ = fchown(file, None, Some(gid));
        }
        let mut mode = like.mode() & 0o777;
        if own(file).is_ok_and(|(_, own)| own != gid) {
            mode &= !0o070 | (mode & 0o007) << 3;
        }
        let _ = file.set_permissions(fs::Permissions::from_mode(mode));
    }

    pub(super) fn is_at(file: &File, path: &Path) -> bool {
        match (file.metadata(), fs::symlink_metadata(path)) {
            (Ok(file), Ok(there)) => (file.dev(), file.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// The new name is on the disk only when the folder is. Miri cannot.
    pub(crate) fn sync_folder(folder: &Path) {
        if !cfg!(miri) {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
    }
}

/// Elsewhere there are neither modes nor owners, and a folder cannot be opened as a file.
#[cfg(not(unix))]
mod system {
    use super::{File, Metadata, OpenOptions, Path};

    pub(super) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
        options
    }

    pub(super) fn with_mode(options: &mut OpenOptions, _: u32) -> &mut OpenOptions {
        options
    }

    pub(super) fn usual(_: &Path, _: &str) -> Option<Metadata> {
        None
    }

    pub(super) fn dress(_: &File, _: &Metadata) {}

    pub(super) fn is_at(_: &File, _: &Path) -> bool {
        false
    }

    pub(crate) fn sync_folder(_: &Path) {}
}

pub(crate) use system::sync_folder;
use system::{dress, is_at, usual, with_mode, without_waiting};
