//! The emulated driver's own controls, where it is the driver that the loader finds. They are described in
//! tests/emulator/src/driver/control.rs.
#![allow(dead_code)] // each test file uses its part

use libloading::os::unix::Library;
use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The driver, this test's alone. The controls and counts of the emulated one go for the whole process; and of every
/// driver, a capture in one test forbids what others do (`cuCtxSynchronize`, under `new_stream`).
pub(crate) struct Driver {
    emulator: Option<Emulator>,
    _alone: MutexGuard<'static, ()>,
}

impl Driver {
    /// `None` where the driver is a real one or there is none.
    pub(crate) fn emulated(&self) -> Option<&Emulator> {
        self.emulator.as_ref()
    }

    /// The same for a test of nothing else, with a word on why it is skipped.
    pub(crate) fn only_emulated(&self) -> Option<&Emulator> {
        if self.emulator.is_none() {
            println!("skipped: a real driver fails when it likes, and does not count");
        }
        self.emulated()
    }
}

/// The emulated driver.
pub(crate) struct Emulator {
    library: Library,
}

/// What the launches of one kernel did, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) launches: u64,
    pub(crate) blocks: u64,
    pub(crate) instructions: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) requests_read: u64,
    pub(crate) requests_written: u64,
    pub(crate) sectors_read: u64,
    pub(crate) sectors_written: u64,
}

/// The driver. Waits for other tests of the process: to be called before anything else that calls the driver.
pub(crate) fn find() -> Driver {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Driver { emulator: Emulator::find(), _alone: alone }
}

macro_rules! call {
    ($self:ident, $name:literal, ($($type:ty),*) $(-> $result:ty)?, $($argument:expr),*) => {{
        // SAFETY: the signature is that of control.rs.
        unsafe {
            let function = $self.library.get::<unsafe extern "C" fn($($type),*) $(-> $result)?>($name).unwrap();
            function($($argument),*)
        }
    }};
}

impl Emulator {
    fn find() -> Option<Self> {
        // SAFETY: a driver, as the library under test loads it too.
        let library =
            ["libcuda.so", "libcuda.so.1"].into_iter().find_map(|name| unsafe { Library::new(name) }.ok())?;
        // SAFETY: only the symbol's presence is asked for.
        unsafe { library.get::<unsafe extern "C" fn()>(b"fadam_emulator_reset_counts") }.ok()?;
        let emulator = Self { library };
        emulator.reset_counts();
        emulator.clear_failures();
        emulator.set_seed(0);
        Some(emulator)
    }

    pub(crate) fn set_seed(&self, seed: u64) {
        call!(self, b"fadam_emulator_set_seed", (u64), seed);
    }

    /// Makes the `nth` call from now of a driver function fail.
    pub(crate) fn fail(&self, function: &str, nth: u64, code: u32) {
        let function = CString::new(function).unwrap();
        call!(self, b"fadam_emulator_fail", (*const c_char, u64, u32), function.as_ptr(), nth, code);
    }

    pub(crate) fn clear_failures(&self) {
        call!(self, b"fadam_emulator_clear_failures", (),);
    }

    pub(crate) fn reset_counts(&self) {
        call!(self, b"fadam_emulator_reset_counts", (),);
    }

    /// Host synchronisations since the last reset.
    pub(crate) fn syncs(&self) -> u64 {
        call!(self, b"fadam_emulator_syncs", () -> u64,)
    }

    /// Operations that are queued and have not run.
    pub(crate) fn pending(&self) -> u64 {
        call!(self, b"fadam_emulator_pending", () -> u64,)
    }

    pub(crate) fn set_multiprocessors(&self, count: i32) {
        call!(self, b"fadam_emulator_set_multiprocessors", (i32), count);
    }

    /// Later launches execute `count` blocks from `first` on; 0: all.
    pub(crate) fn run_blocks(&self, first: u64, count: u64) {
        call!(self, b"fadam_emulator_run_blocks", (u64, u64), first, count);
    }

    pub(crate) fn set_driver_version(&self, version: i32) {
        call!(self, b"fadam_emulator_set_driver_version", (i32), version);
    }

    /// The code that all PTX is refused with; 0: none.
    pub(crate) fn set_jit(&self, code: u32) {
        call!(self, b"fadam_emulator_set_jit", (u32), code);
    }

    /// PTX is refused when a function is looked up, and not when it is loaded.
    pub(crate) fn set_lazy(&self, lazy: bool) {
        call!(self, b"fadam_emulator_set_lazy", (bool), lazy);
    }

    pub(crate) fn set_cubin_loads(&self, loads: bool) {
        call!(self, b"fadam_emulator_set_cubin_loads", (bool), loads);
    }

    /// Calls since the last reset, by name.
    pub(crate) fn calls(&self) -> Vec<(String, u64)> {
        let lines = self.text(b"fadam_emulator_calls");
        lines
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(n, c)| (n.into(), c.parse().unwrap()))
            .collect()
    }

    /// What each kernel has done since the last reset.
    pub(crate) fn launches(&self) -> Vec<(String, Counts)> {
        self.text(b"fadam_emulator_launches")
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let name = words.next().unwrap().to_string();
                let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
                let &[
                    launches,
                    blocks,
                    instructions,
                    bytes_read,
                    bytes_written,
                    requests_read,
                    requests_written,
                    sectors_read,
                    sectors_written,
                ] = &numbers[..]
                else {
                    panic!("{line}")
                };
                let counts = Counts {
                    launches,
                    blocks,
                    instructions,
                    bytes_read,
                    bytes_written,
                    requests_read,
                    requests_written,
                    sectors_read,
                    sectors_written,
                };
                (name, counts)
            })
            .collect()
    }

    /// What the last asynchronous error was.
    pub(crate) fn last_fault(&self) -> String {
        self.text(b"fadam_emulator_last_fault")
    }

    /// What contexts had not given back when they ended.
    pub(crate) fn leaks(&self) -> String {
        self.text(b"fadam_emulator_leaks")
    }

    fn text(&self, name: &[u8]) -> String {
        let mut buffer = vec![0_u8; 1 << 16];
        // SAFETY: the signature is that of control.rs; the buffer has the length that is passed.
        let len = unsafe {
            let function =
                self.library.get::<unsafe extern "C" fn(*mut c_char, usize) -> usize>(name).unwrap();
            function(buffer.as_mut_ptr().cast(), buffer.len())
        };
        assert!(len <= buffer.len(), "{len} bytes");
        let text = std::ffi::CStr::from_bytes_until_nul(&buffer).unwrap();
        text.to_str().unwrap().to_string()
    }
}
