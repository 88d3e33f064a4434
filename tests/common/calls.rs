//! A file system that fails when it is told to, and tells what was asked of it: on Linux with glibc.
//!
//! The symbols below are libc's. What is linked into a test program finds these first, the standard library among it, and they
//! pass on what they are asked to the real ones. On a thread that is armed ([`watch`]) the n-th call fails, and the calls that
//! change files are recorded; [`PowerCuts`] derives from such a record what a disk may hold when the power fails.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::undocumented_unsafe_blocks)] // one comment says it for all

use libc::{c_char, c_int, c_uint, c_void, mode_t, off64_t, size_t, ssize_t};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use thorough::thorough;

#[path = "thorough.rs"]
mod thorough;

/// What is asked of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Open,
    Stat,
    ReadLink,
    ListFolder,
    Read,
    Write,
    Seek,
    Truncate,
    Lock,
    Chown,
    Chmod,
    Sync,
    Rename,
    Remove,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// With this `errno`, and nothing is done.
    Fails(c_int),
    /// It is done, and is said to have failed: a network file system whose answer was lost.
    FailsAfterwards(c_int),
    /// Of reads and writes: one byte.
    Short,
}

/// What any of these calls may answer on some file system; the first ones say the most.
const ERRORS: [c_int; 18] = [
    libc::EINTR,
    libc::EIO,
    libc::ENOENT,
    libc::EACCES,
    libc::EAGAIN,
    libc::EPERM,
    libc::ENXIO,
    libc::ENOMEM,
    libc::EBUSY,
    libc::EINVAL,
    libc::EMFILE,
    libc::EFBIG,
    libc::ENOSPC,
    libc::EROFS,
    libc::ENOLCK,
    libc::EOPNOTSUPP,
    libc::ESTALE,
    libc::EDQUOT,
];

/// The ways for a call to go wrong.
pub(crate) fn ways(call: Call) -> Vec<Wrong> {
    let errors = if thorough() { &ERRORS[..] } else { &ERRORS[..5] };
    let mut ways: Vec<Wrong> = errors.iter().copied().map(Wrong::Fails).collect();
    match call {
        Call::Read | Call::Write => ways.push(Wrong::Short),
        Call::Rename | Call::Remove | Call::Sync => {
            ways.extend([libc::EIO, libc::ENOENT, libc::EINTR].map(Wrong::FailsAfterwards));
        }
        _ => {}
    }
    ways
}

/// A change of a file, or of a folder's names. Files are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Create { file: usize, path: PathBuf },
    Write { file: usize, at: u64, bytes: Vec<u8> },
    Truncate { file: usize, len: u64 },
    Sync { file: usize },
    Rename { file: usize, from: PathBuf, to: PathBuf },
    Remove { file: usize, path: PathBuf },
    SyncFolder,
}

/// What a watched piece of work has asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) calls: Vec<Call>,
    pub(crate) changes: Vec<Change>,
    /// What files that were there before are numbered.
    pub(crate) known: Vec<(PathBuf, usize)>,
    names: HashMap<PathBuf, usize>,
    files: usize,
    /// Number and position of an open file; none of a folder.
    open: HashMap<c_int, Option<(usize, u64)>>,
}

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static PLAN: Cell<Option<(usize, Wrong)>> = const { Cell::new(None) };
    static RECORD: RefCell<Record> = RefCell::default();
}

/// Does some work, of whose calls the n-th (from 0) goes wrong.
pub(crate) fn watch<T>(plan: Option<(usize, Wrong)>, work: impl FnOnce() -> T) -> (T, Record) {
    struct Disarm;
    impl Drop for Disarm {
        fn drop(&mut self) {
            ARMED.set(false);
        }
    }
    RECORD.take();
    PLAN.set(plan);
    ARMED.set(true);
    let disarm = Disarm;
    let result = work();
    drop(disarm);
    (result, RECORD.take())
}

/// Counts a call, and says how it goes wrong.
fn note(call: Call) -> Option<Wrong> {
    if !ARMED.get() {
        return None;
    }
    let nth = RECORD.with_borrow_mut(|record| {
        record.calls.push(call);
        record.calls.len() - 1
    });
    PLAN.get().filter(|&(planned, _)| planned == nth).map(|(_, wrong)| wrong)
}

