//! Who touched which bytes last, to find two threads that touch one without an order between them.
//!
//! A *tag* is an [`Event`] and a lane of it, so that a granule of memory needs a word for its last writer and one for its
//! last reader. Tags older than the launch (of shared memory: than the block) count as none; nothing is ever cleared. A
//! granule has four bytes, until an access smaller than that splits its page into bytes.

use std::ops::Range;

use super::{Event, Events};
use crate::lanes::LANES;

/// Bytes of a page.
const PAGE: usize = 1 << 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
}

/// What the lanes of a warp know: the synchronisations (ticks) up to which each has seen the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Up to here everyone has seen everyone.
    pub(crate) all: u32,
    /// Of each lane, up to where it has seen each other one; where a synchronisation had only some lanes.
    pub(crate) each: Option<Box<[[u32; LANES]; LANES]>>,
}

/// Whoever touches memory now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) events: &'a Events,
    /// Older events are ordered before this launch or block.
    pub(crate) first: u32,
    pub(crate) event: u32,
    pub(crate) me: Event,
    pub(crate) known: &'a Known,
}

/// An earlier access that has no order with this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) tag: u32,
    /// Offset of the granule.
    pub(crate) offset: usize,
    pub(crate) lane: usize,
}

impl View<'_> {
    fn tag(&self, lane: usize) -> u32 {
        self.event * LANES as u32 + lane as u32
    }

    /// Whether the access of this tag comes before anything that `lane` does now, or is the lane's own.
    fn ordered(&self, tag: u32, lane: usize) -> bool {
        if tag < self.first * LANES as u32 {
            return true;
        }
        let event = self.events.get(tag / LANES as u32);
        if event.block != self.me.block {
            return false;
        }
        if event.epoch < self.me.epoch {
            return true;
        }
        let other = tag as usize % LANES;
        event.warp == self.me.warp
            && (other == lane
                || event.tick < self.known.all
                || self.known.each.as_ref().is_some_and(|each| event.tick < each[lane][other]))
    }

    fn atomic(&self, tag: u32) -> bool {
        self.events.get(tag / LANES as u32).atomic
    }

    /// Whether two tags are of one warp.
    fn together(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.events.get(a / LANES as u32), self.events.get(b / LANES as u32));
        a.block == b.block && a.warp == b.warp
    }
}

/// The last writers and readers of a page's granules. The second of each is needed where several threads that have no
/// order read, or act atomically; two of different warps are kept if there are such, so that whoever comes later has no
/// order with one of them, unless a barrier orders all.
#[derive(Debug)]
struct Page {
    /// Granules have `1 << shift` bytes.
    shift: u32,
    writers: Vec<u32>,
    readers: Vec<u32>,
    more_writers: Vec<u32>,
    more_readers: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Shadow(Vec<Option<Box<Page>>>);

impl Shadow {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len.div_ceil(PAGE)).map(|_| None).collect())
    }

    fn page(&mut self, index: usize) -> &mut Page {
        self.0[index].get_or_insert_with(|| Box::new(Page::new()))
    }

    /// One lane touches a range.
    pub(crate) fn touch(
        &mut self,
        range: Range<usize>,
        access: Access,
        lane: usize,
        view: &View<'_>,
    ) -> Result<(), Conflict> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE + 1) * PAGE);
            let page = self.page(at / PAGE);
            if !(at | end).is_multiple_of(4) {
                page.split();
            }
            let base = at / PAGE * PAGE;
            for granule in (at - base) >> page.shift..(end - base) >> page.shift {
                if let Err(tag) = page.touch(granule, access, lane, view) {
                    return Err(Conflict { tag, offset: base + (granule << page.shift), lane });
                }
            }
            at = end;
        }
        Ok(())
    }

    /// All lanes touch `size` bytes each, one behind the other.
    pub(crate) fn touch_row(
        &mut self,
        start: usize,
        size: usize,
        access: Access,
        view: &View<'_>,
    ) -> Result<(), Conflict> {
        let end = start + size * LANES;
        if start / PAGE == (end - 1) / PAGE {
            let page = self.page(start / PAGE);
            if !(start | size).is_multiple_of(4) {
                page.split();
            }
            let from = (start % PAGE) >> page.shift;
            if page.touch_row(from, size >> page.shift, access, view) {
                return Ok(());
            }
        }
        (0..LANES).try_for_each(|lane| {
            let at = start + lane * size;
            self.touch(at..at + size, access, lane, view)
        })
    }
}

