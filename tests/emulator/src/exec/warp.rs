//! A warp: its registers, and where each of its lanes is. Lanes at one instruction are a fragment and execute together; of
//! several fragments the one that is behind runs, so that they meet again where their paths do.

use super::block::Block;
use super::fence::Passing;
use super::{FaultKind, Problem, problem};
use crate::lanes::{LANES, Out, Registers};
use crate::memory::{Bits, Event, Known, Past};
use crate::ptx::code::{Bank, Code, Operation, Register, Special, Strong};

/// Instructions of one warp in one block, after which it is held to run for ever.
const RUNAWAY: u64 = 1 << 26;

/// What a fragment waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Other lanes of the warp.
    Lanes,
    /// All threads of the block.
    Barrier,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) at: u32,
    pub(super) lanes: u32,
    pub(super) wait: Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Running,
    Waiting,
    Done,
}

#[derive(Debug)]
pub(super) struct Warp {
    pub(super) index: u32,
    /// Lanes that exist.
    pub(super) lanes: u32,
    pub(super) exited: u32,
    pub(super) fragments: Vec<Fragment>,
    pub(super) registers: Registers,
    /// Lanes in which each register was written, as [`Code::initialised`] numbers them.
    pub(super) initialised: Vec<u32>,
    pub(super) out: Out,
    pub(super) local: Vec<u8>,
    pub(super) local_initialised: Bits,
    pub(super) known: Known,
    /// Of each lane; empty as [`Known::acquired`] is.
    pub(super) passing: Vec<Passing>,
    /// Synchronisations so far.
    pub(super) tick: u32,
    /// Changes with every synchronisation and block.
    interval: u64,
    /// The event of each instruction, and the interval that it is of.
    events: Vec<(u64, u32)>,
    steps: u64,
    fresh: Vec<u32>,
}

pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

impl Warp {
    pub(super) fn new(code: &Code, index: u32, threads: u32) -> Self {
        let mut registers = Registers {
            words: vec![[0; LANES]; code.words],
            doubles: vec![[0; LANES]; code.doubles],
            predicates: vec![0; code.predicates],
        };
        let mut fresh = vec![0; code.words + code.doubles + code.predicates];
        for (register, value) in &code.constants {
            let index = usize::from(register.index);
            match register.bank {
                Bank::Word => registers.words[index] = [*value as u32; LANES],
                Bank::Double => registers.doubles[index] = [*value; LANES],
                Bank::Predicate => registers.predicates[index] = if *value == 0 { 0 } else { !0 },
            }
            fresh[code.initialised(*register)] = !0;
        }
        for (register, _) in &code.specials {
            fresh[code.initialised(*register)] = !0;
        }
        let threads = (threads - index * LANES as u32).min(LANES as u32);
        Self {
            index,
            lanes: !0 >> (LANES as u32 - threads),
            exited: 0,
            fragments: Vec::new(),
            registers,
            initialised: fresh.clone(),
            out: Out::default(),
            local: vec![0; code.frame * LANES],
            local_initialised: Bits::new(code.frame * LANES),
            known: Known::default(),
            passing: Vec::new(),
            tick: 0,
            interval: 0,
            events: vec![(0, 0); code.instructions.len()],
            steps: 0,
            fresh,
        }
    }

