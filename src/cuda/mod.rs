//! NVIDIA GPUs (feature `cuda`): kernels compiled by NVRTC at run time, launched through [`cudarc`]. All of this crate's
//! CUDA calls are here, and nothing else.
//!
//! A step uploads the table of its tensors if it has changed, and launches a fixed row of kernels; nothing in it waits
//! for the device. What the device decides (whether a gradient is finite, the clip coefficients) stays on the device, in
//! the control block that the host reads when it is asked for a report.
//!
//! PTX is compiled for a device's architecture once a process, and loaded once a context. Where the driver does not
//! compile PTX (it is older than NVRTC, has no compiler, or is told not to use it), machine code for that architecture is
//! compiled instead, which it takes within a major version of CUDA. [`compile`] does the same for kernels of yours.
//!
//! `Device::Cuda(n)` works on the legacy default stream (stream 0) of the device's primary context, which waits for all
//! *blocking* streams of that context, and they for it. While one of them captures a graph, work on stream 0 is refused with
//! `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT` (906): by [`Optimizer::step`](crate::Optimizer::step) before anything has happened, so
//! that the step may be repeated after the capture. Where anything is captured, give the optimizer a stream of its own by
//! [`Builder::stream`](crate::Builder::stream), and capture on streams made with `CU_STREAM_NON_BLOCKING`, as cudarc's
//! `new_stream` and PyTorch's are.
//!
//! cudarc's context objects order their streams by events only while they know of more than one stream and event
//! tracking is on (its default). For a captured step switch event tracking off before the tensors are made, as cudarc
//! demands of everything that is captured.

mod accumulate;
mod buffer;
mod context;
mod device;
mod fisher;
mod library;
mod load;
mod module;
mod norm;
mod nvrtc;
mod optimizer;
mod probe;
mod state;
mod step;
mod table;
mod tensor;

pub(crate) use accumulate::accumulate;
pub(crate) use context::driver_error;
pub use context::driver_version;
pub use cudarc;
pub(crate) use device::check_usable;
pub use device::{DeviceInfo, KernelInfo, devices, kernels, nvrtc_version};
pub(crate) use fisher::{FisherSum, natural_gradient};
pub use load::compile;
pub(crate) use norm::global_norm;
pub(crate) use optimizer::Cuda;
pub(crate) use probe::{Unusable, driver};
pub(crate) use tensor::{Guards, borrow};