fn slot(tags: &[u32], granule: usize) -> u32 {
    tags.get(granule).copied().unwrap_or(0)
}

impl Page {
    fn new() -> Self {
        let none = || vec![0; PAGE / 4];
        Self {
            shift: 2,
            writers: none(),
            readers: none(),
            more_writers: Vec::new(),
            more_readers: Vec::new(),
        }
    }

    fn split(&mut self) {
        if self.shift == 0 {
            return;
        }
        self.shift = 0;
        for tags in [&mut self.writers, &mut self.readers, &mut self.more_writers, &mut self.more_readers] {
            *tags = tags.iter().flat_map(|tag| [*tag; 4]).collect();
        }
    }

    /// The tag of an access without an order with this one.
    fn touch(&mut self, granule: usize, access: Access, lane: usize, view: &View<'_>) -> Result<(), u32> {
        for tag in [self.writers[granule], slot(&self.more_writers, granule)] {
            let fine = view.ordered(tag, lane) || access == Access::Atomic && view.atomic(tag);
            if !fine {
                return Err(tag);
            }
        }
        if access != Access::Read {
            for tag in [self.readers[granule], slot(&self.more_readers, granule)] {
                if !view.ordered(tag, lane) {
                    return Err(tag);
                }
            }
        }
        let (first, second) = match access {
            Access::Read => (&mut self.readers, &mut self.more_readers),
            Access::Write | Access::Atomic => (&mut self.writers, &mut self.more_writers),
        };
        let tag = view.tag(lane);
        if view.ordered(first[granule], lane) {
            first[granule] = tag;
            return Ok(());
        }
        if second.is_empty() {
            second.resize(first.len(), 0);
        }
        let (one, two) = (first[granule], second[granule]);
        if view.ordered(two, lane) || view.together(one, two) && !view.together(one, tag) {
            second[granule] = tag;
        }
        Ok(())
    }

    /// The same for all lanes at once, where memory is untouched or was touched by the same threads alone. False: somebody
    /// must look closer.
    fn touch_row(&mut self, from: usize, size: usize, access: Access, view: &View<'_>) -> bool {
        let range = from..from + size * LANES;
        let first = view.first * LANES as u32;
        let newest = |tags: &[u32]| tags.iter().fold(0, |newest, tag| newest.max(*tag));
        let clear = |tags: &[u32]| tags.is_empty() || newest(&tags[range.clone()]) < first;
        let free = |tags: &[u32]| clear(tags) || same_threads(&tags[range.clone()], size, view);
        if access == Access::Atomic
            || !clear(&self.more_writers)
            || !clear(&self.more_readers)
            || !free(&self.writers)
            || !free(&self.readers)
        {
            return false;
        }
        let tags = if access == Access::Read { &mut self.readers } else { &mut self.writers };
        for (lane, granules) in tags[range].chunks_exact_mut(size).enumerate() {
            granules.fill(view.tag(lane));
        }
        true
    }
}

/// Whether each granule has a tag of the lane that it now belongs to, all of one event of this warp.
fn same_threads(tags: &[u32], size: usize, view: &View<'_>) -> bool {
    let event = tags[0] / LANES as u32;
    let base = event * LANES as u32;
    let same = match size {
        1 => follow::<1>(tags, base),
        2 => follow::<2>(tags, base),
        4 => follow::<4>(tags, base),
        _ => {
            tags.chunks_exact(size).zip(base..).all(|(granules, tag)| granules.iter().all(|own| *own == tag))
        }
    };
    same && {
        let event = view.events.get(event);
        event.block == view.me.block && event.warp == view.me.warp
    }
}

/// Whether these are `N` of each tag from `base` on. Without a way out early, so that it is a vector loop.
fn follow<const N: usize>(tags: &[u32], base: u32) -> bool {
    let (lanes, _) = tags.as_chunks::<N>();
    let mut different = 0;
    for (lane, granules) in (0..LANES as u32).zip(lanes) {
        for tag in granules {
            different |= tag ^ (base + lane);
        }
    }
    different == 0
}
