//! From source to a module whose kernels can be launched: PTX, or machine code where the driver does not compile PTX.

use super::context::{driver_error, driver_version};
use super::nvrtc::{Nvrtc, Output};
use super::probe::driver;
use crate::Error;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// What a caller's source is called in the compiler's log.
const CALLERS: &str = "source.cu";

/// Answers of a driver that does not compile this PTX; machine code does not need it to.
const NOT_COMPILED: [CUresult; 4] = [
    CUresult::CUDA_ERROR_INVALID_PTX,
    CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED,
];

/// Answers of a driver that does not take this machine code.
const NOT_TAKEN: [CUresult; 2] = [CUresult::CUDA_ERROR_INVALID_IMAGE, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU];

/// Compiles CUDA C++ for a context's device and loads it there, for kernels of your own beside fadam's: NVRTC is found, and
/// a driver that does not compile its PTX is given machine code, as for fadam's kernels.
///
/// `kernels` are names of `extern "C" __global__` functions of the source. They are looked up here, since some drivers
/// compile a kernel only then; afterwards [`load_function`](CudaModule::load_function) finds them at no cost. The source is
/// compiled as C++17 without any header and, as fadam's own, without contraction of `a * b + c` to one rounding: write
/// `fmaf` where you want that. Each call compiles anew, which takes some 50 ms: keep the module.
///
/// ```no_run
/// use fadam::cuda::cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
///
/// const SOURCE: &str = r#"
/// extern "C" __global__ void halve(float *x, size_t len) {
///     size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
///     if (i < len) x[i] *= 0.5f;
/// }"#;
/// let context = CudaContext::new(0)?; // needs a GPU
/// let module = fadam::cuda::compile(&context, SOURCE, &["halve"])?;
/// let stream = context.new_stream()?;
/// let mut x = stream.clone_htod(&[1.0_f32; 1000])?;
/// let (halve, len) = (module.load_function("halve")?, x.len());
/// let mut launch = stream.launch_builder(&halve);
/// launch.arg(&mut x).arg(&len);
/// // SAFETY: the arguments are those of the kernel, which stays within `len` elements.
/// unsafe { launch.launch(LaunchConfig::for_num_elems(len as u32)) }?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Unavailable`] without NVRTC, or where the driver takes neither PTX nor machine code of it; [`Error::Compile`]
/// with the compiler's log; [`Error::Cuda`], also for a name that the source does not have.
pub fn compile(context: &Arc<CudaContext>, source: &str, kernels: &[&str]) -> Result<Arc<CudaModule>, Error> {
    driver()?;
    load(context, kernels, |capability, output| {
        let nvrtc = Nvrtc::get()?;
        let architecture = nvrtc.architecture(capability, output)?;
        nvrtc.compile((CALLERS, source), &[], &[], architecture, output).map(Arc::new)
    })
}

/// Loads what `compile` makes for the device's compute capability, and looks up all its kernels: a driver that loads
/// lazily compiles PTX no earlier.
///
/// # Errors
/// As [`compile`].
pub(super) fn load(
    context: &Arc<CudaContext>,
    kernels: &[&str],
    compile: impl Fn(i32, Output) -> Result<Arc<Vec<u8>>, Error>,
) -> Result<Arc<CudaModule>, Error> {
    let (major, minor) =
        context.compute_capability().map_err(driver_error("asking for the device's architecture"))?;
    let capability = 10 * major + minor;
    let attempt = |output| {
        let image = compile(capability, output)?;
        let module =
            context.load_module(Ptx::from_binary(image.to_vec())).map_err(driver_error("loading kernels"))?;
        for kernel in kernels {
            if kernel.contains('\0') {
                let error = DriverError(CUresult::CUDA_ERROR_NOT_FOUND);
                return Err(driver_error("looking up a kernel")(error)); // cudarc would panic
            }
            module.load_function(kernel).map_err(driver_error("looking up a kernel"))?;
        }
        Ok(module)
    };
    let refused = match attempt(Output::Ptx) {
        Err(Error::Cuda { doing, error }) if NOT_COMPILED.contains(&error.0) => (doing, error),
        other => return other,
    };
    attempt(Output::Cubin).map_err(|error| match error {
        Error::Unavailable { .. } => neither(refused, &error),
        Error::Cuda { error: DriverError(code), .. }
            if NOT_COMPILED.contains(&code) || NOT_TAKEN.contains(&code) =>
        {
            neither(refused, &error)
        }
        other => other,
    })
}

/// The driver takes neither PTX nor machine code.
fn neither((doing, ptx): (&'static str, DriverError), machine_code: &Error) -> Error {
    let (compiler, driver) = (Nvrtc::get().map(|nvrtc| nvrtc.version).ok(), driver_version().ok());
    let shown =
        |version: Option<(i32, i32)>| version.map_or("?".into(), |(major, minor)| format!("{major}.{minor}"));
    let remedy = match ptx.0 {
        CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            "the driver's compiler of PTX, libnvidia-ptxjitcompiler.so.1, is missing: reinstall the driver; in a container, \
             let NVIDIA_DRIVER_CAPABILITIES have compute"
        }
        CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED => {
            "the driver is told not to compile: unset CUDA_DISABLE_PTX_JIT and CUDA_DISABLE_JIT"
        }
        _ if driver.is_some() && compiler > driver => {
            "update the driver, or take the compiler of its CUDA: `pip install nvidia-cuda-nvrtc-cu12` for CUDA 12"
        }
        _ => {
            "reinstall or update the driver, or try another NVRTC: `pip install nvidia-cuda-nvrtc`, or nvidia-cuda-nvrtc-cu12"
        }
    };
    Error::Unavailable {
        what: format!(
            "a driver that takes the kernels of NVRTC {} (that of CUDA {} answers: {}; as machine code: {machine_code})",
            shown(compiler),
            shown(driver),
            driver_error(doing)(ptx)
        ),
        remedy: remedy.into(),
    }
}
