//! One promise: whatever the file system does, saving replaces a file whole or leaves it as it is, takes its temporary file
//! away, and says what failed; and so does loading, which leaves the optimizer as it is or lost.

mod common;
#[path = "common/paths.rs"]
mod paths;

use common::{Model, noise};
use fadam::{Adam, Error, Optimizer};
use std::error::Error as _;
use std::fs;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = paths::scratch(&format!("state-files-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The names in a folder.
fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// After as many steps.
fn model(steps: usize) -> Model {
    let mut model = Model::new(Adam::default(), &[&noise(1000, 1), &[]]);
    for step in 0..steps {
        model.step(&[&noise(1000, 2 + step as u64), &[]]);
    }
    model
}

#[track_caller]
fn io_error(result: Result<(), Error>, kind: ErrorKind, doing: &str) {
    let error = result.unwrap_err();
    let Error::Io { doing: found, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((source.kind(), *found), (kind, doing), "{error}");
    assert_eq!(error.source().unwrap().to_string(), source.to_string());
    assert!(error.to_string().contains(&source.to_string()), "{error}");
}

#[test]
fn a_file_is_replaced() {
    let folder = folder("replaced");
    let path = folder.join("s");
    for steps in [1, 2] {
        let mut model = model(steps);
        model.optimizer.save(&path).unwrap();
        let mut other = self::model(3);
        other.optimizer.load(&path).unwrap();
        assert_eq!(other.state(0), model.state(0));
        assert_eq!(list(&folder), ["s"]);
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Relative to the current folder, without a folder in the path.
#[test]
fn a_bare_name() {
    let name = format!("fadam-state-files-{}", std::process::id());
    model(1).optimizer.save(&name).unwrap();
    model(1).optimizer.load(&name).unwrap();
    fs::remove_file(name).unwrap();
}

#[test]
fn a_path_of_no_file() {
    let folder = folder("nowhere");
    fs::write(folder.join("file"), "not a folder").unwrap();
    fs::create_dir(folder.join("folder")).unwrap();
    let mut model = model(1);
    let mut save = |path: &Path| model.optimizer.save(path);
    let creating = "creating a temporary file beside";
    io_error(save(&folder.join("missing/s")), ErrorKind::NotFound, creating);
    io_error(save(&folder.join("folder")), ErrorKind::IsADirectory, "replacing");
    for path in ["", "/", ".."] {
        let error = save(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{error:?}");
        assert!(error.to_string().contains("names no file"), "{error}");
    }
    #[cfg(unix)]
    io_error(save(&folder.join("file/s")), ErrorKind::NotADirectory, creating);
    assert_eq!(list(&folder), ["file", "folder"]);
    io_error(model.optimizer.load(folder.join("missing")), ErrorKind::NotFound, "opening");
    assert!(model.optimizer.load(folder.join("folder")).is_err());
    fs::remove_dir_all(folder).unwrap();
}

/// A temporary file as a save to this path leaves it when it is killed.
#[cfg(unix)]
fn leftover(path: &Path, unique: u64) -> PathBuf {
    let name = path.file_name().unwrap().as_encoded_bytes();
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    path.with_file_name(format!(".fadam-{hash:016x}-{unique:016x}.tmp"))
}

/// The next save removes what killed ones have left, but nothing that another one is writing, and nothing of another name.
#[cfg(unix)]
#[test]
fn leftovers_are_removed() {
    let folder = folder("leftovers");
    let path = folder.join("s");
    let mine = [leftover(&path, 1), leftover(&path, 2)];
    let locked = leftover(&path, 3);
    let others = [
        leftover(&folder.join("t"), 4),
        folder.join(".fadam-1234-0.tmp"),
        folder.join("s.tmp"),
        leftover(&path, 5).with_extension("bak"),
    ];
    for path in mine.iter().chain(&others) {
        fs::write(path, "left").unwrap();
    }
    let lock = fs::File::create(&locked).unwrap();
    lock.lock().unwrap();
    // Neither what is no file, nor what cannot be opened, is a hindrance.
    fs::create_dir(leftover(&path, 6)).unwrap();
    fifo(&leftover(&path, 7));
    let there = list(&folder).len();
    model(1).optimizer.save(&path).unwrap();
    assert!(mine.iter().all(|path| !path.exists()));
    assert!(others.iter().all(|path| path.exists()) && locked.exists());
    assert_eq!(list(&folder).len(), there - 2 + 1);
    drop(lock);
    model(2).optimizer.save(&path).unwrap();
    assert!(!locked.exists());
    fs::remove_dir_all(folder).unwrap();
}

#[cfg(unix)]
fn fifo(path: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a string that ends.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[test]
fn several_at_a_time() {
    let folder = folder("several");
    let path = folder.join("s");
    let states = [1, 2, 3].map(|steps| model(steps).state(0));
    model(1).optimizer.save(&path).unwrap();
    std::thread::scope(|scope| {
        let savers = [1, 2, 3].map(|steps| {
            let path = &path;
            scope.spawn(move || {
                let mut model = model(steps);
                for _ in 0..50 {
                    model.optimizer.save(path).unwrap();
                }
            })
        });
        let mut reader = model(0);
        while savers.iter().any(|saver| !saver.is_finished()) {
            reader.optimizer.load(&path).unwrap();
            let found = reader.state(0);
            assert!(states.contains(&found));
        }
    });
    assert_eq!(list(&folder), ["s"]);
    fs::remove_dir_all(folder).unwrap();
}

// ---- reading that fails ----

/// Fails at its `nth` read or seek.
struct Failing {
    source: Cursor<Vec<u8>>,
    left: usize,
}

impl Failing {
    fn count(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("pulled out"))?;
        Ok(())
    }
}

impl Read for Failing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.count()?;
        self.source.read(into)
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.count()?;
        self.source.seek(to)
    }
}

#[test]
fn reading_that_fails_leaves_the_optimizer_as_it_is_or_lost() {
    let folder = folder("reading");
    let path = folder.join("s");
    // Of two pieces: what fits into one is read once.
    const LEN: usize = 600_000;
    let model = |seed| {
        let mut model = Model::new(Adam::default(), &[&noise(LEN, 1), &[]]);
        model.step(&[&noise(LEN, seed), &[]]);
        model
    };
    model(2).optimizer.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (mut untouched, mut lost) = (0, 0);
    for nth in 0.. {
        let mut model = model(3);
        let before = model.snapshot();
        let mut source = Failing { source: Cursor::new(bytes.clone()), left: nth };
        let Err(error) = model.optimizer.load_from(&mut source) else { break };
        assert!(error.to_string().contains("pulled out"), "{error}");
        match model.optimizer.state(model.ids[0]) {
            Ok(_) => {
                assert_eq!(lost, 0, "checked once more after the first change");
                assert!(model.snapshot() == before);
                untouched += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::Lost), "{error:?}");
                assert!(matches!(model.optimizer.save(&path), Err(Error::Lost)));
                assert!(matches!(model.optimizer.load(&path), Err(Error::Lost)));
                lost += 1;
            }
        }
    }
    assert!(untouched > 4 && lost > 2, "{untouched}, {lost}");
    assert!(fs::read(&path).unwrap() == bytes);
    fs::remove_dir_all(folder).unwrap();
}

/// A file that somebody changes in place: from its `nth` read on, another one is there.
struct Changing {
    files: [Cursor<Vec<u8>>; 2],
    left: usize,
}

impl Read for Changing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let now = usize::from(self.left == 0);
        self.left = self.left.saturating_sub(1);
        let count = self.files[now].read(into)?;
        let at = self.files[now].position();
        self.files.iter_mut().for_each(|file| file.set_position(at));
        Ok(count)
    }
}

