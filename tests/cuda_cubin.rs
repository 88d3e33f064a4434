//! One promise: where the driver does not compile NVRTC's PTX, at load or when a kernel is looked up, machine code is compiled
//! for the device and loaded. The emulated driver plays such drivers; it cannot execute machine code, so the launch is where
//! these tests end.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use emulator::{Driver, Emulator};
use fadam::{Adam, Error, FAdam, FisherAdam, Optimizer, Update};
use gpu::{Gpu, gpus};

const OUT_OF_MEMORY: u32 = 2;
const INVALID_PTX: u32 = 218;
const UNSUPPORTED_PTX_VERSION: u32 = 222;

/// Code, its name, and what helps where machine code is refused, too.
const NOT_COMPILED: [(u32, &str, &str); 4] = [
    (INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "try another NVRTC"),
    (221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "libnvidia-ptxjitcompiler.so.1"),
    (UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "try another NVRTC"),
    (223, "CUDA_ERROR_JIT_COMPILATION_DISABLED", "CUDA_DISABLE_PTX_JIT"),
];

/// Emulated devices of a driver that compiles everything, as yet.
fn emulated(driver: &Driver) -> Option<(&Emulator, Vec<Gpu>)> {
    let gpus = gpus()?;
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver compiles what it compiles");
        return None;
    };
    emulator.set_driver_version(13_040);
    emulator.set_jit(0);
    emulator.set_lazy(false);
    emulator.set_cubin_loads(false);
    Some((emulator, gpus))
}

fn build(gpu: &Gpu) -> Result<Optimizer, Error> {
    Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build()
}

/// Images that were loaded, and functions that were looked up, since the last reset.
fn loads(emulator: &Emulator) -> [u64; 2] {
    let calls = emulator.calls();
    let count = |name| calls.iter().find(|(called, _)| called == name).map_or(0, |(_, count)| *count);
    ["cuModuleLoadData", "cuModuleGetFunction"].map(count)
}

/// Its functions are those of machine code, and nothing has happened when the launch is refused.
fn ends_at_the_launch(gpu: &Gpu) {
    let mut optimizer = build(gpu).unwrap();
    let id = optimizer.register("w", 3).unwrap();
    let (mut parameter, gradient) = (gpu.upload(&[1.0; 3]), gpu.upload(&[1.0; 3]));
    let error = optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap_err();
    assert!(matches!(error, Error::Cuda { .. }) && error.to_string().contains("NOT_SUPPORTED"), "{error}");
    assert_eq!(optimizer.report().unwrap().step, 0, "untouched");
}

#[test]
fn a_driver_older_than_the_compiler_gets_machine_code() {
    let driver = emulator::find();
    let Some((emulator, gpus)) = emulated(&driver) else { return };
    emulator.set_driver_version(12_000);
    for lazy in [false, true] {
        emulator.set_lazy(lazy);
        emulator.set_cubin_loads(false);
        // Without the fallback this would be all: the driver refuses PTX, and then everything.
        let error = build(&gpus[0]).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let text = error.to_string();
        let (major, minor) = fadam::cuda::nvrtc_version().unwrap();
        assert!(text.contains(&format!("kernels of NVRTC {major}.{minor} (that of CUDA 12.0")), "{text}");
        assert!(text.contains("UNSUPPORTED_PTX_VERSION") && text.contains("INVALID_IMAGE"), "{text}");
        assert!(text.contains("update the driver, or take the compiler of its CUDA"), "{text}");
        emulator.set_cubin_loads(true);
        gpus.iter().for_each(ends_at_the_launch);
    }
    // Every kernel is there: the larger algorithms, and what is no optimizer's.
    for gpu in &gpus {
        let fadam = FAdam { kappa: Some(1.0), ..FAdam::default() };
        Optimizer::builder(fadam).stream(gpu.stream.clone()).norms(true).build().unwrap();
        let fisher = FisherAdam { rho: 0.3, ..FisherAdam::default() };
        Optimizer::builder(fisher).stream(gpu.stream.clone()).build().unwrap();
    }
}

#[test]
fn a_driver_that_compiles_no_ptx_gets_machine_code() {
    let driver = emulator::find();
    let Some((emulator, gpus)) = emulated(&driver) else { return };
    for (code, name, remedy) in NOT_COMPILED {
        for lazy in [false, true] {
            let what = format!("{name}, lazy: {lazy}");
            emulator.set_jit(code);
            emulator.set_lazy(lazy);
            emulator.set_cubin_loads(false);
            let error = build(&gpus[0]).unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{what}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("INVALID_IMAGE"), "{what}: {text}");
            let doing = if lazy { "answers: looking up a kernel" } else { "answers: loading kernels" };
            assert!(text.contains(remedy) && text.contains(doing), "{what}: {text}");
            assert!(!text.contains("compiler of its CUDA"), "{what}: the driver is not older: {text}");

            emulator.set_cubin_loads(true);
            let source = "extern \"C\" __global__ void one() {} extern \"C\" __global__ void two() {}";
            for gpu in &gpus {
                ends_at_the_launch(gpu);
                emulator.reset_counts();
                fadam::cuda::compile(gpu.context(), source, &["one", "two"]).unwrap();
                assert_eq!(loads(emulator), [2, 2 + u64::from(lazy)], "{what}");
            }
        }
    }
    emulator.set_jit(0);
    emulator.reset_counts();
    drop(gpus);
    assert_eq!(emulator.leaks(), "", "modules that were refused late are unloaded");
}

/// Errors that say nothing of PTX or machine code are told as they are.
#[test]
fn other_errors_stay_what_they_are() {
    let driver = emulator::find();
    let Some((emulator, gpus)) = emulated(&driver) else { return };
    emulator.set_cubin_loads(true);
    for (jit, nth) in [(0, 1), (INVALID_PTX, 2)] {
        emulator.set_jit(jit);
        emulator.reset_counts();
        emulator.fail("cuModuleLoadData", nth, OUT_OF_MEMORY);
        let error = build(&gpus[0]).unwrap_err();
        assert!(
            matches!(error, Error::Cuda { .. }) && error.to_string().contains("OUT_OF_MEMORY"),
            "{error}"
        );
        assert_eq!(loads(emulator)[0], nth, "tried once");
    }
    // A kernel that does not compile at all: the driver refuses PTX and machine code alike.
    emulator.set_jit(INVALID_PTX);
    emulator.fail("cuModuleLoadData", 2, INVALID_PTX);
    let error = build(&gpus[0]).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert_eq!(text.matches("CUDA_ERROR_INVALID_PTX").count(), 2, "{text}");
    assert!(text.contains("try another NVRTC"), "{text}");
    emulator.set_jit(0);
}
