//! One promise: a step ends and is right, whatever the threads of its pool do: where they cannot be started, where all of them
//! wait for something, and in a forked child, which has none. The global pool is the process's: each case runs in a process
//! of its own.
#![cfg(target_os = "linux")]

use fadam::{Adam, EmpiricalFisher, Error, Optimizer, ParameterId, Update};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Which case the child is to run.
const CASE: &str = "FADAM_POOL_CASE";
/// More elements than a thread does alone.
const LARGE: usize = 1 << 18;

struct Stepped {
    optimizer: Optimizer,
    id: ParameterId,
    parameter: Vec<f32>,
    gradient: Vec<f32>,
}

impl Stepped {
    fn new() -> Self {
        let mut optimizer = Optimizer::builder(Adam::adamw()).norms(true).build().unwrap();
        let id = optimizer.register("w", LARGE).unwrap();
        Self { optimizer, id, parameter: vec![1.0; LARGE], gradient: vec![0.5; LARGE] }
    }

    fn step(&mut self) -> Result<(), Error> {
        self.optimizer.step(&mut [Update::new(self.id, &mut self.parameter, &self.gradient)])
    }
}

/// After so many steps, each of which ended.
fn expected(steps: usize) -> Vec<f32> {
    let mut stepped = Stepped::new();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    (0..steps).for_each(|_| one.install(|| stepped.step()).unwrap());
    stepped.parameter
}

/// Runs one case in a child, which must end in time.
fn in_child(case: &str) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    let mut child = command.args(["--exact", "the_case", "--nocapture"]).env(CASE, case).spawn().unwrap();
    let status = wait(Duration::from_secs(60), || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        panic!("{case}: hangs");
    };
    assert!(status.success(), "{case}: {status}");
}

fn wait(limit: Duration, mut ended: impl FnMut() -> Option<ExitStatus>) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        let status = ended();
        if status.is_some() || start.elapsed() > limit {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Not a test of its own: what the others start.
#[test]
fn the_case() {
    match std::env::var(CASE).as_deref() {
        Ok("no memory for threads") => no_memory_for_threads(),
        Ok("others have failed") => others_have_failed(),
        Ok("fork") => fork(),
        Ok("occupied") => occupied(),
        Ok(case) => panic!("no case `{case}`"),
        Err(_) => {}
    }
}

/// The system lets the process map no memory for a thread's stack.
fn no_memory_for_threads() {
    let mut stepped = Stepped::new();
    let limit = |bytes: libc::rlim_t| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a limit of this process.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    limit(pages * 4096 + (64 << 10));
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "threads can be started");
    let first = stepped.step();
    limit(libc::RLIM_INFINITY);
    first.unwrap();
    stepped.step().unwrap();
    // Not before: a thread that has ended leaves a stack for the next.
    assert!(stepped.parameter == expected(2));
}

/// Somebody else was the first to find that no threads can be started.
fn others_have_failed() {
    let expected = expected(2);
    let refused = rayon::ThreadPoolBuilder::new()
        .spawn_handler(|_| Err(std::io::Error::other("no threads today")))
        .build_global();
    assert!(refused.is_err());
    let mut stepped = Stepped::new();
    stepped.step().unwrap();
    stepped.step().unwrap();
    assert!(stepped.parameter == expected);
    let mut fisher = EmpiricalFisher::new(fadam::Device::Cpu, LARGE).unwrap();
    fisher.add(&stepped.gradient).unwrap();
    assert!(fisher.diagonal().unwrap().iter().all(|&f| f == 0.25));
}

/// The child has one thread, and the parent's pool.
fn fork() {
    let expected = expected(2);
    let mut stepped = Stepped::new();
    stepped.step().unwrap();
    std::thread::sleep(Duration::from_millis(200)); // until the pool's threads sleep: none holds a lock
    // SAFETY: the child steps, compares and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let right = stepped.step().is_ok() && stepped.parameter == expected;
        // SAFETY: ends the child without the parent's destructors.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: asks for the child just made.
    let ended =
        wait(Duration::from_secs(20), || match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 => None,
            _ => Some(ExitStatus::default()),
        });
    if ended.is_none() {
        // SAFETY: the child.
        unsafe { libc::kill(child, libc::SIGKILL) };
        panic!("a step in a forked child hangs");
    }
    assert_eq!(status, 0, "the child's step is wrong");
    stepped.step().unwrap();
    assert!(stepped.parameter == expected);
}

/// The caller holds a lock; all other threads of its pool wait for it, and so would whatever the caller took up from its own
/// queue if it waited for anything.
fn occupied() {
    let expected = expected(50);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let shared = Arc::new((Mutex::new(()), Barrier::new(4)));
    let parameter = pool.install(|| {
        let guard = shared.0.lock().unwrap();
        for _ in 0..3 {
            let shared = Arc::clone(&shared);
            rayon::spawn(move || {
                shared.1.wait();
                drop(shared.0.lock());
            });
        }
        shared.1.wait();
        for _ in 0..8 {
            let shared = Arc::clone(&shared);
            rayon::spawn(move || drop(shared.0.lock()));
        }
        let mut stepped = Stepped::new();
        (0..50).for_each(|_| stepped.step().unwrap());
        drop(guard);
        stepped.parameter
    });
    assert!(parameter == expected);
}

#[test]
fn a_step_under_a_lock_that_the_pool_waits_for() {
    in_child("occupied");
}

#[test]
fn without_memory_for_threads_the_caller_steps() {
    in_child("no memory for threads");
}

#[test]
fn where_others_could_start_no_pool_the_caller_steps() {
    in_child("others have failed");
}

#[test]
fn a_forked_child_steps() {
    in_child("fork");
}
