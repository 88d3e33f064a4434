//! One promise: where the driver is older than NVRTC's PTX, machine code is compiled for the device and loaded. The emulated
//! driver plays such a driver; it cannot execute machine code, so the launch is where this test ends.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::{Adam, Error, FAdam, FisherAdam, Optimizer, Update};
use gpu::{Gpu, gpus};

#[test]
fn a_driver_older_than_the_compiler_gets_machine_code() {
    let emulator = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = emulator else {
        println!("skipped: a real driver is as old as it is");
        return;
    };
    emulator.set_driver_version(12_000);
    let build = |gpu: &Gpu, kappa| {
        let algorithm = FAdam { kappa, ..FAdam::default() };
        Optimizer::builder(algorithm).stream(gpu.stream.clone()).norms(true).build()
    };
    // Without the fallback this would be all: the driver refuses PTX, and then everything.
    let error = build(&gpus[0], None).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("for a driver of CUDA 12.0") && text.contains("nvidia-cuda-nvrtc-cu12"), "{text}");
    emulator.set_cubin_loads(true);
    for gpu in &gpus {
        build(gpu, Some(1.0)).unwrap();
        let builder = Optimizer::builder(FisherAdam { rho: 0.3, ..FisherAdam::default() });
        builder.stream(gpu.stream.clone()).build().unwrap();
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let id = optimizer.register("w", 3).unwrap();
        let (mut parameter, gradient) = (gpu.upload(&[1.0; 3]), gpu.upload(&[1.0; 3]));
        let error = optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap_err();
        assert!(
            matches!(error, Error::Cuda { .. }) && error.to_string().contains("NOT_SUPPORTED"),
            "{error}"
        );
        assert_eq!(optimizer.report().unwrap().step, 0, "untouched");
    }
}
