//! One allocation and what is known about its bytes.

use std::ops::Range;

use super::{Bits, MemoryError, Shadow, WINDOW, WINDOW_FROM};

/// What fresh memory holds: as f32 a large negative number, as an address nobody's.
const POISON: u8 = 0xcb;

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) base: u64,
    /// Bytes asked for.
    pub(crate) len: usize,
    pub(crate) live: bool,
    /// All of them, or a window.
    pub(crate) data: Vec<u8>,
    pub(crate) initialised: Bits,
    pub(crate) shadow: Shadow,
}

impl Allocation {
    pub(super) fn new(base: u64, len: usize) -> Self {
        let backed = if len > WINDOW_FROM { WINDOW } else { len };
        Self {
            base,
            len,
            live: true,
            data: vec![POISON; backed],
            initialised: Bits::new(backed),
            shadow: Shadow::new(backed),
        }
    }

    pub(super) fn free(&mut self) {
        self.live = false;
        self.data = Vec::new();
        self.initialised = Bits::new(0);
        self.shadow = Shadow::new(0);
    }

    pub(crate) fn holds(&self, address: u64, len: usize) -> bool {
        address >= self.base
            && address.checked_add(len as u64).is_some_and(|end| end <= self.base + self.len as u64)
    }

    pub(crate) fn is_window(&self) -> bool {
        self.len > WINDOW_FROM
    }

    /// Where a byte of the allocation is in `data`.
    pub(crate) fn offset(&self, address: u64) -> usize {
        let offset = (address - self.base) as usize;
        if self.is_window() { offset % WINDOW } else { offset }
    }

    /// The parts of `data` that these bytes are, in their order.
    pub(super) fn ranges(&self, address: u64, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (mut at, size, mut rest) = (self.offset(address), self.data.len(), len);
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let part = rest.min(size - at);
            let range = at..at + part;
            at = (at + part) % size;
            rest -= part;
            Some(range)
        })
    }

    pub(super) fn check_initialised(&self, address: u64, len: usize) -> Result<(), MemoryError> {
        let mut before = 0;
        // Once round a window is enough.
        for range in self.ranges(address, len.min(self.data.len())) {
            let start = range.start;
            if let Some(first) = self.initialised.first_unset(range.clone()) {
                return Err(MemoryError::Uninitialised {
                    address: address + (before + first - start) as u64,
                });
            }
            before += range.len();
        }
        Ok(())
    }
}
