//! One instruction of the tree to one operation: memory.

use super::ast::{Instruction, Operand, Space};
use super::code::{Access, Atomic, AtomicKind, Bank, Operation, Register, Strong};
use super::lower::{Lowering, fail, register};
use super::names::Name;
use super::parse::{Result, size_of};
use crate::lanes::Kind;
use crate::memory::Scope;

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

pub(super) fn scope_of(word: &str) -> Option<Scope> {
    match word {
        "cta" => Some(Scope::Block),
        // No other device and no host takes part in what is emulated.
        "gpu" | "sys" => Some(Scope::Device),
        _ => None,
    }
}

const RELAXED: Strong = Strong { scope: Scope::Device, acquire: false, release: false, observes: true };

/// Nothing where the word is none of an order.
fn order_of(word: &str) -> Option<Strong> {
    let (acquire, release) = match word {
        "relaxed" => (false, false),
        "acquire" => (true, false),
        "release" => (false, true),
        "acq_rel" => (true, true),
        _ => return None,
    };
    Some(Strong { acquire, release, ..RELAXED })
}

/// The register kind that data of this type wants exactly, if it is a float.
fn float(kind: &str) -> bool {
    matches!(kind, "f32" | "f64")
}

struct Form<'a> {
    strong: Option<Strong>,
    space: Space,
    vector: usize,
    kind: &'a str,
    size: usize,
}

