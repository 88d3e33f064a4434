//! One promise: a GPU computes the same bits as the CPU, whichever GPU, in whichever order its blocks run, wherever its
//! tensors lie.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
mod trajectories;

use fadam::{Algorithm, Simd};
use gpu::gpus;
use trajectories::Trajectory;

/// Orders of blocks, where the device can be told one; 0 is their own.
const ORDERS: [u64; 2] = [0, 7];

fn needs_pow(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::FisherAdam(fisher_adam) if fisher_adam.rho != 0.5)
}

fn same_bits_as_the_cpu(trajectories: Vec<Trajectory>) {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let recorded = std::fs::read_to_string(paths::repository("tests/golden/bits.txt")).unwrap();
    for trajectory in trajectories.iter().filter(|trajectory| !needs_pow(&trajectory.algorithm)) {
        let inputs = trajectory.inputs();
        let cpu = trajectory.replay(&inputs, Simd::best(), 0);
        for gpu in &gpus {
            for (offset, order) in [(0, ORDERS[0]), (1, ORDERS[1])] {
                if let Some(emulator) = driver.emulated() {
                    emulator.set_seed(order);
                }
                let outcome = trajectory.replay_on(gpu, &inputs, offset);
                let what =
                    format!("{}, cuda:{}, offset {offset}, order {order}", trajectory.name, gpu.ordinal);
                outcome.assert_same_bits(&cpu, &what);
                // Recorded elsewhere, so that a wrong CPU cannot hide a wrong GPU.
                let hash = format!("{} {:016x}", trajectory.name, outcome.hash());
                assert!(
                    recorded.lines().any(|line| line == hash),
                    "{what}: {hash} is not in tests/golden/bits.txt"
                );
            }
        }
    }
}

#[test]
fn adam_has_the_bits_of_the_cpu() {
    same_bits_as_the_cpu(trajectories::adam());
}

#[test]
fn fadam_has_the_bits_of_the_cpu() {
    same_bits_as_the_cpu(trajectories::fadam());
}

#[test]
fn fisher_adam_has_the_bits_of_the_cpu() {
    same_bits_as_the_cpu(trajectories::fisher_adam());
}

#[test]
fn bf16_has_the_bits_of_the_cpu() {
    same_bits_as_the_cpu(trajectories::bf16());
}
