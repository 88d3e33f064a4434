//! Capture, its traps, and replay.

mod driver_common;
use driver_common::*;
use std::ptr::null_mut;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

fn end(stream: Handle) -> Result<Handle, u32> {
    let mut graph = null_mut();
    match call!(cuStreamEndCapture(stream, &raw mut graph)) {
        SUCCESS => Ok(graph),
        code => {
            assert!(graph.is_null());
            Err(code)
        }
    }
}

fn instantiate(graph: Handle) -> Handle {
    get!(cuGraphInstantiateWithFlags(graph, 1))
}

fn status(stream: Handle) -> u32 {
    let mut status = 9;
    assert_eq!(call!(cuStreamIsCapturing(stream, &raw mut status)), SUCCESS);
    status
}

#[test]
fn a_graph_replays_what_was_captured() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (stream, at, to, add, copy) = (stream(), number(0), number(0), kernel("add"), kernel("move"));
        assert_eq!(cuStreamBeginCapture_v2(stream, THREAD_LOCAL), SUCCESS);
        assert_eq!(status(stream), 1);
        assert_eq!(launch(add, at, 5, stream), SUCCESS);
        assert_eq!(launch(copy, to, at, stream), SUCCESS);
        assert_eq!(cuMemsetD8Async(at, 0, 4, stream), SUCCESS);
        assert_eq!(fadam_emulator_pending(), 0);
        let graph = end(stream).unwrap();
        assert_eq!(status(stream), 0);
        let mut count = 0;
        assert_eq!(call!(cuGraphGetNodes(graph, null_mut(), &raw mut count)), SUCCESS);
        assert_eq!(count, 3);
        let exec = instantiate(graph);
        assert_eq!(cuGraphDestroy(graph), SUCCESS);
        assert_eq!(cuGraphDestroy(graph), INVALID_HANDLE);
        assert_eq!(cuGraphUpload(exec, stream), SUCCESS);
        fadam_emulator_reset_counts();
        for _ in 0..3 {
            assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
        }
        assert_eq!(launches(), "", "replay is queued work as well");
        assert_eq!((read(to, stream), read(at, stream)), (5, 0));
        assert!(launches().starts_with("add 3 ") && launches().contains("\nmove 3 "), "{}", launches());
        assert_eq!(cuGraphExecDestroy(exec), SUCCESS);
        assert_eq!(cuGraphLaunch(exec, stream), INVALID_HANDLE);
    }
}

#[test]
fn a_disabled_node_is_left_out_of_a_replay() {
    let _guard = driver(1);
    context(0);
    let (stream, at, add) = (stream(), number(0), kernel("add"));
    cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    launch(add, at, 5, stream);
    cuMemsetD8Async(at, 0, 4, stream);
    let graph = end(stream).unwrap();
    let (mut nodes, mut count, exec) = ([null_mut(); 2], 2, instantiate(graph));
    assert_eq!(call!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count)), SUCCESS);
    let kinds = nodes.map(|node| {
        let mut kind = 99;
        assert_eq!(call!(cuGraphNodeGetType(node, &raw mut kind)), SUCCESS);
        kind
    });
    assert_eq!(kinds, [0, 2], "CU_GRAPH_NODE_TYPE_KERNEL, then MEMSET");
    let [kernel, memset] = nodes;
    let mut parameters = [0_usize; 9]; // CUDA_KERNEL_NODE_PARAMS: the function comes first
    assert_eq!(call!(cuGraphKernelNodeGetParams_v2(memset, parameters.as_mut_ptr().cast())), INVALID_VALUE);
    assert_eq!(call!(cuGraphKernelNodeGetParams_v2(kernel, parameters.as_mut_ptr().cast())), SUCCESS);
    assert_eq!(parameters[0], add.addr());
    let name: *const std::ffi::c_char = get!(cuFuncGetName(add));
    // SAFETY: the driver's name of a function that lives.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }, c"add");
    let replay = || {
        cuGraphLaunch(exec, stream);
        read(at, stream)
    };
    assert_eq!(replay(), 0);
    assert_eq!(cuGraphNodeSetEnabled(exec, memset, 0), SUCCESS);
    assert_eq!((replay(), replay()), (5, 10), "no memset");
    assert_eq!(cuGraphNodeSetEnabled(exec, kernel, 0), SUCCESS);
    assert_eq!(replay(), 10, "nothing");
    assert_eq!(cuGraphNodeSetEnabled(exec, kernel, 1), SUCCESS);
    assert_eq!(replay(), 15);
    assert_eq!(cuGraphNodeSetEnabled(exec, exec, 0), INVALID_VALUE, "not a node of this graph");
}

