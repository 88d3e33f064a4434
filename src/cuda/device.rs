//! What `doctor` tells of this machine's GPUs.

use super::context::{driver_error, open};
use super::module::{Kept, Module, Source};
use super::nvrtc::{Nvrtc, Output};
use super::probe::driver;
use crate::Error;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUfunction_attribute as Attribute;

/// A GPU.
///
/// ```
/// for device in fadam::cuda::devices().unwrap_or_default() {
///     println!("cuda:{} is {}", device.ordinal, device.name);
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// N of `cuda:N`.
    pub ordinal: usize,
    /// The name that the driver gives it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
}

/// What the driver says of one kernel on one device: see [`kernels`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KernelInfo {
    /// Of the entry.
    pub name: &'static str,
    /// The structure that it is compiled for.
    pub variant: String,
    /// Registers a thread.
    pub registers: i32,
    /// Bytes a thread that spilled to local memory, stack included.
    pub local_bytes: i32,
}

/// The GPUs of this machine. None is an error that says what is missing.
///
/// ```
/// match fadam::cuda::devices() {
///     Ok(devices) => println!("{} devices", devices.len()),
///     Err(error) => println!("{error}"), // "an NVIDIA driver is not available: ..."
/// }
/// ```
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Cuda`].
pub fn devices() -> Result<Vec<DeviceInfo>, Error> {
    driver()?;
    let failed = driver_error("asking for the devices");
    let count = CudaContext::device_count().map_err(&failed)?;
    (0..count as usize)
        .map(|ordinal| {
            let context = CudaContext::new(ordinal).map_err(&failed)?;
            Ok(DeviceInfo {
                ordinal,
                name: context.name().map_err(&failed)?,
                compute_capability: context.compute_capability().map_err(&failed)?,
                memory: context.total_mem().map_err(&failed)?,
            })
        })
        .collect()
}

/// Version of the compiler, major and minor.
///
/// ```
/// if let Err(error) = fadam::cuda::nvrtc_version() {
///     assert!(error.to_string().contains("pip install nvidia-cuda-nvrtc"));
/// }
/// ```
///
/// # Errors
/// [`Error::Unavailable`] where there is none, with the wheel that has it.
pub fn nvrtc_version() -> Result<(i32, i32), Error> {
    Ok(Nvrtc::get()?.version)
}

/// Compiles every kernel for f32 parameters and moments for a device and loads it there.
///
/// ```no_run
/// for kernel in fadam::cuda::kernels(0)? { // needs a GPU
///     println!("{} ({}): {} registers", kernel.name, kernel.variant, kernel.registers);
/// }
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Compile`], [`Error::Cuda`].
pub fn kernels(ordinal: usize) -> Result<Vec<KernelInfo>, Error> {
    let context = open(ordinal)?;
    let mut kernels = Vec::new();
    for source in Source::ALL {
        let module = Module::load(&context, source, Kept::default())?;
        for &name in source.entries() {
            let function = module.function(name)?;
            let attribute = |attribute| {
                function.get_attribute(attribute).map_err(driver_error("asking for a kernel's registers"))
            };
            kernels.push(KernelInfo {
                name,
                variant: format!("{source:?}"),
                registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
                local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            });
        }
    }
    Ok(kernels)
}

/// Whether kernels can be compiled and run on this device: asked by [`crate::Device::best`].
pub(crate) fn check_usable(ordinal: usize) -> Result<(), Error> {
    let (major, minor) =
        open(ordinal)?.compute_capability().map_err(driver_error("asking for the device's architecture"))?;
    Nvrtc::get()?.architecture(10 * major + minor, Output::Ptx).map(|_| ())
}
