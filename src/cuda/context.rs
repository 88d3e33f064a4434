//! Contexts and streams of callers: how they are opened, and what their errors mean. Nothing is allocated or launched here.

use super::probe::driver;
use crate::error::Error;
use cudarc::driver::sys::{CUresult, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// A stage of work, for the error of a call that failed in it.
pub(crate) fn driver_error(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { doing, error }
}

/// A device's primary context.
///
/// # Errors
/// [`Error::Unavailable`] without a driver or this device, [`Error::Cuda`].
pub(super) fn open(ordinal: usize) -> Result<Arc<CudaContext>, Error> {
    driver()?;
    let count = CudaContext::device_count().map_err(driver_error("counting devices"))?;
    if ordinal >= count as usize {
        return Err(Error::Unavailable {
            what: format!("device cuda:{ordinal}"),
            remedy: match count {
                1 => "there is one device, cuda:0".into(),
                _ => format!("there are {count} devices, cuda:0 to cuda:{}", count - 1),
            },
        });
    }
    CudaContext::new(ordinal).map_err(driver_error("opening the device"))
}

/// Makes a context this thread's, whatever errors of others cudarc keeps in it to be told.
pub(super) fn bind(context: &CudaContext) -> Result<(), DriverError> {
    let pending = context.check_err();
    let bound = context.bind_to_thread();
    context.record_err(pending);
    bound
}

/// Errors after which a context answers nothing else. Numbers where cudarc's oldest bindings lack the name.
pub(super) const FATAL: [u32; 19] = [
    CUresult::CUDA_ERROR_DEINITIALIZED as u32,
    46, // DEVICE_UNAVAILABLE
    CUresult::CUDA_ERROR_ECC_UNCORRECTABLE as u32,
    CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE as u32,
    226, // CONTAINED
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS as u32,
    CUresult::CUDA_ERROR_LAUNCH_TIMEOUT as u32,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED as u32,
    CUresult::CUDA_ERROR_ASSERT as u32,
    CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR as u32,
    CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION as u32,
    CUresult::CUDA_ERROR_MISALIGNED_ADDRESS as u32,
    CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE as u32,
    CUresult::CUDA_ERROR_INVALID_PC as u32,
    CUresult::CUDA_ERROR_LAUNCH_FAILED as u32,
    721, // TENSOR_MEMORY_LEAK
    810, // MPS_CLIENT_TERMINATED
    CUresult::CUDA_ERROR_EXTERNAL_DEVICE as u32,
    CUresult::CUDA_ERROR_UNKNOWN as u32,
];

/// Whether the stream is recording a graph.
pub(super) fn capturing(stream: &CudaStream) -> Result<bool, Error> {
    let status = stream.capture_status().map_err(driver_error("asking whether a graph is captured"))?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// What a graph must not record: it would replay with memory of the host that is long gone.
pub(super) fn refuse_capture(stream: &CudaStream) -> Result<(), Error> {
    if capturing(stream)? {
        return Err(Error::Capture { reason: "only a step can be; do this before the capture, or after it" });
    }
    Ok(())
}

/// The error of a call that allocates, of which the driver says so when there is no memory.
pub(super) fn refused(doing: &'static str, name: &str, bytes: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { name: name.into(), bytes },
        _ => driver_error(doing)(error),
    }
}

/// Waits for all that a stream has to do, before something goes that it uses. Not in a capture, which waiting would spoil.
pub(super) fn settle(stream: &CudaStream) {
    if !capturing(stream).unwrap_or(false) {
        let context = stream.context();
        context.record_err(bind(context));
        // SAFETY: the stream is alive.
        context.record_err(unsafe { result::stream::synchronize(stream.cu_stream()) });
    }
}

/// Version of the CUDA interface that the driver has, major and minor.
///
/// ```no_run
/// let (major, minor) = fadam::cuda::driver_version()?; // needs a driver
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Cuda`].
pub fn driver_version() -> Result<(i32, i32), Error> {
    driver()?;
    let mut version = 0;
    // SAFETY: `driver` has found the symbol; it writes one integer.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver_error("asking for the driver's version"))?;
    Ok((version / 1000, version % 1000 / 10))
}