impl Lowering<'_> {
    /// `ld.global.nc.L1::no_allocate.v4.f32`: each modifier is known and stands once.
    fn form<'a>(&self, instruction: &'a Instruction, store: bool) -> Result<Form<'a>> {
        let line = instruction.line;
        let mut parts: Vec<&str> = instruction.opcode.split('.').skip(1).collect();
        let unknown = |what: &str| fail(line, format!("unknown modifier {what} of {}", instruction.opcode));
        let Some(kind) = parts.pop() else { return unknown("") };
        let Some(size) = size_of(&format!(".{kind}")) else { return unknown(kind) };
        let vector = match parts.last() {
            Some(&"v2") => 2,
            Some(&"v4") => 4,
            Some(&"v8") => 8,
            _ => 1,
        };
        if vector > 1 {
            parts.pop();
        }
        let mut parts = parts.into_iter().peekable();
        // What is volatile is relaxed, of system scope (PTX ISA, ld).
        let plain = parts.next_if(|part| matches!(*part, "volatile" | "weak"));
        let mut strong = (plain == Some("volatile")).then_some(RELAXED);
        let order = if plain.is_some() { None } else { parts.peek().and_then(|part| order_of(part)) };
        if let (Some(order), Some(part)) = (order, parts.next_if(|_| order.is_some())) {
            let Some(scope) = parts.next().and_then(scope_of) else { return unknown(part) };
            if order.acquire && store || order.release && !store {
                return unknown(part);
            }
            strong = Some(Strong { scope, ..order });
        }
        let space = parts.peek().and_then(|part| space_of(part));
        if space.is_some() {
            parts.next();
        }
        let space = space.unwrap_or(Space::Generic);
        if order.is_some() && !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return unknown(&format!("{space:?} memory"));
        }
        if !store
            && let Some(part) = parts.next_if_eq(&"nc")
            && (space != Space::Global || order.is_some())
        {
            return unknown(part);
        }
        // Where the cache keeps the line changes no result.
        parts.next_if(|part| {
            order.is_none()
                && if store {
                    matches!(*part, "wb" | "cg" | "cs" | "wt")
                } else {
                    matches!(*part, "ca" | "cg" | "cs" | "lu" | "cv")
                }
        });
        parts.next_if(|part| part.starts_with("L1::"));
        parts.next_if(|part| part.starts_with("L2::"));
        if let Some(part) = parts.next() {
            return unknown(part);
        }
        if vector * size > 32 || (vector * size > 16 && !(space == Space::Global && size >= 4)) {
            return unknown(&format!("v{vector}"));
        }
        Ok(Form { strong, space, vector, kind, size })
    }

    /// The address operand: the space it is in after all, the register or constant, the offset.
    fn address(
        &mut self,
        line: usize,
        operand: &Operand,
        space: Space,
        size: usize,
    ) -> Result<(Space, Register, i32)> {
        let Operand::Address { base, offset } = operand else {
            return fail(line, format!("{operand:?} as an address"));
        };
        let Ok(offset) = i32::try_from(*offset) else {
            return fail(line, format!("the offset {offset} does not fit 32 bits"));
        };
        match self.names.find(base) {
            Some(Name::Register { register, bits: 64 }) => Ok((space, register, offset)),
            Some(Name::Register { register, bits: 32 }) if matches!(space, Space::Shared | Space::Local) => {
                Ok((space, register, offset))
            }
            Some(Name::Variable { space: own, address, size: whole }) => {
                // What a call passes is `.param` in the text and lives in the frame.
                let passed = own == Space::Local && space == Space::Param;
                if own != space && !passed {
                    return fail(line, format!("{base} is in another space"));
                }
                let end = i64::from(offset) + size as i64;
                if own != Space::Shared && (offset < 0 || end > whole as i64) {
                    return fail(
                        line,
                        format!("{base} has {whole} bytes; {size} at {offset} are not all there"),
                    );
                }
                let register = self.names.constant(&mut self.code, Bank::Double, address);
                Ok((own, register, offset))
            }
            Some(Name::Register { bits, .. }) => fail(line, format!("an address of {bits} bits")),
            None => fail(line, format!("unknown name {base}")),
        }
    }

    pub(super) fn load(&mut self, instruction: &Instruction) -> Result<Operation> {
        let form = self.form(instruction, false)?;
        let line = instruction.line;
        let [target, address] = instruction.operands.as_slice() else {
            return fail(line, "ld takes two operands");
        };
        let mut elements = Vec::new();
        for operand in self.elements(line, target, form.vector)? {
            elements.push(match operand {
                Operand::Sink => None,
                operand => Some(self.data(line, &operand, &form, true)?),
            });
        }
        self.access(line, form, address, elements).map(Operation::Load)
    }

    pub(super) fn store(&mut self, instruction: &Instruction) -> Result<Operation> {
        let form = self.form(instruction, true)?;
        let line = instruction.line;
        if form.space == Space::Const {
            return fail(line, "constant memory is not stored to");
        }
        let [address, source] = instruction.operands.as_slice() else {
            return fail(line, "st takes two operands");
        };
        let mut elements = Vec::new();
        for operand in self.elements(line, source, form.vector)? {
            elements.push(Some(self.data(line, &operand, &form, false)?));
        }
        let access = self.access(line, form, address, elements)?;
        if access.space == Space::Param {
            return fail(line, "an entry's parameters are not stored to");
        }
        Ok(Operation::Store(access))
    }

    fn access(
        &mut self,
        line: usize,
        form: Form<'_>,
        address: &Operand,
        elements: Vec<Option<Register>>,
    ) -> Result<Access> {
        let (space, base, offset) = self.address(line, address, form.space, form.vector * form.size)?;
        let signed = form.kind.starts_with('s');
        Ok(Access {
            space,
            base,
            offset,
            size: form.size,
            signed,
            strong: form.strong,
            elements: elements.into(),
        })
    }

    fn elements(&self, line: usize, operand: &Operand, count: usize) -> Result<Vec<Operand>> {
        match operand {
            Operand::Vector(elements) if elements.len() == count && count > 1 => Ok(elements.clone()),
            Operand::Vector(elements) => fail(line, format!("{} elements, not {count}", elements.len())),
            _ if count > 1 => fail(line, format!("one element, not {count}")),
            other => Ok(vec![other.clone()]),
        }
    }

    /// A register that holds data of this type; it may be wider, unless the data is a float.
    fn data(&mut self, line: usize, operand: &Operand, form: &Form<'_>, load: bool) -> Result<Register> {
        let bits = 8 * form.size as u32;
        if let Operand::Name(text) = operand {
            return match register(self.names.find(text)) {
                Some((register, own)) if own == bits || own > bits && !float(form.kind) => Ok(register),
                Some((_, own)) => fail(line, format!("{text} has {own} bits, for {}", form.kind)),
                None => fail(line, format!("{text} is no register")),
            };
        }
        if load {
            return fail(line, format!("{operand:?} as a target"));
        }
        let kind = match form.kind {
            "f32" => Kind::Float,
            "f64" => Kind::FloatDouble,
            _ if form.size == 8 => Kind::Double,
            _ if form.size == 4 => Kind::Word,
            _ => Kind::Half,
        };
        self.source(line, operand, kind, false)
    }

    /// `atom.acq_rel.gpu.global.add.u32`; NVRTC writes `atom.global.cta.add.u32` and `atom.add.acq_rel.gpu.u32`, too. What
    /// remains are the operation and its type.
    fn atomic_form<'a>(&self, instruction: &'a Instruction) -> Result<(Strong, Space, Vec<&'a str>)> {
        let unknown = || fail(instruction.line, format!("unknown instruction {}", instruction.opcode));
        let (mut order, mut scope, mut space, mut rest) = (None, None, None, Vec::new());
        let mut parts = instruction.opcode.split('.').skip(1).peekable();
        while let Some(part) = parts.next() {
            let twice = if let Some(found) = order_of(part) {
                order.replace(found).is_some()
            } else if let Some(found) = scope_of(part) {
                scope.replace(found).is_some()
            } else if let Some(found) = space_of(part) {
                space.replace(found).is_some() || !matches!(found, Space::Global | Space::Shared)
            } else {
                rest.push(part);
                continue;
            };
            if twice || parts.peek().is_none() {
                return unknown();
            }
        }
        let observes = instruction.opcode.starts_with("atom.");
        let order = order.unwrap_or(RELAXED);
        if order.acquire && !observes {
            return unknown();
        }
        let strong = Strong { scope: scope.unwrap_or(Scope::Device), observes, ..order };
        Ok((strong, space.unwrap_or(Space::Generic), rest))
    }

    pub(super) fn atomic(&mut self, instruction: &Instruction) -> Result<Operation> {
        let line = instruction.line;
        let opcode = instruction.opcode.as_str();
        let result = instruction.opcode.starts_with("atom.");
        let (strong, space, rest) = self.atomic_form(instruction)?;
        let (kind, size) = match rest.as_slice() {
            ["add", "u32" | "s32"] => (AtomicKind::Add, 4),
            ["add", "u64"] => (AtomicKind::Add, 8),
            ["add", "f32"] => (AtomicKind::AddF32, 4),
            ["add", "f64"] => (AtomicKind::AddF64, 8),
            ["min", "u32"] => (AtomicKind::Min, 4),
            ["min", "u64"] => (AtomicKind::Min, 8),
            ["min", "s32"] => (AtomicKind::MinSigned, 4),
            ["min", "s64"] => (AtomicKind::MinSigned, 8),
            ["max", "u32"] => (AtomicKind::Max, 4),
            ["max", "u64"] => (AtomicKind::Max, 8),
            ["max", "s32"] => (AtomicKind::MaxSigned, 4),
            ["max", "s64"] => (AtomicKind::MaxSigned, 8),
            ["and", "b32"] => (AtomicKind::And, 4),
            ["and", "b64"] => (AtomicKind::And, 8),
            ["or", "b32"] => (AtomicKind::Or, 4),
            ["or", "b64"] => (AtomicKind::Or, 8),
            ["xor", "b32"] => (AtomicKind::Xor, 4),
            ["xor", "b64"] => (AtomicKind::Xor, 8),
            ["exch", "b32"] if result => (AtomicKind::Exchange, 4),
            ["exch", "b64"] if result => (AtomicKind::Exchange, 8),
            ["cas", "b32"] if result => (AtomicKind::CompareAndSwap, 4),
            ["cas", "b64"] if result => (AtomicKind::CompareAndSwap, 8),
            ["inc", "u32"] => (AtomicKind::Increment, 4),
            ["dec", "u32"] => (AtomicKind::Decrement, 4),
            _ => return fail(line, format!("unknown instruction {opcode}")),
        };
        let mut operands = instruction.operands.as_slice();
        let data = if size == 8 { Kind::Double } else { Kind::Word };
        let mut target = None;
        if result {
            let Some((first, rest)) = operands.split_first() else {
                return fail(line, "operands are missing");
            };
            operands = rest;
            target = if *first == Operand::Sink { None } else { Some(self.target(line, first, data)?) };
        }
        let (address, operand, swap) = match (kind, operands) {
            (AtomicKind::CompareAndSwap, [address, operand, swap]) => (address, operand, Some(swap)),
            (AtomicKind::CompareAndSwap, _) => return fail(line, "cas takes four operands"),
            (_, [address, operand]) => (address, operand, None),
            _ => return fail(line, "an atomic takes an address and one operand"),
        };
        let (space, base, offset) = self.address(line, address, space, size)?;
        let operand = self.source(line, operand, data, false)?;
        let swap = match swap {
            Some(swap) => Some(self.source(line, swap, data, false)?),
            None => None,
        };
        Ok(Operation::Atomic(Atomic { kind, strong, space, base, offset, size, target, operand, swap }))
    }
}
