//! The C API as a program sees it, and helpers.
#![allow(non_snake_case, dead_code, reason = "names that the C API gives; not every test needs each")]

use std::ffi::{CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

// Links the library: its C functions are declared below.
use fadam_emulator as _;

pub(crate) type Handle = *mut c_void;

unsafe extern "C" {
    pub(crate) safe fn cuInit(flags: u32) -> u32;
    pub(crate) fn cuDriverGetVersion(version: *mut i32) -> u32;
    pub(crate) fn cuDeviceGetCount(count: *mut i32) -> u32;
    pub(crate) fn cuDeviceGet(device: *mut i32, ordinal: i32) -> u32;
    pub(crate) fn cuDeviceGetName(name: *mut c_char, len: i32, device: i32) -> u32;
    pub(crate) fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: i32) -> u32;
    pub(crate) fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32) -> u32;
    pub(crate) fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> u32;
    pub(crate) fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) -> u32;
    pub(crate) fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) -> u32;
    pub(crate) safe fn cuDevicePrimaryCtxRelease_v2(device: i32) -> u32;
    pub(crate) fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) -> u32;
    pub(crate) fn cuCtxGetCurrent(context: *mut Handle) -> u32;
    pub(crate) safe fn cuCtxSetCurrent(context: Handle) -> u32;
    pub(crate) fn cuCtxGetDevice(device: *mut i32) -> u32;
    pub(crate) safe fn cuCtxSynchronize() -> u32;
    pub(crate) safe fn cuCtxSetFlags(flags: u32) -> u32;
    pub(crate) fn cuCtxGetApiVersion(context: Handle, version: *mut u32) -> u32;
    pub(crate) fn cuCtxCreate_v4(
        context: *mut Handle,
        parameters: *mut c_void,
        flags: u32,
        device: i32,
    ) -> u32;
    pub(crate) fn cuCtxCreate_v2(context: *mut Handle, flags: u32, device: i32) -> u32;
    pub(crate) safe fn cuCtxDestroy_v2(context: Handle) -> u32;
    pub(crate) fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32;
    pub(crate) fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32;
    pub(crate) safe fn cuMemFree_v2(address: u64) -> u32;
    pub(crate) fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> u32;
    pub(crate) safe fn cuMemFreeAsync(address: u64, stream: Handle) -> u32;
    pub(crate) fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: u32) -> u32;
    pub(crate) fn cuMemFreeHost(pointer: *mut c_void) -> u32;
    pub(crate) fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32;
    pub(crate) fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32;
    pub(crate) fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> u32;
    pub(crate) fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> u32;
    pub(crate) safe fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32;
    pub(crate) safe fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> u32;
    pub(crate) safe fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Handle,
        from: u64,
        from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) -> u32;
    pub(crate) safe fn cuMemsetD8_v2(at: u64, value: u8, bytes: usize) -> u32;
    pub(crate) safe fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: Handle) -> u32;
    pub(crate) fn cuPointerGetAttribute(data: *mut c_void, attribute: i32, address: u64) -> u32;
    pub(crate) fn cuStreamCreate(stream: *mut Handle, flags: u32) -> u32;
    pub(crate) fn cuStreamCreateWithPriority(stream: *mut Handle, flags: u32, priority: i32) -> u32;
    pub(crate) safe fn cuStreamDestroy_v2(stream: Handle) -> u32;
    pub(crate) safe fn cuStreamSynchronize(stream: Handle) -> u32;
    pub(crate) safe fn cuStreamQuery(stream: Handle) -> u32;
    pub(crate) safe fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> u32;
    pub(crate) fn cuStreamGetCtx(stream: Handle, context: *mut Handle) -> u32;
    pub(crate) fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> u32;
    pub(crate) safe fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> u32;
    pub(crate) fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> u32;
    pub(crate) fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> u32;
    pub(crate) fn cuEventCreate(event: *mut Handle, flags: u32) -> u32;
    pub(crate) safe fn cuEventRecord(event: Handle, stream: Handle) -> u32;
    pub(crate) safe fn cuEventQuery(event: Handle) -> u32;
    pub(crate) safe fn cuEventSynchronize(event: Handle) -> u32;
    pub(crate) fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> u32;
    pub(crate) fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> u32;
    pub(crate) safe fn cuEventDestroy_v2(event: Handle) -> u32;
    pub(crate) fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> u32;
    pub(crate) fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const c_void,
        len: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) -> u32;
    pub(crate) safe fn cuModuleUnload(module: Handle) -> u32;
    pub(crate) fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> u32;
    pub(crate) fn cuModuleGetGlobal_v2(
        address: *mut u64,
        bytes: *mut usize,
        module: Handle,
        name: *const c_char,
    ) -> u32;
    pub(crate) fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: Handle) -> u32;
    pub(crate) safe fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) -> u32;
    pub(crate) fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut i32,
        function: Handle,
        threads: i32,
        shared: usize,
    ) -> u32;
    pub(crate) fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: *const *const c_void,
        extra: *const *const c_void,
    ) -> u32;
    pub(crate) fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, flags: u64) -> u32;
    pub(crate) safe fn cuGraphLaunch(exec: Handle, stream: Handle) -> u32;
    pub(crate) safe fn cuGraphUpload(exec: Handle, stream: Handle) -> u32;
    pub(crate) safe fn cuGraphExecDestroy(exec: Handle) -> u32;
    pub(crate) safe fn cuGraphDestroy(graph: Handle) -> u32;
    pub(crate) fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> u32;
    pub(crate) fn cuGraphNodeGetType(node: Handle, kind: *mut u32) -> u32;
    pub(crate) fn cuGraphKernelNodeGetParams_v2(node: Handle, parameters: *mut c_void) -> u32;
    pub(crate) safe fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: u32) -> u32;
    pub(crate) fn cuFuncGetName(name: *mut *const c_char, function: Handle) -> u32;
    pub(crate) fn cuGetErrorName(code: u32, text: *mut *const c_char) -> u32;
    pub(crate) fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32;
    pub(crate) fn cuGetExportTable(table: *mut *const c_void, id: *const c_void) -> u32;
    pub(crate) fn cuGetProcAddress_v2(
        name: *const c_char,
        function: *mut *const c_void,
        version: i32,
        flags: u64,
        status: *mut u32,
    ) -> u32;
    pub(crate) safe fn cuProfilerStart() -> u32;

    pub(crate) safe fn fadam_emulator_reset();
    pub(crate) safe fn fadam_emulator_set_seed(seed: u64);
    fn fadam_emulator_fail(function: *const c_char, nth: u64, code: u32);
    pub(crate) safe fn fadam_emulator_clear_failures();
    fn fadam_emulator_call_count(function: *const c_char) -> u64;
    fn fadam_emulator_calls(buffer: *mut c_char, len: usize) -> usize;
    fn fadam_emulator_launches(buffer: *mut c_char, len: usize) -> usize;
    pub(crate) safe fn fadam_emulator_reset_counts();
    fn fadam_emulator_last_fault(buffer: *mut c_char, len: usize) -> usize;
    fn fadam_emulator_leaks(buffer: *mut c_char, len: usize) -> usize;
    pub(crate) safe fn fadam_emulator_run_blocks(first: u64, count: u64);
    pub(crate) safe fn fadam_emulator_set_cubin_loads(loads: bool);
    pub(crate) safe fn fadam_emulator_set_jit(code: u32);
    pub(crate) safe fn fadam_emulator_set_lazy(lazy: bool);
    pub(crate) safe fn fadam_emulator_set_driver_version(version: i32);
    pub(crate) safe fn fadam_emulator_set_multiprocessors(count: i32);
    pub(crate) safe fn fadam_emulator_pending() -> u64;
    pub(crate) safe fn fadam_emulator_syncs() -> u64;
}

