//! Instructions that stay within a lane.

use super::block::Block;
use super::warp::{Warp, lanes};
use super::{FaultKind, Problem, problem};
use crate::lanes::{Combine, LANES};
use crate::ptx::code::{Bank, Code, Compute, Operation, Register};

#[inline(always)]
fn blend<T: Copy>(into: &mut [T; LANES], from: &[T; LANES], active: u32) {
    if active == !0 {
        *into = *from;
        return;
    }
    for lane in 0..LANES {
        if active >> lane & 1 != 0 {
            into[lane] = from[lane];
        }
    }
}

impl Warp {
    #[inline]
    pub(super) fn compute(&mut self, code: &Code, compute: &Compute, active: u32) -> Result<(), Problem> {
        let mut known =
            compute.reads.iter().fold(!0, |known, read| known & self.initialised[usize::from(*read)]);
        if let Some((_, with)) = compute.combine {
            known &= self.initialised[code.initialised(with)];
        }
        let unknown = active & !known;
        if unknown != 0 && !compute.copies {
            let lane = unknown.trailing_zeros() as usize;
            return problem(FaultKind::Uninitialised, lane, "a register that was never written");
        }
        (compute.function)(&self.registers, &compute.sources, &mut self.out);
        let target = usize::from(compute.target.index);
        match compute.target.bank {
            Bank::Word => blend(&mut self.registers.words[target], &self.out.words, active),
            Bank::Double => blend(&mut self.registers.doubles[target], &self.out.doubles, active),
            Bank::Predicate => {
                let mut bits = self.out.predicate;
                if let Some((how, with)) = compute.combine {
                    let with = self.registers.predicates[usize::from(with.index)];
                    bits = match how {
                        Combine::And => bits & with,
                        Combine::Or => bits | with,
                        Combine::Xor => bits ^ with,
                    };
                }
                let row = &mut self.registers.predicates[target];
                *row = *row & !active | bits & active;
            }
        }
        let row = &mut self.initialised[code.initialised(compute.target)];
        *row = *row & !active | known & active;
        Ok(())
    }

    /// Whatever is rare, or reaches beyond the registers.
    pub(super) fn other(
        &mut self,
        block: &mut Block<'_>,
        operation: &Operation,
        at: u32,
        active: u32,
    ) -> Result<(), Problem> {
        match operation {
            Operation::Load(access) => self.load(block, access, at, active),
            Operation::Store(access) => self.store(block, access, at, active),
            Operation::Atomic(atomic) => self.atomic(block, atomic, at, active),
            Operation::Unpack { source, bits, targets } => {
                self.unpack(block.code, *source, *bits, targets, active)
            }
            Operation::Pack { target, bits, sources } => {
                self.pack(block.code, *target, *bits, sources, active)
            }
            Operation::ActiveMask { target } => {
                for lane in lanes(active) {
                    self.put(*target, lane, u64::from(active));
                }
                self.written(block.code, *target, active);
                Ok(())
            }
            Operation::Trap => problem(FaultKind::Trap, active.trailing_zeros() as usize, "trap"),
            Operation::Fence(fence) => {
                self.fence(block, *fence, active);
                Ok(())
            }
            other => unreachable!("{other:?} is executed elsewhere"),
        }
    }

    fn unpack(
        &mut self,
        code: &Code,
        source: Register,
        bits: u32,
        targets: &[Option<Register>],
        active: u32,
    ) -> Result<(), Problem> {
        self.check_written(code, source, active)?;
        let values: [u64; LANES] = std::array::from_fn(|lane| self.get(source, lane));
        for (i, target) in targets.iter().enumerate() {
            let Some(target) = target else { continue };
            let part = values.map(|value| (value >> (i as u32 * bits) & ((1 << bits) - 1)) as u32);
            blend(&mut self.registers.words[usize::from(target.index)], &part, active);
            self.written(code, *target, active);
        }
        Ok(())
    }

    fn pack(
        &mut self,
        code: &Code,
        target: Register,
        bits: u32,
        sources: &[Register],
        active: u32,
    ) -> Result<(), Problem> {
        let mut values = [0_u64; LANES];
        for (i, source) in sources.iter().enumerate() {
            self.check_written(code, *source, active)?;
            let row = &self.registers.words[usize::from(source.index)];
            for (value, part) in values.iter_mut().zip(row) {
                *value |= (u64::from(*part) & ((1 << bits) - 1)) << (i as u32 * bits);
            }
        }
        let index = usize::from(target.index);
        match target.bank {
            Bank::Word => blend(&mut self.registers.words[index], &values.map(|value| value as u32), active),
            Bank::Double => blend(&mut self.registers.doubles[index], &values, active),
            Bank::Predicate => unreachable!("a predicate is not packed"),
        }
        self.written(code, target, active);
        Ok(())
    }
}
