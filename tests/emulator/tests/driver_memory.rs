//! Transfers, pinned memory, stream-ordered allocation, and errors that end a context.

mod driver_common;
use driver_common::*;
use std::ptr::null_mut;

fn upload(to: u64, from: *const u32, stream: Handle) -> u32 {
    call!(cuMemcpyHtoDAsync_v2(to, from.cast(), 4, stream))
}

#[test]
fn pageable_memory_is_staged_and_pinned_memory_is_not() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (stream, a, b) = (stream(), number(0), number(0));
        let (mut pageable, pinned) = (1, pinned(1));
        assert_eq!(upload(a, &raw const pageable, stream), SUCCESS);
        assert_eq!(upload(b, pinned, stream), SUCCESS);
        assert_eq!(fadam_emulator_pending(), 2);
        pageable += 1;
        // SAFETY: pinned memory of a number.
        unsafe { pinned.write(2) };
        assert_eq!((read(a, stream), read(b, stream)), (1, 2));
        assert_eq!(pageable, 2);
    }
}

#[test]
fn a_download_into_pinned_memory_does_not_wait() {
    let _guard = driver(1);
    context(0);
    let (stream, at, pinned) = (stream(), number(5), pinned(0));
    fadam_emulator_reset_counts();
    assert_eq!(call!(cuMemcpyDtoHAsync_v2(pinned.cast(), at, 4, stream)), SUCCESS);
    // SAFETY: pinned memory of a number.
    let look = || unsafe { pinned.read() };
    assert_eq!((look(), fadam_emulator_pending(), fadam_emulator_syncs()), (0, 1, 0));
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    assert_eq!(look(), 5);
}

#[test]
fn freed_pinned_memory_shows() {
    let _guard = driver(1);
    context(0);
    let (stream, at, pinned) = (stream(), number(5), pinned(0));
    assert_eq!(upload(at, pinned, stream), SUCCESS);
    assert_eq!(call!(cuMemFreeHost(pinned.cast())), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    assert!(last_fault().contains("pinned"), "{}", last_fault());
}

#[test]
fn copies_without_a_stream() {
    let _guard = driver(1);
    context(0);
    let (a, b) = (number(3), number(4));
    fadam_emulator_reset_counts();
    assert_eq!(cuMemcpyDtoD_v2(a, b, 4), SUCCESS);
    assert_eq!(cuMemsetD8_v2(b, 1, 4), SUCCESS);
    assert_eq!((fadam_emulator_pending(), fadam_emulator_syncs()), (2, 0), "neither waits on the host");
    let mut value = 0_u32;
    assert_eq!(call!(cuMemcpyDtoH_v2((&raw mut value).cast(), a, 4)), SUCCESS);
    assert_eq!(value, 4);
    assert_eq!(read(b, null_mut()), 0x0101_0101);
    // From pageable memory: staged; the device may get it later.
    assert_eq!(call!(cuMemcpyHtoD_v2(a, (&raw const value).cast(), 4)), SUCCESS);
    assert_eq!(fadam_emulator_pending(), 1);
    let pinned = pinned(9);
    assert_eq!(call!(cuMemcpyHtoD_v2(a, pinned.cast_const().cast(), 4)), SUCCESS);
    assert_eq!(fadam_emulator_pending(), 0);
    assert_eq!(read(a, null_mut()), 9);
}

#[test]
fn freeing_waits_for_what_is_not_stream_ordered() {
    let _guard = driver(0);
    context(0);
    let (stream, at, add) = (stream(), number(3), kernel("add"));
    launch(add, at, 1, stream);
    fadam_emulator_reset_counts();
    assert_eq!(cuMemFree_v2(at), SUCCESS);
    assert_eq!((fadam_emulator_pending(), fadam_emulator_syncs()), (0, 1));
    assert_eq!(cuMemFree_v2(at), INVALID_VALUE);
    assert_eq!(cuMemFree_v2(0), SUCCESS);

    let at = get!(cuMemAllocAsync(4, stream));
    cuMemsetD8Async(at, 0, 4, stream);
    launch(add, at, 1, stream);
    assert_eq!(cuMemFree_v2(at), SUCCESS);
    assert_eq!(fadam_emulator_pending(), 3, "nothing waited");
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS, "the launch came too late");
}