pub(crate) const SUCCESS: u32 = 0;
pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const NOT_INITIALIZED: u32 = 3;
pub(crate) const INVALID_DEVICE: u32 = 101;
pub(crate) const INVALID_IMAGE: u32 = 200;
pub(crate) const INVALID_CONTEXT: u32 = 201;
pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
pub(crate) const INVALID_PTX: u32 = 218;
pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
pub(crate) const INVALID_HANDLE: u32 = 400;
pub(crate) const NOT_FOUND: u32 = 500;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
pub(crate) const LAUNCH_FAILED: u32 = 719;
pub(crate) const NOT_SUPPORTED: u32 = 801;
pub(crate) const CAPTURE_UNSUPPORTED: u32 = 900;
pub(crate) const CAPTURE_INVALIDATED: u32 = 901;
pub(crate) const CAPTURE_MERGE: u32 = 902;
pub(crate) const CAPTURE_UNMATCHED: u32 = 903;
pub(crate) const CAPTURE_UNJOINED: u32 = 904;
pub(crate) const CAPTURE_ISOLATION: u32 = 905;
pub(crate) const CAPTURE_IMPLICIT: u32 = 906;
pub(crate) const CAPTURED_EVENT: u32 = 907;
pub(crate) const CAPTURE_WRONG_THREAD: u32 = 908;

