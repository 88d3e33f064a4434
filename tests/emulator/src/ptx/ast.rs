//! What the parser makes of a module, names unresolved.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// The size of a register in bits; 1 is a predicate.
pub(super) type Bits = u32;

#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) line: usize,
    pub(super) space: Space,
    pub(super) name: String,
    pub(super) align: usize,
    pub(super) size: usize,
    pub(super) initial: Option<Vec<u8>>,
    /// `.extern .shared x[]`: begins where static shared memory ends.
    pub(super) external: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Statement {
    Label {
        line: usize,
        text: String,
    },
    Open,
    Close,
    /// `%r<9>` declares `%r0` to `%r8`; without a count only the name itself.
    Registers {
        line: usize,
        bits: Bits,
        name: String,
        count: Option<u32>,
    },
    Variable(Variable),
    Instruction(Instruction),
}

#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) line: usize,
    pub(super) guard: Option<(bool, String)>,
    pub(super) opcode: String,
    pub(super) operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    /// A register, a special register, a variable, a label or a function.
    Name(String),
    Not(String),
    /// `_`
    Sink,
    Integer(i128),
    Float(u32),
    Double(u64),
    Vector(Vec<Operand>),
    Address {
        base: String,
        offset: i64,
    },
    /// `%r1|%p1`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`
    List(Vec<Operand>),
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) entry: bool,
    pub(super) results: Vec<Variable>,
    pub(super) parameters: Vec<Variable>,
    pub(super) max_threads: Option<u32>,
    pub(super) exact_threads: Option<[u32; 3]>,
    /// `None`: declared only.
    pub(super) body: Option<Vec<Statement>>,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) version: (u32, u32),
    pub(super) target: u32,
    pub(super) variables: Vec<Variable>,
    pub(super) functions: Vec<Function>,
}
