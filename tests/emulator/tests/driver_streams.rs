//! Streams are lazy; only stream order, events, the default stream's rules and synchronisation order work.

mod driver_common;
use driver_common::*;
use std::ptr::null_mut;

#[test]
fn work_waits_for_a_synchronisation() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (stream, at, set) = (stream(), number(1), kernel("set"));
        fadam_emulator_reset_counts();
        assert_eq!(launch(set, at, 7, stream), SUCCESS);
        assert_eq!((fadam_emulator_pending(), launches().as_str()), (1, ""));
        assert_eq!(fadam_emulator_syncs(), 0);
        assert_eq!(cuStreamSynchronize(stream), SUCCESS);
        assert_eq!((fadam_emulator_pending(), fadam_emulator_syncs()), (0, 1));
        assert!(launches().starts_with("set 1 1 "), "{}", launches());
        assert_eq!(read(at, stream), 7);
        assert_eq!(fadam_emulator_syncs(), 2, "a copy into pageable memory waits");
    }
}

#[test]
fn a_stream_is_in_order() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (stream, at, set, add) = (stream(), number(0), kernel("set"), kernel("add"));
        for i in 0..10 {
            assert_eq!(launch(if i % 2 == 0 { set } else { add }, at, i, stream), SUCCESS);
        }
        assert_eq!(read(at, stream), 8 + 9);
    }
}

/// Two streams write; one that reads after its own write may see either, so over the seeds both are seen.
fn last_writer(seed: u64, wait: bool) -> u32 {
    let _guard = driver(seed);
    context(0);
    let (a, b, at, set, done) = (stream(), stream(), number(0), kernel("set"), event());
    assert_eq!(launch(set, at, 1, a), SUCCESS);
    assert_eq!(cuEventRecord(done, a), SUCCESS);
    if wait {
        assert_eq!(cuStreamWaitEvent(b, done, 0), SUCCESS);
    }
    assert_eq!(launch(set, at, 2, b), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    read(at, b)
}

#[test]
fn a_missing_wait_shows() {
    let mut seen = [0; 3];
    (1..40).for_each(|seed| seen[last_writer(seed, false) as usize] += 1);
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > 0, "{seen:?}");
    assert!((0..40).all(|seed| last_writer(seed, true) == 2));
}

#[test]
fn an_event_stands_for_its_last_record_before_the_wait() {
    for seed in 0..20 {
        let _guard = driver(seed);
        context(0);
        let (a, b, at, to) = (stream(), stream(), number(0), number(0));
        let (set, copy, done) = (kernel("set"), kernel("move"), event());
        assert_eq!(cuStreamWaitEvent(b, done, 0), SUCCESS, "never recorded: nothing to wait for");
        launch(set, at, 1, a);
        cuEventRecord(done, a);
        cuStreamWaitEvent(b, done, 0);
        launch(copy, to, at, b);
        cuEventRecord(done, b);
        // Recorded again: this waits for the copy, so it cannot overtake it.
        cuStreamWaitEvent(a, done, 0);
        launch(set, at, 2, a);
        assert_eq!(cuCtxSynchronize(), SUCCESS);
        assert_eq!((read(to, a), read(at, a)), (1, 2));
    }
}

#[test]
fn synchronising_one_stream_runs_what_it_needs() {
    let _guard = driver(0);
    context(0);
    let (a, b, c, at, set, done) = (stream(), stream(), stream(), number(0), kernel("set"), event());
    launch(set, at, 1, a);
    cuEventRecord(done, a);
    launch(set, at, 3, a);
    launch(set, at, 4, c);
    cuStreamWaitEvent(b, done, 0);
    launch(set, at, 2, b);
    assert_eq!(fadam_emulator_pending(), 6);
    assert_eq!(cuStreamSynchronize(b), SUCCESS);
    assert_eq!(fadam_emulator_pending(), 2, "the other work of a, and c");
    assert_eq!(cuEventSynchronize(done), SUCCESS);
    assert_eq!(fadam_emulator_pending(), 2);
    assert_eq!(read(at, a), 3);
    assert_eq!(read(at, c), 4);
}

