//! One promise: a kernel that goes wrong is an error of the call that waits for it, and the optimizer says that it is lost.
//! Alone in its process: the device is lost to whoever shares the context.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::{Adam, Error, Optimizer, Update};
use gpu::{Gpu, gpus};

#[test]
fn a_kernel_that_goes_wrong_is_found() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.only_emulated() else { return };
    let gpu = Gpu::new(0);
    let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    let id = optimizer.register("w", 1000).unwrap();
    let gradient = gpu.upload(&[1.0; 1000]);
    let mut parameter = gpu.upload(&[1.0; 999]);
    // SAFETY: wrong on purpose, by one element; the emulated driver has no memory to corrupt.
    let too_long = unsafe {
        let address =
            fadam::cuda::cudarc::driver::DevicePtrMut::device_ptr_mut(&mut parameter, &gpu.stream).0;
        fadam::TensorMut::from_device_address::<f32>(address, 1000, gpu.context())
    };
    optimizer.step(&mut [Update::new(id, too_long, &gradient)]).unwrap(); // nobody has waited yet
    let error = optimizer.report().unwrap_err();
    assert!(matches!(error, Error::Cuda { .. }), "{error:?}");
    assert!(error.to_string().contains("ILLEGAL_ADDRESS"), "{error}");
    let fault = emulator.last_fault();
    assert!(fault.contains("adam") && fault.contains("line"), "{fault}");
    assert!(matches!(optimizer.report(), Err(Error::Lost)), "the context is gone, and with it the state");
}

/// Whichever call is the first to find that the device is gone, the optimizer is lost.
#[test]
fn a_device_that_is_gone_is_found_by_every_call() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.only_emulated() else { return };
    type Call = fn(&mut Optimizer) -> Result<(), Error>;
    let calls: [Call; 6] = [
        |optimizer| optimizer.step(&mut []),
        |optimizer| optimizer.set_learning_rate(0.5),
        |optimizer| optimizer.set_grad_scale(2.0),
        |optimizer| optimizer.register("late", 3).map(drop),
        |optimizer| optimizer.report().map(drop),
        |optimizer| optimizer.synchronize(),
    ];
    for (i, call) in calls.into_iter().enumerate() {
        let (optimizer, gpu) = dead(emulator, LAUNCH_FAILED);
        assert_lost(optimizer, call, &format!("call {i}"));
        drop(gpu);
    }
}

/// Whichever error ends a context, the optimizer is lost; after one that does not, it is not.
#[test]
fn every_error_that_ends_a_context_is_known() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.only_emulated() else { return };
    // Of cuda.h: "to continue using CUDA, the process must be terminated and relaunched", or the like.
    const FATAL: [u32; 15] =
        [214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, LAUNCH_FAILED, 721, 810, 911];
    for code in FATAL {
        let (optimizer, gpu) = dead(emulator, code);
        assert_lost(optimizer, |optimizer| optimizer.step(&mut []), &format!("error {code}"));
        drop(gpu);
    }
    // Those that the emulated driver forgets after one call are injected into the next ones, too.
    const REPEATED: [u32; 4] = [4, 46, 709, 999];
    for code in REPEATED {
        let (optimizer, gpu) = dead(emulator, code);
        (1..=2).for_each(|nth| emulator.fail("cuStreamSynchronize", nth, code));
        assert_lost(optimizer, Optimizer::synchronize, &format!("error {code}"));
        drop(gpu);
    }
    const INVALID_VALUE: u32 = 1;
    let (mut optimizer, gpu) = dead(emulator, INVALID_VALUE);
    optimizer.step(&mut []).unwrap();
    drop((optimizer, gpu));
}

const LAUNCH_FAILED: u32 = 719;

/// An optimizer after a synchronisation of its device that has failed with this error.
fn dead(emulator: &emulator::Emulator, code: u32) -> (Optimizer, Gpu) {
    let gpu = Gpu::new(0);
    let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    optimizer.register("w", 10).unwrap();
    optimizer.step(&mut []).unwrap();
    gpu.stream.synchronize().unwrap();
    emulator.fail("cuStreamSynchronize", 1, code);
    assert_eq!(gpu.stream.synchronize().unwrap_err().0 as u32, code);
    (optimizer, gpu)
}

fn assert_lost(mut optimizer: Optimizer, call: impl Fn(&mut Optimizer) -> Result<(), Error>, what: &str) {
    let error = call(&mut optimizer).unwrap_err();
    assert!(matches!(error, Error::Cuda { .. }), "{what}: {error:?}");
    assert!(matches!(call(&mut optimizer), Err(Error::Lost)), "{what}");
}
