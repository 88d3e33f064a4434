//! One promise: the unsafe code has no undefined behaviour that miri sees: raw views, misaligned tensors, short last
//! rows, missing arrays, the moments' memory, and partial sums written by two threads. `.ci/test` runs this file under
//! miri, with scalar code and with AVX2; as a plain test it is quick and proves little.

mod trajectories;

use fadam::{
    Adam, Device, Dtype, EmpiricalFisher, FAdam, FisherPower, Optimizer, Simd, Tensor, TensorMut, Update,
    global_norm, natural_gradient_step,
};
use half::bf16;
use rayon::ThreadPoolBuilder;
use trajectories::Trajectory;

/// Around a row of 128 lanes, and an empty one; all on the calling thread.
const LENGTHS: &[usize] = &[130, 0, 1];

/// One for each kernel, gradient type, set of arrays and way to keep them: miri takes seconds for each.
const SELECTED: &[&str] = &[
    "adamw_amsgrad_maximize",
    "adamw_mixed_norms",
    "fadam_all_norms_without_check",
    "fadam_speculates_mixed",
    "fisher_adam_no_decay", // not ρ ≠ ½: libm has inline assembly
    "fisher_adam_speculates_sometimes_norms",
    "adamw_remainder_mixed_ema_reset",
    "adam_l2_amsgrad_all_bf16_norms",
    "fadam_speculates_master_reset_ema",
    "fadam_two_sweeps_bare",
    "fisher_adam_all_bf16",
];

#[test]
fn selected_trajectories_in_small() {
    let selected: Vec<_> = trajectories::all().into_iter().filter(|t| SELECTED.contains(&t.name)).collect();
    assert_eq!(selected.len(), SELECTED.len());
    for trajectory in selected {
        // A master begins in the first step and is read in the second.
        let steps = if trajectory.keeps_masters() { 2 } else { 1 };
        let small = Trajectory { lengths: LENGTHS, steps, ..trajectory };
        let inputs = small.inputs();
        let scalar = small.replay(&inputs, Simd::Scalar, 0);
        for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
            small.replay(&inputs, simd, 1).assert_same_bits(&scalar, small.name);
        }
    }
}

#[test]
fn moments_go_into_a_file_and_out_of_it() {
    let mut optimizer = Optimizer::new(Adam { amsgrad: true, ..Adam::default() }).unwrap();
    let id = optimizer.register("w", 5).unwrap();
    optimizer.step(&mut [Update::new(id, &mut [1.0_f32; 5], &[0.5_f32; 5])]).unwrap();
    let state = optimizer.state(id).unwrap();
    let path = std::env::temp_dir().join(format!("fadam-miri-{}", std::process::id()));
    optimizer.save(&path).unwrap();
    optimizer.step(&mut [Update::new(id, &mut [1.0_f32; 5], &[0.5_f32; 5])]).unwrap();
    optimizer.load(&path).unwrap();
    assert_eq!(optimizer.state(id).unwrap(), state);
    std::fs::remove_file(path).unwrap();
}

/// Enough elements for a fork (src/cpu/sweep.rs wants fewer under miri), in more than one chunk of one tensor.
const FORKS: usize = if cfg!(miri) { (1 << 13) + 1 } else { (1 << 16) + 1 };

#[test]
fn two_threads_write_one_row_of_sums() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let gradients = [vec![bf16::ONE; FORKS], vec![bf16::ONE; 4]];
    let tensors: Vec<Tensor<'_>> = gradients.iter().map(Into::into).collect();
    let norm = pool.install(|| global_norm(Device::Cpu, &tensors)).unwrap();
    assert_eq!(norm, ((FORKS + 4) as f64).sqrt());
}

#[test]
fn two_threads_step_one_tensor() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let id = optimizer.register("w", FORKS).unwrap();
    let (mut parameter, gradient) = (vec![1.0_f32; FORKS], vec![bf16::ONE; FORKS]);
    pool.install(|| optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)])).unwrap();
    assert!(parameter.iter().all(|&p| p == parameter[0]) && parameter[0] < 1.0);
}

/// Large state has memory of its own kind; it is all zeros and goes back as it came.
#[test]
fn state_of_huge_pages_is_zero() {
    let mut optimizer = Optimizer::new(FAdam::default()).unwrap();
    let len = (2 << 20) / size_of::<f32>();
    let id = optimizer.register("w", len).unwrap();
    let state = optimizer.state(id).unwrap();
    let some = state.exp_avg.iter().step_by(4099).chain(state.exp_avg.last()); // all of it would take miri minutes
    assert!(some.map(|x| x.to_bits()).all(|bits| bits == 0));
}

#[test]
fn raw_views_and_shared_gradients() {
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let [a, b] = ["a", "b"].map(|name| optimizer.register(name, 3).unwrap());
    let mut memory = [0.0_f32; 6];
    let gradient = [bf16::ONE; 4];
    let start = memory.as_mut_ptr();
    for _ in 0..2 {
        // SAFETY: two halves of one array, used by nothing else meanwhile; the gradient outlives its views.
        let mut updates = unsafe {
            [
                Update::new(
                    b,
                    TensorMut::from_raw_parts(start.add(3), 3),
                    Tensor::from_raw_parts(gradient.as_ptr().add(1), 3),
                ),
                Update::new(a, TensorMut::from_raw_parts(start, 3), Tensor::from(&gradient[..3])),
            ]
        };
        optimizer.step(&mut updates).unwrap();
    }
    assert!(memory.iter().all(|&p| p == memory[0] && p < 0.0));
    assert_eq!(Tensor::from(&gradient).dtype(), Dtype::Bf16);
}

#[test]
fn empirical_fisher_and_natural_gradient() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let len = 2 * 4096 + 130; // three chunks, the last with a short last row; enough for two threads
    let (mut parameter, gradient) = (vec![1.0_f32; len + 1], vec![bf16::ONE; len + 1]);
    pool.install(|| {
        let mut fisher = EmpiricalFisher::new(Device::Cpu, len).unwrap();
        fisher.add(&gradient[1..]).unwrap();
        let (diagonal, parameter) = (fisher.diagonal().unwrap(), &mut parameter[1..]);
        natural_gradient_step(Device::Cpu, parameter, &gradient[1..], &diagonal, 0.5, FisherPower::One, 0.0)
    })
    .unwrap();
    assert!(parameter[0] == 1.0 && parameter[1..].iter().all(|&p| p == 0.5));
}
