//! Driver, devices, compiler and kernels, each named with its remedy where it is missing.

use crate::{ptx, say};
use anyhow::Result;
use fadam::cuda::cudarc::driver::CudaContext;
use fadam::{Device, Error};

/// The GPUs that can be used.
pub(crate) fn gpus(faults: &mut Vec<String>) -> Result<Vec<usize>> {
    let devices = match fadam::cuda::devices() {
        Ok(devices) => devices,
        Err(error) => {
            // No GPU is no fault, unless there is one that does not work: `best` knows the difference.
            match Device::best() {
                Ok(_) => say(&format!("cuda      {error}")),
                Err(_) => faults.push(error.to_string()),
            }
            return Ok(Vec::new());
        }
    };
    let (major, minor) = fadam::cuda::driver_version()?;
    say(&format!("driver    CUDA {major}.{minor}"));
    for device in &devices {
        let ((major, minor), gib) = (device.compute_capability, device.memory as f64 / f64::from(1 << 30));
        say(&format!(
            "cuda:{}    {}, compute capability {major}.{minor}, {gib:.1} GiB",
            device.ordinal, device.name
        ));
    }
    match fadam::cuda::nvrtc_version() {
        Ok((major, minor)) => say(&format!("NVRTC     {major}.{minor}")),
        Err(error) => {
            faults.push(error.to_string());
            return Ok(Vec::new());
        }
    }
    let mut usable = Vec::new();
    for device in &devices {
        match CudaContext::new(device.ordinal) {
            Ok(context) => say(&format!("PTX       cuda:{}: {}", device.ordinal, ptx::versions(&context))),
            Err(error) => faults.push(format!("opening cuda:{}: {error}", device.ordinal)),
        }
        match kernels(device.ordinal) {
            Ok(()) => usable.push(device.ordinal),
            Err(error) => faults.push(format!("cuda:{}: {error}", device.ordinal)),
        }
    }
    Ok(usable)
}

/// Compiles all kernels for a device. Registers of the sweeps, and whatever spills.
fn kernels(ordinal: usize) -> Result<(), Error> {
    let kernels = fadam::cuda::kernels(ordinal)?;
    let registers = kernels.iter().map(|kernel| kernel.registers);
    let (least, most) = (registers.clone().min().unwrap_or(0), registers.max().unwrap_or(0));
    say(&format!("kernels   cuda:{ordinal}: {} compiled, {least} to {most} registers", kernels.len()));
    for kernel in kernels.iter().filter(|kernel| kernel.local_bytes > 0) {
        let bytes = kernel.local_bytes;
        say(&format!(
            "kernels   cuda:{ordinal}: {} ({}) has {bytes} bytes of local memory a thread",
            kernel.name, kernel.variant
        ));
    }
    Ok(())
}