    /// At the first instruction of a block.
    pub(super) fn begin(&mut self, code: &Code, block: [u32; 3], size: [u32; 3], grid: [u32; 3]) {
        self.exited = 0;
        self.fragments.clear();
        self.fragments.push(Fragment { at: 0, lanes: self.lanes, wait: Wait::Nothing });
        self.initialised.copy_from_slice(&self.fresh);
        self.local_initialised.clear();
        self.known = Known::default();
        if code.passes {
            self.known.acquired = vec![Past::default(); LANES];
            self.passing = vec![Passing::default(); LANES];
        }
        (self.tick, self.steps) = (0, 0);
        self.interval += 1;
        let warps = (size.iter().product::<u32>()).div_ceil(LANES as u32);
        for (register, special) in &code.specials {
            self.registers.words[usize::from(register.index)] = std::array::from_fn(|lane| {
                let below = (1_u32 << lane) - 1;
                match *special {
                    Special::Thread(axis) => self.thread(lane, size)[axis],
                    Special::BlockSize(axis) => size[axis],
                    Special::Block(axis) => block[axis],
                    Special::GridSize(axis) => grid[axis],
                    Special::Lane => lane as u32,
                    Special::Warp => self.index,
                    Special::Warps => warps,
                    Special::LanesEqual => 1 << lane,
                    Special::LanesBelow => below,
                    Special::LanesUpTo => below | 1 << lane,
                    Special::LanesAbove => !(below | 1 << lane),
                    Special::LanesFrom => !below,
                }
            });
        }
    }

    pub(super) fn thread(&self, lane: usize, size: [u32; 3]) -> [u32; 3] {
        let thread = self.index * LANES as u32 + lane as u32;
        [thread % size[0], thread / size[0] % size[1], thread / size[0] / size[1]]
    }

    /// The event of an instruction that touches memory now, and what it is.
    pub(super) fn event(
        &mut self,
        block: &mut Block<'_>,
        at: u32,
        strong: Option<Strong>,
        size: usize,
    ) -> (u32, Event) {
        let event = Event {
            block: block.number,
            warp: self.index,
            epoch: block.epoch,
            tick: self.tick,
            at,
            strong: strong.map(|strong| strong.scope),
            size: size as u8,
        };
        let (interval, number) = &mut self.events[at as usize];
        if *interval != self.interval {
            (*interval, *number) = (self.interval, block.memory.events.add(event));
        }
        (*number, event)
    }

    pub(super) fn synchronised(&mut self) {
        self.tick += 1;
        self.interval += 1;
    }

    pub(super) fn passed_barrier(&mut self) {
        self.interval += 1;
    }

    pub(super) fn get(&self, register: Register, lane: usize) -> u64 {
        let index = usize::from(register.index);
        match register.bank {
            Bank::Word => u64::from(self.registers.words[index][lane]),
            Bank::Double => self.registers.doubles[index][lane],
            Bank::Predicate => u64::from(self.registers.predicates[index] >> lane & 1),
        }
    }

    pub(super) fn put(&mut self, register: Register, lane: usize, value: u64) {
        let index = usize::from(register.index);
        match register.bank {
            Bank::Word => self.registers.words[index][lane] = value as u32,
            Bank::Double => self.registers.doubles[index][lane] = value,
            Bank::Predicate => {
                let row = &mut self.registers.predicates[index];
                *row = *row & !(1 << lane) | (value as u32 & 1) << lane;
            }
        }
    }

    pub(super) fn written(&mut self, code: &Code, register: Register, mask: u32) {
        self.initialised[code.initialised(register)] |= mask;
    }

    pub(super) fn check_written(&self, code: &Code, register: Register, mask: u32) -> Result<(), Problem> {
        let missing = mask & !self.initialised[code.initialised(register)];
        if missing == 0 {
            return Ok(());
        }
        problem(
            FaultKind::Uninitialised,
            missing.trailing_zeros() as usize,
            "a register that was never written",
        )
    }

    /// Runs up to `budget` instructions. On an error, also which instruction.
    pub(super) fn run(&mut self, block: &mut Block<'_>, budget: u64) -> Result<Progress, (u32, Problem)> {
        // Not for ever in one go, so that a runaway loop is noticed.
        let mut budget = budget.min(RUNAWAY - self.steps.min(RUNAWAY));
        self.steps += budget;
        loop {
            let behind = (0..self.fragments.len())
                .filter(|i| self.fragments[*i].wait == Wait::Nothing)
                .min_by_key(|i| self.fragments[*i].at);
            let Some(behind) = behind else {
                self.steps -= budget;
                return self.resting(block);
            };
            let mut now = self.fragments.swap_remove(behind);
            while now.lanes != 0 {
                if !self.fragments.is_empty() && !self.meet(&mut now) || budget == 0 {
                    break;
                }
                budget -= 1;
                block.counts.instructions += 1;
                self.step(block, &mut now).map_err(|problem| (now.at, problem))?;
            }
            if now.lanes != 0 {
                self.fragments.push(now);
            }
            if budget == 0 {
                return self.pause(now);
            }
        }
    }

