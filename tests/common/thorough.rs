//! How much of a long list is tested: all of it where FADAM_THOROUGH is set, as `.ci/test all` does, else a part of each kind.
#![allow(dead_code)] // each test file uses its part

pub(crate) fn thorough() -> bool {
    std::env::var_os("FADAM_THOROUGH").is_some()
}

/// Every third.
pub(crate) fn some<T>(all: Vec<T>) -> Vec<T> {
    let step = if thorough() { 1 } else { 3 };
    all.into_iter().step_by(step).collect()
}
