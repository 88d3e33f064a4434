//! One promise: whatever a process has done to the floating-point environment, of the calling thread, of the threads of a
//! pool, or of the thread that has made it, the bits are the documented ones, and each thread has its own environment
//! afterwards.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

#[path = "common/thorough.rs"]
mod thorough;
mod trajectories;

use fadam::{
    Adam, Algorithm, Device, EmpiricalFisher, FAdam, FisherAdam, FisherPower, LossScale, Optimizer, Schedule,
    Simd, Tensor, TensorMut, Update, accumulate, global_norm, natural_gradient_step,
};
use half::bf16;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::arch::asm;

#[cfg(target_arch = "x86_64")]
mod control {
    use super::asm;

    /// MXCSR: rounding down, up, to zero, flush-to-zero, denormals-are-zero, both, all of it.
    pub(crate) const SPOILT: &[u64] = &[0x3f80, 0x5f80, 0x7f80, 0x9f80, 0x1fc0, 0x9fc0, 0xdfc0];

    pub(crate) fn get() -> u64 {
        let mut control = 0_u32;
        // SAFETY: it writes four bytes to a variable that has them.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut control) };
        u64::from(control & !0x3f)
    }

    pub(crate) fn set(control: u64) {
        let control = control as u32;
        // SAFETY: all exceptions are masked.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const control) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    use super::asm;

    /// FPCR: rounding up, down, to zero, flush-to-zero, all of it.
    pub(crate) const SPOILT: &[u64] = &[1 << 22, 2 << 22, 3 << 22, 1 << 24, (1 << 24) | (2 << 22)];

    pub(crate) fn get() -> u64 {
        let control: u64;
        // SAFETY: it reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) control) };
        control
    }

    pub(crate) fn set(control: u64) {
        // SAFETY: no exception is trapped.
        unsafe { asm!("msr fpcr, {}", in(reg) control) };
    }
}

/// Runs `work` in a pool that a thread with this environment has made, so that all its threads have inherited it.
fn spoilt<T: Send>(environment: u64, threads: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            control::set(environment);
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let outcome = pool.install(|| {
                assert_eq!(control::get(), environment, "threads inherit it");
                let outcome = work();
                assert_eq!(control::get(), environment, "it is given back");
                outcome
            });
            control::set(clean());
            outcome
        });
        thread.join().unwrap()
    })
}

fn clean() -> u64 {
    if cfg!(target_arch = "x86_64") { 0x1f80 } else { 0 }
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Something subnormal, and quotients that are rounded one way or another.
fn arithmetic() -> [u32; 4] {
    let [smallest, half, one, three, subnormal] =
        std::hint::black_box([f32::MIN_POSITIVE, 0.5, 1.0, 3.0, f32::from_bits(3)]);
    [smallest * half, one / three, -one / three, subnormal * three].map(f32::to_bits)
}

#[test]
fn the_environments_spoil_arithmetic() {
    let expected = arithmetic();
    for &environment in control::SPOILT {
        assert_ne!(spoilt(environment, 1, arithmetic), expected, "{environment:x} changes nothing");
    }
}

/// Every algorithm, every way to keep its tensors, all lengths: small ones on the caller, large ones on three threads.
#[test]
fn a_step_has_the_documented_bits() {
    let simd = Simd::ALL.into_iter().rfind(|simd| simd.is_available()).unwrap();
    for (i, trajectory) in thorough::some(trajectories::all()).into_iter().enumerate() {
        let inputs = trajectory.inputs();
        let reference = pool(1).install(|| trajectory.replay(&inputs, simd, 0));
        let (environment, threads) = (control::SPOILT[i % control::SPOILT.len()], 1 + i % 3);
        let outcome = spoilt(environment, threads, || trajectory.replay(&inputs, simd, 0));
        outcome.assert_same_bits(&reference, &format!("{}, environment {environment:x}", trajectory.name));
    }
}

/// Numbers at all magnitudes, subnormals among them.
fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) >> 2 & 0x3fff_ffff)).collect()
}

/// What the functions compute that are no step, as bits. In here the test has no arithmetic of its own.
fn functions() -> Vec<u64> {
    let len = 70_001;
    let (a, b) = (values(len), values(len + 1)[1..].to_vec());
    let narrow: Vec<bf16> = a.iter().map(|&x| bf16::from_f32(x)).collect();
    let mut all = vec![];
    all.push(global_norm(Device::Cpu, &[(&a).into(), (&narrow).into()]).unwrap().to_bits());
    let mut fisher = EmpiricalFisher::new(Device::Cpu, len).unwrap();
    fisher.add(&a).unwrap();
    fisher.add(&narrow).unwrap();
    let diagonal = fisher.diagonal().unwrap();
    all.extend(diagonal.iter().map(|x| u64::from(x.to_bits())));
    let mut theta = b.clone();
    natural_gradient_step(Device::Cpu, &mut theta, &a, &diagonal, 0.1, FisherPower::Half, 1e-30).unwrap();
    all.extend(theta.iter().map(|x| u64::from(x.to_bits())));
    let mut sum = b.clone();
    for gradient in [Tensor::from(&a), Tensor::from(&narrow)] {
        accumulate(Device::Cpu, &mut [(TensorMut::from(&mut sum), gradient)], false).unwrap();
    }
    all.extend(sum.iter().map(|x| u64::from(x.to_bits())));
    let schedules =
        [Schedule::cosine(7, 100, 0.1), Schedule::inverse_sqrt(7, 100), Schedule::linear(3, 9, 0.7)];
    all.extend(schedules.iter().flat_map(|schedule| (0..100).map(|step| schedule.factor(step).to_bits())));
    all
}

/// State that is loaded, and what a group's hyper-parameters and the scales become.
fn scalars() -> Vec<u64> {
    let path = std::env::temp_dir().join(format!(
        "fadam-environment-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let algorithms: [Algorithm; 3] = [
        Adam { betas: (0.7, 0.9), ..Adam::adamw() }.into(),
        FAdam { kappa: Some(1.1), ..FAdam::default() }.into(),
        FisherAdam::default().into(),
    ];
    let mut all = vec![];
    for algorithm in algorithms {
        let scale = LossScale { init_scale: 333.3, backoff_factor: 0.7, ..LossScale::default() };
        let make = || {
            let builder = Optimizer::builder(algorithm).loss_scale(scale).max_grad_norm(0.1);
            let mut optimizer = builder.build().unwrap();
            optimizer.set_grad_scale(3.0).unwrap();
            optimizer.set_learning_rate(3.3e-4).unwrap();
            let id = optimizer.register("w", 300).unwrap();
            (optimizer, id)
        };
        let (mut optimizer, id) = make();
        let (mut parameter, gradient) = (vec![1.0_f32; 300], values(300));
        for infinite in [false, true, false] {
            let mut gradient = gradient.clone();
            if infinite {
                gradient[3] = f32::INFINITY;
            }
            optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        }
        optimizer.save(&path).unwrap();
        let (mut resumed, id) = make();
        resumed.load(&path).unwrap();
        resumed.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        all.push(resumed.loss_scale().unwrap().to_bits());
        all.push(resumed.report().unwrap().grad_norm.unwrap().to_bits());
        all.extend(parameter.iter().map(|x| u64::from(x.to_bits())));
    }
    std::fs::remove_file(path).unwrap();
    all
}

#[test]
fn the_other_functions_too() {
    let expected = (functions(), scalars());
    for &environment in control::SPOILT {
        for threads in [1, 3] {
            let found = spoilt(environment, threads, || (functions(), scalars()));
            assert!(found == expected, "{environment:x}, {threads} threads");
        }
    }
}
