//! One promise: whenever a process that saves is killed, the file is there, and is one of the states that it saved.
//!
//! Written in place of being renamed, the file is found cut off at the first few kills.
#![cfg(unix)]

mod common;
#[path = "common/paths.rs"]
mod paths;
#[path = "common/thorough.rs"]
mod thorough;

use common::{again, random};
use fadam::{Adam, Optimizer, State, Update};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Long enough for a kill to hit a save while it writes: 800 kB, or 50 MB.
fn len() -> usize {
    if thorough::thorough() { 6_250_000 } else { 100_000 }
}

fn kills() -> usize {
    if thorough::thorough() { 300 } else { 100 }
}

/// A save takes a few milliseconds, or tens of them.
fn longest_life() -> Duration {
    Duration::from_millis(if thorough::thorough() { 250 } else { 25 })
}

/// Set in the process that is killed: the path to save to.
const CHILD: &str = "FADAM_STATE_CRASH_CHILD";

/// The optimizer after one or two steps.
fn optimizer(steps: usize) -> Optimizer {
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let id = optimizer.register("w", len()).unwrap();
    let (mut value, gradient) = (vec![1.0_f32; len()], vec![0.5_f32; len()]);
    for _ in 0..steps {
        optimizer.step(&mut [Update::new(id, &mut value, &gradient)]).unwrap();
    }
    optimizer
}

fn state(optimizer: &mut Optimizer) -> State {
    optimizer.state(optimizer.parameter("w").unwrap()).unwrap()
}

/// No test by itself: what is killed.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut optimizers = [optimizer(1), optimizer(2)];
    println!("ready");
    loop {
        for optimizer in &mut optimizers {
            optimizer.save(&path).unwrap();
        }
    }
}

/// What killed processes have left.
fn temporary(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "tmp")).collect()
}

#[test]
fn killed_at_any_moment() {
    let folder = paths::scratch("state-crash");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("state.safetensors");
    let states = [1, 2].map(|steps| state(&mut optimizer(steps)));
    optimizer(1).save(&path).unwrap();
    let mut seen = [0; 2];
    let mut half_written = 0;
    let mut random_state = u64::from(std::process::id());
    let mut reader = optimizer(0);
    for kill in 0..kills() {
        let Some(mut command) = again("child") else { return };
        let mut child = command.env(CHILD, &path).stdout(Stdio::piped()).spawn().unwrap();
        wait_for_ready(child.stdout.as_mut().unwrap());
        let life = longest_life().mul_f64((random(&mut random_state) >> 11) as f64 / (1_u64 << 53) as f64);
        let born = Instant::now();
        while born.elapsed() < life {
            std::hint::spin_loop();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        reader.load(&path).unwrap_or_else(|error| panic!("kill {kill} after {life:?}: {error}"));
        let found = state(&mut reader);
        let which = states.iter().position(|state| *state == found);
        seen[which.unwrap_or_else(|| panic!("kill {kill} after {life:?}: another state"))] += 1;
        let left = temporary(&folder);
        assert!(left.len() <= 1, "kill {kill} after {life:?}: {left:?}");
        half_written += left.len();
        for path in left {
            // Nobody else reads it before it is whole.
            let found = fs::metadata(&path).unwrap();
            let whole = found.len() == fs::metadata(folder.join("state.safetensors")).unwrap().len();
            assert!(whole || found.len() == 0 || found.permissions().mode() & 0o777 == 0o600, "{found:?}");
        }
    }
    let kills = kills();
    println!("of {kills} kills {half_written} hit a save; the states were found {seen:?} times");
    assert!(half_written > kills / 10 && seen.iter().all(|times| *times > 0), "{half_written}, {seen:?}");
    fs::remove_dir_all(&folder).unwrap();
}

/// The harness prints before it.
fn wait_for_ready(out: &mut impl std::io::Read) {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(out).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")), "the child has ended");
}
