//! One promise: a GPU's sums, norms, counts and checks are of all tensors and all chunks, however many there are: the CPU's
//! to the bit, and a gradient that is not finite is found in whichever tensor it is.
#![cfg(feature = "cuda")]

#[path = "../src/args.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, clippy::all)]
mod args;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use args::{FADAM_CHUNK, FADAM_FINALIZE_THREADS, FADAM_FOLD_LANES, FADAM_WARP};
use emulator::Driver;
use fadam::{
    Adam, Algorithm, Device, Error, FAdam, FisherAdam, NonFinite, Optimizer, Report, Simd, Tensor, Update,
    global_norm,
};
use gpu::{Gpu, gpus};
use std::collections::HashSet;
use trajectories::{Home, Host, Kept, Trajectory, Types, Values};

const CHUNK: usize = FADAM_CHUNK as usize;
/// Threads of a finalize kernel's block: so many tensors are taken a round, where a thread has one.
const THREADS: usize = FADAM_FINALIZE_THREADS as usize;
/// The same where a warp has one.
const WARPS: usize = (FADAM_FINALIZE_THREADS / FADAM_WARP) as usize;
/// Partial sums of a tensor that its warp takes a round; of the counts it takes FADAM_WARP.
const ROW: usize = FADAM_FOLD_LANES as usize;

/// A tenth round of warps, not full; the last tensor is empty.
const SOME: usize = 9 * WARPS + 22;
/// A third round of threads, and a 66th of warps, neither full; the last tensor is not empty.
const MANY: usize = 2 * THREADS + WARPS + 21;

/// Both sides of each number of tensors at which a loop might end, or start another round.
fn around() -> Vec<usize> {
    let limits = [1, WARPS, 2 * WARPS, 74, 4 * WARPS, ROW, 2 * ROW, THREADS, 2 * THREADS];
    let mut around: Vec<usize> = limits.iter().flat_map(|&limit| [limit - 1, limit, limit + 1]).collect();
    around.push(MANY);
    around.sort_unstable();
    around.dedup();
    around
}

/// Around a row of 128 elements, or empty.
fn short(tensor: usize) -> usize {
    [1, 0, 3, 129, 2, 127, 128][tensor % 7]
}

/// Short, and one in 59 around some chunks.
fn length(tensor: usize) -> usize {
    let long = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 5];
    if tensor % 59 == 14 { long[tensor / 59 % long.len()] } else { short(tensor) }
}

/// Numbers in (−1, 1), none of them 0.
fn random(seed: usize) -> impl Iterator<Item = f32> {
    let mut state = seed as u32 * 2 + 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 + 0.5) / (1 << 23) as f32 - 1.0
    })
}

/// Tensors of magnitudes so far apart that f64 rounds the sum of their squares: else any order of additions gives the same bits.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    let scale = 0.5_f32.powi((seed * 5 % 27) as i32);
    random(seed).take(len).map(|x| x * scale).collect()
}

/// One device: tests/cuda_parity.rs goes through all architectures.
struct Tested {
    driver: Driver,
    gpu: Gpu,
}

impl Tested {
    fn find() -> Option<Self> {
        let driver = emulator::find();
        let gpu = gpus()?.into_iter().next()?;
        Some(Self { driver, gpu })
    }

    /// The device, on which blocks and warps run in this order from now on.
    fn in_order(&self, order: usize) -> &Gpu {
        if let Some(emulator) = self.driver.emulated() {
            emulator.set_seed(order as u64);
        }
        &self.gpu
    }
}

fn named(all: Vec<Trajectory>, name: &str) -> Trajectory {
    all.into_iter().find(|trajectory| trajectory.name == name).unwrap()
}

fn as_on_the_cpu(device: &Tested, trajectories: &[Trajectory]) {
    let mut hashes = HashSet::new();
    for (order, trajectory) in trajectories.iter().enumerate() {
        let inputs = trajectory.inputs();
        let cpu = trajectory.replay(&inputs, Simd::best(), 0);
        let gpu = trajectory.replay_on(device.in_order(order), &inputs, 0);
        gpu.assert_same_bits(&cpu, &format!("{}, {} tensors", trajectory.name, trajectory.lengths.len()));
        // Else what a trajectory is there for, as a κ that fires, does not happen.
        assert!(hashes.insert(cpu.hash()), "{} does not differ", trajectory.name);
    }
}

