//! Who touched which bytes last, to find two threads that touch one without an order between them.
//!
//! A *tag* is an [`Event`] and a lane of it, so that a granule of memory needs a word for its last writer and one for its
//! last reader. Tags older than the launch (of shared memory: than the block) count as none; nothing is ever cleared. A
//! granule has four bytes, until an access smaller than that splits its page into bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::{Event, Events, Past, Scope};
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
    /// Of each lane, what it has acquired; empty where the kernel has neither fences nor strong loads and stores.
    pub(crate) acquired: Vec<Past>,
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
    #[inline]
    fn ordered(&self, tag: u32, lane: usize) -> bool {
        if tag < self.first * LANES as u32 {
            return true;
        }
        let event = self.events.get(tag / LANES as u32);
        let other = tag as usize % LANES;
        if event.block == self.me.block {
            if event.epoch < self.me.epoch {
                return true;
            }
            if event.warp == self.me.warp
                && (other == lane
                    || event.tick < self.known.all
                    || self.known.each.as_ref().is_some_and(|each| event.tick < each[lane][other]))
            {
                return true;
            }
        }
        self.known.acquired.get(lane).is_some_and(|past| past.covers(event, other))
    }

    /// Whether both are strong, and each has the other in its scope (PTX ISA, morally strong): no race, whatever they do.
    #[cold]
    fn strong(&self, tag: u32) -> bool {
        let event = self.events.get(tag / LANES as u32);
        match (self.me.strong, event.strong) {
            (Some(mine), Some(its)) => {
                event.size == self.me.size
                    && (event.block == self.me.block || mine == Scope::Device && its == Scope::Device)
            }
            _ => false,
        }
    }

    /// Whether this access stands for the one of the tag: whatever is ordered behind it is ordered behind both, and
    /// whatever may happen beside it may happen beside both.
    #[inline(always)]
    fn replaces(&self, tag: u32, lane: usize, access: Access) -> bool {
        match self.me.strong {
            None => self.ordered(tag, lane),
            Some(scope) => self.strong_replaces(tag, lane, access, scope),
        }
    }

    #[cold]
    fn strong_replaces(&self, tag: u32, lane: usize, access: Access, scope: Scope) -> bool {
        // An atomic has observed the strong writes before it.
        tag < self.first * LANES as u32
            || (self.ordered(tag, lane) || access == Access::Atomic && self.strong(tag))
                && self.events.get(tag / LANES as u32).strong >= Some(scope)
    }

    /// Whether two tags are of one warp.
    fn together(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.events.get(a / LANES as u32), self.events.get(b / LANES as u32));
        a.block == b.block && a.warp == b.warp
    }
}

/// The last writers and readers of a page's granules. The second of each is needed where several threads that have no
/// order read, or write by strong operations; two of different warps are kept if there are such, so that whoever comes
/// later has no order with one of them, unless a barrier orders all. Where threads acquire, all are kept.
#[derive(Debug)]
struct Page {
    /// Granules have `1 << shift` bytes.
    shift: u32,
    writers: Vec<u32>,
    readers: Vec<u32>,
    more_writers: Vec<u32>,
    more_readers: Vec<u32>,
    others: Option<Box<Others>>,
}

/// All further writers and readers, in kernels whose threads may acquire an order with some of them.
#[derive(Debug)]
struct Others {
    /// Since when: [`View::first`].
    first: u32,
    /// By granule, and whether they write.
    tags: HashMap<(usize, bool), Vec<u32>>,
}

impl Others {
    /// Those that an access may be in conflict with.
    fn of(&self, granule: usize, access: Access, view: &View<'_>) -> impl Iterator<Item = u32> {
        let current = self.first == view.first;
        let tags = |write: bool| {
            let wanted = current && (write || access != Access::Read);
            self.tags.get(&(granule, write)).filter(|_| wanted).into_iter().flatten().copied()
        };
        tags(true).chain(tags(false))
    }
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
            others: None,
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
        if let Some(others) = &mut self.others {
            let bytes = |((granule, write), tags): ((usize, bool), Vec<u32>)| {
                (4 * granule..4 * granule + 4).map(move |byte| ((byte, write), tags.clone()))
            };
            others.tags = std::mem::take(&mut others.tags).into_iter().flat_map(bytes).collect();
        }
    }

    fn add_other(&mut self, granule: usize, access: Access, lane: usize, view: &View<'_>) {
        let fresh = || Box::new(Others { first: view.first, tags: HashMap::new() });
        let others = self.others.get_or_insert_with(fresh);
        if others.first != view.first {
            *others = fresh();
        }
        let tags = others.tags.entry((granule, access != Access::Read)).or_default();
        tags.retain(|tag| !view.replaces(*tag, lane, access));
        tags.push(view.tag(lane));
    }

    /// The tag of an access without an order with this one.
    fn touch(&mut self, granule: usize, access: Access, lane: usize, view: &View<'_>) -> Result<(), u32> {
        let fine = |tag: u32| view.ordered(tag, lane) || view.strong(tag);
        for tag in [self.writers[granule], slot(&self.more_writers, granule)] {
            if !fine(tag) {
                return Err(tag);
            }
        }
        if access != Access::Read {
            for tag in [self.readers[granule], slot(&self.more_readers, granule)] {
                if !fine(tag) {
                    return Err(tag);
                }
            }
        }
        if let Some(others) = &self.others
            && let Some(tag) = others.of(granule, access, view).find(|tag| !fine(*tag))
        {
            return Err(tag);
        }
        let (first, second) = match access {
            Access::Read => (&mut self.readers, &mut self.more_readers),
            Access::Write | Access::Atomic => (&mut self.writers, &mut self.more_writers),
        };
        let tag = view.tag(lane);
        if view.replaces(first[granule], lane, access) {
            first[granule] = tag;
            return Ok(());
        }
        if second.is_empty() {
            second.resize(first.len(), 0);
        }
        let (one, two) = (first[granule], second[granule]);
        if view.replaces(two, lane, access) {
            second[granule] = tag;
        } else if !view.known.acquired.is_empty() {
            self.add_other(granule, access, lane, view);
        } else if view.together(one, two) && !view.together(one, tag) {
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
        if view.me.strong.is_some()
            || self.others.as_ref().is_some_and(|others| others.first == view.first)
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
