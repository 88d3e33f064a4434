//! What is queued, and in which order it may run.
//!
//! Operations stand in lines (one for each stream, one for each node of a launched graph). An operation is ready when it
//! is the first of its line and everything it waits for has run. Nothing runs until the host synchronises, and then the
//! order among ready operations is random: code that relies on more than streams and events promise goes wrong here.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::random::Random;
use super::work::Work;

/// The number of an operation; later ones have greater numbers, and an operation waits only for lesser ones.
pub(super) type OpId = u64;

/// A queued operation.
pub(super) struct Op {
    pub(super) id: OpId,
    pub(super) context: u64,
    after: Vec<OpId>,
    pub(super) work: Work,
}

/// Whether operations that nobody waits for run as well.
#[derive(Clone, Copy)]
pub(super) enum Strangers {
    Never,
    Sometimes,
    Always,
}

/// All lines.
pub(super) struct Queue {
    lines: BTreeMap<u64, VecDeque<Op>>,
    /// The line of each operation that has not run.
    place: HashMap<OpId, u64>,
    next: OpId,
    random: Random,
}

impl Queue {
    pub(super) fn new(seed: u64) -> Self {
        Self { lines: BTreeMap::new(), place: HashMap::new(), next: 1, random: Random::new(seed) }
    }

    pub(super) fn set_seed(&mut self, seed: u64) {
        self.random = Random::new(seed);
    }

    /// A seed for the inside of a launch; 0 in order.
    pub(super) fn draw(&mut self) -> u64 {
        if self.random.is_in_order() { 0 } else { self.random.next() | 1 }
    }

    pub(super) fn push(&mut self, context: u64, line: u64, after: Vec<OpId>, work: Work) -> OpId {
        let id = self.next;
        self.next += 1;
        self.place.insert(id, line);
        self.lines.entry(line).or_default().push_back(Op { id, context, after, work });
        id
    }

    pub(super) fn len(&self) -> usize {
        self.place.len()
    }

    pub(super) fn is_pending(&self, op: OpId) -> bool {
        self.place.contains_key(&op)
    }

    /// The last operation of a line.
    pub(super) fn tail(&self, line: u64) -> Option<OpId> {
        self.lines.get(&line)?.back().map(|op| op.id)
    }

    /// The last operation of each line of a context.
    pub(super) fn tails(&self, context: u64) -> Vec<OpId> {
        let last = self.lines.values().filter_map(VecDeque::back);
        last.filter(|op| op.context == context).map(|op| op.id).collect()
    }

    /// Forgets what a context has queued.
    pub(super) fn discard(&mut self, context: u64) {
        for line in self.lines.values_mut() {
            line.retain(|op| op.context != context);
        }
        self.lines.retain(|_, line| !line.is_empty());
        let lines = &self.lines;
        self.place.retain(|id, line| lines.get(line).is_some_and(|line| line.iter().any(|op| op.id == *id)));
    }

    /// How far each line must run for these operations to have run.
    pub(super) fn needed(&self, targets: &[OpId]) -> BTreeMap<u64, OpId> {
        let mut needed = BTreeMap::<u64, OpId>::new();
        let mut open = targets.to_vec();
        while let Some(target) = open.pop() {
            let Some(line) = self.place.get(&target) else { continue };
            let reached = needed.get(line).copied().unwrap_or(0);
            if target <= reached {
                continue;
            }
            needed.insert(*line, target);
            let between = self.lines[line].iter().filter(|op| op.id > reached && op.id <= target);
            open.extend(between.flat_map(|op| op.after.iter().copied()));
        }
        needed
    }

    /// How one synchronisation treats operations that it does not need.
    pub(super) fn strangers(&mut self) -> Strangers {
        if self.random.is_in_order() {
            return Strangers::Never;
        }
        match self.random.below(3) {
            0 => Strangers::Never,
            1 => Strangers::Sometimes,
            _ => Strangers::Always,
        }
    }

    /// Takes the next operation to run, until all needed ones have been taken.
    pub(super) fn take(&mut self, needed: &BTreeMap<u64, OpId>, strangers: Strangers) -> Option<Op> {
        let is_ready = |op: &Op| op.after.iter().all(|op| !self.place.contains_key(op));
        let heads = || self.lines.iter().filter_map(|(line, ops)| Some((*line, ops.front()?)));
        let is_needed = |line: u64, op: &Op| needed.get(&line).is_some_and(|last| op.id <= *last);
        let wanted: Vec<(OpId, u64)> = heads()
            .filter(|(line, op)| is_needed(*line, op) && is_ready(op))
            .map(|(line, op)| (op.id, line))
            .collect();
        let (_, line) = if self.random.is_in_order() {
            *wanted.iter().min()?
        } else if wanted.is_empty() {
            return None;
        } else {
            let also = match strangers {
                Strangers::Never => false,
                Strangers::Sometimes => self.random.next() & 1 == 1,
                Strangers::Always => true,
            };
            let all: Vec<(OpId, u64)> = if also {
                let is_ready = |op: &Op| op.after.iter().all(|op| !self.place.contains_key(op));
                let heads = self.lines.iter().filter_map(|(line, ops)| Some((*line, ops.front()?)));
                heads.filter(|(_, op)| is_ready(op)).map(|(line, op)| (op.id, line)).collect()
            } else {
                wanted
            };
            all[self.random.below(all.len())]
        };
        self.pop(line)
    }

    fn pop(&mut self, line: u64) -> Option<Op> {
        let ops = self.lines.get_mut(&line)?;
        let op = ops.pop_front()?;
        if ops.is_empty() {
            self.lines.remove(&line);
        }
        self.place.remove(&op.id);
        Some(op)
    }
}
