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
    let emulator = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = emulator else { return };
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
    const LAUNCH_FAILED: u32 = 719;
    let emulator = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = emulator else { return };
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
        let gpu = Gpu::new(1);
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        optimizer.register("w", 10).unwrap();
        optimizer.step(&mut []).unwrap();
        gpu.stream.synchronize().unwrap();
        emulator.fail("cuStreamSynchronize", 1, LAUNCH_FAILED);
        gpu.stream.synchronize().unwrap_err();
        let error = call(&mut optimizer).unwrap_err();
        assert!(matches!(error, Error::Cuda { .. }), "call {i}: {error:?}");
        assert!(matches!(call(&mut optimizer), Err(Error::Lost)), "call {i}");
        drop((optimizer, gpu));
        emulator.clear_failures();
    }
}