/// Groups by turns; a third of the parameters sits out each step.
fn base(lengths: &'static [usize]) -> Trajectory {
    let groups = named(trajectories::adam(), "adamw_groups_lr").groups;
    Trajectory {
        lengths,
        steps: 2,
        gradients: Types::Mixed,
        missing: true,
        norms: true,
        groups,
        ..named(trajectories::adam(), "adam")
    }
}

/// κ that fires in a first step, applied speculatively: ‖Δ‖ is the root of the number of elements that take part.
fn fires(trajectory: &Trajectory) -> FAdam {
    let elements: usize = trajectory.lengths.iter().sum();
    let kappa = 0.51 * (elements as f64).sqrt();
    FAdam { kappa: Some(kappa), weight_decay: 0.1, decay_cap: Some(1e-3), eps0: 1e-3, ..FAdam::default() }
}

fn clipped(trajectory: Trajectory) -> Trajectory {
    Trajectory { max_grad_norm: Some(1.0), ..trajectory }
}

/// Norms of gradients are then folded behind the step.
fn unchecked(trajectory: Trajectory) -> Trajectory {
    Trajectory { non_finite: NonFinite::Propagate, ..trajectory }
}

/// ε̂ is ε in some tensors alone.
fn small(trajectory: Trajectory) -> Trajectory {
    Trajectory { values: Values::SomeSmallGradients, ..trajectory }
}

#[test]
fn steps_of_some_hundred_tensors_have_the_bits_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    let base = base((0..SOME).map(length).collect::<Vec<_>>().leak());
    let t = |name, algorithm: Algorithm| Trajectory { name, algorithm, ..base.clone() };
    let kept = |name| named(trajectories::bf16(), name).kept;
    let ema = |kept| Kept { ema: Some(0.9), ..kept };
    let with = |t, kept| Trajectory { kept, ..t };
    let (adamw, fires) = (Adam::adamw(), fires(&base));
    let two_sweeps = FAdam { kappa: Some(1.0), ..fires };
    let fisher = FisherAdam { eps: 1e-3, ..FisherAdam::default() };
    let trajectories = [
        clipped(t("adamw clipped", Adam { amsgrad: true, ..adamw }.into())),
        unchecked(t("adamw unchecked", adamw.into())),
        t("fadam", FAdam { kappa: None, ..fires }.into()),
        // Without norms ‖Δ‖ is the one that κ is compared with.
        Trajectory { norms: false, ..t("fadam, κ idle", FAdam { kappa: Some(1e6), ..fires }.into()) },
        Trajectory { norms: false, ..t("fadam, κ fires", fires.into()) },
        clipped(t("fadam, κ fires, clipped", fires.into())),
        unchecked(t("fadam, κ in two sweeps", two_sweeps.into())),
        clipped(small(t("fisher_adam clipped", fisher.into()))),
        unchecked(small(t("fisher_adam unchecked", fisher.into()))),
        with(clipped(t("adamw with remainders", adamw.into())), ema(kept("adamw_remainder"))),
        with(t("fadam all bf16", two_sweeps.into()), kept("adamw_all_bf16")),
        with(small(t("fisher_adam all bf16", fisher.into())), ema(kept("adamw_all_bf16"))),
    ];
    as_on_the_cpu(&device, &trajectories);
}

#[test]
fn steps_of_thousands_of_tensors_have_the_bits_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    // All take part.
    let base =
        Trajectory { steps: 1, missing: false, ..base((0..MANY).map(short).collect::<Vec<_>>().leak()) };
    let t = |name, algorithm: Algorithm| Trajectory { name, algorithm, ..base.clone() };
    let fisher = FisherAdam { eps: 1e-3, ..FisherAdam::default() };
    let trajectories = [
        clipped(t("adamw clipped", Adam::adamw().into())),
        unchecked(t("fadam, κ fires, unchecked", fires(&base).into())),
        clipped(small(t("fisher_adam clipped", fisher.into()))),
    ];
    as_on_the_cpu(&device, &trajectories);
}

/// A second round of partial sums, and a ninth of counts, each of the last chunk alone.
#[test]
fn a_step_of_a_long_tensor_has_the_bits_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    let t = Trajectory { name: "long", steps: 1, missing: false, ..base(&[5, ROW * CHUNK + 1]) };
    as_on_the_cpu(&device, &[Trajectory { algorithm: fires(&t).into(), ..t }]);
}