fn record(change: impl FnOnce(&mut Record)) {
    if ARMED.get() {
        // What it allocates is no file's.
        RECORD.with_borrow_mut(change);
    }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Asks the real one, unless the call fails.
fn ask(call: Call, real: impl FnOnce() -> c_int) -> c_int {
    match note(call) {
        None | Some(Wrong::Short) => real(),
        Some(Wrong::Fails(errno)) => fail(errno),
        Some(Wrong::FailsAfterwards(errno)) => {
            real();
            fail(errno)
        }
    }
}

impl Record {
    fn number(&mut self, path: &Path) -> usize {
        if let Some(&file) = self.names.get(path) {
            return file;
        }
        let file = self.new_file(path);
        self.known.push((path.to_path_buf(), file));
        file
    }

    fn new_file(&mut self, path: &Path) -> usize {
        self.files += 1;
        self.names.insert(path.to_path_buf(), self.files);
        self.files
    }

    fn opened(&mut self, fd: c_int, path: &Path, flags: c_int, was_there: bool) {
        if path.is_dir() {
            self.open.insert(fd, None);
            return;
        }
        let file = if was_there {
            let file = self.number(path);
            if flags & libc::O_TRUNC != 0 {
                self.changes.push(Change::Truncate { file, len: 0 });
            }
            file
        } else {
            let file = self.new_file(path);
            self.changes.push(Change::Create { file, path: path.to_path_buf() });
            file
        };
        let at = if flags & libc::O_APPEND != 0 {
            std::fs::metadata(path).map_or(0, |found| found.len())
        } else {
            0
        };
        self.open.insert(fd, Some((file, at)));
    }

    fn wrote(&mut self, fd: c_int, bytes: &[u8]) {
        if let Some(Some((file, at))) = self.open.get_mut(&fd) {
            self.changes.push(Change::Write { file: *file, at: *at, bytes: bytes.to_vec() });
            *at += bytes.len() as u64;
        }
    }
}

/// # Safety
/// The string ends.
unsafe fn path(name: *const c_char) -> PathBuf {
    // SAFETY: the caller's.
    OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()).into()
}

macro_rules! real {
    ($name:literal: fn($($argument:ty),*) -> $result:ty) => {{
        static ADDRESS: AtomicUsize = AtomicUsize::new(0);
        let mut address = ADDRESS.load(Ordering::Relaxed);
        if address == 0 {
            // SAFETY: a plain call.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, $name.as_ptr()) }.expose_provenance();
            assert!(address != 0);
            ADDRESS.store(address, Ordering::Relaxed);
        }
        // SAFETY: the function of this name has this type.
        unsafe {
            std::mem::transmute::<*const c_void, unsafe extern "C" fn($($argument),*) -> $result>(
                std::ptr::with_exposed_provenance(address),
            )
        }
    }};
}

// SAFETY, of all that follow: the arguments are the caller's, and the real function gets them as they are. `open` is variadic, and
// the calls of it have three arguments, which variadic functions of these ABIs take where others do.

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let real = real!(c"open64": fn(*const c_char, c_int, mode_t) -> c_int);
    if !ARMED.get() {
        return unsafe { real(name, flags, mode) };
    }
    let path = unsafe { path(name) };
    let was_there = without_notice(|| path.symlink_metadata().is_ok());
    ask(Call::Open, || {
        let fd = unsafe { real(name, flags, mode) };
        if fd >= 0 {
            without_notice(|| RECORD.with_borrow_mut(|record| record.opened(fd, &path, flags, was_there)));
        }
        fd
    })
}

