//! Runs the program in a folder of its own, and looks at everything it leaves there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) out: Option<Vec<u8>>,
    /// Whatever else lies in the folder afterwards.
    pub(crate) litter: Vec<String>,
}

/// `cargo test` builds the examples beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("replay")
        .with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.is_file(),
        "{} is missing: build it with `cargo build -p fadam-programs --example replay`",
        program.display()
    );
    program
}

pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `replay` with these arguments in `folder`.
pub(crate) fn run(folder: &Folder, args: &[&str]) -> Run {
    let output =
        Command::new(program()).args(args).current_dir(&folder.0).stdin(Stdio::null()).output().unwrap();
    let mut litter: Vec<String> = fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "in" && name != "out")
        .collect();
    litter.sort();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        out: fs::read(folder.0.join("out")).ok(),
        litter,
    }
}

/// `replay in out` and more arguments, on these bytes.
pub(crate) fn replay(input: &[u8], args: &[&str]) -> Run {
    let folder = Folder::new();
    fs::write(folder.0.join("in"), input).unwrap();
    run(&folder, &[&["in", "out"], args].concat())
}

/// The bytes of OUT, from the CPU; fails where the program did.
pub(crate) fn replayed(input: &[u8], args: &[&str]) -> Vec<u8> {
    replayed_on("cpu", input, args)
}

/// The bytes of OUT; fails where the program did.
pub(crate) fn replayed_on(device: &str, input: &[u8], args: &[&str]) -> Vec<u8> {
    let run = replay(input, &[&["--device", device], args].concat());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
    assert!(run.litter.is_empty(), "left behind: {:?}", run.litter);
    run.out.expect("OUT is there")
}

/// Set where a test without a GPU, real or emulated, is a failure, as in CI.
const REQUIRE: &str = "FADAM_REQUIRE_DEVICE";

/// The GPUs that there are, by the names that `--device` takes; with a word on why there is none.
pub(crate) fn gpus() -> Vec<String> {
    let usable = fadam::cuda::devices().and_then(|devices| fadam::cuda::nvrtc_version().map(|_| devices));
    match usable {
        Ok(devices) => {
            for device in &devices {
                println!("device cuda:{}: {}", device.ordinal, device.name);
            }
            devices.iter().map(|device| format!("cuda:{}", device.ordinal)).collect()
        }
        Err(error) => {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, and there is no device: {error}");
            println!("skipped on GPUs: {error}");
            Vec::new()
        }
    }
}
