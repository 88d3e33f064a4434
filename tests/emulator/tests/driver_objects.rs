//! Devices, contexts, handles of the wrong context, modules, functions, launches.

mod driver_common;
use driver_common::*;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

#[test]
fn before_and_after_cu_init() {
    let _guard = driver(1);
    let mut count = 0;
    assert_eq!(call!(cuDeviceGetCount(&raw mut count)), SUCCESS);
    assert_eq!(count, 3);
    assert_eq!(cuInit(1), INVALID_VALUE);
    assert_eq!(get!(cuDriverGetVersion()), 13040);
    let mut at = 0;
    assert_eq!(call!(cuMemAlloc_v2(&raw mut at, 4)), INVALID_CONTEXT, "no context is current");
    fadam_emulator_reset();
    assert_eq!(call!(cuDeviceGetCount(&raw mut count)), NOT_INITIALIZED);
}

#[test]
fn devices() {
    let _guard = driver(1);
    for (ordinal, capability) in [(0, 80), (1, 90), (2, 100)] {
        let device: i32 = get!(cuDeviceGet(ordinal));
        assert_eq!(device, ordinal);
        let mut name = [0x7f as c_char; 64];
        assert_eq!(call!(cuDeviceGetName(name.as_mut_ptr(), 64, device)), SUCCESS);
        // SAFETY: the function wrote a NUL-terminated name.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        assert_eq!(name.to_str().unwrap(), format!("fadam emulated sm_{capability}"));
        assert_eq!(get!(cuDeviceTotalMem_v2(device)), 512_usize << 30);
        let attribute = |wanted| -> i32 { get!(cuDeviceGetAttribute(wanted, device)) };
        assert_eq!(attribute(75) * 10 + attribute(76), capability);
        assert_eq!((attribute(1), attribute(10), attribute(16), attribute(115)), (1024, 32, 2, 1));
        fadam_emulator_set_multiprocessors(7);
        assert_eq!(attribute(16), 7);
        fadam_emulator_set_multiprocessors(2);
    }
    let mut device = 0;
    assert_eq!(call!(cuDeviceGet(&raw mut device, 3)), INVALID_DEVICE);
    assert_eq!(call!(cuDeviceGet(&raw mut device, -1)), INVALID_DEVICE);
    assert_eq!(call!(cuDeviceGetAttribute(&raw mut device, 4000, 0)), INVALID_VALUE);
    let uuid = |device| -> [u8; 16] { get!(cuDeviceGetUuid_v2(device)) };
    assert_ne!(uuid(0), uuid(1));
}

#[test]
fn primary_contexts_are_counted() {
    let _guard = driver(1);
    let state = || {
        let (mut flags, mut active) = (0, 9);
        assert_eq!(call!(cuDevicePrimaryCtxGetState(0, &raw mut flags, &raw mut active)), SUCCESS);
        active
    };
    assert_eq!(state(), 0);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
    assert_eq!(context(0), context(0));
    assert_eq!(get!(cuCtxGetDevice()), 0);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!((state(), cuCtxSynchronize()), (1, SUCCESS));
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!((state(), cuCtxSynchronize()), (0, CONTEXT_IS_DESTROYED));
    assert_eq!(cuCtxSetCurrent(null_mut()), SUCCESS);
    assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT);
}

#[test]
fn other_contexts() {
    let _guard = driver(1);
    let primary = context(0);
    let at = number(1);
    let other: Handle = get!(cuCtxCreate_v2(0, 0));
    let mut current = null_mut();
    assert_eq!(call!(cuCtxGetCurrent(&raw mut current)), SUCCESS);
    assert_eq!(current, other, "a new context is current");
    assert_eq!(cuMemsetD8_v2(at, 0, 4), INVALID_VALUE, "memory of another context of the device");
    number(2);
    assert_eq!(cuCtxDestroy_v2(primary), INVALID_CONTEXT);
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    assert_eq!(cuCtxSetCurrent(other), INVALID_CONTEXT);
    assert_eq!(call!(cuCtxGetCurrent(&raw mut current)), SUCCESS);
    assert_eq!(current, primary);
    assert_eq!(read(at, null_mut()), 1);
    assert!(leaks().contains("1 allocations (4 bytes)"), "{}", leaks());
}

