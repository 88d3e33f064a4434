//! What comes before what through releases and acquires. Kernels without any have none of this.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::Event;
use crate::lanes::LANES;

/// Who a strong operation orders with: the threads of its block, or all (`.gpu` and `.sys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Block,
    Device,
}

/// Accesses of other threads that come before.
#[derive(Clone, Debug, Default)]
struct Clock {
    /// Of a block: those of lower epochs.
    epochs: BTreeMap<u32, u32>,
    /// Of the lanes of a block's warp: those of lower ticks.
    ticks: BTreeMap<(u32, u32), [u32; LANES]>,
}

impl Clock {
    fn join(&mut self, other: &Self) {
        for (block, epoch) in &other.epochs {
            let own = self.epochs.entry(*block).or_default();
            *own = (*own).max(*epoch);
        }
        for (warp, ticks) in &other.ticks {
            self.join_warp(*warp, ticks);
        }
    }

    fn join_warp(&mut self, warp: (u32, u32), ticks: &[u32; LANES]) {
        let own = self.ticks.entry(warp).or_insert([0; LANES]);
        own.iter_mut().zip(ticks).for_each(|(own, tick)| *own = (*own).max(*tick));
    }
}

/// A clock that is shared until it changes; often nothing at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past(Option<Rc<Clock>>);

impl Past {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    #[inline(never)] // rare, and asked for by what is not
    pub(crate) fn covers(&self, event: &Event, lane: usize) -> bool {
        let Some(clock) = &self.0 else { return false };
        clock.epochs.get(&event.block).is_some_and(|epoch| event.epoch < *epoch)
            || clock.ticks.get(&(event.block, event.warp)).is_some_and(|ticks| event.tick < ticks[lane])
    }

    pub(crate) fn join(&mut self, other: &Self) {
        let Some(others) = &other.0 else { return };
        match &mut self.0 {
            None => *self = other.clone(),
            Some(own) if Rc::ptr_eq(own, others) => {}
            Some(own) => Rc::make_mut(own).join(others),
        }
    }

    /// Also the epochs of a block below this one, and the ticks of a warp of it below these.
    pub(crate) fn with(&self, block: u32, epoch: u32, warp: u32, ticks: &[u32; LANES]) -> Self {
        let mut clock = self.0.as_deref().cloned().unwrap_or_default();
        clock.epochs.insert(block, epoch);
        clock.join_warp((block, warp), ticks);
        Self(Some(Rc::new(clock)))
    }
}

/// What was released: to all threads, and to those of one block. Blocks run one after another, so that it is the block that
/// runs now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released {
    device: Past,
    block: Past,
}

impl Released {
    pub(crate) fn add(&mut self, past: &Past, scope: Scope) {
        if scope == Scope::Device {
            self.device.join(past);
        }
        self.block.join(past);
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.device.join(&other.device);
        self.block.join(&other.block);
    }

    /// What an acquire of this scope is given: both must name a scope that has the other thread in it.
    pub(crate) fn to(&self, scope: Scope) -> Past {
        let mut past = self.block.clone();
        if scope == Scope::Device {
            past.join(&self.device);
        }
        past
    }
}

/// What a location hands on, or a thread would.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handed {
    /// By release patterns, to acquire patterns.
    pub(crate) pattern: Released,
    /// By sequentially consistent fences before it, in whatever thread, to such fences behind it, in whatever thread.
    pub(crate) sequential: Released,
}

impl Handed {
    pub(crate) fn join(&mut self, other: &Self) {
        self.pattern.join(&other.pattern);
        self.sequential.join(&other.sequential);
    }

    pub(crate) fn is_empty(&self) -> bool {
        [&self.pattern, &self.sequential].iter().all(|part| part.device.is_empty() && part.block.is_empty())
    }

    /// A block has ended: what was only for its threads is for nobody.
    pub(crate) fn end_block(&mut self) {
        self.pattern.block = Past::default();
        self.sequential.block = Past::default();
    }
}

/// A location that strong operations name: an address, and whose block's if it is shared memory.
pub(crate) type Place = (Option<u32>, u64);

/// What locations hand on.
#[derive(Debug, Default)]
pub(crate) struct Locations(HashMap<Place, (u32, Handed)>);

impl Locations {
    /// What a thread of this block finds.
    pub(crate) fn find(&mut self, place: Place, block: u32) -> Option<&mut Handed> {
        let (last, handed) = self.0.get_mut(&place)?;
        if *last != block {
            *last = block;
            handed.end_block();
        }
        Some(handed)
    }

    /// An atomic hands on what it found, too: who observes it observes all those before it.
    pub(crate) fn add(&mut self, place: Place, block: u32, more: &Handed) {
        match self.find(place, block) {
            Some(handed) => handed.join(more),
            None => {
                self.0.insert(place, (block, more.clone()));
            }
        }
    }

    /// A store does not.
    pub(crate) fn forget(&mut self, place: Place) {
        self.0.remove(&place);
    }
}
