//! Order through fences, and through loads, stores and atomics that acquire or release: the PTX memory consistency model.
//!
//! A release pattern is a strong write that releases itself, or before which its thread passed a fence; an acquire pattern is
//! a strong read that acquires itself, or after which its thread passes a fence. What came before the one comes before what
//! follows the other, if this reads what that wrote, perhaps through atomics in between, and if the scope of each has the
//! other thread in it. Sequentially consistent fences, as `__threadfence()` is one, order also where barriers lie between
//! them and the write or the read.
//!
//! In three forms the model has an order and this has none: a relaxed store to a location that its thread released before,
//! a relaxed load before an acquire of the same location that finds something else, and sequentially consistent fences whose
//! order follows from anything but barriers, one write, and those who observe it.

use super::block::Block;
use super::warp::{Warp, lanes};
use super::window;
use crate::lanes::{Doubles, LANES};
use crate::memory::{Access as Touch, Handed, Past, Place};
use crate::ptx::ast::Space;
use crate::ptx::code::{Fence, Strong};

/// What a thread observed, and what its fences leave for its strong writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Passing {
    observed: Handed,
    fenced: Handed,
}

/// Where a strong operation may meet others; nobody else has local memory, and nobody writes to constants.
fn place(space: Space, address: u64, block: u32) -> Option<Place> {
    let shared = window(Space::Shared);
    let high = |space: Space| window(space) >> 32;
    match space {
        Space::Shared => Some((Some(block), address)),
        Space::Global => Some((None, address)),
        Space::Generic if address >> 32 == shared >> 32 => Some((Some(block), address - shared)),
        Space::Generic if [Space::Local, Space::Const, Space::Param].map(high).contains(&(address >> 32)) => {
            None
        }
        Space::Generic => Some((None, address)),
        Space::Local | Space::Const | Space::Param => None,
    }
}

impl Warp {
    /// Everything before this in the lane, and what comes before that.
    fn past(&self, lane: usize, block: &Block<'_>) -> Past {
        let mut ticks = [self.known.all; LANES];
        if let Some(each) = &self.known.each {
            ticks.iter_mut().zip(&each[lane]).for_each(|(tick, seen)| *tick = (*tick).max(*seen));
        }
        ticks[lane] = self.tick + 1;
        self.known.acquired[lane].with(block.number, block.epoch, self.index, &ticks)
    }

    pub(super) fn fence(&mut self, block: &Block<'_>, fence: Fence, active: u32) {
        for lane in lanes(active) {
            if fence.acquire {
                let observed = &self.passing[lane].observed;
                let acquired = &mut self.known.acquired[lane];
                acquired.join(&observed.pattern.to(fence.scope));
                if fence.sequential {
                    acquired.join(&observed.sequential.to(fence.scope));
                }
            }
            if fence.release {
                let past = self.past(lane, block);
                let fenced = &mut self.passing[lane].fenced;
                fenced.pattern.add(&past, fence.scope);
                if fence.sequential {
                    fenced.sequential.add(&past, fence.scope);
                }
            }
        }
        // What follows is another tick.
        self.synchronised();
    }

    /// Lanes have read or written elements of `size` bytes by strong operations, in this order.
    #[allow(clippy::too_many_arguments)] // one access is all of these
    pub(super) fn strong(
        &mut self,
        block: &mut Block<'_>,
        strong: Strong,
        touch: Touch,
        space: Space,
        addresses: &Doubles,
        (size, count): (usize, usize),
        active: u32,
    ) {
        if self.passing.is_empty() {
            return;
        }
        for lane in lanes(active) {
            for element in 0..count {
                let address = addresses[lane].wrapping_add((element * size) as u64);
                if let Some(place) = place(space, address, block.number) {
                    self.pass(block, strong, touch, place, lane);
                }
            }
        }
        if strong.release {
            self.synchronised();
        }
    }

    fn pass(&mut self, block: &mut Block<'_>, strong: Strong, touch: Touch, place: Place, lane: usize) {
        if touch != Touch::Write
            && strong.observes
            && let Some(handed) = block.locations.find(place, block.number)
        {
            self.passing[lane].observed.join(handed);
            if strong.acquire {
                self.known.acquired[lane].join(&handed.pattern.to(strong.scope));
            }
        }
        if touch == Touch::Read {
            return;
        }
        if touch == Touch::Write {
            block.locations.forget(place);
        }
        let mut handed = self.passing[lane].fenced.clone();
        if strong.release {
            handed.pattern.add(&self.past(lane, block), strong.scope);
        }
        if !handed.is_empty() {
            block.locations.add(place, block.number, &handed);
        }
    }

    /// These lanes have met: each has acquired what any of them has, and fences of any may be those of all.
    pub(super) fn share(&mut self, group: u32) {
        if !self.passing.is_empty() {
            let mut met = Met::default();
            met.add(self, group);
            met.spread(self, group);
        }
    }
}

/// What threads have that meet at a barrier.
#[derive(Debug, Default)]
pub(super) struct Met {
    acquired: Past,
    passing: Passing,
}

impl Met {
    pub(super) fn add(&mut self, warp: &Warp, group: u32) {
        for lane in lanes(group) {
            self.acquired.join(&warp.known.acquired[lane]);
            let Passing { observed, fenced } = &warp.passing[lane];
            self.passing.observed.sequential.join(&observed.sequential);
            self.passing.fenced.sequential.join(&fenced.sequential);
        }
    }

    pub(super) fn spread(&self, warp: &mut Warp, group: u32) {
        for lane in lanes(group) {
            warp.known.acquired[lane].join(&self.acquired);
            let Passing { observed, fenced } = &mut warp.passing[lane];
            observed.sequential.join(&self.passing.observed.sequential);
            fenced.sequential.join(&self.passing.fenced.sequential);
        }
    }
}
