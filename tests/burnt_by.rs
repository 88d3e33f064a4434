//! What users of fused optimizers got burnt by elsewhere, one test each. The numbers are those of the list that the
//! project keeps; 8 (a CUDA graph freezes learning rate and step) has no counterpart on the CPU beyond properties.rs,
//! and 9 (state lost on load) belongs to the tests of saved state.

mod common;

use common::{Gradient, Model, algorithms, bits, noise};
use fadam::{
    Adam, Algorithm, Builder, Device, Dtype, FisherAdam, Master, NonFinite, Optimizer, Rounding, Schedule,
    Simd, global_norm,
};
use half::bf16;

/// 1. Tensors of more than 2³¹ elements silently not updated (DeepSpeed#7640, apex#1825, TransformerEngine#3136).
///
/// A real step would need 70 GB. The norm of a bf16 tensor only reads, by the same chunks and the same walk: one window
/// of zeros is mapped again and again to make more than 2³² elements (8.6 GB of addresses, 2 MiB of memory), and
/// only a last window, beyond what 31 or 32 bits can count, is not zero.
#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(debug_assertions, ignore = "reads 2³² elements: cargo test --release --test burnt_by")]
fn n01_more_elements_than_32_bits_can_count() {
    use std::ptr::null_mut;
    const WINDOW: usize = 2 << 20; // bytes, 2²⁰ elements
    const WINDOWS: usize = (1 << 12) + 1;
    // SAFETY: plain system calls; every result is checked, and the mapping lives until the end of the test.
    let tensor: &[bf16] = unsafe {
        let file = |value: bf16| {
            let fd = libc::memfd_create(c"window".as_ptr(), 0);
            assert!(fd >= 0 && libc::ftruncate(fd, WINDOW as libc::off_t) == 0);
            let bytes = value.to_bits().to_ne_bytes();
            assert_eq!(libc::pwrite(fd, bytes.as_ptr().cast(), 2, (WINDOW - 2) as libc::off_t), 2);
            fd
        };
        let (zeros, last) = (file(bf16::ZERO), file(bf16::from_f32(3.0)));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = libc::mmap(null_mut(), WINDOW * WINDOWS, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        for window in 0..WINDOWS {
            let fd = if window + 1 == WINDOWS { last } else { zeros };
            let at = start.byte_add(window * WINDOW);
            let mapped = libc::mmap(at, WINDOW, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_FIXED, fd, 0);
            assert_eq!(mapped, at);
        }
        std::slice::from_raw_parts(start.cast(), WINDOW * WINDOWS / 2)
    };
    assert!(tensor.len() > 1 << 32);
    assert_eq!(global_norm(Device::Cpu, &[tensor.into()]).unwrap(), 3.0);
    let neighbour = [4.0_f32];
    assert_eq!(global_norm(Device::Cpu, &[tensor.into(), (&neighbour).into()]).unwrap(), 5.0);
}

/// 2. An empty tensor skips or corrupts its neighbours (TransformerEngine#3207, #3202, pytorch#100701).
#[test]
fn n02_an_empty_tensor_skips_no_neighbour() {
    for algorithm in algorithms() {
        for first in [true, false] {
            let p = noise(70_000, 1); // several threads
            let (parameters, gradients): ([&[f32]; 2], [&[f32]; 2]) = match first {
                true => ([&[], &p], [&[], &p]),
                false => ([&p, &[]], [&p, &[]]),
            };
            let mut model = Model::new(algorithm, &parameters);
            let mut alone = Model::new(algorithm, &[&p]);
            model.step(&gradients);
            alone.step(&[&p]);
            assert_eq!(bits(&model.parameters.concat()), bits(&alone.parameters[0]), "{algorithm:?}");
        }
    }
}

/// 3. bf16 weights that do not move (apex#1728; candle-nn: g = 1, lr = 1e-3, 100 steps, still 1.0).
///
/// Here a bf16 gradient moves its f32 parameter, and a bf16 parameter moves as far, whatever is kept beside it, unless it is
/// to be rounded to nearest without anything beside it. More of it: bf16.rs.
#[test]
fn n03_bf16_weights_move() {
    let mut model = Model::new(Adam::default(), &[&[1.0]]);
    for _ in 0..100 {
        model.try_step(&[Some(Gradient::Bf16(vec![bf16::ONE]))]).unwrap();
    }
    assert!((model.parameters[0][0] - 0.9).abs() < 1e-5);
    let walk = |builder: Builder| {
        let mut model = Model::bf16(builder, &[&[1.0]]);
        for _ in 0..100 {
            model.try_step(&[Some(Gradient::Bf16(vec![bf16::ONE]))]).unwrap();
        }
        model.parameters[0][0]
    };
    let builder = || Optimizer::builder(Adam::default());
    assert_eq!(walk(builder()), bf16::from_f32(0.9).to_f32());
    assert_eq!(walk(builder().master(Master::F32)), bf16::from_f32(0.9).to_f32());
    let by_chance = walk(builder().master(Master::None));
    assert!((by_chance - 0.9).abs() < 0.1, "{by_chance}"); // five standard deviations of 2⁻⁹ · √100
    assert_eq!(walk(builder().master(Master::None).rounding(Rounding::Nearest)), 1.0);
}

/// 4. ε underflows to 0 in a low-precision type (optax#1754).
#[test]
fn n04_epsilon_survives_a_bf16_gradient() {
    // Δ = g/(|g| + ε) with ε = 1e-8: a tenth for g = ε/9, and not the sign.
    let eps = 1e-8_f32;
    let mut model = Model::new(Adam { lr: 1.0, ..Adam::default() }, &[&[0.0]]);
    model.try_step(&[Some(Gradient::Bf16(vec![bf16::from_f32(eps / 9.0)]))]).unwrap();
    assert!((model.parameters[0][0] + 0.1).abs() < 1e-3, "{}", model.parameters[0][0]);
    // All in bf16: ε is not. m is off by 2⁻⁷ at most, √v (a tenth of the denominator) by less, the parameter by 2⁻⁷.
    let builder = Optimizer::builder(Adam { lr: 1.0, ..Adam::default() });
    let mut model = Model::bf16(builder.master(Master::None).moments(Dtype::Bf16), &[&[0.0; 100]]);
    model.try_step(&[Some(Gradient::Bf16(vec![bf16::from_f32(eps / 9.0); 100]))]).unwrap();
    for p in &model.parameters[0] {
        assert!((p + 0.1).abs() < 2e-3, "{p}");
    }
}

/// 5. `found_inf` ignored, or compared with 1 when it is a sum (pytorch#95781).
#[test]
fn n05_any_number_of_bad_gradients_is_found() {
    for policy in [NonFinite::Skip, NonFinite::Error] {
        for bad in 1..=3 {
            let builder = Optimizer::builder(Adam::default()).non_finite(policy);
            let mut model = Model::built(builder, &[&[1.0; 3], &[1.0; 3], &[1.0; 3]]);
            let before = model.snapshot();
            let gradients = [0, 1, 2]
                .map(|i| Some(if i < bad { vec![1.0, f32::INFINITY, f32::NAN] } else { vec![1.0; 3] }));
            assert_eq!(model.try_step(&gradients).is_err(), policy == NonFinite::Error);
            assert!(model.report().skipped);
            assert_eq!(model.snapshot(), before);
        }
    }
}

/// 6. A skipped step is invisible to the host: the schedule advances all the same (accelerate#4242).
#[test]
fn n06_a_skipped_step_is_seen() {
    let mut model = Model::new(Adam::default(), &[&[1.0]]);
    let mut scheduled = 0;
    for (i, g) in [1.0, f32::NAN, 1.0, f32::INFINITY, f32::INFINITY, 1.0].into_iter().enumerate() {
        let report = model.step(&[&[g]]);
        assert_eq!(report.step, i as u64 + 1);
        scheduled += u64::from(!report.skipped);
        assert_eq!(report.step - report.skipped_steps, scheduled);
        assert_eq!(model.state(0).step, scheduled);
    }
    assert_eq!(scheduled, 3);
}

/// 6, again: a schedule that the optimizer keeps advances in steps that took place alone.
#[test]
fn n06_a_skipped_step_is_invisible_to_the_schedule() {
    let schedule = Schedule::cosine(2, 20, 0.0);
    for algorithm in algorithms() {
        let built = || Model::built(Optimizer::builder(algorithm).schedule(schedule), &[&[1.0, 2.0]]);
        let (mut with, mut without) = (built(), built());
        for step in 0..8 {
            let g = noise(2, step);
            if step % 3 == 1 {
                assert!(with.step(&[&[f32::NAN, 1.0]]).skipped);
            }
            assert_eq!(with.step(&[&g]).learning_rate_factor, without.step(&[&g]).learning_rate_factor);
            assert_eq!(with.snapshot(), without.snapshot(), "{algorithm:?}");
        }
    }
}

/// 7. Step counters that drift between dtype buckets (DeepSpeed#8471, TransformerEngine#1986).
#[test]
fn n07_gradients_of_either_type_count_alike() {
    for algorithm in algorithms() {
        let mut model = Model::new(algorithm, &[&[1.0; 5], &[1.0; 5], &[1.0; 5]]);
        for step in 0..4 {
            let g = |short: bool| {
                Some(match short {
                    true => Gradient::Bf16(vec![bf16::from_f32(0.5); 5]),
                    false => Gradient::F32(vec![0.5; 5]),
                })
            };
            // p2 changes its type from step to step.
            model.try_step(&[g(false), g(true), g(step % 2 == 0)]).unwrap();
            if step == 2 {
                model.try_step(&[g(false), g(true), Some(vec![f32::NAN; 5].into())]).unwrap(); // skipped for all
            }
        }
        for i in 0..3 {
            assert_eq!(model.state(i).step, 4);
            assert_eq!(bits(&model.parameters[i]), bits(&model.parameters[0]), "{algorithm:?}");
        }
    }
}

/// 10. No global clip in Rust (candle#2962, rlevo#328): here the norm is over all tensors together.
#[test]
fn n10_clipping_is_over_all_tensors() {
    let builder = || Optimizer::builder(Adam { eps: 1.0, ..Adam::default() });
    let mut clipped = Model::built(builder().max_grad_norm(1.3), &[&[0.0], &[0.0, 0.0]]);
    let report = clipped.step(&[&[3.0], &[4.0, 12.0]]);
    assert_eq!(report.grad_norm, Some(13.0));
    assert!((report.clip_coefficient.unwrap() - 0.1).abs() < 1e-7);
    let mut scaled = Model::built(builder(), &[&[0.0], &[0.0, 0.0]]);
    scaled.step(&[&[0.3], &[0.4, 1.2]]);
    for (a, b) in clipped.parameters.concat().iter().zip(scaled.parameters.concat()) {
        assert!((a - b).abs() < 1e-9);
    }
}

/// 11. bf16 norms that depend on how work is split (torchtitan#4135).
#[test]
fn n11_norms_do_not_depend_on_the_split() {
    let long: Vec<bf16> = noise(200_000, 1).iter().map(|&g| bf16::from_f32(g)).collect();
    let short = noise(5000, 2);
    let norms = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut all = vec![global_norm(Device::Cpu, &[(&long).into(), (&short).into()]).unwrap()];
            for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
                let builder = Optimizer::builder(Adam::default()).simd(simd);
                let mut model = Model::built(builder, &[&vec![0.0; long.len()], &vec![0.0; short.len()]]);
                model.try_step(&[Some(Gradient::Bf16(long.clone())), Some(short.clone().into())]).unwrap();
                all.push(model.report().grad_norm.unwrap());
            }
            all
        })
    };
    let first = norms(1);
    assert!(first.iter().all(|norm| *norm == first[0]), "{first:?}");
    for threads in [2, 3, 5] {
        assert_eq!(norms(threads), first, "{threads} threads");
    }
}

// 12. A panic where there is no driver (gam#2972), a stub of one (next-plaid#50), NVRTC without headers (cuda-python#844),
// PTX newer than the driver (cudarc#434): drivers.rs.

/// 13. NaN at the first zero gradient in published FAdam ports (lessw2020 #1).
#[test]
fn n13_a_zero_gradient_is_no_nan() {
    let mut all = algorithms();
    for eps in [0.0, 1e-8] {
        all.push(FisherAdam { eps, rho: 1.0, ..FisherAdam::default() }.into());
        all.push(FisherAdam { eps, eps2: 0.0, ..FisherAdam::default() }.into());
    }
    for algorithm in all {
        for gradients in [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]] {
            let run = |algorithm: Algorithm| {
                let mut model = Model::new(algorithm, &[&[1.0, -1.0, 0.0]]);
                for g in gradients {
                    model.step(&[&[g, 0.0, g]]);
                }
                model
            };
            let mut model = run(algorithm);
            let state = model.state(0);
            let values = [&model.parameters[0], &state.exp_avg, &state.exp_avg_sq];
            assert!(values.into_iter().flatten().all(|x| x.is_finite()), "{algorithm:?}: {model:?}");
        }
    }
}
