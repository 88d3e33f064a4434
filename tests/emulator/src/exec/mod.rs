//! Executes a launch.

use crate::memory::Memory;
use crate::ptx::{Kernel, Module};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub module: &'a Module,
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// The parameter block, laid out as [`Kernel::parameters`] says.
    pub parameters: &'a [u8],
    /// Order of blocks, and of warps between barriers. 0: ascending; else shuffled by this seed.
    pub seed: u64,
    /// Only these blocks (linear index), for launches that would take too long whole. `None`: all.
    pub blocks: Option<(u64, u64)>,
}

/// What a launch did. Global memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    pub blocks: u64,
    /// Instructions executed, one for each warp.
    pub instructions: u64,
    /// Bytes that active lanes asked for.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Warp-level load or store instructions that accessed global memory.
    pub requests_read: u64,
    pub requests_written: u64,
    /// Distinct 32-byte sectors of each such request, summed.
    pub sectors_read: u64,
    pub sectors_written: u64,
}

/// What was caught. `Display` is one line with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// Line of the PTX text.
    pub line: usize,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// Address, other thread and line of a race, mask of a shuffle.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfBounds,
    Misaligned,
    UseAfterFree,
    Uninitialised,
    Race,
    /// `bar.sync` that not every thread of the block reaches.
    DivergentBarrier,
    /// A shuffle or vote whose mask names a lane that is not there, or that leaves out the executing lane.
    InactiveLane,
    /// `trap`, a runaway loop.
    Trap,
    /// Launch dimensions or parameters that the kernel does not admit.
    Launch,
}

/// Runs a launch to its end or to its first fault.
///
/// # Errors
/// The first fault.
pub fn run(memory: &mut Memory, launch: &Launch<'_>) -> Result<Counts, Fault> {
    let _ = memory;
    Err(Fault {
        kind: FaultKind::Launch,
        kernel: launch.kernel.name.clone(),
        line: 0,
        block: [0; 3],
        thread: [0; 3],
        detail: "not implemented".into(),
    })
}