pub(crate) const NON_BLOCKING: u32 = 1;

/// The tests of one process share one driver: each resets it, with the lock held.
pub(crate) fn driver(seed: u64) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    fadam_emulator_reset();
    fadam_emulator_set_seed(seed);
    assert_eq!(cuInit(0), SUCCESS);
    guard
}

/// What a C function writes; its answer is to be success.
pub(crate) fn answer<T>(call: impl FnOnce(*mut T) -> u32) -> T {
    let mut value = std::mem::MaybeUninit::<T>::uninit();
    assert_eq!(call(value.as_mut_ptr()), SUCCESS);
    // SAFETY: the function succeeded, so it wrote.
    unsafe { value.assume_init() }
}

macro_rules! get {
    ($call:ident($($argument:expr),*)) => {
        // SAFETY: the first argument is a place for the answer, the others are what the function asks for.
        answer(|out| unsafe { $call(out, $($argument),*) })
    };
}

macro_rules! call {
    ($call:ident($($argument:expr),*)) => {
        // SAFETY: the arguments are what the function asks for; pointers are of locals.
        unsafe { $call($($argument),*) }
    };
}

/// The primary context of a device, current.
pub(crate) fn context(device: i32) -> Handle {
    let context = get!(cuDevicePrimaryCtxRetain(device));
    assert_eq!(cuCtxSetCurrent(context), SUCCESS);
    context
}

pub(crate) fn stream() -> Handle {
    get!(cuStreamCreate(NON_BLOCKING))
}

pub(crate) fn event() -> Handle {
    get!(cuEventCreate(0))
}