#[test]
fn handles_of_another_context() {
    let _guard = driver(1);
    let first = context(0);
    let (stream, at, done, module) = (stream(), number(1), event(), load(PTX).unwrap());
    let set = function(module, "set");
    cuEventRecord(done, stream);
    let second = context(1);
    let here = driver_common::stream();
    let there = number(5);
    assert_eq!(launch(set, there, 1, stream), INVALID_HANDLE);
    assert_eq!(launch(set, there, 1, here), INVALID_HANDLE);
    assert_eq!(launch(kernel("set"), at, 1, stream), INVALID_HANDLE);
    assert_eq!(cuEventRecord(done, here), INVALID_HANDLE);
    assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
    assert_eq!(cuMemFree_v2(at), INVALID_VALUE);
    assert_eq!(cuMemFreeAsync(at, here), INVALID_VALUE);
    assert_eq!(cuMemsetD8Async(at, 0, 4, here), INVALID_VALUE);
    assert_eq!(cuMemcpyDtoDAsync_v2(there, at, 4, here), INVALID_VALUE);
    let value = 3_u32;
    assert_eq!(call!(cuMemcpyHtoDAsync_v2(at, (&raw const value).cast(), 4, here)), INVALID_VALUE);
    // A stream of another context admits copies of its own memory, waits and synchronisations; an event knows its own.
    assert_eq!(call!(cuMemcpyHtoDAsync_v2(at, (&raw const value).cast(), 4, stream)), SUCCESS);
    assert_eq!(cuEventRecord(done, stream), SUCCESS);
    assert_eq!(cuStreamWaitEvent(here, done, 0), SUCCESS);
    assert_eq!(cuMemcpyPeerAsync(there, second, at, first, 4, here), SUCCESS);
    assert_eq!(read(there, here), 3);
    assert_eq!(cuEventSynchronize(done), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    let mut owner = null_mut();
    assert_eq!(call!(cuStreamGetCtx(stream, &raw mut owner)), SUCCESS);
    assert_eq!(owner, first);
    assert_eq!((cuStreamDestroy_v2(stream), cuEventDestroy_v2(done)), (SUCCESS, SUCCESS));
    // An event for a stream.
    assert_eq!(cuStreamSynchronize(event()), INVALID_HANDLE);
}

#[test]
fn leaks_are_counted() {
    let _guard = driver(1);
    context(0);
    let (stream, at, module, done, pinned) = (stream(), number(1), load(PTX).unwrap(), event(), pinned(1));
    let ordered = get!(cuMemAllocAsync(100, stream));
    cuMemFreeAsync(ordered, stream);
    cuMemFree_v2(at);
    cuStreamDestroy_v2(stream);
    cuModuleUnload(module);
    cuEventDestroy_v2(done);
    call!(cuMemFreeHost(pinned.cast()));
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(leaks(), "");

    context(1);
    driver_common::stream();
    number(1);
    load(PTX).unwrap();
    event();
    driver_common::pinned(1);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(1), SUCCESS);
    assert_eq!(
        leaks(),
        "cuda:1: 1 allocations (4 bytes), 1 pinned (4 bytes), 1 streams, 1 events, 1 modules, 0 graphs, \
         0 instantiated graphs\n"
    );
}

#[test]
fn work_that_is_left_still_runs() {
    let _guard = driver(1);
    context(0);
    let (stream, at) = (stream(), number(1));
    assert_eq!(launch(kernel("die"), at, 0, stream), SUCCESS);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert!(last_fault().contains("die"));
    assert!(leaks().contains("after CUDA_ERROR_LAUNCH_FAILED"), "{}", leaks());
}