/// The norm by `global_norm` of the first so many of these tensors, for each number that `prefixes` has.
fn norms_are_those_of_the_cpu(gpu: &Gpu, gradients: &[Vec<f32>], prefixes: &[usize]) -> Vec<f64> {
    let copies: Vec<_> = gradients.iter().map(|g| gpu.f32(g, 0)).collect();
    let on_host: Vec<Tensor<'_>> = gradients.iter().map(Tensor::from).collect();
    let on_gpu: Vec<Tensor<'_>> = copies.iter().map(|g| gpu.f32_gradient(g, 0)).collect();
    gpu.stream.synchronize().unwrap(); // which bare addresses do not tell of
    let norm = |&tensors: &usize| {
        let cpu = global_norm(Device::Cpu, &on_host[..tensors]).unwrap();
        let norm = global_norm(Device::Cuda(gpu.ordinal), &on_gpu[..tensors]).unwrap();
        assert_eq!(norm.to_bits(), cpu.to_bits(), "{tensors} tensors: {norm} and {cpu}");
        norm
    };
    prefixes.iter().map(norm).collect()
}

#[test]
fn the_norm_of_any_number_of_tensors_is_that_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    let gradients: Vec<Vec<f32>> = (0..MANY).map(|tensor| noise(length(tensor), tensor)).collect();
    norms_are_those_of_the_cpu(device.in_order(1), &gradients, &around());
}

/// One, two and three rounds of partial sums.
#[test]
fn the_norm_of_long_tensors_is_that_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    let lengths = [ROW * CHUNK, 3, (2 * ROW + 1) * CHUNK - 7, 0];
    let gradients: Vec<Vec<f32>> = lengths.iter().zip(0..).map(|(&len, seed)| noise(len, seed)).collect();
    norms_are_those_of_the_cpu(device.in_order(2), &gradients, &[1, 2, 3, 4]);
}

/// Of each chunk the first element alone is not 0, and in all but the first chunk its square is about half of the last bit of the
/// sum. The seed is one with which folding neighbours, lanes or threads, gives other bits (tests/mutants.py does both).
#[test]
fn partial_sums_are_added_in_the_order_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    for chunks in [ROW, 2 * ROW + 1] {
        let mut values = vec![0.0; chunks * CHUNK];
        for (i, x) in random(4).take(chunks).enumerate() {
            values[i * CHUNK] = if i == 0 { 1.42 } else { x * 0.5_f32.powi(26) };
        }
        norms_are_those_of_the_cpu(device.in_order(6), &[values], &[1]);
    }
}

/// Lest both leave the same out: of gradients that are 1 throughout it is the root of their number, which no rounding spoils.
#[test]
fn the_norm_of_ones_is_the_root_of_their_number() {
    let Some(device) = Tested::find() else { return };
    let mut gradients: Vec<Vec<f32>> = (0..MANY).map(|tensor| vec![1.0; length(tensor)]).collect();
    gradients.push(vec![1.0; (ROW + 1) * CHUNK - 7]);
    let prefixes = [74, SOME, MANY, MANY + 1];
    let norms = norms_are_those_of_the_cpu(device.in_order(3), &gradients, &prefixes);
    for (tensors, norm) in prefixes.into_iter().zip(norms) {
        let ones: usize = gradients[..tensors].iter().map(Vec::len).sum();
        assert_eq!(norm, (ones as f64).sqrt(), "{ones} ones in {tensors} tensors");
    }
}

/// A step of these tensors, in some of which a gradient is not finite.
struct Call {
    tensors: Vec<usize>,
    bad: Vec<usize>,
}

/// What became of it: who is named, and the report.
type Told = (Option<String>, Report);

/// What is not finite, or its square is not.
const BAD: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2e19];

