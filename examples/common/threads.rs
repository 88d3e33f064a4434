//! How many threads a program that trains with candle has, and what candle's own are told.

use anyhow::{Context, Result};
use std::env;
use std::thread::available_parallelism;

/// As many as `RAYON_NUM_THREADS` says or the machine has. The program shares its work out among them itself, which leaves
/// nothing for candle's own threads to do but get in the way: it halves the speed on two cores, and without the
/// variable candle reads /proc/cpuinfo before every product of matrices. So candle is told to use one.
///
/// To be called first in `main`.
pub(crate) fn count() -> Result<usize> {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    let wanted = env::var(VARIABLE).ok().and_then(|threads| threads.parse().ok()).filter(|&n| n > 0);
    let threads = match wanted {
        Some(threads) => threads,
        None => available_parallelism().context("cannot count this machine's processors")?.get(),
    };
    // SAFETY: only `main` has run, and it has started no thread that could read the environment meanwhile.
    unsafe { env::set_var(VARIABLE, "1") };
    Ok(threads)
}
