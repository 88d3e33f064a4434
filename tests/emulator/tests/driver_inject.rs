//! Every function can be made to fail, and every call is counted.

mod driver_common;
use driver_common::*;
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};

type Call = Box<dyn Fn() -> u32>;

/// Calls each function once with arguments that are good, and says what it answered.
#[allow(unused_unsafe, reason = "some of these are safe")]
fn each() -> Vec<(&'static str, Call)> {
    let place = || Box::into_raw(Box::new([0_u64; 8])).cast::<c_void>();
    let context = context(0);
    let (stream, at, done, module) = (stream(), number(1), event(), load(PTX).unwrap());
    let set = function(module, "set");
    let none = null_mut();
    macro_rules! list {
        ($($name:ident($($argument:expr),*);)*) => {
            vec![$((
                stringify!($name),
                // SAFETY: the arguments are what the function asks for, and the call is made to fail before it looks.
                Box::new(move || unsafe { $name($($argument),*) }) as Call,
            )),*]
        };
    }
    list! {
        cuInit(0);
        cuDriverGetVersion(place().cast());
        cuDeviceGetCount(place().cast());
        cuDeviceGet(place().cast(), 0);
        cuDeviceGetName(place().cast::<c_char>(), 8, 0);
        cuDeviceGetUuid_v2(place().cast(), 0);
        cuDeviceGetUuid(place().cast(), 0);
        cuDeviceTotalMem_v2(place().cast(), 0);
        cuDeviceGetAttribute(place().cast(), 75, 0);
        cuDevicePrimaryCtxRetain(place().cast(), 0);
        cuDevicePrimaryCtxRelease_v2(0);
        cuDevicePrimaryCtxGetState(0, place().cast(), place().cast());
        cuCtxGetCurrent(place().cast());
        cuCtxSetCurrent(context);
        cuCtxGetDevice(place().cast());
        cuCtxSynchronize();
        cuCtxSetFlags(0);
        cuCtxGetApiVersion(context, place().cast());
        cuCtxCreate_v4(place().cast(), null_mut(), 0, 0);
        cuCtxCreate_v2(place().cast(), 0, 0);
        cuCtxDestroy_v2(none);
        cuMemGetInfo_v2(place().cast(), place().cast());
        cuMemAlloc_v2(place().cast(), 4);
        cuMemFree_v2(0);
        cuMemAllocAsync(place().cast(), 4, stream);
        cuMemFreeAsync(0, stream);
        cuMemHostAlloc(place().cast(), 4, 0);
        cuMemFreeHost(none);
        cuMemcpyHtoD_v2(at, place(), 4);
        cuMemcpyDtoH_v2(place(), at, 4);
        cuMemcpyHtoDAsync_v2(at, place(), 4, stream);
        cuMemcpyDtoHAsync_v2(place(), at, 4, stream);
        cuMemcpyDtoD_v2(at, at, 4);
        cuMemcpyDtoDAsync_v2(at, at, 4, stream);
        cuMemsetD8_v2(at, 0, 4);
        cuMemsetD8Async(at, 0, 4, stream);
        cuPointerGetAttribute(place(), 2, at);
        cuStreamCreate(place().cast(), 1);
        cuStreamCreateWithPriority(place().cast(), 1, 0);
        cuStreamDestroy_v2(none);
        cuStreamSynchronize(stream);
        cuStreamQuery(stream);
        cuStreamWaitEvent(stream, done, 0);
        cuStreamGetCtx(stream, place().cast());
        cuStreamIsCapturing(stream, place().cast());
        cuStreamBeginCapture_v2(none, 0);
        cuStreamEndCapture(stream, place().cast());
        cuThreadExchangeStreamCaptureMode(place().cast());
        cuEventCreate(place().cast(), 0);
        cuEventRecord(done, stream);
        cuEventQuery(done);
        cuEventSynchronize(done);
        cuEventElapsedTime(place().cast(), done, done);
        cuEventElapsedTime_v2(place().cast(), done, done);
        cuEventDestroy_v2(none);
        cuModuleLoadData(place().cast(), c"".as_ptr().cast());
        cuModuleLoadDataEx(place().cast(), c"".as_ptr().cast(), 0, null(), null_mut());
        cuModuleUnload(none);
        cuModuleGetFunction(place().cast(), module, c"set".as_ptr());
        cuModuleGetGlobal_v2(place().cast(), place().cast(), module, c"g".as_ptr());
        cuFuncGetAttribute(place().cast(), 0, set);
        cuFuncGetName(place().cast(), set);
        cuFuncSetAttribute(set, 8, 0);
        cuOccupancyMaxActiveBlocksPerMultiprocessor(place().cast(), set, 32, 0);
        cuLaunchKernel(set, 1, 1, 1, 1, 1, 1, 0, stream, null(), null());
        cuGraphInstantiateWithFlags(place().cast(), none, 0);
        cuGraphLaunch(none, stream);
        cuGraphUpload(none, stream);
        cuGraphExecDestroy(none);
        cuGraphDestroy(none);
        cuGraphGetNodes(none, place().cast(), place().cast());
        cuGraphNodeGetType(none, place().cast());
        cuGraphKernelNodeGetParams_v2(none, place());
        cuGraphNodeSetEnabled(none, none, 0);
        cuGetExportTable(place().cast(), place());
        cuGetProcAddress_v2(c"cuInit".as_ptr(), place().cast(), 13040, 0, null_mut());
        cuGetErrorName(0, place().cast());
        cuGetErrorString(0, place().cast());
    }
}

