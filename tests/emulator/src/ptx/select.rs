//! One instruction of the tree to one operation: whatever computes.

use super::ast::{Instruction, Operand, Space};
use super::code::{Bank, Compute, Operation, Register};
use super::lower::{Lowering, fail, register};
use super::names::Name;
use super::parse::Result;
use crate::exec::window;
use crate::lanes::{Combine, Entry, Kind, compare, find};

/// Whether a register of so many bits may stand where this kind is wanted.
fn fits(kind: Kind, bits: u32) -> bool {
    match kind {
        Kind::Byte => matches!(bits, 16 | 32),
        Kind::Half => bits == 16,
        Kind::Word | Kind::Float => bits == 32,
        Kind::Double | Kind::FloatDouble => bits == 64,
        Kind::Predicate => bits == 1,
    }
}

impl Lowering<'_> {
    pub(super) fn select(&mut self, instruction: &Instruction) -> Result<Operation> {
        let opcode = instruction.opcode.as_str();
        let family = opcode.split('.').next().unwrap_or_default();
        match family {
            "ld" => self.load(instruction),
            "st" => self.store(instruction),
            "atom" | "red" => self.atomic(instruction),
            "shfl" | "vote" | "activemask" | "bar" | "barrier" | "membar" | "fence" | "trap" => {
                self.synchronise(instruction)
            }
            "setp" => self.compare(instruction),
            "cvta" => self.convert_address(instruction),
            "mov" if matches!(instruction.operands.first(), Some(Operand::Vector(_))) => {
                self.unpack(instruction)
            }
            "mov" if matches!(instruction.operands.get(1), Some(Operand::Vector(_))) => {
                self.pack(instruction)
            }
            _ => match find(opcode) {
                Some(entry) => self.compute(instruction, entry, &instruction.operands, None),
                None => fail(instruction.line, format!("unknown instruction {opcode}")),
            },
        }
    }

    fn compute(
        &mut self,
        instruction: &Instruction,
        entry: Entry,
        operands: &[Operand],
        combine: Option<(Combine, Register)>,
    ) -> Result<Operation> {
        let line = instruction.line;
        if operands.len() != entry.inputs.len() + 1 {
            return fail(line, format!("{} takes {} operands", instruction.opcode, entry.inputs.len() + 1));
        }
        let target = self.target(line, &operands[0], entry.output)?;
        let copies = instruction.opcode.starts_with("mov.");
        let (mut sources, mut banks) = ([0; 4], [Bank::Word; 4]);
        for (i, (operand, kind)) in operands[1..].iter().zip(entry.inputs).enumerate() {
            let source = self.source(line, operand, *kind, copies)?;
            (sources[i], banks[i]) = (source.index, source.bank);
        }
        let function = entry.function;
        Ok(Operation::Compute(Compute { function, sources, reads: sources, banks, target, combine, copies }))
    }

    pub(super) fn target(&mut self, line: usize, operand: &Operand, kind: Kind) -> Result<Register> {
        let Operand::Name(text) = operand else { return fail(line, format!("{operand:?} as a target")) };
        match register(self.names.find(text)) {
            Some((register, bits)) if fits(kind, bits) => Ok(register),
            Some((_, bits)) => fail(line, format!("{text} has {bits} bits, not a {kind:?}")),
            None => fail(line, format!("{text} is no register")),
        }
    }

    pub(super) fn source(
        &mut self,
        line: usize,
        operand: &Operand,
        kind: Kind,
        address: bool,
    ) -> Result<Register> {
        match operand {
            Operand::Name(text) => match self.names.find(text) {
                Some(Name::Register { register, bits }) if fits(kind, bits) => Ok(register),
                Some(Name::Register { bits, .. }) => {
                    fail(line, format!("{text} has {bits} bits, not a {kind:?}"))
                }
                Some(Name::Variable { address: at, .. }) if address && kind == Kind::Double => {
                    Ok(self.names.constant(&mut self.code, Bank::Double, at))
                }
                Some(Name::Variable { address: at, space, .. })
                    if address && kind == Kind::Word && matches!(space, Space::Shared | Space::Local) =>
                {
                    Ok(self.names.constant(&mut self.code, Bank::Word, at))
                }
                Some(Name::Variable { .. }) => fail(line, format!("the address {text} as a {kind:?}")),
                None => match self.names.special(&mut self.code, text) {
                    Some(register) if kind == Kind::Word => Ok(register),
                    Some(_) => fail(line, format!("{text} as a {kind:?}")),
                    None => fail(line, format!("unknown name {text}")),
                },
            },
            Operand::Integer(value) => self.integer(line, *value, kind),
            Operand::Float(bits) if matches!(kind, Kind::Float | Kind::Word) => {
                Ok(self.names.constant(&mut self.code, Bank::Word, u64::from(*bits)))
            }
            Operand::Double(bits) if matches!(kind, Kind::FloatDouble | Kind::Double) => {
                Ok(self.names.constant(&mut self.code, Bank::Double, *bits))
            }
            other => fail(line, format!("{other:?} as a {kind:?}")),
        }
    }

    fn integer(&mut self, line: usize, value: i128, kind: Kind) -> Result<Register> {
        let (bits, bank) = match kind {
            Kind::Half => (16, Bank::Word),
            Kind::Word => (32, Bank::Word),
            Kind::Double => (64, Bank::Double),
            // As in C: whatever is not zero is true.
            Kind::Predicate => {
                return Ok(self.names.constant(&mut self.code, Bank::Predicate, u64::from(value != 0)));
            }
            _ => return fail(line, format!("the number {value} as a {kind:?}")),
        };
        if value < -(1 << (bits - 1)) || value >= 1 << bits {
            return fail(line, format!("{value} does not fit {bits} bits"));
        }
        let value = value as u64 & (u64::MAX >> (64 - bits));
        Ok(self.names.constant(&mut self.code, bank, value))
    }

    /// A predicate, perhaps negated.
    pub(super) fn predicate(&mut self, line: usize, operand: &Operand) -> Result<(Register, bool)> {
        match operand {
            Operand::Not(text) => {
                Ok((self.source(line, &Operand::Name(text.clone()), Kind::Predicate, false)?, true))
            }
            other => Ok((self.source(line, other, Kind::Predicate, false)?, false)),
        }
    }

    /// `setp.lt.f32 p, a, b` or `setp.lt.and.f32 p, a, b, q`
    fn compare(&mut self, instruction: &Instruction) -> Result<Operation> {
        let parts: Vec<&str> = instruction.opcode.split('.').collect();
        let unknown = || fail(instruction.line, format!("unknown instruction {}", instruction.opcode));
        let (how, combine, kind) = match parts.as_slice() {
            [_, how, kind] => (how, None, kind),
            [_, how, "and", kind] => (how, Some(Combine::And), kind),
            [_, how, "or", kind] => (how, Some(Combine::Or), kind),
            [_, how, "xor", kind] => (how, Some(Combine::Xor), kind),
            _ => return unknown(),
        };
        let Some(entry) = compare(how, kind) else { return unknown() };
        match (combine, instruction.operands.as_slice()) {
            (None, operands) => self.compute(instruction, entry, operands, None),
            (Some(combine), [operands @ .., last]) if operands.len() == 3 => {
                let with = self.source(instruction.line, last, Kind::Predicate, false)?;
                self.compute(instruction, entry, operands, Some((combine, with)))
            }
            _ => fail(instruction.line, "setp that combines takes four operands"),
        }
    }

    /// Generic addresses are those of their space, moved into a window; global ones are themselves.
    fn convert_address(&mut self, instruction: &Instruction) -> Result<Operation> {
        let line = instruction.line;
        let (space, back) = match instruction.opcode.as_str() {
            "cvta.global.u64" => (Space::Global, false),
            "cvta.shared.u64" => (Space::Shared, false),
            "cvta.local.u64" => (Space::Local, false),
            "cvta.const.u64" => (Space::Const, false),
            "cvta.param.u64" => (Space::Param, false),
            "cvta.to.global.u64" => (Space::Global, true),
            "cvta.to.shared.u64" => (Space::Shared, true),
            "cvta.to.local.u64" => (Space::Local, true),
            "cvta.to.const.u64" => (Space::Const, true),
            "cvta.to.param.u64" => (Space::Param, true),
            opcode => return fail(line, format!("unknown instruction {opcode}")),
        };
        let [target, source] = instruction.operands.as_slice() else {
            return fail(line, "cvta takes two operands");
        };
        let base = window(space);
        let base = if back { base.wrapping_neg() } else { base };
        let target = self.target(line, target, Kind::Double)?;
        let source = self.source(line, source, Kind::Double, true)?;
        let base = self.names.constant(&mut self.code, Bank::Double, base);
        let Some(entry) = find("add.u64") else { return fail(line, "unknown instruction add.u64") };
        let sources = [source.index, base.index, 0, 0];
        let banks = [Bank::Double, Bank::Double, Bank::Word, Bank::Word];
        let function = entry.function;
        let compute =
            Compute { function, sources, reads: sources, banks, target, combine: None, copies: false };
        Ok(Operation::Compute(compute))
    }

    fn unpack(&mut self, instruction: &Instruction) -> Result<Operation> {
        let line = instruction.line;
        let [Operand::Vector(parts), source] = instruction.operands.as_slice() else {
            return fail(line, "unknown form of mov");
        };
        let (whole, part, bits) = self.parts(instruction, parts.len())?;
        let source = self.source(line, source, whole, false)?;
        let mut targets = Vec::new();
        for operand in parts {
            targets.push(if *operand == Operand::Sink {
                None
            } else {
                Some(self.target(line, operand, part)?)
            });
        }
        Ok(Operation::Unpack { source, bits, targets: targets.into() })
    }

    fn pack(&mut self, instruction: &Instruction) -> Result<Operation> {
        let line = instruction.line;
        let [target, Operand::Vector(parts)] = instruction.operands.as_slice() else {
            return fail(line, "unknown form of mov");
        };
        let (whole, part, bits) = self.parts(instruction, parts.len())?;
        let target = self.target(line, target, whole)?;
        let mut sources = Vec::new();
        for operand in parts {
            sources.push(self.source(line, operand, part, false)?);
        }
        Ok(Operation::Pack { target, bits, sources: sources.into() })
    }

    fn parts(&self, instruction: &Instruction, count: usize) -> Result<(Kind, Kind, u32)> {
        Ok(match (instruction.opcode.as_str(), count) {
            ("mov.b32", 2) => (Kind::Word, Kind::Half, 16),
            ("mov.b64", 2) => (Kind::Double, Kind::Word, 32),
            ("mov.b64", 4) => (Kind::Double, Kind::Half, 16),
            (opcode, count) => return fail(instruction.line, format!("{opcode} of {count} parts")),
        })
    }
}