#[test]
fn modules() {
    let _guard = driver(1);
    context(0);
    assert_eq!(load(&PTX.replace(".version 7.0", ".version 9.5")), Err(UNSUPPORTED_PTX_VERSION));
    fadam_emulator_set_driver_version(12080);
    assert_eq!(get!(cuDriverGetVersion()), 12080);
    assert_eq!(load(&PTX.replace(".version 7.0", ".version 8.8")), Err(UNSUPPORTED_PTX_VERSION));
    assert!(load(&PTX.replace(".version 7.0", ".version 8.7")).is_ok());
    assert_eq!(load(&PTX.replace("sm_80", "sm_90")), Err(INVALID_PTX));
    assert_eq!(load("not PTX"), Err(INVALID_IMAGE));
    let module = load(PTX).unwrap();
    let set = function(module, "set");
    assert_eq!(set, function(module, "set"));
    let mut missing = null_mut();
    assert_eq!(call!(cuModuleGetFunction(&raw mut missing, module, c"none".as_ptr())), NOT_FOUND);
    let (mut at, mut bytes) = (0, 0);
    assert_eq!(call!(cuModuleGetGlobal_v2(&raw mut at, &raw mut bytes, module, c"g".as_ptr())), NOT_FOUND);
    assert_eq!(cuModuleUnload(module), SUCCESS);
    assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
    assert_eq!(launch(set, number(1), 1, null_mut()), INVALID_HANDLE);
}

#[test]
fn ptx_that_is_not_compiled() {
    let _guard = driver(1);
    context(0);
    let find = |module| {
        let mut function = null_mut();
        call!(cuModuleGetFunction(&raw mut function, module, c"set".as_ptr()))
    };
    for code in [218, 221, 222, 223] {
        fadam_emulator_set_jit(code);
        assert_eq!(load(PTX), Err(code));
        fadam_emulator_set_lazy(true);
        let module = load(PTX).unwrap();
        assert_eq!((find(module), find(module)), (code, code));
        assert_eq!(cuModuleUnload(module), SUCCESS);
        fadam_emulator_set_lazy(false);
    }
    fadam_emulator_set_jit(0);
    assert_eq!(find(load(PTX).unwrap()), SUCCESS);
    // A lazy driver finds everything later, also what the text itself is refused for.
    fadam_emulator_set_lazy(true);
    assert_eq!(find(load(&PTX.replace(".version 7.0", ".version 9.5")).unwrap()), UNSUPPORTED_PTX_VERSION);
    assert_eq!(find(load(&PTX.replace("trap;", "bogus;")).unwrap()), INVALID_PTX);
    assert_eq!(find(load(PTX).unwrap()), SUCCESS);
    assert_eq!(load("not PTX"), Err(INVALID_IMAGE));
}

