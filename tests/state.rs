//! One promise: a run that is saved, and continued by a new optimizer from the file, has the bits of one that went on:
//! every algorithm, group, skipped step, parameter that takes no part, and from each device to each.

#[cfg(feature = "cuda")]
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
#[path = "common/thorough.rs"]
mod thorough;
mod trajectories;

use fadam::{Adam, Optimizer, ParameterId, Simd, Update};
use std::fs;
use std::path::PathBuf;
use trajectories::{Home, Host, Trajectory};

/// After this step: in trajectories with a step that is skipped, that one.
const SPLIT: u64 = 2;

fn file(name: &str) -> PathBuf {
    paths::scratch(&format!("state-{name}.safetensors"))
}

/// Every row of the matrix: what `trajectories` has, from one device to another.
fn resumes(trajectories: Vec<Trajectory>, from: &impl Home, to: &impl Home, pair: &str) {
    for trajectory in thorough::some(trajectories) {
        let path = file(&format!("{}-{pair}", trajectory.name));
        let hand_over = |mut old: Optimizer, new: &mut Optimizer| {
            old.save(&path).unwrap();
            drop(old);
            new.load(&path).unwrap();
            fs::remove_file(&path).unwrap();
        };
        let inputs = trajectory.inputs();
        let whole = trajectory.replay(&inputs, Simd::best(), 0);
        let parts = trajectory.replay_in_parts((from, to), &inputs, SPLIT, hand_over);
        parts.assert_same_bits(&whole, &format!("{}, {pair}", trajectory.name));
    }
}

const HOST: fn() -> Host = || Host { simd: Simd::best() };

#[test]
fn a_run_on_the_cpu_resumes() {
    resumes(trajectories::all(), &HOST(), &HOST(), "cpu-cpu");
}

/// Of ρ ≠ ½ the devices' bits differ; from CPU to CPU it resumes as the others do.
#[cfg(feature = "cuda")]
fn on_every_device() -> Vec<Trajectory> {
    let mut trajectories = trajectories::all();
    trajectories.retain(
        |t| !matches!(t.algorithm, fadam::Algorithm::FisherAdam(fisher_adam) if fisher_adam.rho != 0.5),
    );
    trajectories
}

/// Longer than what is in memory at a time, by a bit. Everything in the file, on each device, has the same bytes.
#[test]
fn a_long_tensor_goes_in_pieces() {
    const LEN: usize = (4 << 20) / 4 * 2 + 3;
    let built = |builder: fadam::Builder| {
        let mut optimizer = builder.build().unwrap();
        let ids = [LEN, 0, 1].map(|len| optimizer.register(len.to_string(), len).unwrap());
        (optimizer, ids)
    };
    let algorithm = || Optimizer::builder(Adam { amsgrad: true, ..Adam::default() });
    let (mut cpu, ids) = built(algorithm());
    let mut values: Vec<f32> = (0..LEN).map(|i| (i % 9973) as f32).collect();
    let gradient: Vec<f32> = (0..LEN).map(|i| (i % 10_007) as f32 - 5e3).collect();
    cpu.step(&mut [Update::new(ids[0], &mut values, &gradient)]).unwrap();
    let (path, again) = (file("long"), file("long-again"));
    cpu.save(&path).unwrap();
    let mut check = |(mut other, others): (Optimizer, [ParameterId; 3])| {
        other.load(&path).unwrap();
        for (id, other_id) in ids.into_iter().zip(others) {
            assert!(cpu.state(id).unwrap() == other.state(other_id).unwrap());
        }
        other.save(&again).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap());
    };
    check(built(algorithm()));
    #[cfg(feature = "cuda")]
    for gpu in gpu::gpus().unwrap_or_default() {
        check(built(gpu.builder(algorithm())));
    }
    for path in [path, again] {
        fs::remove_file(path).unwrap();
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_run_on_the_cpu_resumes_on_a_gpu() {
    let Some(gpus) = gpu::gpus() else { return };
    resumes(on_every_device(), &HOST(), &gpus[0], "cpu-cuda");
}

#[cfg(feature = "cuda")]
#[test]
fn a_run_on_a_gpu_resumes_on_the_cpu() {
    let Some(gpus) = gpu::gpus() else { return };
    resumes(on_every_device(), &gpus[0], &HOST(), "cuda-cpu");
}

#[cfg(feature = "cuda")]
#[test]
fn a_run_on_a_gpu_resumes_on_a_gpu() {
    let Some(gpus) = gpu::gpus() else { return };
    resumes(on_every_device(), &gpus[0], &gpus[gpus.len() - 1], "cuda-cuda");
}
