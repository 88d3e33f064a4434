//! The blocks of a launch, one after another, and the warps of a block, in turns.

use std::collections::VecDeque;

use super::fence::Met;
use super::order::{Random, blocks};
use super::warp::{Fragment, Progress, Wait, Warp};
use super::{Counts, Fault, FaultKind, Launch, Problem};
use crate::lanes::LANES;
use crate::memory::{Bits, Locations, Memory, Shadow};
use crate::ptx::code::{Barrier, Code, Operation, ReduceKind};

/// Under a seed a warp runs up to so many instructions before another one has its turn.
const TURN: u64 = 64;
/// Without a seed, where a warp may wait for what another one stores.
const LONG_TURN: u64 = 1 << 12;

/// What the warps of a block share.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) launch: &'a Launch<'a>,
    pub(super) code: &'a Code,
    pub(super) counts: Counts,
    pub(super) shared: Vec<u8>,
    pub(super) shared_initialised: Bits,
    pub(super) shared_shadow: Shadow,
    /// Counted through all launches.
    pub(super) number: u32,
    /// The first event of the block.
    pub(super) first_event: u32,
    /// Barriers passed.
    pub(super) epoch: u32,
    /// What strong operations have left.
    pub(super) locations: Locations,
    /// The allocation that each instruction used last.
    pub(super) hints: Vec<usize>,
}

pub(super) fn run(memory: &mut Memory, launch: &Launch<'_>) -> Result<Counts, Fault> {
    let code = &launch.kernel.code;
    let shared = launch.kernel.static_shared + launch.dynamic_shared;
    let mut block = Block {
        memory,
        launch,
        code,
        counts: Counts::default(),
        shared: vec![0; shared],
        shared_initialised: Bits::new(shared),
        shared_shadow: Shadow::new(shared),
        number: 0,
        first_event: 0,
        epoch: 0,
        locations: Locations::default(),
        hints: vec![0; code.instructions.len()],
    };
    let threads = launch.block.iter().product::<u32>();
    let mut warps: Vec<Warp> =
        (0..threads.div_ceil(LANES as u32)).map(|i| Warp::new(code, i, threads)).collect();
    let count = launch.grid.iter().map(|n| u64::from(*n)).product();
    let (first, end) = launch.blocks.unwrap_or((0, count));
    let (first, end) = (first.min(count), end.min(count));
    let mut random = Random::new(launch.seed);
    for index in blocks(end.saturating_sub(first), launch.seed) {
        block.run(&mut warps, first + index, &mut random)?;
        block.counts.blocks += 1;
    }
    Ok(block.counts)
}