/// Initialised memory of one number.
pub(crate) fn number(value: u32) -> u64 {
    let address = get!(cuMemAlloc_v2(4));
    assert_eq!(call!(cuMemcpyHtoD_v2(address, (&raw const value).cast(), 4)), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    address
}

/// Reads a number through a stream, which waits.
pub(crate) fn read(address: u64, stream: Handle) -> u32 {
    let mut value = 0_u32;
    assert_eq!(call!(cuMemcpyDtoHAsync_v2((&raw mut value).cast(), address, 4, stream)), SUCCESS);
    value
}

/// Kernels of one thread: `set` stores a number, `add` adds one, `move` copies one, `die` traps.
pub(crate) const PTX: &str = "\
.version 7.0
.target sm_80
.address_size 64

.visible .entry set(.param .u64 set_param_0, .param .u32 set_param_1)
{
	.reg .b32 %r<2>;
	.reg .b64 %rd<3>;

	ld.param.u64 	%rd1, [set_param_0];
	ld.param.u32 	%r1, [set_param_1];
	cvta.to.global.u64 	%rd2, %rd1;
	st.global.u32 	[%rd2], %r1;
	ret;
}

.visible .entry add(.param .u64 add_param_0, .param .u32 add_param_1)
{
	.reg .b32 %r<4>;
	.reg .b64 %rd<3>;

	ld.param.u64 	%rd1, [add_param_0];
	ld.param.u32 	%r1, [add_param_1];
	cvta.to.global.u64 	%rd2, %rd1;
	ld.global.u32 	%r2, [%rd2];
	add.s32 	%r3, %r2, %r1;
	st.global.u32 	[%rd2], %r3;
	ret;
}

.visible .entry move(.param .u64 move_param_0, .param .u64 move_param_1)
{
	.reg .b32 %r<2>;
	.reg .b64 %rd<5>;

	ld.param.u64 	%rd1, [move_param_0];
	ld.param.u64 	%rd2, [move_param_1];
	cvta.to.global.u64 	%rd3, %rd1;
	cvta.to.global.u64 	%rd4, %rd2;
	ld.global.u32 	%r1, [%rd4];
	st.global.u32 	[%rd3], %r1;
	ret;
}

.visible .entry die(.param .u64 die_param_0)
{
	trap;
	ret;
}
";

pub(crate) fn load(text: &str) -> Result<Handle, u32> {
    let text = CString::new(text).unwrap();
    let mut module = null_mut();
    match call!(cuModuleLoadData(&raw mut module, text.as_ptr().cast())) {
        SUCCESS => Ok(module),
        code => Err(code),
    }
}

pub(crate) fn function(module: Handle, name: &str) -> Handle {
    let name = CString::new(name).unwrap();
    get!(cuModuleGetFunction(module, name.as_ptr()))
}

/// A function of [`PTX`] in the current context.
pub(crate) fn kernel(name: &str) -> Handle {
    function(load(PTX).unwrap(), name)
}

/// Launches one thread with an address and a number, or two addresses.
pub(crate) fn launch(function: Handle, address: u64, value: u64, stream: Handle) -> u32 {
    let parameters: [*const c_void; 2] = [(&raw const address).cast(), (&raw const value).cast()];
    call!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters.as_ptr(), null()))
}

pub(crate) fn fail(function: &str, nth: u64, code: u32) {
    let function = CString::new(function).unwrap();
    call!(fadam_emulator_fail(function.as_ptr(), nth, code));
}

pub(crate) fn count(function: &str) -> u64 {
    let function = CString::new(function).unwrap();
    call!(fadam_emulator_call_count(function.as_ptr()))
}

fn text(write: unsafe extern "C" fn(*mut c_char, usize) -> usize) -> String {
    // SAFETY: no buffer is written when its length is 0.
    let len = unsafe { write(null_mut(), 0) };
    let mut bytes = vec![0_u8; len + 1];
    // SAFETY: the buffer has this length.
    assert_eq!(unsafe { write(bytes.as_mut_ptr().cast(), bytes.len()) }, len);
    assert_eq!(bytes.pop(), Some(0));
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn calls() -> String {
    text(fadam_emulator_calls)
}

pub(crate) fn launches() -> String {
    text(fadam_emulator_launches)
}

pub(crate) fn last_fault() -> String {
    text(fadam_emulator_last_fault)
}

pub(crate) fn leaks() -> String {
    text(fadam_emulator_leaks)
}

/// Pinned memory of one number.
pub(crate) fn pinned(value: u32) -> *mut u32 {
    let pointer: *mut u32 = get!(cuMemHostAlloc(4, 0)).cast();
    // SAFETY: just allocated with 4 bytes, aligned to a page.
    unsafe { pointer.write(value) };
    pointer
}

#[allow(unused_imports, reason = "not every test needs each")]
pub(crate) use {call, get};