#[test]
fn polling_ends() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (stream, at, add, done) = (stream(), number(0), kernel("add"), event());
        assert_eq!((cuStreamQuery(stream), cuEventQuery(done)), (SUCCESS, SUCCESS));
        (0..5).for_each(|_| assert_eq!(launch(add, at, 1, stream), SUCCESS));
        assert_eq!(cuEventRecord(done, stream), SUCCESS);
        let polls = (0..100).take_while(|_| cuEventQuery(done) == NOT_READY).count();
        assert!((1..=6).contains(&polls), "{polls}");
        assert_eq!(cuStreamQuery(stream), SUCCESS);
        assert_eq!(read(at, stream), 5);
    }
}

#[test]
fn elapsed_time() {
    let _guard = driver(1);
    context(0);
    let (stream, at, add) = (stream(), number(0), kernel("add"));
    let (start, end, untimed) = (event(), event(), get!(cuEventCreate(2)));
    let mut ms = 0.0;
    assert_eq!(call!(cuEventElapsedTime_v2(&raw mut ms, start, end)), INVALID_HANDLE);
    cuEventRecord(start, stream);
    launch(add, at, 1, stream);
    cuEventRecord(end, stream);
    cuEventRecord(untimed, stream);
    assert_eq!(call!(cuEventElapsedTime_v2(&raw mut ms, start, end)), NOT_READY);
    cuEventSynchronize(end);
    assert_eq!(call!(cuEventElapsedTime_v2(&raw mut ms, start, end)), SUCCESS);
    assert!(ms >= 0.0);
    assert_eq!(call!(cuEventElapsedTime_v2(&raw mut ms, start, untimed)), INVALID_HANDLE);
}

/// The default stream and blocking streams wait for one another; non-blocking ones do not take part.
#[test]
fn default_stream() {
    const LEGACY: usize = 1;
    const PER_THREAD: usize = 2;
    let mut overtaken = 0;
    for seed in 0..30 {
        let _guard = driver(seed);
        context(0);
        let blocking = get!(cuStreamCreate(0));
        let (free, at, to, set, copy) = (stream(), number(0), number(0), kernel("set"), kernel("move"));
        let per_thread = std::ptr::without_provenance_mut(PER_THREAD);
        let legacy = std::ptr::without_provenance_mut(LEGACY);
        for other in [blocking, per_thread] {
            launch(set, at, 1, other);
            launch(copy, to, at, null_mut());
            launch(set, at, 2, other);
            assert_eq!(cuStreamSynchronize(other), SUCCESS);
            assert_eq!((read(to, legacy), read(at, legacy)), (1, 2));
        }
        launch(set, at, 3, free);
        launch(copy, to, at, null_mut());
        assert_eq!(cuCtxSynchronize(), SUCCESS);
        overtaken += u32::from(read(to, free) == 2);
    }
    assert!((1..30).contains(&overtaken), "{overtaken}");
}

#[test]
fn a_destroyed_stream_finishes_its_work() {
    for seed in 0..8 {
        let _guard = driver(seed);
        context(0);
        let (a, b, at, set, done) = (get!(cuStreamCreate(0)), stream(), number(0), kernel("set"), event());
        launch(set, at, 5, a);
        cuEventRecord(done, a);
        assert_eq!(cuStreamDestroy_v2(a), SUCCESS);
        assert_eq!(cuStreamSynchronize(a), INVALID_HANDLE);
        assert_eq!(launch(set, at, 6, a), INVALID_HANDLE);
        assert!(fadam_emulator_pending() > 0);
        assert_eq!(read(at, null_mut()), 5, "the default stream still waits for it");
        assert_eq!(cuEventSynchronize(done), SUCCESS);
        assert_eq!(cuStreamSynchronize(b), SUCCESS);
        assert_eq!(cuStreamDestroy_v2(null_mut()), INVALID_HANDLE);
    }
}

#[test]
fn threads() {
    let _guard = driver(3);
    let context = context(0) as usize;
    let workers: Vec<_> = (0..4_u32)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut current = null_mut();
                assert_eq!(call!(cuCtxGetCurrent(&raw mut current)), SUCCESS);
                assert!(current.is_null(), "a context is current in one thread");
                let mut at = 0;
                assert_eq!(call!(cuMemAlloc_v2(&raw mut at, 4)), INVALID_CONTEXT);
                assert_eq!(cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context)), SUCCESS);
                let (stream, at, add) = (stream(), number(thread), kernel("add"));
                for _ in 0..20 {
                    assert_eq!(launch(add, at, 1, stream), SUCCESS);
                }
                assert_eq!(read(at, stream), thread + 20);
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}
