//! What tests ask of the emulator, beyond CUDA. C functions, looked up by name in the loaded library.
//!
//! A function that answers text fills a buffer of `len` bytes (cut, and NUL-terminated when `len` > 0) and returns the
//! text's whole length without the NUL; with `len` 0 it only returns that. No function here counts as a call, and none
//! runs queued work.

use std::ffi::c_char;
use std::fmt::Write as _;

use super::api::{Out, Text, put_text};
use super::config::jit;
use super::inject::{Failure, is_named};
use super::{Driver, lock};

/// Everything as if the process had just started: no contexts, settings from the environment. Old handles are refused.
/// Other threads must not be using the driver.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_reset() {
    *lock() = Driver::new();
}

/// The order of queued work, blocks and warps from now on. 0: as submitted, and no work that nobody waits for.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_seed(seed: u64) {
    lock().queue.set_seed(seed);
}

/// Makes the `nth` call from now (1: the next) of a function answer `code`. The call does nothing else. A code that ends
/// contexts (700, 719, …) ends the current one. `cuMemAlloc` stands for `cuMemAlloc_v2` too.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_fail(function: Text, nth: u64, code: u32) {
    if let Ok(function) = function.get() {
        lock().config.failures.push(Failure::new(function, nth.max(1), code));
    }
}

/// Forgets failures that have not happened.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_clear_failures() {
    lock().config.failures.clear();
}

/// Calls of a function since the last reset of counts. `cuMemAlloc` counts `cuMemAlloc_v2` too.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_call_count(function: Text) -> u64 {
    let Ok(asked) = function.get() else { return 0 };
    let driver = lock();
    driver.calls.iter().filter(|(name, _)| is_named(name, asked)).map(|(_, count)| count).sum()
}

/// All calls since the last reset of counts: lines `name count`, by name.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_calls(buffer: Out<c_char>, len: usize) -> usize {
    let mut text = String::new();
    for (name, count) in &lock().calls {
        let _ = writeln!(text, "{name} {count}");
    }
    answer(&buffer, len, &text)
}

/// Launches that ran since the last reset of counts: lines `kernel launches blocks instructions bytes_read bytes_written
/// requests_read requests_written sectors_read sectors_written`, by kernel.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_launches(buffer: Out<c_char>, len: usize) -> usize {
    let mut text = String::new();
    for (kernel, (launches, c)) in &lock().launches {
        let _ = writeln!(
            text,
            "{kernel} {launches} {} {} {} {} {} {} {} {}",
            c.blocks,
            c.instructions,
            c.bytes_read,
            c.bytes_written,
            c.requests_read,
            c.requests_written,
            c.sectors_read,
            c.sectors_written
        );
    }
    answer(&buffer, len, &text)
}

/// Sets the counts of calls, launches and synchronisations to 0, and forgets the last fault and the leaks.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_reset_counts() {
    let mut driver = lock();
    driver.calls.clear();
    driver.launches.clear();
    driver.syncs = 0;
    driver.last_fault.clear();
    driver.leaks.clear();
}

/// The last asynchronous error: what, where, and of which kernel. Empty without one.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_last_fault(buffer: Out<c_char>, len: usize) -> usize {
    answer(&buffer, len, &lock().last_fault)
}

/// What contexts had not given back when they ended: a line for each that leaked. Empty without leaks.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_leaks(buffer: Out<c_char>, len: usize) -> usize {
    answer(&buffer, len, &lock().leaks)
}

/// Later launches of more than `first` blocks execute only `count` of them from there on (linear index), smaller ones
/// whole. `count` 0: all.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_run_blocks(first: u64, count: u64) {
    lock().blocks = (count > 0).then_some((first, first.saturating_add(count)));
}

/// Whether CUBINs of the device's architecture load. Their functions are found and cannot be launched.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_cubin_loads(loads: bool) {
    lock().config.cubin_loads = loads;
}

/// The code that all PTX is refused with from now on; 0: none.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_jit(code: u32) {
    lock().config.jit = jit(code);
}

/// Whether PTX that is loaded from now on loads in any case, and is refused when a function is looked up.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_lazy(lazy: bool) {
    lock().config.lazy = lazy;
}

/// The driver's version, 12080 for CUDA 12.8. What PTX it accepts follows.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_driver_version(version: i32) {
    lock().config.version = version;
}

/// Multiprocessors of each device.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_set_multiprocessors(count: i32) {
    lock().config.multiprocessors = count;
}

/// Operations that are queued and have not run: a call that leaves them did not synchronise.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_pending() -> u64 {
    lock().queue.len() as u64
}

/// Host synchronisations since the last reset of counts: of streams, events and contexts, copies that wait, and the
/// implicit ones of `cuMemFree` and `cuModuleUnload`.
#[unsafe(no_mangle)]
extern "C" fn fadam_emulator_syncs() -> u64 {
    lock().syncs
}

fn answer(buffer: &Out<c_char>, len: usize, text: &str) -> usize {
    put_text(buffer, len, text);
    text.len()
}
