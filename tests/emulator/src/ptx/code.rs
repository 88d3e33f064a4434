//! What is executed: instructions with registers and targets resolved. Constants and special registers are registers that
//! a warp starts with, so that every operand is one.

use super::ast::Space;
use crate::lanes::{Combine, Function};
use crate::memory::Scope;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bank {
    Word,
    Double,
    Predicate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    pub(crate) bank: Bank,
    pub(crate) index: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// Axis 0 to 2.
    Thread(usize),
    BlockSize(usize),
    Block(usize),
    GridSize(usize),
    Lane,
    Warp,
    Warps,
    LanesEqual,
    LanesBelow,
    LanesUpTo,
    LanesAbove,
    LanesFrom,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) predicate: Register,
    pub(crate) not: bool,
}

#[derive(Debug)]
pub(crate) struct Instruction {
    /// Of the PTX text.
    pub(crate) line: u32,
    pub(crate) guard: Option<Guard>,
    pub(crate) operation: Operation,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Compute(Compute),
    /// `mov.b64 {low, high}, source`
    Unpack {
        source: Register,
        bits: u32,
        targets: Box<[Option<Register>]>,
    },
    Pack {
        target: Register,
        bits: u32,
        sources: Box<[Register]>,
    },
    Load(Access),
    Store(Access),
    Atomic(Atomic),
    Shuffle(Shuffle),
    Vote(Vote),
    ActiveMask {
        target: Register,
    },
    WarpBarrier {
        mask: Register,
    },
    Barrier(Barrier),
    Fence(Fence),
    Branch {
        target: u32,
    },
    Exit,
    Trap,
}

#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) function: Function,
    pub(crate) sources: [u16; 4],
    /// The sources again, as [`Code::initialised`] numbers them; unused ones are the constant 0.
    pub(crate) reads: [u16; 4],
    /// The bank of each source.
    pub(crate) banks: [Bank; 4],
    pub(crate) target: Register,
    pub(crate) combine: Option<(Combine, Register)>,
    /// Copying what was never written is no error yet.
    pub(crate) copies: bool,
}

/// What makes a load, a store or an atomic strong (PTX ISA, memory consistency model).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strong {
    pub(crate) scope: Scope,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    /// False for `red`, whose read is no part of an acquire pattern.
    pub(crate) observes: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) scope: Scope,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    pub(crate) sequential: bool,
}

#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) base: Register,
    pub(crate) offset: i32,
    /// Bytes of one element.
    pub(crate) size: usize,
    pub(crate) signed: bool,
    /// `None`: weak.
    pub(crate) strong: Option<Strong>,
    /// One register an element; a load may leave one out.
    pub(crate) elements: Box<[Option<Register>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicKind {
    Add,
    AddF32,
    AddF64,
    Min,
    Max,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

#[derive(Debug)]
pub(crate) struct Atomic {
    pub(crate) kind: AtomicKind,
    pub(crate) strong: Strong,
    pub(crate) space: Space,
    pub(crate) base: Register,
    pub(crate) offset: i32,
    pub(crate) size: usize,
    pub(crate) target: Option<Register>,
    pub(crate) operand: Register,
    /// What `cas` stores.
    pub(crate) swap: Option<Register>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) target: Register,
    pub(crate) valid: Option<Register>,
    pub(crate) source: Register,
    pub(crate) lane: Register,
    pub(crate) clamp: Register,
    pub(crate) mask: Register,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteKind {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug)]
pub(crate) struct Vote {
    pub(crate) kind: VoteKind,
    pub(crate) target: Register,
    pub(crate) source: Register,
    pub(crate) not: bool,
    pub(crate) mask: Register,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReduceKind {
    Count,
    And,
    Or,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduce {
    pub(crate) kind: ReduceKind,
    pub(crate) target: Register,
    pub(crate) source: Register,
    pub(crate) not: bool,
}

#[derive(Debug)]
pub(crate) struct Barrier {
    pub(crate) id: u32,
    /// The lanes of a warp must arrive together.
    pub(crate) aligned: bool,
    pub(crate) reduce: Option<Reduce>,
}

/// The code of an entry, calls inlined.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) instructions: Vec<Instruction>,
    /// Whether anything but barriers may order its threads.
    pub(crate) passes: bool,
    pub(crate) words: usize,
    pub(crate) doubles: usize,
    pub(crate) predicates: usize,
    pub(crate) constants: Vec<(Register, u64)>,
    pub(crate) specials: Vec<(Register, Special)>,
    /// Bytes of local memory of a thread.
    pub(crate) frame: usize,
    pub(crate) max_threads: Option<u32>,
    pub(crate) exact_threads: Option<[u32; 3]>,
    pub(crate) parameter_bytes: usize,
}

impl Operation {
    /// Whether it may order threads, by itself or with others.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Fence(_) => true,
            Self::Load(access) | Self::Store(access) => access.strong.is_some(),
            Self::Atomic(atomic) => atomic.strong.acquire || atomic.strong.release,
            _ => false,
        }
    }
}

impl Code {
    /// One number for each register of the three banks.
    pub(crate) fn initialised(&self, register: Register) -> usize {
        usize::from(register.index)
            + match register.bank {
                Bank::Word => 0,
                Bank::Double => self.words,
                Bank::Predicate => self.words + self.doubles,
            }
    }
}
