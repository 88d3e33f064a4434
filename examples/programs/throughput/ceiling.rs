//! The ceiling: the reads and writes of a case's sweeps, and nothing else, over memory of the same size.
//!
//! Threads take fixed, contiguous shares of every array and meet after each sweep, as a step must to sum a norm. They
//! spin at the meeting, and exist only while a block is timed: while the step has its turn, both cores are its own.

use crate::case::{Access, Array, Case, Sweep};
use crate::cores;
use crate::memory::Pages;
use anyhow::Result;
use fadam::Simd;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Elements of one array before the next has its turn: 8 cache lines of f32.
const ROW: usize = 128;

pub(crate) struct Ceiling {
    simd: Simd,
    rows: usize,
    /// In the order of `Array::ALL`.
    arrays: [Pages; Array::ALL.len()],
    sweeps: Vec<Vec<Stream>>,
}

/// One array in one sweep.
#[derive(Clone, Copy)]
struct Stream {
    array: usize,
    /// Bytes of an element.
    width: usize,
    access: Access,
}

impl Ceiling {
    /// # Errors
    /// No memory.
    pub(crate) fn new(case: &Case, sweeps: &[Sweep], simd: Simd) -> Result<Self> {
        let rows = case.shape.tensors().iter().sum::<usize>().div_ceil(ROW);
        let pages = |array: Array| Pages::filled(rows.saturating_mul(ROW * case.width(array)), 0);
        let stream = |(array, access): (Array, Access)| Stream {
            array: array as usize,
            width: case.width(array),
            access,
        };
        let streams = |sweep: &Sweep| case.accesses(sweep).into_iter().map(stream).collect();
        let [parameter, master, gradient, exp_avg, exp_avg_sq] = Array::ALL.map(pages);
        Ok(Self {
            simd,
            rows,
            arrays: [parameter?, master?, gradient?, exp_avg?, exp_avg_sq?],
            sweeps: sweeps.iter().map(streams).collect(),
        })
    }

    /// Goes through all sweeps `warm_up + times` times, and times the latter.
    pub(crate) fn time(&self, threads: usize, warm_up: usize, times: usize) -> Duration {
        let meeting = Meeting { threads, arrived: AtomicUsize::new(0), round: AtomicUsize::new(0) };
        let work = |thread: usize| {
            let share = self.rows * thread / threads..self.rows * (thread + 1) / threads;
            let mut start = Instant::now();
            for time in 0..warm_up + times {
                if time == warm_up {
                    start = Instant::now();
                }
                for sweep in &self.sweeps {
                    // SAFETY: each thread has its own rows, and all of them lie within the arrays.
                    unsafe { self.sweep(sweep, share.start, share.end) };
                    meeting.wait();
                }
            }
            start.elapsed()
        };
        let own_core = rayon::current_thread_index().unwrap_or(0); // of the pool, whose threads are on these cores
        thread::scope(|scope| {
            for thread in 1..threads {
                let work = &work;
                scope.spawn(move || {
                    cores::keep_to(own_core + thread);
                    work(thread)
                });
            }
            work(0)
        })
    }

    /// # Safety
    /// The rows lie within the arrays, and no other thread touches them meanwhile.
    unsafe fn sweep(&self, sweep: &[Stream], start: usize, end: usize) {
        let arrays = self.arrays.each_ref().map(Pages::as_ptr);
        // SAFETY: the caller's; `Simd::best` has found the level on this machine.
        unsafe {
            match self.simd {
                #[cfg(target_arch = "x86_64")]
                Simd::Avx512 => avx512(&arrays, sweep, start, end),
                #[cfg(target_arch = "x86_64")]
                Simd::Avx2 => avx2(&arrays, sweep, start, end),
                #[cfg(target_arch = "aarch64")]
                Simd::Neon => touch::<std::arch::aarch64::float32x4_t>(&arrays, sweep, start, end),
                _ => touch::<u64>(&arrays, sweep, start, end),
            }
        }
    }
}

type Addresses = [*mut u8; Array::ALL.len()];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(arrays: &Addresses, sweep: &[Stream], start: usize, end: usize) {
    // SAFETY: the caller's.
    unsafe { touch::<std::arch::x86_64::__m512>(arrays, sweep, start, end) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(arrays: &Addresses, sweep: &[Stream], start: usize, end: usize) {
    // SAFETY: the caller's.
    unsafe { touch::<std::arch::x86_64::__m256>(arrays, sweep, start, end) };
}

/// Reads, writes, or reads and writes back, rows `start..end` by words of W.
#[inline(always)]
unsafe fn touch<W: Copy>(arrays: &Addresses, sweep: &[Stream], start: usize, end: usize) {
    const NARROW: usize = 2 * ROW;
    const WIDE: usize = 4 * ROW;
    for row in start..end {
        for &Stream { array, width, access } in sweep {
            let at = arrays[array].wrapping_add(row * ROW * width);
            // SAFETY: the caller's rows.
            unsafe {
                match (width * ROW, access) {
                    (NARROW, Access::Read) => touch_row::<W, NARROW, true, false>(at),
                    (NARROW, Access::Update) => touch_row::<W, NARROW, true, true>(at),
                    (NARROW, Access::Write) => touch_row::<W, NARROW, false, true>(at),
                    (_, Access::Read) => touch_row::<W, WIDE, true, false>(at),
                    (_, Access::Update) => touch_row::<W, WIDE, true, true>(at),
                    (_, Access::Write) => touch_row::<W, WIDE, false, true>(at),
                }
            }
        }
    }
}

/// Volatile, because nothing uses what is read, and because a plain copy onto itself would vanish.
#[inline(always)]
unsafe fn touch_row<W: Copy, const BYTES: usize, const READ: bool, const WRITTEN: bool>(at: *mut u8) {
    // SAFETY: the caller's row; arrays are aligned to a cache line, words divide it and are any bits.
    unsafe {
        let mut value = std::mem::zeroed::<W>();
        for i in 0..BYTES / size_of::<W>() {
            let word = at.cast::<W>().wrapping_add(i);
            if READ {
                value = word.read_volatile();
            }
            if WRITTEN {
                word.write_volatile(value);
            }
        }
    }
}

/// Where threads wait for each other without leaving the core.
struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Meeting {
    fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round + 1, Ordering::Release);
            return;
        }
        while self.round.load(Ordering::Acquire) == round {
            spin_loop();
        }
    }
}
