//! Mistakes in shared memory, as NVRTC compiles them for three architectures: each is caught, and its right form passes.
//! For sm_100 an index that counts down is `[%r1+252]`, with a register below 0.

mod common;

use common::compiled::{Compiled, compiled};
use common::{Bytes, download_u32};
use fadam_emulator::exec::FaultKind::{self, Misaligned, OutOfBounds, Race, Uninitialised};

const SHARED: Compiled = compiled!("shared");

/// One block, whose threads leave `expected` when right.
fn judge(kernel: &str, kind: FaultKind, thread: u32, expected: impl Fn(u32) -> u32) {
    SHARED.judge(
        kernel,
        1,
        (kind, 0, thread),
        |memory| memory.allocate(256).expect("room").bytes(),
        |memory| {
            let (out, _) = memory.live()[0];
            assert_eq!(
                download_u32(memory, out, 64),
                (0..64).map(&expected).collect::<Vec<u32>>(),
                "{kernel}"
            );
        },
    );
}

#[test]
fn barriers() {
    judge("no_barrier_before_read", Race, 32, |t| 63 - t);
    judge("no_barrier_before_write", Race, 32, |t| 2 * t);
    judge("no_barrier_in_tree", Race, 0, |_| 63 * 32);
}

#[test]
fn writers() {
    judge("two_writers", Race, 32, |t| 63 - t);
}

#[test]
fn bounds() {
    judge("beyond_the_end", OutOfBounds, 0, |t| t);
    judge("before_the_beginning", OutOfBounds, 63, |t| t);
}

#[test]
fn initial_values() {
    judge("never_written", Uninitialised, 63, |t| 63 - t);
}

#[test]
fn vectors() {
    judge("misaligned_vector", Misaligned, 0, |t| t);
}

#[test]
fn within_a_warp() {
    judge("no_order_in_warp", Race, 0, |t| t / 32 * 32 + 31 - t % 32);
    judge("half_a_mask", Race, 0, |t| t / 32 * 32 + 31 - t % 32);
}
