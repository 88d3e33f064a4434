//! Where tests find files of the repository, and where they write. `cargo test` needs neither variable; a test that runs on
//! a machine without the repository does: FADAM_TEST_ROOT, FADAM_TEST_SCRATCH.
#![allow(dead_code)] // each test file uses its part

use std::path::PathBuf;

/// A file of the repository, as `tests/golden/bits.txt`.
pub(crate) fn repository(path: &str) -> PathBuf {
    root("FADAM_TEST_ROOT", env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file or folder to write, which need not exist.
pub(crate) fn scratch(name: &str) -> PathBuf {
    root("FADAM_TEST_SCRATCH", env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn root(variable: &str, otherwise: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| otherwise.into(), PathBuf::from)
}
