//! Executes a launch.

mod access;
mod atomic;
mod block;
mod check;
mod fence;
mod global;
mod order;
mod step;
mod sync;
mod warp;

use crate::memory::Memory;
use crate::ptx::ast::Space;
use crate::ptx::{Kernel, Module};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The module that the kernel is in.
    pub module: &'a Module,
    /// One of its entries.
    pub kernel: &'a Kernel,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// The parameter block, laid out as [`Kernel::parameters`] says.
    pub parameters: &'a [u8],
    /// Order of blocks, and of warps between barriers. 0: ascending; else shuffled by this seed.
    pub seed: u64,
    /// Only the blocks from the first linear index up to, not including, the second one, for launches that would take too
    /// long whole. `None`: all.
    pub blocks: Option<(u64, u64)>,
}

/// What a launch did. Global memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// Blocks that ran.
    pub blocks: u64,
    /// Instructions executed, one for each warp.
    pub instructions: u64,
    /// Bytes that active lanes asked for.
    pub bytes_read: u64,
    /// Likewise.
    pub bytes_written: u64,
    /// Warp-level load or store instructions that accessed global memory.
    pub requests_read: u64,
    /// Likewise.
    pub requests_written: u64,
    /// Distinct 32-byte sectors of each such request, summed.
    pub sectors_read: u64,
    /// Likewise.
    pub sectors_written: u64,
}

/// What was caught. `Display` is one line with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of mistake.
    pub kind: FaultKind,
    /// The entry's name.
    pub kernel: String,
    /// Line of the PTX text.
    pub line: usize,
    /// `%ctaid`
    pub block: [u32; 3],
    /// `%tid`
    pub thread: [u32; 3],
    /// Address, other thread and line of a race, mask of a shuffle.
    pub detail: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, kernel, line, block, thread, detail } = self;
        write!(f, "{kind:?} in {kernel}, line {line}, block {block:?}, thread {thread:?}: {detail}")
    }
}

impl std::error::Error for Fault {}

/// Kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Bytes that belong to no allocation or variable.
    OutOfBounds,
    /// An address that is no multiple of what is accessed, the whole vector.
    Misaligned,
    /// Memory that was freed.
    UseAfterFree,
    /// Memory, or a register, that nobody has written.
    Uninitialised,
    /// Two threads touch a byte, one of them writes, and nothing orders them.
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

/// Where the generic addresses of a space begin; global ones are themselves.
pub(crate) fn window(space: Space) -> u64 {
    match space {
        Space::Generic | Space::Global => 0,
        Space::Shared => 0xa000_0000_0000_0000,
        Space::Local => 0xb000_0000_0000_0000,
        Space::Const => 0xc000_0000_0000_0000,
        Space::Param => 0xd000_0000_0000_0000,
    }
}

/// What is wrong, before it is known where.
#[derive(Debug)]
struct Problem {
    kind: FaultKind,
    lane: usize,
    detail: String,
}

fn problem<T>(kind: FaultKind, lane: usize, detail: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { kind, lane, detail: detail.into() })
}

/// Runs a launch to its end or to its first fault.
///
/// # Errors
/// The first fault.
pub fn run(memory: &mut Memory, launch: &Launch<'_>) -> Result<Counts, Fault> {
    check::launch(launch)?;
    memory.load(launch.module);
    memory.begin_launch();
    block::run(memory, launch)
}