#[test]
fn the_log_of_a_module() {
    let _guard = driver(1);
    context(0);
    let mut log = [0x7f as c_char; 256];
    let options = [5_u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let text = CString::new(PTX.replace("trap;", "bogus;")).unwrap();
    let line = 1 + PTX.lines().position(|line| line.contains("trap;")).unwrap();
    let mut module = null_mut();
    let code = call!(cuModuleLoadDataEx(
        &raw mut module,
        text.as_ptr().cast(),
        2,
        options.as_ptr(),
        values.as_mut_ptr()
    ));
    assert_eq!(code, INVALID_PTX);
    // SAFETY: the function wrote a NUL-terminated log.
    let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_str().unwrap();
    assert!(log.contains(&format!("line {line}:")), "{log}");
    assert_eq!(values[1].addr(), log.len() + 1);
}

/// An ELF file as NVRTC makes them, with the parts that are read: one function in its symbol table.
fn cubin(arch: u8, name: &CStr) -> Vec<u8> {
    let names = [&b"\0"[..], name.to_bytes_with_nul()].concat();
    let (symbols_at, names_at) = (64, 64 + 48);
    let table_at = names_at + names.len();
    let mut file = vec![0; table_at + 3 * 64];
    file[..9].copy_from_slice(b"\x7fELF\x02\x01\x01\x41\x08");
    file[18] = 190;
    file[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
    file[48..52].copy_from_slice(&[4, arch, 0, 6]);
    (file[58], file[60]) = (64, 3);
    file[symbols_at + 24] = 1;
    file[symbols_at + 28] = 0x12;
    file[symbols_at + 30] = 1;
    file[names_at..table_at].copy_from_slice(&names);
    let mut section = |index: usize, kind: u8, at: usize, len: usize, link: u8| {
        let header = &mut file[table_at + index * 64..][..64];
        (header[4], header[40]) = (kind, link);
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
    };
    section(1, 2, symbols_at, 48, 2);
    section(2, 3, names_at, names.len(), 0);
    file
}

#[test]
fn cubins_load_when_asked() {
    let _guard = driver(1);
    context(1);
    let load = |file: &[u8]| {
        let mut module = null_mut();
        match call!(cuModuleLoadData(&raw mut module, file.as_ptr().cast())) {
            SUCCESS => Ok(module),
            code => Err(code),
        }
    };
    let file = cubin(90, c"step");
    assert_eq!(load(&file), Err(INVALID_IMAGE));
    fadam_emulator_set_cubin_loads(true);
    assert_eq!(load(&cubin(80, c"step")), Err(NO_BINARY_FOR_GPU));
    assert_eq!(
        load(b"\x7fELF and then nothing that is a CUBIN, but as long as the header is."),
        Err(INVALID_IMAGE)
    );
    let module = load(&file).unwrap();
    let step = function(module, "step");
    let mut missing = null_mut();
    assert_eq!(call!(cuModuleGetFunction(&raw mut missing, module, c"other".as_ptr())), NOT_FOUND);
    assert_eq!(launch(step, number(1), 1, null_mut()), NOT_SUPPORTED);
}

#[test]
fn launch_dimensions() {
    let _guard = driver(1);
    context(0);
    let (at, set, stream) = (number(0), kernel("set"), stream());
    let value = 1_u32;
    let parameters: [*const c_void; 2] = [(&raw const at).cast(), (&raw const value).cast()];
    let launch = |g: [u32; 3], b: [u32; 3], shared: u32, parameters: *const *const c_void| {
        call!(cuLaunchKernel(set, g[0], g[1], g[2], b[0], b[1], b[2], shared, stream, parameters, null()))
    };
    let with = |g, b, shared| launch(g, b, shared, parameters.as_ptr());
    assert_eq!(with([1, 1, 1], [1, 1, 1], 48 << 10), SUCCESS);
    for (g, b) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 0, 1]),
        ([1 << 31, 1, 1], [1, 1, 1]),
        ([1, 65536, 1], [1, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [64, 32, 1]),
        ([1, 1, 1], [1, 1, 65]),
    ] {
        assert_eq!(with(g, b, 0), INVALID_VALUE, "{g:?} {b:?}");
    }
    assert_eq!(with([1, 1, 1], [1, 1, 1], (48 << 10) + 1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(set, 8, 164 << 10), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(set, 8, 100 << 10), SUCCESS);
    assert_eq!(with([1, 1, 1], [1, 1, 1], 100 << 10), SUCCESS);
    assert_eq!(launch([1; 3], [1; 3], 0, null()), INVALID_VALUE);
    assert_eq!(launch([1; 3], [1; 3], 0, [parameters[0], null()].as_ptr()), INVALID_VALUE);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
}

#[test]
fn parameters_are_read_by_the_call() {
    let _guard = driver(1);
    context(0);
    let (at, set, stream) = (number(0), kernel("set"), stream());
    let mut value = 5_u32;
    let pointer = &raw mut value;
    let parameters: [*const c_void; 2] = [(&raw const at).cast(), pointer.cast_const().cast()];
    let answer = call!(cuLaunchKernel(set, 1, 1, 1, 1, 1, 1, 0, stream, parameters.as_ptr(), null()));
    assert_eq!(answer, SUCCESS);
    // SAFETY: of a local.
    unsafe { pointer.write(6) };
    assert_eq!(read(at, stream), 5);
}

#[test]
fn function_attributes_and_occupancy() {
    let _guard = driver(1);
    context(1);
    let set = kernel("set");
    let attribute = |wanted| -> i32 { get!(cuFuncGetAttribute(wanted, set)) };
    assert_eq!((attribute(0), attribute(1), attribute(3), attribute(6)), (1024, 0, 0, 90));
    assert!((16..=255).contains(&attribute(4)));
    let occupancy =
        |threads, shared| -> i32 { get!(cuOccupancyMaxActiveBlocksPerMultiprocessor(set, threads, shared)) };
    let registers = attribute(4);
    assert_eq!(occupancy(256, 0), (65536 / (registers * 256)).min(8));
    assert_eq!(occupancy(32, 0), 32);
    assert_eq!(occupancy(32, 47 << 10), 228 / 48);
    assert_eq!(occupancy(1025, 0), 0);
    let bounded = load(&PTX.replacen("set_param_1)", "set_param_1)\n.maxntid 64, 1, 1", 1)).unwrap();
    let bounded = function(bounded, "set");
    let most: i32 = get!(cuFuncGetAttribute(0, bounded));
    assert_eq!(most, 64);
    let (at, value) = (number(0), 1_u32);
    let parameters: [*const c_void; 2] = [(&raw const at).cast(), (&raw const value).cast()];
    let code = call!(cuLaunchKernel(bounded, 1, 1, 1, 65, 1, 1, 0, null_mut(), parameters.as_ptr(), null()));
    assert_eq!(code, INVALID_VALUE);
}

#[test]
fn only_some_blocks() {
    let _guard = driver(1);
    context(0);
    let (at, set, stream) = (number(0), kernel("set"), stream());
    fadam_emulator_run_blocks(500, 1);
    let value = 1_u32;
    let parameters: [*const c_void; 2] = [(&raw const at).cast(), (&raw const value).cast()];
    assert_eq!(
        call!(cuLaunchKernel(set, 1000, 1, 1, 1, 1, 1, 0, stream, parameters.as_ptr(), null())),
        SUCCESS
    );
    fadam_emulator_run_blocks(0, 0);
    assert_eq!(read(at, stream), 1);
    assert!(launches().starts_with("set 1 1 "), "{}", launches());
}

#[test]
fn names_of_errors() {
    let name = |code| {
        let mut text = null();
        match call!(cuGetErrorName(code, &raw mut text)) {
            // SAFETY: the function answers a NUL-terminated constant.
            SUCCESS => unsafe { CStr::from_ptr(text) }.to_str().unwrap(),
            _ => "?",
        }
    };
    assert_eq!(name(0), "CUDA_SUCCESS");
    assert_eq!(name(222), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION");
    assert_eq!(name(905), "CUDA_ERROR_STREAM_CAPTURE_ISOLATION");
    assert_eq!(name(12345), "?");
    let mut text = null();
    assert_eq!(call!(cuGetErrorString(700, &raw mut text)), SUCCESS);
    assert!(!text.is_null());
}

#[test]
fn looking_functions_up() {
    let _guard = driver(1);
    let find = |name: &CStr| {
        let (mut function, mut status) = (null(), 9);
        let code = call!(cuGetProcAddress_v2(name.as_ptr(), &raw mut function, 13040, 0, &raw mut status));
        (code, status, !function.is_null())
    };
    assert_eq!(find(c"cuMemAlloc"), (SUCCESS, 0, true));
    assert_eq!(find(c"cuLaunchKernel"), (SUCCESS, 0, true));
    assert_eq!(find(c"cuNothing"), (NOT_FOUND, 1, false));
    let mut table = null();
    assert_ne!(call!(cuGetExportTable(&raw mut table, [0_u8; 16].as_ptr().cast())), SUCCESS);
    assert_eq!(cuProfilerStart(), NOT_SUPPORTED);
}