/// By AdamW with clipping, and the parameters after all of them.
fn steps<H: Home>(
    home: &H,
    lengths: &[usize],
    policy: NonFinite,
    calls: &[Call],
) -> (Vec<Told>, Vec<Vec<f32>>) {
    let builder = home.builder(Optimizer::builder(Adam::adamw()).max_grad_norm(1.0).non_finite(policy));
    let mut optimizer = builder.build().unwrap();
    let ids: Vec<_> =
        lengths.iter().enumerate().map(|(i, &len)| optimizer.register(i.to_string(), len).unwrap()).collect();
    let values: Vec<Vec<f32>> = lengths.iter().enumerate().map(|(i, &len)| noise(len, i)).collect();
    let mut parameters: Vec<H::F32> = values.iter().map(|p| home.f32(p, 0)).collect();
    let gradients: Vec<H::F32> = values.iter().map(|g| home.f32(g, 0)).collect();
    let mut told = Vec::new();
    for Call { tensors, bad } in calls {
        let poisoned: Vec<(usize, H::F32)> = bad
            .iter()
            .map(|&tensor| {
                let mut gradient = values[tensor].clone();
                *gradient.last_mut().unwrap() = BAD[tensor % BAD.len()];
                (tensor, home.f32(&gradient, 0))
            })
            .collect();
        let mut updates: Vec<Update<'_>> = (ids.iter().zip(&mut parameters).zip(&gradients).enumerate())
            .filter(|(tensor, _)| tensors.binary_search(tensor).is_ok())
            .map(|(tensor, ((&id, parameter), gradient))| {
                let poison = poisoned.iter().find(|(bad, _)| *bad == tensor);
                let gradient = poison.map_or(gradient, |(_, poison)| poison);
                Update::new(id, home.parameter(parameter, 0), home.f32_gradient(gradient, 0))
            })
            .collect();
        let name = match optimizer.step(&mut updates).and_then(|()| optimizer.synchronize()) {
            Ok(()) => None,
            Err(Error::NonFinite { name, .. }) => Some(name),
            Err(error) => panic!("{error}"),
        };
        told.push((name, optimizer.report().unwrap()));
    }
    (told, parameters.iter().map(|p| home.read(p, 0)).collect())
}

/// Both sides; what is told of the calls.
fn both(gpu: &Gpu, lengths: &[usize], policy: NonFinite, calls: &[Call]) -> Vec<Told> {
    let (told, parameters) = steps(&Host { simd: Simd::best() }, lengths, policy, calls);
    let (told_by_gpu, on_gpu) = steps(gpu, lengths, policy, calls);
    // Every digit is written: the same text is the same number, or both are NaN.
    for ((call, cpu), gpu) in calls.iter().zip(&told).zip(&told_by_gpu) {
        let what = format!("{policy:?}, {} tensors, bad are {:?}", call.tensors.len(), call.bad);
        assert_eq!(format!("{gpu:?}"), format!("{cpu:?}"), "{what}");
    }
    assert!(on_gpu == parameters, "{policy:?}: other parameters");
    told
}

#[test]
fn a_step_of_any_number_of_tensors_is_that_of_the_cpu() {
    let Some(device) = Tested::find() else { return };
    let lengths: Vec<usize> = (0..MANY).map(short).collect();
    let calls: Vec<Call> =
        around().into_iter().map(|tensors| Call { tensors: (0..tensors).collect(), bad: vec![] }).collect();
    both(device.in_order(4), &lengths, NonFinite::Skip, &calls);
}

#[test]
fn whichever_gradient_is_not_finite_is_named() {
    let Some(device) = Tested::find() else { return };
    let mut lengths: Vec<usize> = (0..MANY).map(|tensor| short(tensor).max(1)).collect();
    lengths[ROW] = 2 * CHUNK + 1; // the bad one is in its last chunk
    // The first, the last, and those next to where a loop might end or start another round; one tensor more takes part.
    let suspects = || around().into_iter().filter(|&tensor| tensor < MANY);
    let call = |bad: &[usize]| {
        let tensors = 0..MANY.min(bad[bad.len() - 1] + 2);
        Call { tensors: tensors.collect(), bad: bad.to_vec() }
    };
    let mut calls: Vec<Call> = suspects().chain([MANY - 1]).map(|bad| call(&[bad])).collect();
    // Of several the first is named, by its place in the order of registration and not among those that take part.
    calls.extend([&[73, 74], &[255, 256], &[3, THREADS]].map(|bad| call(bad)));
    for bad in [74, ROW + 1, THREADS] {
        let Call { mut tensors, bad } = call(&[bad]);
        tensors.retain(|tensor| tensor % 5 != 0 || bad.contains(tensor));
        calls.push(Call { tensors, bad });
    }
    calls.push(Call { tensors: (0..SOME).collect(), bad: vec![] });
    for (policy, calls) in [(NonFinite::Error, &calls[..]), (NonFinite::Skip, &calls[calls.len() - 7..])] {
        let told = both(device.in_order(5), &lengths, policy, calls);
        for (call, (name, report)) in calls.iter().zip(told) {
            let first = call.bad.first();
            assert_eq!(report.skipped, first.is_some(), "{:?}", call.bad);
            assert_eq!(name, first.filter(|_| policy == NonFinite::Error).map(usize::to_string));
        }
    }
}
