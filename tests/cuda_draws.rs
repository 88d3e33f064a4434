//! One promise: bf16 is rounded on a GPU by the random bits that `fadam::numerics` defines, whatever the seed, the element,
//! the parameter and its step are, also beyond 32 bits of each.
#![cfg(feature = "cuda")]

#[path = "common/craft.rs"]
mod craft;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
mod trajectories;

use craft::Craft;
use fadam::{Adam, Dtype, FAdam, Master, NonFinite, Optimizer, Simd, Update};
use gpu::gpus;
use half::bf16;
use std::fs;
use std::io::Cursor;
use trajectories::{Home, Host, Kept, Trajectory};

fn named(name: &str) -> Trajectory {
    trajectories::bf16().into_iter().find(|trajectory| trajectory.name == name).unwrap()
}

#[test]
fn each_bit_of_a_seed_matters_as_on_the_cpu() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let t = Trajectory { lengths: trajectories::SMALL, steps: 1, ..named("adamw_all_bf16") };
    let inputs = t.inputs();
    for seed in [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        let t = Trajectory { kept: Kept { seed, ..t.kept }, ..t.clone() };
        let cpu = t.replay(&inputs, Simd::best(), 0);
        t.replay_on(&gpus[0], &inputs, 0).assert_same_bits(&cpu, &format!("seed {seed:#x}"));
    }
}

/// The file of `optimizer`, in which the parameters have come to around 2³² steps, and masters and averages began as many
/// steps ago as makes the numbers equal modulo 2³² in a step to come.
fn far_along(optimizer: &mut Optimizer, name: &str) -> Vec<u8> {
    const FAR: u64 = 1 << 32;
    let path = paths::scratch(&format!("draws-{name}.safetensors"));
    optimizer.save(&path).unwrap();
    let file = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    let edit = |list: &mut serde_json::Value| {
        for (parameter, step) in list.as_array_mut().unwrap().iter_mut().zip(FAR - 3..) {
            parameter["step"] = step.into();
            parameter["start"] = (step + 2).saturating_sub(FAR).max(1).into();
        }
    };
    Craft::new(&file).document("parameters", edit).finish()
}

/// Of the step the counter has 32 bits; all else has more.
#[test]
fn steps_beyond_32_bits_are_those_of_the_cpu() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let fadam = FAdam { eps0: 1e-2, eps_decay: 1e-9, ..FAdam::default() };
    for name in ["adamw_all_bf16", "fadam_remainder"] {
        let t = Trajectory { lengths: trajectories::SMALL, steps: 5, ..named(name) };
        let algorithm = if name == "adamw_all_bf16" { t.algorithm } else { fadam.into() };
        let t = Trajectory { algorithm, kept: Kept { ema: Some(0.9), ..t.kept }, ..t };
        let (inputs, host) = (t.inputs(), Host { simd: Simd::best() });
        let load = |mut old: Optimizer, new: &mut Optimizer| {
            new.load_from(&mut Cursor::new(far_along(&mut old, name))).unwrap();
        };
        let cpu = t.replay_in_parts((&host, &host), &inputs, 1, load);
        let gpu = t.replay_in_parts((&host, &gpus[0]), &inputs, 1, load);
        gpu.assert_same_bits(&cpu, name);
        assert_ne!(cpu.hash(), t.replay(&inputs, Simd::best(), 0).hash(), "{name}: the step does not matter");
    }
}

/// A parameter's number and the purpose fill more than 16 bits.
#[test]
fn a_parameter_behind_thousands_is_rounded_as_on_the_cpu() {
    const BEFORE: usize = 1 << 14;
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    fn last<H: Home>(home: &H) -> Vec<bf16> {
        let mut optimizer = home.builder(Optimizer::builder(COIN).master(Master::None)).build().unwrap();
        for i in 0..BEFORE {
            optimizer.register_bf16(i.to_string(), 0).unwrap();
        }
        let id = optimizer.register_bf16("last", 1000).unwrap();
        let (mut parameter, gradient) = (home.bf16(&[bf16::ONE; 1000], 0), home.f32(&[1.0; 1000], 0));
        let update = Update::new(id, home.bf16_parameter(&mut parameter, 0), home.f32_gradient(&gradient, 0));
        optimizer.step(&mut [update]).unwrap();
        home.read_bf16(&parameter, 0)
    }
    assert_eq!(last(&gpus[0]), last(&Host { simd: Simd::best() }));
}

