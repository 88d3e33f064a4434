//! Functions that cudarc may reach and that are not emulated. They say so.

use super::errors::Code;

macro_rules! unsupported {
    ($($name:ident)*) => {
        super::api::api! {
            $(fn $name(_driver) {
                eprintln!("fadam-emulator: {} is not emulated", stringify!($name));
                Err(Code::NOT_SUPPORTED)
            })*
        }
    };
}

// Their arguments are left out: the C calling conventions of the emulator's platforms let the caller pass more than a
// function reads.
unsupported! {
    cuCtxCreate_v3
    cuCtxGetCacheConfig
    cuCtxGetLimit
    cuCtxSetCacheConfig
    cuCtxSetLimit
    cuDestroyExternalMemory
    cuDeviceGetDefaultMemPool
    cuDeviceGetMemPool
    cuDevicePrimaryCtxReset_v2
    cuDeviceSetMemPool
    cuExternalMemoryGetMappedBuffer
    cuFuncSetCacheConfig
    cuImportExternalMemory
    cuLaunchCooperativeKernel
    cuLaunchHostFunc
    cuLaunchKernelEx
    cuMemAdvise
    cuMemAdvise_v2
    cuMemAllocFromPoolAsync
    cuMemAllocManaged
    cuMemHostGetDevicePointer_v2
    cuMemHostRegister_v2
    cuMemHostUnregister
    cuMemPoolCreate
    cuMemPoolDestroy
    cuMemPoolGetAttribute
    cuMemPoolSetAttribute
    cuMemPoolTrimTo
    cuMemPrefetchAsync
    cuMemPrefetchAsync_v2
    cuMemsetD16Async
    cuMemsetD32Async
    cuModuleLoad
    cuModuleLoadFatBinary
    cuOccupancyAvailableDynamicSMemPerBlock
    cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize
    cuProfilerStart
    cuProfilerStop
    cuStreamAttachMemAsync
    cuStreamGetCaptureInfo_v2
    cuStreamGetCaptureInfo_v3
    cuStreamUpdateCaptureDependencies
}