/// Looks of our own are not counted.
fn without_notice<T>(look: impl FnOnce() -> T) -> T {
    let armed = ARMED.replace(false);
    let result = look();
    ARMED.set(armed);
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, into: *mut c_void, len: size_t) -> ssize_t {
    let real = real!(c"read": fn(c_int, *mut c_void, size_t) -> ssize_t);
    match note(Call::Read) {
        Some(Wrong::Fails(errno) | Wrong::FailsAfterwards(errno)) => fail(errno) as ssize_t,
        Some(Wrong::Short) => unsafe { real(fd, into, len.min(1)) },
        None => unsafe { real(fd, into, len) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, len: size_t) -> ssize_t {
    let real = real!(c"write": fn(c_int, *const c_void, size_t) -> ssize_t);
    let write = |len| {
        let written = unsafe { real(fd, from, len) };
        if written > 0 {
            let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), written as usize) };
            record(|record| record.wrote(fd, bytes));
        }
        written
    };
    match note(Call::Write) {
        Some(Wrong::Fails(errno)) => fail(errno) as ssize_t,
        Some(Wrong::FailsAfterwards(errno)) => {
            write(len);
            fail(errno) as ssize_t
        }
        Some(Wrong::Short) => write(len.min(1)),
        None => write(len),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lseek64(fd: c_int, offset: off64_t, whence: c_int) -> off64_t {
    let real = real!(c"lseek64": fn(c_int, off64_t, c_int) -> off64_t);
    if let Some(Wrong::Fails(errno) | Wrong::FailsAfterwards(errno)) = note(Call::Seek) {
        return off64_t::from(fail(errno));
    }
    let at = unsafe { real(fd, offset, whence) };
    record(|record| {
        if let Some(Some((_, position))) = record.open.get_mut(&fd) {
            *position = at as u64;
        }
    });
    at
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, len: off64_t) -> c_int {
    let real = real!(c"ftruncate64": fn(c_int, off64_t) -> c_int);
    ask(Call::Truncate, || {
        let result = unsafe { real(fd, len) };
        record(|record| {
            if let Some(&Some((file, _))) = record.open.get(&fd) {
                record.changes.push(Change::Truncate { file, len: len as u64 });
            }
        });
        result
    })
}

fn sync(fd: c_int, real: unsafe extern "C" fn(c_int) -> c_int) -> c_int {
    ask(Call::Sync, || {
        let result = unsafe { real(fd) };
        record(|record| match record.open.get(&fd) {
            Some(&Some((file, _))) => record.changes.push(Change::Sync { file }),
            Some(None) => record.changes.push(Change::SyncFolder),
            None => {}
        });
        result
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, real!(c"fsync": fn(c_int) -> c_int))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, real!(c"fdatasync": fn(c_int) -> c_int))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fchmod(fd: c_int, mode: mode_t) -> c_int {
    let real = real!(c"fchmod": fn(c_int, mode_t) -> c_int);
    ask(Call::Chmod, || unsafe { real(fd, mode) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fchown(fd: c_int, owner: c_uint, group: c_uint) -> c_int {
    let real = real!(c"fchown": fn(c_int, c_uint, c_uint) -> c_int);
    ask(Call::Chown, || unsafe { real(fd, owner, group) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn flock(fd: c_int, operation: c_int) -> c_int {
    let real = real!(c"flock": fn(c_int, c_int) -> c_int);
    ask(Call::Lock, || unsafe { real(fd, operation) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let real = real!(c"rename": fn(*const c_char, *const c_char) -> c_int);
    ask(Call::Rename, || {
        let result = unsafe { real(from, to) };
        if result == 0 {
            record(|record| {
                let (from, to) = unsafe { (path(from), path(to)) };
                let file = record.number(&from);
                record.names.remove(&from);
                record.names.insert(to.clone(), file);
                record.changes.push(Change::Rename { file, from, to });
            });
        }
        result
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    let real = real!(c"unlink": fn(*const c_char) -> c_int);
    ask(Call::Remove, || {
        let result = unsafe { real(name) };
        if result == 0 {
            record(|record| {
                let path = unsafe { path(name) };
                let file = record.number(&path);
                record.names.remove(&path);
                record.changes.push(Change::Remove { file, path });
            });
        }
        result
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn readlink(name: *const c_char, into: *mut c_char, len: size_t) -> ssize_t {
    let real = real!(c"readlink": fn(*const c_char, *mut c_char, size_t) -> ssize_t);
    match note(Call::ReadLink) {
        Some(Wrong::Fails(errno) | Wrong::FailsAfterwards(errno)) => fail(errno) as ssize_t,
        _ => unsafe { real(name, into, len) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn opendir(name: *const c_char) -> *mut libc::DIR {
    let real = real!(c"opendir": fn(*const c_char) -> *mut libc::DIR);
    match note(Call::ListFolder) {
        Some(Wrong::Fails(errno) | Wrong::FailsAfterwards(errno)) => {
            fail(errno);
            std::ptr::null_mut()
        }
        _ => unsafe { real(name) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn readdir64(folder: *mut libc::DIR) -> *mut libc::dirent64 {
    let real = real!(c"readdir64": fn(*mut libc::DIR) -> *mut libc::dirent64);
    match note(Call::ListFolder) {
        Some(Wrong::Fails(errno) | Wrong::FailsAfterwards(errno)) => {
            fail(errno);
            std::ptr::null_mut()
        }
        _ => unsafe { real(folder) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    folder: c_int,
    name: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut libc::statx,
) -> c_int {
    let real = real!(c"statx": fn(c_int, *const c_char, c_int, c_uint, *mut libc::statx) -> c_int);
    ask(Call::Stat, || unsafe { real(folder, name, flags, mask, into) })
}

// ---- power cuts ----

/// A disk's files by name.
pub(crate) type Disk = BTreeMap<PathBuf, Vec<u8>>;

/// What a disk may hold when the power fails at any moment of a record: of a file's data everything that was synced, and of
/// writes since then any; of a folder's names likewise, in any combination.
pub(crate) struct PowerCuts<'a> {
    before: &'a Disk,
    record: &'a Record,
    /// At most so many combinations of lost writes, and of lost names, are tried at each moment; all of them, if they are fewer.
    most: u64,
}

impl<'a> PowerCuts<'a> {
    pub(crate) fn new(before: &'a Disk, record: &'a Record, most: u64) -> Self {
        Self { before, record, most }
    }

    /// Calls `check` with each, once, and the number of changes before the cut. How many there were, and how many cuts.
    pub(crate) fn each(&self, mut check: impl FnMut(&Disk, usize)) -> (usize, usize) {
        let mut seen = HashSet::new();
        let mut tried = 0;
        for cut in 0..=self.record.changes.len() {
            let changes = &self.record.changes[..cut];
            let last_folder = changes.iter().rposition(|change| *change == Change::SyncFolder);
            let lost = |change: &Change, at: usize| match change {
                Change::Write { file, .. } | Change::Truncate { file, .. } => {
                    !changes[at..].contains(&Change::Sync { file: *file })
                }
                Change::Create { .. } | Change::Rename { .. } | Change::Remove { .. } => {
                    last_folder.is_none_or(|last| at > last)
                }
                Change::Sync { .. } | Change::SyncFolder => false,
            };
            let open: Vec<usize> = (0..cut).filter(|&at| lost(&changes[at], at)).collect();
            for choice in choices(open.len(), self.most) {
                tried += 1;
                let kept = |at: usize| open.iter().position(|&open| open == at).is_none_or(|bit| choice[bit]);
                let disk = self.disk(changes, &kept);
                if seen.insert((disk.clone(), cut)) {
                    check(&disk, cut);
                }
            }
        }
        (seen.len(), tried)
    }

    fn disk(&self, changes: &[Change], kept: &dyn Fn(usize) -> bool) -> Disk {
        let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
        let mut data: HashMap<usize, Vec<u8>> = HashMap::new();
        let mut unknown = usize::MAX;
        for (path, bytes) in self.before {
            let known = self.record.known.iter().find(|(known, _)| known == path).map(|(_, file)| *file);
            let file = known.unwrap_or(unknown);
            unknown -= 1;
            names.insert(path.clone(), file);
            data.insert(file, bytes.clone());
        }
        for (_, change) in changes.iter().enumerate().filter(|(at, _)| kept(*at)) {
            match change {
                Change::Create { file, path } => drop(names.insert(path.clone(), *file)),
                Change::Write { file, at, bytes } => {
                    let data = data.entry(*file).or_default();
                    let end = *at as usize + bytes.len();
                    data.resize(data.len().max(end), 0);
                    data[*at as usize..end].copy_from_slice(bytes);
                }
                Change::Truncate { file, len } => data.entry(*file).or_default().resize(*len as usize, 0),
                Change::Rename { file, from, to } => {
                    if names.get(from) == Some(file) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *file);
                }
                Change::Remove { file, path } => {
                    if names.get(path) == Some(file) {
                        names.remove(path);
                    }
                }
                Change::Sync { .. } | Change::SyncFolder => {}
            }
        }
        names.into_iter().map(|(path, file)| (path, data.remove(&file).unwrap_or_default())).collect()
    }
}

/// All combinations of so many bits; or the two extremes, each bit alone, and as many drawn ones as are left.
fn choices(bits: usize, most: u64) -> Vec<Vec<bool>> {
    let all = |number: u64| (0..bits).map(|bit| number >> bit & 1 == 1).collect();
    if bits < 63 && 1 << bits <= most {
        return (0..1 << bits).map(all).collect();
    }
    let mut state = bits as u64;
    let mut draw = || {
        // SplitMix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 63 == 1
    };
    let mut drawn = vec![vec![false; bits], vec![true; bits]];
    drawn.extend((0..bits).map(|alone| (0..bits).map(|bit| bit == alone).collect()));
    drawn.extend((drawn.len() as u64..most).map(|_| (0..bits).map(|_| draw()).collect()));
    drawn
}

/// The files of a folder.
pub(crate) fn disk(folder: &Path) -> Disk {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Makes a folder hold these files alone; their paths are in it.
pub(crate) fn lay(folder: &Path, disk: &Disk) {
    for path in self::disk(folder).into_keys() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in disk {
        std::fs::write(path, bytes).unwrap();
    }
}