    /// Another warp's turn, unless this one's are used up.
    fn pause(&self, now: Fragment) -> Result<Progress, (u32, Problem)> {
        if self.steps < RUNAWAY {
            return Ok(Progress::Running);
        }
        let lane = now.lanes.trailing_zeros() as usize % LANES;
        let detail = format!("still running after {RUNAWAY} instructions");
        Err((now.at, Problem { kind: FaultKind::Trap, lane, detail }))
    }

    /// Takes in the fragments that are where this one is. False where another one that can run is behind it.
    fn meet(&mut self, now: &mut Fragment) -> bool {
        let mut first = true;
        self.fragments.retain(|other| {
            if other.at == now.at {
                now.lanes |= other.lanes;
                return false;
            }
            first &= other.wait != Wait::Nothing || other.at > now.at;
            true
        });
        first
    }

    /// Nothing can run: all is done, waits for other warps, or never goes on.
    fn resting(&mut self, block: &Block<'_>) -> Result<Progress, (u32, Problem)> {
        if self.fragments.is_empty() {
            return Ok(Progress::Done);
        }
        match self.fragments.iter().find(|fragment| fragment.wait == Wait::Lanes).copied() {
            None => Ok(Progress::Waiting),
            Some(stuck) => Err((stuck.at, self.missing(block.code, stuck))),
        }
    }

    /// One instruction for the lanes of `now`, which moves on; lanes that go elsewhere become fragments of their own.
    #[inline]
    fn step(&mut self, block: &mut Block<'_>, now: &mut Fragment) -> Result<(), Problem> {
        let code = block.code;
        let instruction = &code.instructions[now.at as usize];
        let mut active = now.lanes;
        if let Some(guard) = instruction.guard {
            self.check_written(code, guard.predicate, active)?;
            let bits = self.registers.predicates[usize::from(guard.predicate.index)];
            active &= if guard.not { !bits } else { bits };
        }
        match &instruction.operation {
            Operation::Branch { target } => {
                let rest = now.lanes & !active;
                match (active, rest) {
                    (0, _) => now.at += 1,
                    (_, 0) => now.at = *target,
                    _ => {
                        self.fragments.push(Fragment { at: now.at + 1, lanes: rest, wait: Wait::Nothing });
                        *now = Fragment { at: *target, lanes: active, wait: Wait::Nothing };
                    }
                }
                return Ok(());
            }
            Operation::Exit => {
                self.exited |= active;
                now.lanes &= !active;
                now.at += 1;
                return Ok(());
            }
            _ if active == 0 => {}
            Operation::Barrier(barrier) => {
                if let Some(reduce) = barrier.reduce {
                    self.check_written(code, reduce.source, active)?;
                }
                self.fragments.push(Fragment { at: now.at, lanes: active, wait: Wait::Barrier });
                now.lanes &= !active;
            }
            Operation::Shuffle(_) | Operation::Vote(_) | Operation::WarpBarrier { .. } => {
                let together = self.together(code, &instruction.operation, active)?;
                let waiting = active & !together;
                if waiting != 0 {
                    self.fragments.push(Fragment { at: now.at, lanes: waiting, wait: Wait::Lanes });
                    now.lanes &= !waiting;
                }
            }
            Operation::Compute(compute) => self.compute(code, compute, active)?,
            operation => self.other(block, operation, now.at, active)?,
        }
        now.at += 1;
        Ok(())
    }
}
