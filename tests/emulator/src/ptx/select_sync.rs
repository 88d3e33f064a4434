//! One instruction of the tree to one operation: what a warp or a block does together.

use super::ast::{Instruction, Operand};
use super::code::{Barrier, Fence, Operation, Reduce, ReduceKind, Shuffle, ShuffleMode, Vote, VoteKind};
use super::lower::{Lowering, fail};
use super::parse::Result;
use super::select_memory::scope_of;
use crate::lanes::Kind;

/// Barriers of a block.
const BARRIERS: i128 = 16;

/// `membar` is a sequentially consistent fence (PTX ISA, membar).
fn fence(opcode: &str) -> Option<Fence> {
    let (order, scope) = match opcode {
        "membar.cta" => ("sc", "cta"),
        "membar.gl" => ("sc", "gpu"),
        "membar.sys" => ("sc", "sys"),
        opcode => opcode.strip_prefix("fence.")?.split_once('.')?,
    };
    let scope = scope_of(scope)?;
    let (acquire, release) = match order {
        "sc" | "acq_rel" => (true, true),
        "acquire" => (true, false),
        "release" => (false, true),
        _ => return None,
    };
    Some(Fence { scope, acquire, release, sequential: order == "sc" })
}

impl Lowering<'_> {
    pub(super) fn synchronise(&mut self, instruction: &Instruction) -> Result<Operation> {
        let line = instruction.line;
        let operands = instruction.operands.as_slice();
        let vote = match instruction.opcode.as_str() {
            "shfl.sync.up.b32" => return self.shuffle(line, operands, ShuffleMode::Up),
            "shfl.sync.down.b32" => return self.shuffle(line, operands, ShuffleMode::Down),
            "shfl.sync.bfly.b32" => return self.shuffle(line, operands, ShuffleMode::Butterfly),
            "shfl.sync.idx.b32" => return self.shuffle(line, operands, ShuffleMode::Index),
            "bar.sync" | "barrier.sync.aligned" | "barrier.cta.sync.aligned" => {
                return self.barrier(line, operands, true);
            }
            "barrier.sync" | "barrier.cta.sync" => return self.barrier(line, operands, false),
            "bar.red.popc.u32" => return self.reduce(line, operands, ReduceKind::Count),
            "bar.red.and.pred" => return self.reduce(line, operands, ReduceKind::And),
            "bar.red.or.pred" => return self.reduce(line, operands, ReduceKind::Or),
            "bar.warp.sync" => {
                let [mask] = operands else { return fail(line, "bar.warp.sync takes a mask") };
                return Ok(Operation::WarpBarrier { mask: self.source(line, mask, Kind::Word, false)? });
            }
            "activemask.b32" => {
                let [target] = operands else { return fail(line, "activemask takes a target") };
                return Ok(Operation::ActiveMask { target: self.target(line, target, Kind::Word)? });
            }
            "trap" if operands.is_empty() => return Ok(Operation::Trap),
            "vote.sync.all.pred" => VoteKind::All,
            "vote.sync.any.pred" => VoteKind::Any,
            "vote.sync.uni.pred" => VoteKind::Uniform,
            "vote.sync.ballot.b32" => VoteKind::Ballot,
            opcode => match fence(opcode) {
                Some(fence) if operands.is_empty() => return Ok(Operation::Fence(fence)),
                _ => return fail(line, format!("unknown instruction {opcode}")),
            },
        };
        let [target, source, mask] = operands else { return fail(line, "vote takes three operands") };
        let kind = if vote == VoteKind::Ballot { Kind::Word } else { Kind::Predicate };
        let target = self.target(line, target, kind)?;
        let (source, not) = self.predicate(line, source)?;
        let mask = self.source(line, mask, Kind::Word, false)?;
        Ok(Operation::Vote(Vote { kind: vote, target, source, not, mask }))
    }

    fn shuffle(&mut self, line: usize, operands: &[Operand], mode: ShuffleMode) -> Result<Operation> {
        let [target, source, lane, clamp, mask] = operands else {
            return fail(line, "shfl takes five operands");
        };
        let (target, valid) = match target {
            Operand::Pair(target, valid) => {
                let valid = match &**valid {
                    Operand::Sink => None,
                    valid => Some(self.target(line, valid, Kind::Predicate)?),
                };
                (&**target, valid)
            }
            target => (target, None),
        };
        Ok(Operation::Shuffle(Shuffle {
            mode,
            target: self.target(line, target, Kind::Word)?,
            valid,
            source: self.source(line, source, Kind::Word, false)?,
            lane: self.source(line, lane, Kind::Word, false)?,
            clamp: self.source(line, clamp, Kind::Word, false)?,
            mask: self.source(line, mask, Kind::Word, false)?,
        }))
    }

    fn barrier(&mut self, line: usize, operands: &[Operand], aligned: bool) -> Result<Operation> {
        match operands {
            [Operand::Integer(id)] if (0..BARRIERS).contains(id) => {
                Ok(Operation::Barrier(Barrier { id: *id as u32, aligned, reduce: None }))
            }
            [_] => fail(line, "a barrier's number is a literal below 16"),
            _ => fail(line, "a barrier of only some threads is not known"),
        }
    }

    fn reduce(&mut self, line: usize, operands: &[Operand], kind: ReduceKind) -> Result<Operation> {
        let [target, Operand::Integer(id), source] = operands else {
            return fail(line, "a reduction takes a target, a literal and a predicate");
        };
        if !(0..BARRIERS).contains(id) {
            return fail(line, "a barrier's number is a literal below 16");
        }
        let result = if kind == ReduceKind::Count { Kind::Word } else { Kind::Predicate };
        let target = self.target(line, target, result)?;
        let (source, not) = self.predicate(line, source)?;
        let reduce = Some(Reduce { kind, target, source, not });
        Ok(Operation::Barrier(Barrier { id: *id as u32, aligned: true, reduce }))
    }
}