impl Seek for Changing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let [first, second] = &mut self.files;
        second.seek(to)?;
        first.seek(to)
    }
}

/// What is used is what was checked: one file or the other whole, refused, or lost.
#[test]
fn a_file_that_changes_while_it_is_loaded() {
    const LEN: usize = 600_000; // two pieces
    let folder = folder("changing");
    // As many steps as the seed says; of one length, both kinds of file have the same layout.
    let model = |len: usize, seed: u64| {
        let mut model = Model::new(Adam::default(), &[&noise(len, 1), &noise(3, 1)]);
        for _ in 0..seed {
            model.step(&[&noise(len, seed), &noise(3, seed)]);
        }
        model
    };
    for (torch, len) in [(false, LEN), (true, LEN), (true, 100)] {
        let mut saved = [model(len, 2), model(len, 3)];
        let files = [0, 1].map(|i| {
            let path = folder.join(i.to_string());
            let optimizer = &mut saved[i].optimizer;
            if torch { optimizer.save_torch(&path, &["p0", "p1"]) } else { optimizer.save(&path) }.unwrap();
            fs::read(path).unwrap()
        });
        let states = saved.each_mut().map(|model| (model.state(0), model.state(1)));
        let (mut whole, mut refused, mut lost) = ([0; 2], 0, 0);
        for nth in 0.. {
            let mut model = model(len, 1);
            let before = model.snapshot();
            let mut source = Changing { files: files.clone().map(Cursor::new), left: nth };
            let optimizer = &mut model.optimizer;
            let result = if torch {
                optimizer.load_torch_from(&mut source, &["p0", "p1"])
            } else {
                optimizer.load_from(&mut source)
            };
            let ended = source.left > 0;
            match (result, model.optimizer.state(model.ids[0])) {
                (Ok(()), _) => {
                    let found = (model.state(0), model.state(1));
                    let which = states.iter().position(|state| *state == found);
                    whole[which.unwrap_or_else(|| panic!("{nth}: parts of two files"))] += 1;
                }
                (Err(Error::State { .. }), Ok(_)) => {
                    assert!(model.snapshot() == before, "{nth}");
                    refused += 1;
                }
                (Err(error @ Error::State { .. }), Err(Error::Lost)) => {
                    assert!(error.to_string().contains("changed while it was loaded"), "{error}");
                    lost += 1;
                }
                (result, state) => panic!("{nth}: {result:?}, {:?}", state.map(drop)),
            }
            if ended {
                break;
            }
        }
        println!("torch: {torch}, {len} elements; whole {whole:?}, refused {refused}, lost {lost}");
        assert!(whole[0] > 0 && whole[1] > 0 && lost > 0 && refused > 0);
    }
    fs::remove_dir_all(folder).unwrap();
}

