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