/// Δ is 1, and 1 − η the middle of two bf16: what 1 becomes is one random bit.
const COIN: Adam = Adam {
    lr: 1.0 / 512.0,
    betas: (0.0, 0.0),
    eps: 0.0,
    weight_decay: 0.0,
    decay: fadam::Decay::Decoupled,
    amsgrad: false,
    maximize: false,
};

/// Philox4x32-10 as in Salmon et al. 2011.
fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let [l0, r0, l1, r1] = counter;
        let [a, b] = [0xd251_1f53 * u64::from(l0), 0xcd9e_8d57 * u64::from(l1)];
        counter = [(b >> 32) as u32 ^ r0 ^ key[0], b as u32, (a >> 32) as u32 ^ r1 ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// An element's 16 random bits in the first step of the first parameter.
fn random_bits(seed: u64, element: u64) -> u16 {
    let block = element / 8;
    let words = philox([seed as u32, (seed >> 32) as u32], [block as u32, (block >> 32) as u32, 1, 0]);
    (words[element as usize % 8 / 2] >> (16 * (element % 2))) as u16
}

/// From this element on the number of a draw, which serves 8 elements, has more than 32 bits. On the emulated driver alone:
/// see tests/cuda_large.rs.
#[test]
fn elements_beyond_32_bits_of_draws_have_their_own() {
    const FAR: u64 = 1 << 35;
    const LEN: u64 = FAR + 3 * 4096 + 5;
    /// Elements of bf16 in the window.
    const WINDOW: u64 = (17 << 16) / 2;
    const SEED: u64 = 0x0123_4567_89ab_cdef;
    let known = philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
    assert_eq!(known, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1], "Random123's known answer");
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: only the emulated driver runs single blocks");
        return;
    };
    let boundary = FAR / 4096 / 4; // four warps a block, a chunk each
    emulator.set_multiprocessors(1 << 21); // enough for a block for every four chunks
    let gpu = gpu::middle(&gpus);
    let builder = Optimizer::builder(COIN).master(Master::None).moments(Dtype::Bf16).seed(SEED);
    let builder = builder.non_finite(NonFinite::Propagate).stream(gpu.stream.clone());
    let mut optimizer = builder.build().unwrap();
    let id = optimizer.register_bf16("w", LEN as usize).unwrap();
    let mut parameter = gpu.stream.alloc_zeros::<bf16>(LEN as usize).unwrap();
    let mut gradient = gpu.stream.alloc_zeros::<bf16>(LEN as usize).unwrap();
    let ones = vec![bf16::ONE; WINDOW as usize];
    for tensor in [&mut parameter, &mut gradient] {
        gpu.stream.memcpy_htod(&ones, &mut tensor.slice_mut(..ones.len())).unwrap();
    }
    gpu.stream.synchronize().unwrap();
    // The last whole block before it, and the one behind it.
    emulator.run_blocks(boundary - 1, 2);
    optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
    let result = optimizer.synchronize();
    emulator.run_blocks(0, 0);
    emulator.set_multiprocessors(2);
    result.unwrap();
    let mut window = ones;
    gpu.stream.memcpy_dtoh(&parameter.slice(..window.len()), &mut window).unwrap();
    gpu.stream.synchronize().unwrap();
    let mut expected = vec![bf16::ONE; window.len()];
    for element in FAR - 4 * 4096..LEN {
        let down = random_bits(SEED, element) < 0x8000;
        expected[(element % WINDOW) as usize] = if down { bf16::from_bits(0x3f7f) } else { bf16::ONE };
    }
    let different = (0..expected.len()).filter(|&i| window[i] != expected[i]).count();
    assert_eq!(different, 0, "of {} elements", LEN - FAR + 4 * 4096);
}
