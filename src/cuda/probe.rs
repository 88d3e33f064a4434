//! Whether there is a driver and a device, asked without cudarc: it panics where a library or a symbol is missing.

use super::library::{Refused, open};
use crate::Error;
use std::ffi::c_int;
use std::sync::OnceLock;

/// Why there is no usable driver.
#[derive(Clone, Debug)]
pub(crate) enum Unusable {
    /// No driver or no device: a machine without a GPU, where `best` is the CPU.
    Absent { what: String, remedy: &'static str },
    /// Something is there and does not work, which must not be passed over in silence.
    Broken { what: String, remedy: &'static str },
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        let (Unusable::Absent { what, remedy } | Unusable::Broken { what, remedy }) = unusable;
        Self::Unavailable { what, remedy: remedy.into() }
    }
}

/// What cudarc's functions that this crate calls look up in the driver.
const SYMBOLS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemFree_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// The oldest driver interface that has all of them.
const OLDEST: c_int = 11_040;

const SUCCESS: c_int = 0;
const STUB_LIBRARY: c_int = 34;
const NO_DEVICE: c_int = 100;

/// Whether cudarc may be called: the driver is there, whole, initialised, and has a device. Asked once a process.
pub(crate) fn driver() -> Result<(), Unusable> {
    version().map(|_| ())
}

/// As [`driver`]; the version of the CUDA interface that it has, 12080 for 12.8.
pub(super) fn version() -> Result<c_int, Unusable> {
    static ANSWER: OnceLock<Result<c_int, Unusable>> = OnceLock::new();
    ANSWER.get_or_init(ask).clone()
}

fn ask() -> Result<c_int, Unusable> {
    let absent = |what: &str, remedy| Err(Unusable::Absent { what: what.into(), remedy });
    const UPDATE: &str = "update the NVIDIA driver (CUDA 11.4 or later), or use the CPU";
    let library = match open(&["cuda", "nvcuda"], &["1"]) {
        Ok(library) => library,
        Err(Refused::Absent) => {
            return absent(
                "an NVIDIA driver",
                "no libcuda was found; install the NVIDIA driver, or use the CPU",
            );
        }
        Err(Refused::Broken { text, remedy }) => {
            let what = format!("an NVIDIA driver that loads ({text})");
            return Err(Unusable::Broken { what, remedy });
        }
    };
    for name in SYMBOLS {
        // SAFETY: only the symbol's presence is asked for.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(Unusable::Broken { what: format!("the driver function {name}"), remedy: UPDATE });
        }
    }
    let call = |name: &str, argument: Argument<'_>| -> c_int {
        // SAFETY: the three functions called have these signatures since CUDA 2; presence was checked above.
        unsafe {
            match argument {
                Argument::Flags(flags) => library
                    .get::<unsafe extern "C" fn(u32) -> c_int>(name.as_bytes())
                    .map_or(c_int::MAX, |function| function(flags)),
                Argument::Out(out) => library
                    .get::<unsafe extern "C" fn(*mut c_int) -> c_int>(name.as_bytes())
                    .map_or(c_int::MAX, |function| function(out)),
            }
        }
    };
    match call("cuInit", Argument::Flags(0)) {
        SUCCESS => {}
        NO_DEVICE => {
            return absent(
                "an NVIDIA GPU",
                "the driver finds no device; check CUDA_VISIBLE_DEVICES, or use the CPU",
            );
        }
        STUB_LIBRARY => {
            return Err(Unusable::Broken {
                what: "the NVIDIA driver".into(),
                remedy: "the libcuda found is the CUDA toolkit's stub; take its `stubs` folder off LD_LIBRARY_PATH, or \
                         use the CPU",
            });
        }
        code => {
            return Err(Unusable::Broken {
                what: format!("the NVIDIA driver (cuInit failed with error {code})"),
                remedy: "see whether `nvidia-smi` works; after an update of the driver, reboot; or use the CPU",
            });
        }
    }
    let (mut version, mut count) = (0, 0);
    if call("cuDriverGetVersion", Argument::Out(&mut version)) != SUCCESS || version < OLDEST {
        let what = format!("an NVIDIA driver for CUDA {}.{}", OLDEST / 1000, OLDEST % 1000 / 10);
        return Err(Unusable::Broken { what, remedy: UPDATE });
    }
    let code = call("cuDeviceGetCount", Argument::Out(&mut count));
    if code != SUCCESS {
        return Err(Unusable::Broken {
            what: format!("the NVIDIA driver (cuDeviceGetCount failed with error {code})"),
            remedy: "see whether `nvidia-smi` works, or use the CPU",
        });
    }
    if count == 0 {
        return absent(
            "an NVIDIA GPU",
            "the driver finds no device; check CUDA_VISIBLE_DEVICES, or use the CPU",
        );
    }
    std::mem::forget(library); // cudarc keeps it open too; unloading a driver is asking for trouble
    Ok(version)
}

enum Argument<'a> {
    Flags(u32),
    Out(&'a mut c_int),
}