#[test]
fn a_replay_reads_host_memory_again() {
    let _guard = driver(1);
    context(0);
    let (stream, at) = (stream(), number(0));
    let mut host = Box::new(1_u32);
    let pointer = &raw mut *host;
    cuStreamBeginCapture_v2(stream, RELAXED);
    assert_eq!(call!(cuMemcpyHtoDAsync_v2(at, pointer.cast_const().cast(), 4, stream)), SUCCESS);
    let exec = instantiate(end(stream).unwrap());
    // SAFETY: the box lives.
    unsafe { pointer.write(2) };
    cuGraphLaunch(exec, stream);
    assert_eq!(read(at, stream), 2);
    // SAFETY: the box lives.
    unsafe { pointer.write(3) };
    cuGraphLaunch(exec, stream);
    assert_eq!(read(at, stream), 3);
    drop(host);
}

#[test]
fn a_fork_by_events() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let _guard = driver(seed);
        context(0);
        let (a, b, at, to) = (stream(), stream(), number(0), number(0));
        let (set, copy, forked, joined) = (kernel("set"), kernel("move"), event(), event());
        cuStreamBeginCapture_v2(a, THREAD_LOCAL);
        launch(set, at, 1, a);
        cuEventRecord(forked, a);
        assert_eq!(cuStreamWaitEvent(b, forked, 0), SUCCESS);
        assert_eq!(status(b), 1);
        launch(copy, to, at, b);
        launch(set, at, 2, a);
        assert_eq!(cuEventRecord(joined, b), SUCCESS);
        assert_eq!(cuStreamWaitEvent(a, joined, 0), SUCCESS);
        launch(set, at, 3, a);
        let exec = instantiate(end(a).unwrap());
        cuGraphLaunch(exec, a);
        assert_eq!(read(at, a), 3);
        seen.insert(read(to, a));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2], "the branches are not ordered, the join is");
}

#[test]
fn an_unjoined_fork() {
    let _guard = driver(1);
    context(0);
    let (a, b, at, set, forked) = (stream(), stream(), number(0), kernel("set"), event());
    cuStreamBeginCapture_v2(a, THREAD_LOCAL);
    launch(set, at, 1, a);
    cuEventRecord(forked, a);
    cuStreamWaitEvent(b, forked, 0);
    launch(set, at, 2, b);
    assert_eq!(end(b), Err(CAPTURE_UNMATCHED));
    assert_eq!(end(a), Err(CAPTURE_INVALIDATED));
    cuStreamBeginCapture_v2(a, THREAD_LOCAL);
    launch(set, at, 1, a);
    cuEventRecord(forked, a);
    cuStreamWaitEvent(b, forked, 0);
    launch(set, at, 2, b);
    assert_eq!(end(a), Err(CAPTURE_UNJOINED));
    assert_eq!((status(a), status(b)), (0, 0));
}

/// Begins a capture, makes a forbidden call, and ends it: what both answered.
fn forbidden(mode: u32, call: impl FnOnce(Handle) -> u32) -> (u32, Result<(), u32>) {
    let _guard = driver(1);
    context(0);
    let stream = stream();
    assert_eq!(cuStreamBeginCapture_v2(stream, mode), SUCCESS);
    (call(stream), end(stream).map(drop))
}

#[test]
fn forbidden_in_a_capture() {
    let bad = (CAPTURE_UNSUPPORTED, Err(CAPTURE_INVALIDATED));
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        assert_eq!(forbidden(mode, |stream| cuStreamSynchronize(stream)), bad);
        assert_eq!(forbidden(mode, |stream| cuStreamQuery(stream)), bad);
        assert_eq!(forbidden(mode, |_| cuCtxSynchronize()), bad);
        let allocate = |_| {
            let mut at = 0;
            call!(cuMemAlloc_v2(&raw mut at, 4))
        };
        let relaxed = (SUCCESS, Ok(()));
        assert_eq!(forbidden(mode, allocate), if mode == RELAXED { relaxed } else { bad });
        let load = |_| load(PTX).err().unwrap_or(SUCCESS);
        assert_eq!(forbidden(mode, load), if mode == RELAXED { relaxed } else { bad });
    }
    let ordered = |stream| {
        let mut at = 0;
        call!(cuMemAllocAsync(&raw mut at, 4, stream))
    };
    assert_eq!(forbidden(THREAD_LOCAL, ordered), (NOT_SUPPORTED, Err(CAPTURE_INVALIDATED)));
    let twice = |stream| cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    assert_eq!(forbidden(THREAD_LOCAL, twice), (401, Ok(())));
}

