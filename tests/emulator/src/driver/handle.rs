//! Tables of objects. A handle is a number that is never used again, so a destroyed one is refused and never dangles.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::errors::{Code, Result};

/// What a handle refers to; part of the handle, so that an event is never taken for a stream.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Capture,
    Graph,
    GraphExec,
    Node,
    /// A queue of the scheduler that no stream owns.
    Line,
}

/// A handle that was never given out before. Above the special stream handles 0, 1 and 2.
pub(super) fn fresh(kind: Kind) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    (kind as u64) << 40 | NEXT.fetch_add(1, Ordering::Relaxed) << 4
}

/// The objects of one kind.
pub(super) struct Table<T> {
    kind: Kind,
    items: BTreeMap<u64, T>,
}

impl<T> Table<T> {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, items: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, item: T) -> u64 {
        let id = fresh(self.kind);
        self.items.insert(id, item);
        id
    }

    pub(super) fn get(&self, id: u64) -> Result<&T> {
        self.items.get(&id).ok_or(Code::INVALID_HANDLE)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Result<&mut T> {
        self.items.get_mut(&id).ok_or(Code::INVALID_HANDLE)
    }

    pub(super) fn remove(&mut self, id: u64) -> Result<T> {
        self.items.remove(&id).ok_or(Code::INVALID_HANDLE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().map(|(id, item)| (*id, item))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.items.iter_mut().map(|(id, item)| (*id, item))
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.items.retain(|_, item| keep(item));
    }
}
