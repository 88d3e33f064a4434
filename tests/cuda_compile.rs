//! One promise: kernels of a caller's are compiled, loaded and looked up by `fadam::cuda::compile`, or an error says why not.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::Error;
use fadam::cuda::compile;
use fadam::cuda::cudarc::driver::{LaunchConfig, PushKernelArg};
use gpu::gpus;

const SOURCE: &str = r#"
extern "C" __global__ void halve(float *x, size_t len) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) x[i] *= 0.5f;
}
extern "C" __global__ void fused(float *x, float a, float b, float c) {
    if (threadIdx.x == 0) *x = a * b + c;
}
"#;

#[test]
fn callers_kernels_run() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    for gpu in &gpus {
        let module = compile(gpu.context(), SOURCE, &["halve", "fused"]).unwrap();
        let (halve, fused) = (module.load_function("halve").unwrap(), module.load_function("fused").unwrap());
        let mut x = gpu.upload(&[3.0; 1000]);
        let len = 999_usize; // the last one stays
        let mut launch = gpu.stream.launch_builder(&halve);
        launch.arg(&mut x).arg(&len);
        // SAFETY: the arguments are those of the kernel, which stays within `len` elements.
        unsafe { launch.launch(LaunchConfig::for_num_elems(1000)) }.unwrap();
        let halved = gpu.download(&x);
        assert!(halved[..999].iter().all(|&x| x == 1.5) && halved[999] == 3.0, "{halved:?}");
        // 1 + 2⁻²³ squared rounds to 1 + 2⁻²²; fused, its last bit is left.
        let (a, b, c) = (1.0 + f32::EPSILON, 1.0 + f32::EPSILON, -1.0 - 2.0 * f32::EPSILON);
        let mut launch = gpu.stream.launch_builder(&fused);
        launch.arg(&mut x).arg(&a).arg(&b).arg(&c);
        // SAFETY: as above; it writes the first element.
        unsafe { launch.launch(LaunchConfig::for_num_elems(1)) }.unwrap();
        assert_eq!(gpu.download(&x)[0], 0.0, "rounded twice");
        assert_eq!(a.mul_add(b, c), f32::EPSILON.powi(2));
    }
}

#[test]
fn what_cannot_be_compiled_or_found_is_named() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let context = gpus[0].context();
    let error = compile(context, "__global__ void broken() { float x = ; }", &[]).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("source.cu(1)") && text.contains("expected an expression"), "{text}");
    let error = compile(context, "a NUL \0 within", &[]).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    for name in ["absent", "hal\0ve"] {
        let error = compile(context, SOURCE, &["halve", name]).unwrap_err();
        assert!(matches!(error, Error::Cuda { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("looking up a kernel") && text.contains("NOT_FOUND"), "{text}");
    }
}