// ---- Unix ----

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let folder = folder("links");
        fs::create_dir(folder.join("there")).unwrap();
        symlink("there/s", folder.join("relative")).unwrap();
        symlink(folder.join("relative"), folder.join("absolute")).unwrap();
        // At first the target does not exist.
        for steps in [1, 2] {
            let mut model = model(steps);
            model.optimizer.save(folder.join("absolute")).unwrap();
            let mut other = self::model(3);
            other.optimizer.load(folder.join("there/s")).unwrap();
            assert_eq!(other.state(0), model.state(0));
        }
        for link in ["absolute", "relative"] {
            assert!(folder.join(link).is_symlink());
        }
        assert_eq!(list(&folder), ["absolute", "relative", "there"]);
        assert_eq!(list(&folder.join("there")), ["s"]);
        symlink("circle", folder.join("circle")).unwrap();
        let error = model(1).optimizer.save(folder.join("circle")).unwrap_err();
        assert!(error.to_string().contains("too many symbolic links"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A new file has what the system gives a file here; a replaced one has what it had.
    #[test]
    fn permissions_stay() {
        let folder = folder("permissions");
        let path = folder.join("s");
        model(1).optimizer.save(&path).unwrap();
        fs::write(folder.join("usual"), "").unwrap();
        assert_eq!(mode(&path), mode(&folder.join("usual")));
        for kept in [0o600, 0o640, 0o664, 0o444, 0o000] {
            fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
            model(2).optimizer.save(&path).unwrap();
            assert_eq!(mode(&path), kept);
        }
        assert_eq!(list(&folder), ["s", "usual"]);
        fs::remove_dir_all(folder).unwrap();
    }

    /// A strict umask counts for a new file, too. In a process of its own, for the umask is the process's.
    #[test]
    fn a_new_file_follows_the_umask() {
        let Some(mut command) = common::again("unix::umask_child") else { return };
        let output = command.env("FADAM_STATE_FILES_UMASK", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// No test by itself.
    #[test]
    fn umask_child() {
        if std::env::var_os("FADAM_STATE_FILES_UMASK").is_none() {
            return;
        }
        let folder = folder("umask");
        for (umask, expected) in [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664), (0o000, 0o666)] {
            // SAFETY: a plain call.
            unsafe { libc::umask(umask) };
            let path = folder.join(format!("{umask:o}"));
            model(1).optimizer.save(&path).unwrap();
            assert_eq!(mode(&path), expected, "{umask:o}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_owner_stays() {
        use std::os::unix::fs::{MetadataExt, chown};
        let folder = folder("owner");
        let path = folder.join("s");
        model(1).optimizer.save(&path).unwrap();
        if chown(&path, Some(12345), Some(54321)).is_err() {
            println!("skipped: this user may not give files away (root may)");
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            model(2).optimizer.save(&path).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid(), mode(&path)), (12345, 54321, 0o640));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_is_read_only() {
        let folder = folder("read-only");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
        if fs::write(folder.join("probe"), "").is_ok() {
            println!("skipped: this user may write to a read-only folder (root)");
        } else {
            let saved = model(1).optimizer.save(folder.join("s"));
            io_error(saved, ErrorKind::PermissionDenied, "creating a temporary file beside");
            assert!(list(&folder).is_empty());
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}

/// A pipe, and so a device: one of the machine's own would be in danger where this fails.
#[cfg(target_os = "linux")]
#[test]
fn what_is_no_file_is_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = folder("pipe");
    let pipe = folder.join("pipe");
    fifo(&pipe);
    io_error(model(1).optimizer.save(&pipe), ErrorKind::InvalidInput, "replacing");
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(list(&folder), ["pipe"]);
    fs::remove_dir_all(folder).unwrap();
}

/// Without waiting for the pipe's other end, and without reading a device that has none.
#[cfg(target_os = "linux")]
#[test]
fn what_is_no_file_is_not_read() {
    let folder = folder("pipe-read");
    let pipe = folder.join("pipe");
    fifo(&pipe);
    let mut model = model(1);
    for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/null")] {
        io_error(model.optimizer.load(path), ErrorKind::InvalidInput, "opening");
        io_error(model.optimizer.load_matching(path).map(drop), ErrorKind::InvalidInput, "opening");
        io_error(model.optimizer.load_torch(path, &["p0"]), ErrorKind::InvalidInput, "opening");
    }
    io_error(model.optimizer.load(&folder), ErrorKind::IsADirectory, "opening");
    fs::remove_dir_all(folder).unwrap();
}

/// A server of network files may hold a lease, which the kernel has it give back: by a signal, which may take its time.
#[cfg(target_os = "linux")]
#[test]
fn a_lease_is_waited_for() {
    use std::os::fd::AsRawFd;
    let folder = folder("lease");
    let path = folder.join("s");
    model(1).optimizer.save(&path).unwrap();
    let holder = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // SAFETY: plain calls; the signal that would end the process has no effect.
    let held = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
    };
    if held != 0 {
        println!("skipped: {} takes no leases", folder.display());
    } else {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                // SAFETY: as above.
                unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
            });
            let mut reader = model(0);
            reader.optimizer.load(&path).unwrap();
            assert_eq!(reader.state(0).step, 1);
        });
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Set in a process of its own, for the limit is the process's: the path to save to.
#[cfg(target_os = "linux")]
const FULL: &str = "FADAM_STATE_FILES_FULL";

/// As on a full disk, writing ends after so many bytes: in the header, or among the tensors.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let folder = folder("full");
    let path = folder.join("s");
    model(1).optimizer.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    for limit in [0, 5, 100, 5000, before.len() - 1] {
        let Some(mut command) = common::again("full_child") else { return };
        let output = command.env(FULL, format!("{limit} {}", path.display())).output().unwrap();
        assert!(output.status.success(), "{limit}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(&path).unwrap() == before, "{limit}");
        assert_eq!(list(&folder), ["s"], "{limit}");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// No test by itself: what `a_full_disk` starts.
#[cfg(target_os = "linux")]
#[test]
fn full_child() {
    let Ok(arguments) = std::env::var(FULL) else { return };
    let (limit, path) = arguments.split_once(' ').unwrap();
    let limit: libc::rlim_t = limit.parse().unwrap();
    let mut model = model(2);
    let before = model.snapshot();
    // SAFETY: plain calls; the signal that would end the process is to become an error.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limits), 0);
    }
    io_error(model.optimizer.save(path), ErrorKind::FileTooLarge, "writing");
    assert!(model.snapshot() == before);
    // And nothing is lost: with room it works.
    // SAFETY: as above.
    unsafe {
        let limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limits), 0);
    }
    let elsewhere = Path::new(path).with_extension("elsewhere");
    model.optimizer.save(&elsewhere).unwrap();
    Optimizer::new(Adam::default()).unwrap().load(&elsewhere).unwrap_err();
    fs::remove_file(elsewhere).unwrap();
}