#[test]
fn a_stream_ordered_free_is_in_order() {
    let _guard = driver(1);
    context(0);
    let (stream, add) = (stream(), kernel("add"));
    let at = get!(cuMemAllocAsync(4, stream));
    cuMemsetD8Async(at, 0, 4, stream);
    assert_eq!(launch(add, at, 1, stream), SUCCESS);
    assert_eq!(cuMemFreeAsync(at, stream), SUCCESS);
    assert_eq!(cuMemFreeAsync(at, stream), INVALID_VALUE, "twice");
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    assert_eq!(launch(add, at, 1, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    assert!(!last_fault().is_empty());
}

#[test]
fn a_free_on_another_stream_must_wait() {
    let run = |seed, wait| {
        let _guard = driver(seed);
        context(0);
        let (a, b, add, done) = (stream(), stream(), kernel("add"), event());
        let at = get!(cuMemAllocAsync(4, a));
        cuMemsetD8Async(at, 0, 4, a);
        cuStreamSynchronize(a);
        launch(add, at, 1, b);
        cuEventRecord(done, b);
        if wait {
            cuStreamWaitEvent(a, done, 0);
        }
        cuMemFreeAsync(at, a);
        cuCtxSynchronize()
    };
    assert!((0..20).all(|seed| run(seed, true) == SUCCESS));
    assert!((1..40).any(|seed| run(seed, false) == ILLEGAL_ADDRESS));
}

#[test]
fn an_allocation_begins_in_its_stream() {
    let run = |seed, wait| {
        let _guard = driver(seed);
        context(0);
        let (a, b, set, done) = (stream(), stream(), kernel("set"), event());
        let at = get!(cuMemAllocAsync(4, a));
        cuEventRecord(done, a);
        if wait {
            cuStreamWaitEvent(b, done, 0);
        }
        launch(set, at, 1, b);
        cuStreamSynchronize(b)
    };
    assert!((0..20).all(|seed| run(seed, true) == SUCCESS));
    assert!((1..40).any(|seed| run(seed, false) == ILLEGAL_ADDRESS));
}

#[test]
fn fresh_memory_is_not_initialised() {
    let _guard = driver(1);
    context(0);
    let (stream, at) = (stream(), get!(cuMemAlloc_v2(4)));
    let mut value = 0_u32;
    assert_eq!(call!(cuMemcpyDtoHAsync_v2((&raw mut value).cast(), at, 4, stream)), LAUNCH_FAILED);
}

#[test]
fn asynchronous_errors_stay() {
    for seed in 0..4 {
        let _guard = driver(seed);
        context(1);
        let (elsewhere, there) = (stream(), number(3));
        context(0);
        let (stream, at, die, set) = (stream(), number(0), kernel("die"), kernel("set"));
        assert_eq!(launch(die, at, 0, stream), SUCCESS);
        assert_eq!(launch(set, at, 1, stream), SUCCESS, "nothing has run yet");
        assert_eq!(cuStreamSynchronize(stream), LAUNCH_FAILED);
        assert!(last_fault().contains("die"), "{}", last_fault());
        assert_eq!(fadam_emulator_pending(), 0);
        let mut other = 0;
        for answer in [
            cuCtxSynchronize(),
            cuStreamQuery(stream),
            launch(set, at, 1, stream),
            call!(cuMemAlloc_v2(&raw mut other, 4)),
            cuMemsetD8Async(at, 0, 4, stream),
            cuMemFreeAsync(at, stream),
            cuStreamDestroy_v2(stream),
            call!(cuDevicePrimaryCtxRetain((&raw mut other).cast(), 0)),
        ] {
            assert_eq!(answer, LAUNCH_FAILED);
        }
        context(1);
        assert_eq!(read(there, elsewhere), 3, "another context is well");
        // A new primary context of the same device is, too.
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
        context(0);
        assert_eq!(read(number(4), null_mut()), 4);
    }
}

#[test]
fn bad_addresses_show_when_the_copy_runs() {
    let _guard = driver(1);
    context(0);
    let (first, at) = (stream(), number(0));
    assert_eq!(cuMemsetD8Async(at, 0, 1 << 20, first), SUCCESS);
    assert_eq!(cuStreamSynchronize(first), ILLEGAL_ADDRESS);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    context(0);
    let (stream, set) = (stream(), kernel("set"));
    assert_eq!(launch(set, at, 1, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS, "freed with its context");
}

#[test]
fn sizes_and_limits() {
    let _guard = driver(1);
    context(0);
    let stream = stream();
    let mut at = 0;
    assert_eq!(call!(cuMemAlloc_v2(&raw mut at, 0)), INVALID_VALUE);
    assert_eq!(call!(cuMemAlloc_v2(&raw mut at, 1 << 40)), OUT_OF_MEMORY);
    assert_eq!(get!(cuMemAllocAsync(0, stream)), 0);
    assert_eq!(cuMemFreeAsync(0, stream), SUCCESS);
    assert_eq!(cuMemsetD8Async(0, 0, 0, stream), SUCCESS);
    assert_eq!(cuMemsetD8Async(0, 0, 4, stream), INVALID_VALUE);
    let (mut free, mut total) = (0, 0);
    assert_eq!(call!(cuMemGetInfo_v2(&raw mut free, &raw mut total)), SUCCESS);
    assert_eq!((free, total), (512 << 30, 512 << 30));
    number(1);
    assert_eq!(call!(cuMemGetInfo_v2(&raw mut free, &raw mut total)), SUCCESS);
    assert!(free < total && free >= total - 4096);
}

#[test]
fn pointers_know_where_they_are() {
    let _guard = driver(1);
    context(1);
    let (at, pinned) = (get!(cuMemAlloc_v2(64)) + 8, pinned(0) as u64);
    let ask = |attribute, at| {
        let mut value = 0_u64;
        let code = call!(cuPointerGetAttribute((&raw mut value).cast(), attribute, at));
        (code, value)
    };
    let mut current = null_mut();
    assert_eq!(call!(cuCtxGetCurrent(&raw mut current)), SUCCESS);
    assert_eq!(ask(1, at), (SUCCESS, current.addr() as u64));
    assert_eq!((ask(2, at), ask(2, pinned)), ((SUCCESS, 2), (SUCCESS, 1)));
    assert_eq!((ask(9, at), ask(11, at), ask(12, at)), ((SUCCESS, 1), (SUCCESS, at - 8), (SUCCESS, 64)));
    assert_eq!(ask(2, 12345).0, INVALID_VALUE);
}
