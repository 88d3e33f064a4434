//! What the lanes of a warp do together: each names the lanes that it expects, and waits for them.

use super::warp::{Fragment, Warp, lanes};
use super::{FaultKind, Problem, problem};
use crate::lanes::LANES;
use crate::ptx::code::{Code, Operation, Register, Shuffle, ShuffleMode, Vote, VoteKind};

fn mask_of(operation: &Operation) -> Option<Register> {
    match operation {
        Operation::Shuffle(shuffle) => Some(shuffle.mask),
        Operation::Vote(vote) => Some(vote.mask),
        Operation::WarpBarrier { mask } => Some(*mask),
        _ => None,
    }
}

impl Warp {
    /// Executes for those of the active lanes whose whole group is there; returns these.
    pub(super) fn together(
        &mut self,
        code: &Code,
        operation: &Operation,
        active: u32,
    ) -> Result<u32, Problem> {
        let Some(mask) = mask_of(operation) else { return Ok(active) };
        self.check_written(code, mask, active)?;
        match operation {
            Operation::Shuffle(shuffle) => {
                for register in [shuffle.source, shuffle.lane, shuffle.clamp] {
                    self.check_written(code, register, active)?;
                }
            }
            Operation::Vote(vote) => self.check_written(code, vote.source, active)?,
            _ => {}
        }
        let masks = self.registers.words[usize::from(mask.index)];
        let (mut rest, mut done) = (active, 0);
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            let group = masks[lane];
            self.check_group(lane, group, active, &masks)?;
            rest &= !group;
            if group & !active != 0 {
                continue;
            }
            match operation {
                Operation::Shuffle(shuffle) => self.shuffle(code, shuffle, group)?,
                Operation::Vote(vote) => self.vote(code, vote, group),
                _ => {}
            }
            self.order(group);
            done |= group;
        }
        Ok(done)
    }

    fn check_group(&self, lane: usize, group: u32, active: u32, masks: &[u32; LANES]) -> Result<(), Problem> {
        if group >> lane & 1 == 0 {
            return problem(
                FaultKind::InactiveLane,
                lane,
                format!("the mask {group:#010x} leaves out lane {lane} itself"),
            );
        }
        let gone = group & (self.exited | !self.lanes);
        if gone != 0 {
            let other = gone.trailing_zeros();
            let why = if self.lanes >> other & 1 == 0 { "does not exist" } else { "has exited" };
            return problem(
                FaultKind::InactiveLane,
                lane,
                format!("the mask {group:#010x} names lane {other}, which {why}"),
            );
        }
        match lanes(group & active).find(|other| masks[*other] != group) {
            None => Ok(()),
            Some(other) => {
                let its = masks[other];
                let detail = format!("the mask is {group:#010x} here and {its:#010x} in lane {other}");
                problem(FaultKind::InactiveLane, lane, detail)
            }
        }
    }

    /// Why a fragment that waits for lanes waits for ever.
    pub(super) fn missing(&self, code: &Code, stuck: Fragment) -> Problem {
        let operation = &code.instructions[stuck.at as usize].operation;
        let mask = mask_of(operation).expect("only these wait for lanes");
        let masks = self.registers.words[usize::from(mask.index)];
        for lane in lanes(stuck.lanes) {
            if let Err(problem) = self.check_group(lane, masks[lane], stuck.lanes, &masks) {
                return problem;
            }
        }
        let lane = stuck.lanes.trailing_zeros() as usize;
        let group = masks[lane];
        let other = (group & !stuck.lanes).trailing_zeros();
        let place = self.fragments.iter().find(|fragment| fragment.lanes >> other & 1 != 0);
        let line = place.map_or(0, |fragment| code.instructions[fragment.at as usize].line);
        let detail = format!("the mask {group:#010x} names lane {other}, which waits at line {line}");
        Problem { kind: FaultKind::InactiveLane, lane, detail }
    }

    /// Whatever these lanes did before comes before what they do from now on.
    fn order(&mut self, group: u32) {
        let now = self.tick + 1;
        if group == self.lanes {
            self.known.all = now;
            self.known.each = None;
        } else {
            let each = self.known.each.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
            let mut joined = [0; LANES];
            for lane in lanes(group) {
                for (seen, by) in joined.iter_mut().zip(&each[lane]) {
                    *seen = (*seen).max(*by);
                }
            }
            lanes(group).for_each(|lane| joined[lane] = now);
            lanes(group).for_each(|lane| each[lane] = joined);
        }
        self.share(group);
        self.synchronised();
    }

    /// PTX ISA, shfl.sync: the pseudocode, lane by lane.
    fn shuffle(&mut self, code: &Code, shuffle: &Shuffle, group: u32) -> Result<(), Problem> {
        let row = |register: Register| self.registers.words[usize::from(register.index)];
        let (source, amount, clamp) = (row(shuffle.source), row(shuffle.lane), row(shuffle.clamp));
        let (mut result, mut valid) = (source, 0);
        for lane in lanes(group) {
            let (b, c, segment) = (amount[lane] & 31, clamp[lane] & 31, clamp[lane] >> 8 & 31);
            let own = lane as u32;
            let last = (own & segment | c & !segment) as i32;
            let from = match shuffle.mode {
                ShuffleMode::Up => own as i32 - b as i32,
                ShuffleMode::Down => (own + b) as i32,
                ShuffleMode::Butterfly => (own ^ b) as i32,
                ShuffleMode::Index => (own & segment | b & !segment) as i32,
            };
            let inside = if shuffle.mode == ShuffleMode::Up { from >= last } else { from <= last };
            if !inside {
                continue;
            }
            if group >> from & 1 == 0 {
                let detail = format!("reads from lane {from}, which the mask {group:#010x} leaves out");
                return problem(FaultKind::InactiveLane, lane, detail);
            }
            valid |= 1 << lane;
            result[lane] = source[from as usize];
        }
        for lane in lanes(group) {
            self.put(shuffle.target, lane, u64::from(result[lane]));
        }
        self.written(code, shuffle.target, group);
        if let Some(target) = shuffle.valid {
            let row = &mut self.registers.predicates[usize::from(target.index)];
            *row = *row & !group | valid;
            self.written(code, target, group);
        }
        Ok(())
    }

    fn vote(&mut self, code: &Code, vote: &Vote, group: u32) {
        let bits = self.registers.predicates[usize::from(vote.source.index)];
        let votes = (if vote.not { !bits } else { bits }) & group;
        let result = match vote.kind {
            VoteKind::All => u32::from(votes == group),
            VoteKind::Any => u32::from(votes != 0),
            VoteKind::Uniform => u32::from(votes == group || votes == 0),
            VoteKind::Ballot => votes,
        };
        for lane in lanes(group) {
            self.put(vote.target, lane, u64::from(result));
        }
        self.written(code, vote.target, group);
    }
}