impl Block<'_> {
    fn run(&mut self, warps: &mut [Warp], index: u64, random: &mut Random) -> Result<(), Fault> {
        let [x, y, _] = self.launch.grid.map(u64::from);
        let place = [index % x, index / x % y, index / x / y].map(|i| i as u32);
        self.number = self.memory.events.begin_block();
        self.first_event = self.memory.events.next();
        self.epoch = 0;
        self.shared_initialised.clear();
        for warp in warps.iter_mut() {
            warp.begin(self.code, place, self.launch.block, self.launch.grid);
        }
        let mut ready: VecDeque<usize> = (0..warps.len()).collect();
        loop {
            while !ready.is_empty() {
                let (turn, budget) = match self.launch.seed {
                    0 if self.code.passes => (0, LONG_TURN),
                    0 => (0, u64::MAX),
                    _ => (random.below(ready.len() as u64) as usize, 1 + random.below(TURN)),
                };
                let warp = &mut warps[ready[turn]];
                match warp.run(self, budget) {
                    Ok(Progress::Running) if self.launch.seed == 0 => ready.rotate_left(1),
                    Ok(Progress::Running) => {}
                    Ok(Progress::Waiting | Progress::Done) => {
                        ready.remove(turn);
                    }
                    Err((at, problem)) => return Err(self.fault(warp, place, at, problem)),
                }
            }
            if warps.iter().all(|warp| warp.fragments.is_empty()) {
                return Ok(());
            }
            if let Some((warp, at, problem)) = self.divergent(warps) {
                return Err(self.fault(&warps[warp], place, at, problem));
            }
            self.release(warps);
            ready.extend(0..warps.len());
        }
    }

    fn fault(&self, warp: &Warp, place: [u32; 3], at: u32, problem: Problem) -> Fault {
        Fault {
            kind: problem.kind,
            kernel: self.launch.kernel.name.clone(),
            line: self.line(at),
            block: place,
            thread: warp.thread(problem.lane, self.launch.block),
            detail: problem.detail,
        }
    }

    pub(super) fn line(&self, at: u32) -> usize {
        self.code.instructions[at as usize].line as usize
    }

    fn barrier(&self, fragment: Fragment) -> Option<&Barrier> {
        match &self.code.instructions[fragment.at as usize].operation {
            Operation::Barrier(barrier) => Some(barrier),
            _ => None,
        }
    }

    /// Why the barrier that all running threads wait at does not open: the waiting thread, and who is missing.
    fn divergent(&self, warps: &[Warp]) -> Option<(usize, u32, Problem)> {
        let (first, waiting) = warps
            .iter()
            .enumerate()
            .find_map(|(i, warp)| warp.fragments.first().map(|fragment| (i, *fragment)))?;
        let barrier = self.barrier(waiting)?;
        let missing = warps.iter().find_map(|warp| {
            let thread = |lane: u32| warp.thread(lane as usize, self.launch.block);
            if warp.exited != 0 {
                return Some(format!("thread {:?} has exited", thread(warp.exited.trailing_zeros())));
            }
            if let [one, other, ..] = warp.fragments.as_slice()
                && barrier.aligned
            {
                let (one, other) = if one.at == waiting.at { (one, other) } else { (other, one) };
                let (lane, line) = (other.lanes.trailing_zeros(), self.line(other.at));
                let with = thread(one.lanes.trailing_zeros());
                return Some(format!(
                    "thread {:?} waits at line {line}, apart from {with:?} of its warp",
                    thread(lane)
                ));
            }
            warp.fragments.iter().find_map(|fragment| {
                let other = self.barrier(*fragment)?;
                let same = other.id == barrier.id
                    && other.reduce.map(|reduce| reduce.kind) == barrier.reduce.map(|reduce| reduce.kind);
                let line = self.line(fragment.at);
                (!same).then(|| {
                    format!(
                        "thread {:?} waits at another barrier, line {line}",
                        thread(fragment.lanes.trailing_zeros())
                    )
                })
            })
        })?;
        let lane = waiting.lanes.trailing_zeros() as usize;
        Some((first, waiting.at, Problem { kind: FaultKind::DivergentBarrier, lane, detail: missing }))
    }

    /// All threads are there.
    fn release(&mut self, warps: &mut [Warp]) {
        let mut votes = 0;
        let mut threads = 0;
        for warp in warps.iter() {
            for fragment in &warp.fragments {
                if let Some(Barrier { reduce: Some(reduce), .. }) = self.barrier(*fragment) {
                    let bits = warp.registers.predicates[usize::from(reduce.source.index)];
                    votes += ((if reduce.not { !bits } else { bits }) & fragment.lanes).count_ones();
                }
                threads += fragment.lanes.count_ones();
            }
        }
        if self.code.passes {
            let mut met = Met::default();
            warps.iter().for_each(|warp| met.add(warp, warp.lanes));
            warps.iter_mut().for_each(|warp| met.spread(warp, warp.lanes));
        }
        for warp in warps {
            for i in 0..warp.fragments.len() {
                let fragment = warp.fragments[i];
                if let Some(Barrier { reduce: Some(reduce), .. }) = self.barrier(fragment) {
                    let result = match reduce.kind {
                        ReduceKind::Count => votes,
                        ReduceKind::And => u32::from(votes == threads),
                        ReduceKind::Or => u32::from(votes != 0),
                    };
                    for lane in super::warp::lanes(fragment.lanes) {
                        warp.put(reduce.target, lane, u64::from(result));
                    }
                    warp.written(self.code, reduce.target, fragment.lanes);
                }
                let lanes = fragment.lanes;
                warp.fragments[i] = Fragment { at: fragment.at + 1, lanes, wait: Wait::Nothing };
            }
            warp.passed_barrier();
        }
        self.epoch += 1;
    }
}