#[test]
fn each_function_fails_when_asked() {
    let _guard = driver(1);
    for (name, call) in each() {
        fadam_emulator_reset_counts();
        fail(name, 1, OUT_OF_MEMORY);
        assert_eq!(call(), OUT_OF_MEMORY, "{name}");
        assert_ne!(call(), OUT_OF_MEMORY, "{name}: once");
        assert_eq!((calls(), count(name)), (format!("{name} 2\n"), 2));
    }
}

#[test]
fn the_nth_call() {
    let _guard = driver(1);
    context(0);
    let stream = stream();
    fail("cuMemAllocAsync", 3, OUT_OF_MEMORY);
    fail("cuMemAlloc", 2, OUT_OF_MEMORY);
    let ordered = || {
        let mut at = 0;
        call!(cuMemAllocAsync(&raw mut at, 4, stream))
    };
    assert_eq!([ordered(), ordered(), ordered(), ordered()], [SUCCESS, SUCCESS, OUT_OF_MEMORY, SUCCESS]);
    let plain = || {
        let mut at = 0;
        call!(cuMemAlloc_v2(&raw mut at, 4))
    };
    assert_eq!([plain(), plain(), plain()], [SUCCESS, OUT_OF_MEMORY, SUCCESS]);
    fail("cuMemAlloc", 1, OUT_OF_MEMORY);
    fadam_emulator_clear_failures();
    assert_eq!(plain(), SUCCESS);
    assert_eq!((count("cuMemAlloc"), count("cuMemAllocAsync"), count("cuNothing")), (4, 4, 0));
}

#[test]
fn a_failed_call_does_nothing() {
    let _guard = driver(1);
    context(0);
    let (stream, at, set) = (stream(), number(1), kernel("set"));
    fail("cuLaunchKernel", 1, OUT_OF_MEMORY);
    assert_eq!(launch(set, at, 9, stream), OUT_OF_MEMORY);
    assert_eq!(fadam_emulator_pending(), 0);
    assert_eq!(read(at, stream), 1);
}

#[test]
fn a_lost_device_stays_lost() {
    let _guard = driver(1);
    context(0);
    let (stream, at) = (stream(), number(1));
    fail("cuStreamSynchronize", 1, ILLEGAL_ADDRESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    assert_eq!(cuMemsetD8Async(at, 0, 4, stream), ILLEGAL_ADDRESS);
    assert!(last_fault().contains("injected into cuStreamSynchronize"));
    fadam_emulator_reset_counts();
    assert_eq!((last_fault(), launches(), fadam_emulator_syncs()), (String::new(), String::new(), 0));
}
