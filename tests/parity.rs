//! One promise: the same inputs give the same bits, at every SIMD level, on any number of threads, wherever in memory
//! the tensors lie, on every platform (the recorded hashes).

#[path = "common/paths.rs"]
mod paths;
#[path = "common/thorough.rs"]
mod thorough;
mod trajectories;

use fadam::{Adam, FAdam, Simd};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::fmt::Write;
use thorough::{some, thorough};
use trajectories::{Trajectory, all};

const RECORDED: &str = "tests/golden/bits.txt";
/// Set to write the recorded hashes anew.
const RECORD: &str = "FADAM_RECORD_BITS";

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn same_bits_everywhere(trajectories: Vec<Trajectory>) {
    let one = pool(1);
    let pools: Vec<ThreadPool> = if thorough() { [1, 2, 3].map(pool).into() } else { vec![pool(2)] };
    for trajectory in some(trajectories) {
        let inputs = trajectory.inputs();
        let reference = one.install(|| trajectory.replay(&inputs, Simd::Scalar, 0));
        for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
            for pool in &pools {
                let threads = pool.current_num_threads();
                // One thread count is enough for tensors that no vector load is aligned with.
                let offsets = if threads == 2 { 0..2 } else { 0..1 };
                for offset in offsets {
                    let outcome = pool.install(|| trajectory.replay(&inputs, simd, offset));
                    let what = format!("{}, {simd}, {threads} threads, offset {offset}", trajectory.name);
                    outcome.assert_same_bits(&reference, &what);
                }
            }
        }
    }
}

#[test]
fn adam_has_the_same_bits_everywhere() {
    same_bits_everywhere(trajectories::adam());
}

#[test]
fn fadam_has_the_same_bits_everywhere() {
    same_bits_everywhere(trajectories::fadam());
}

#[test]
fn fisher_adam_has_the_same_bits_everywhere() {
    same_bits_everywhere(trajectories::fisher_adam());
}

#[test]
fn bf16_has_the_same_bits_everywhere() {
    same_bits_everywhere(trajectories::bf16());
}

#[test]
fn fadam_without_options_is_adam() {
    for adam in trajectories::adam() {
        let fadam = Trajectory { algorithm: FAdam::default().into(), ..adam.clone() };
        if adam.algorithm == Adam::default().into() {
            let inputs = adam.inputs();
            let [adam, fadam] = [&adam, &fadam].map(|t| t.replay(&inputs, Simd::best(), 0).without_counts());
            fadam.assert_same_bits(&adam, "FAdam and Adam");
        }
    }
}

/// What proves the promise across machines: each trajectory's bits, hashed, are those that were recorded.
#[test]
fn bits_are_the_recorded_ones() {
    let path = paths::repository(RECORDED);
    let mut now = String::new();
    for trajectory in all() {
        let hash = trajectory.replay(&trajectory.inputs(), Simd::best(), 0).hash();
        writeln!(now, "{} {hash:016x}", trajectory.name).unwrap();
    }
    if std::env::var_os(RECORD).is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let mut hashes: Vec<_> = now.lines().filter_map(|line| line.split(' ').next_back()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    // `adam` is `fadam`. Any other pair would have an option that no bit depends on.
    assert_eq!(hashes.len(), now.lines().count() - 1, "trajectories that do not differ");
    let recorded = std::fs::read_to_string(&path).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (recorded, now) = (lines(&recorded), lines(&now));
    let changed: Vec<_> = now.iter().filter(|line| !recorded.contains(line)).collect();
    let gone: Vec<_> = recorded.iter().filter(|line| !now.contains(line)).collect();
    assert!(
        changed.is_empty() && gone.is_empty(),
        "other bits than {RECORDED} ({RECORD}=1 writes it anew, where a change is meant)\n\
         now: {changed:#?}\nrecorded: {gone:#?}"
    );
}