#[test]
fn the_capture_mode_of_a_thread() {
    let _guard = driver(1);
    let context = context(0) as usize;
    let elsewhere = move |relaxed: bool| {
        std::thread::spawn(move || {
            cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context));
            let mut mode = RELAXED;
            if relaxed {
                assert_eq!(call!(cuThreadExchangeStreamCaptureMode(&raw mut mode)), SUCCESS);
                assert_eq!(mode, GLOBAL);
            }
            let mut at = 0;
            call!(cuMemAlloc_v2(&raw mut at, 4))
        })
        .join()
        .unwrap()
    };
    let stream = stream();
    cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    assert_eq!(elsewhere(false), SUCCESS, "another thread's business");
    assert!(end(stream).is_ok());
    cuStreamBeginCapture_v2(stream, GLOBAL);
    assert_eq!(elsewhere(true), SUCCESS);
    assert_eq!(elsewhere(false), CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream), Err(CAPTURE_INVALIDATED));
    cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    let address = stream as usize;
    let ended = std::thread::spawn(move || {
        cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context));
        end(std::ptr::with_exposed_provenance_mut(address)).map(drop)
    });
    assert_eq!(ended.join().unwrap(), Err(CAPTURE_WRONG_THREAD));
    assert!(end(stream).is_ok());
}

#[test]
fn events_and_captures_do_not_mix() {
    let _guard = driver(1);
    context(0);
    let (a, b, done) = (stream(), stream(), event());
    cuEventRecord(done, b);
    cuStreamSynchronize(b);
    cuStreamBeginCapture_v2(a, RELAXED);
    assert_eq!(cuStreamWaitEvent(a, done, 0), CAPTURE_ISOLATION, "even of work that is over");
    assert_eq!(end(a), Err(CAPTURE_INVALIDATED));

    cuStreamBeginCapture_v2(a, RELAXED);
    cuEventRecord(done, a);
    assert_eq!(cuEventQuery(done), CAPTURED_EVENT);
    assert_eq!(end(a), Err(CAPTURE_INVALIDATED));
    assert_eq!(cuEventSynchronize(done), CAPTURED_EVENT);
    assert_eq!(cuEventRecord(done, a), SUCCESS);
    assert_eq!(cuEventSynchronize(done), SUCCESS);

    cuStreamBeginCapture_v2(a, RELAXED);
    cuStreamBeginCapture_v2(b, RELAXED);
    cuEventRecord(done, a);
    assert_eq!(cuStreamWaitEvent(b, done, 0), CAPTURE_MERGE);
    assert_eq!((end(a), end(b)), (Err(CAPTURE_INVALIDATED), Err(CAPTURE_INVALIDATED)));
}

#[test]
fn the_default_stream_in_a_capture() {
    let _guard = driver(1);
    context(0);
    let (blocking, free, at, set) = (get!(cuStreamCreate(0)), stream(), number(0), kernel("set"));
    assert_eq!(cuStreamBeginCapture_v2(null_mut(), RELAXED), CAPTURE_UNSUPPORTED);
    cuStreamBeginCapture_v2(free, RELAXED);
    assert_eq!(launch(set, at, 1, null_mut()), SUCCESS);
    assert!(end(free).is_ok());
    cuStreamBeginCapture_v2(blocking, RELAXED);
    // cuda.h of cuStreamIsCapturing: "The blocking stream capture is not invalidated."
    let mut status = 0;
    assert_eq!(call!(cuStreamIsCapturing(null_mut(), &raw mut status)), CAPTURE_IMPLICIT);
    assert!(end(blocking).is_ok());
    cuStreamBeginCapture_v2(blocking, RELAXED);
    assert_eq!(launch(set, at, 1, null_mut()), CAPTURE_IMPLICIT);
    assert_eq!(end(blocking), Err(CAPTURE_INVALIDATED));
}

#[test]
fn replay_after_the_module_is_gone() {
    let _guard = driver(1);
    context(0);
    let (stream, at, module) = (stream(), number(0), load(PTX).unwrap());
    cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    launch(function(module, "set"), at, 1, stream);
    let exec = instantiate(end(stream).unwrap());
    cuGraphLaunch(exec, stream);
    assert_eq!(cuModuleUnload(module), SUCCESS);
    assert_eq!(read(at, stream), 1, "unloading waited");
    cuGraphLaunch(exec, stream);
    assert_eq!(cuStreamSynchronize(stream), LAUNCH_FAILED);
    assert!(last_fault().contains("unloaded"));
}

#[test]
fn instantiation_flags() {
    let _guard = driver(1);
    context(0);
    let stream = stream();
    cuStreamBeginCapture_v2(stream, THREAD_LOCAL);
    let graph = end(stream).unwrap();
    let mut exec = null_mut();
    let mut with = |flags| call!(cuGraphInstantiateWithFlags(&raw mut exec, graph, flags));
    assert_eq!(
        (with(0), with(1 | 8), with(1 | 4), with(16)),
        (SUCCESS, SUCCESS, INVALID_VALUE, INVALID_VALUE)
    );
    with(0);
    assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
}
