//! Loads and stores of global memory. A request of all lanes, one behind the other, is checked and moved as one.

use super::access::load_bytes;
use super::block::Block;
use super::warp::{Warp, lanes};
use super::{FaultKind, Problem, problem};
use crate::lanes::{Doubles, LANES};
use crate::memory::{Access as Touch, Conflict, Event, Known, MemoryError, View};
use crate::ptx::code::{Access, Bank};

/// Bytes that memory moves at a time.
const SECTOR: u64 = 32;

/// How the addresses of a request lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Row,
    Uniform,
    Any,
}

fn shape(addresses: &Doubles, size: usize, active: u32) -> Shape {
    let first = addresses[0];
    let step = size as u64;
    if active == !0
        && (0..LANES).fold(true, |row, i| row & (addresses[i] == first.wrapping_add(i as u64 * step)))
    {
        return Shape::Row;
    }
    let first = addresses[active.trailing_zeros() as usize];
    if lanes(active).all(|lane| addresses[lane] == first) { Shape::Uniform } else { Shape::Any }
}

/// Distinct sectors.
fn sectors(addresses: &Doubles, size: usize, active: u32, shape: Shape) -> u64 {
    let first = addresses[active.trailing_zeros() as usize];
    // An address at the very end faults later.
    let span = |from: u64, len: u64| from.saturating_add(len - 1) / SECTOR - from / SECTOR + 1;
    match shape {
        Shape::Row => span(first, (size * LANES) as u64),
        Shape::Uniform => span(first, size as u64),
        Shape::Any => {
            // Aligned accesses of up to 32 bytes stay within a sector.
            let mut touched = [u64::MAX; LANES];
            lanes(active).for_each(|lane| touched[lane] = addresses[lane] / SECTOR);
            touched.sort_unstable();
            let active = active.count_ones() as usize;
            1 + touched[..active].windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
        }
    }
}

impl Block<'_> {
    /// The allocation of these bytes.
    pub(super) fn find(&mut self, at: u32, address: u64, len: usize, lane: usize) -> Result<usize, Problem> {
        let hint = self.hints[at as usize];
        if hint < self.memory.slots() {
            let allocation = self.memory.at(hint);
            if allocation.live && allocation.holds(address, len) {
                return Ok(hint);
            }
        }
        match self.memory.find(address, len) {
            Ok(slot) => {
                self.hints[at as usize] = slot;
                Ok(slot)
            }
            Err(error) => {
                let kind = match error {
                    MemoryError::UseAfterFree { .. } => FaultKind::UseAfterFree,
                    _ => FaultKind::OutOfBounds,
                };
                problem(kind, lane, error.to_string())
            }
        }
    }

    pub(super) fn race(&self, conflict: Conflict, memory: &str, address: u64) -> Problem {
        let event = self.memory.events.get(conflict.tag / LANES as u32);
        let (lane, line) = (conflict.tag % LANES as u32, self.line(event.at));
        let block = if event.block == self.number { "of this block" } else { "of another block" };
        let thread = event.warp * LANES as u32 + lane;
        let detail = format!(
            "{memory} at {address:#x}; thread {thread} {block} was there at line {line}, in no order"
        );
        Problem { kind: FaultKind::Race, lane: conflict.lane, detail }
    }

    /// Races of some lanes of a request with what came before.
    #[allow(clippy::too_many_arguments)] // one access is all of these
    pub(super) fn touch(
        &mut self,
        slot: usize,
        address: u64,
        size: usize,
        lane: Option<usize>,
        touch: Touch,
        event: (u32, Event),
        known: &Known,
    ) -> Result<(), Problem> {
        let first = self.memory.events.first_of_launch();
        let (allocation, events) = self.memory.split(slot);
        if allocation.is_window() {
            return Ok(());
        }
        let view = View { events, first, event: event.0, me: event.1, known };
        let offset = allocation.offset(address);
        let result = match lane {
            Some(lane) => allocation.shadow.touch(offset..offset + size, touch, lane, &view),
            None => allocation.shadow.touch_row(offset, size, touch, &view),
        };
        let base = allocation.base;
        result.map_err(|conflict| self.race(conflict, "global memory", base + conflict.offset as u64))
    }

    /// An atomic both reads and writes.
    pub(super) fn count_atomic(&mut self, addresses: &Doubles, size: usize, active: u32) {
        if active == 0 {
            return;
        }
        let (bytes, sectors) =
            (size as u64 * u64::from(active.count_ones()), sectors(addresses, size, active, Shape::Any));
        self.counts.requests_read += 1;
        self.counts.requests_written += 1;
        self.counts.bytes_read += bytes;
        self.counts.bytes_written += bytes;
        self.counts.sectors_read += sectors;
        self.counts.sectors_written += sectors;
    }

    /// A whole row in one allocation, not across the end of a window.
    fn find_row(&mut self, at: u32, address: u64, len: usize) -> Option<usize> {
        let slot = self.find(at, address, len, 0).ok()?;
        let allocation = self.memory.at(slot);
        (allocation.offset(address) + len <= allocation.data.len()).then_some(slot)
    }
}

pub(super) fn uninitialised<T>(address: u64, lane: usize) -> Result<T, Problem> {
    problem(FaultKind::Uninitialised, lane, format!("the byte at {address:#x} was never written"))
}

impl Warp {
    pub(super) fn load_global(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
        addresses: &Doubles,
    ) -> Result<(), Problem> {
        let size = access.size * access.elements.len();
        let shape = shape(addresses, size, active);
        block.counts.requests_read += 1;
        block.counts.bytes_read += size as u64 * u64::from(active.count_ones());
        block.counts.sectors_read += sectors(addresses, size, active, shape);
        let event = self.event(block, at, access.strong, access.size);
        if shape == Shape::Row
            && let Some(slot) = block.find_row(at, addresses[0], size * LANES)
        {
            let allocation = block.memory.at(slot);
            let from = allocation.offset(addresses[0]);
            let range = from..from + size * LANES;
            if let Some(first) = allocation.initialised.first_unset(range.clone()) {
                return uninitialised(addresses[0] + (first - from) as u64, (first - from) / size);
            }
            self.take_row(access, &allocation.data[range]);
            return block.touch(slot, addresses[0], size, None, Touch::Read, event, &self.known);
        }
        for (i, lane) in lanes(active).enumerate() {
            let address = addresses[lane];
            let slot = block.find(at, address, size, lane)?;
            let allocation = block.memory.at(slot);
            let from = allocation.offset(address);
            let range = from..from + size;
            if let Some(first) = allocation.initialised.first_unset(range.clone()) {
                return uninitialised(address + (first - from) as u64, lane);
            }
            self.take(access, lane, &allocation.data[range]);
            // Of many readers of one address the shadow keeps two, unless threads acquire.
            if shape != Shape::Uniform || i < 2 || block.code.passes {
                block.touch(slot, address, size, Some(lane), Touch::Read, event, &self.known)?;
            }
        }
        Ok(())
    }

    pub(super) fn store_global(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
        addresses: &Doubles,
    ) -> Result<(), Problem> {
        let size = access.size * access.elements.len();
        let shape = shape(addresses, size, active);
        block.counts.requests_written += 1;
        block.counts.bytes_written += size as u64 * u64::from(active.count_ones());
        block.counts.sectors_written += sectors(addresses, size, active, shape);
        let event = self.event(block, at, access.strong, access.size);
        if shape == Shape::Row
            && let Some(slot) = block.find_row(at, addresses[0], size * LANES)
        {
            block.touch(slot, addresses[0], size, None, Touch::Write, event, &self.known)?;
            let allocation = block.memory.at_mut(slot);
            let from = allocation.offset(addresses[0]);
            let range = from..from + size * LANES;
            allocation.initialised.set(range.clone());
            self.give_row(access, &mut allocation.data[range]);
            return Ok(());
        }
        let again = self.check_distinct(access, active, addresses)?;
        for lane in lanes(active & !again) {
            let address = addresses[lane];
            let slot = block.find(at, address, size, lane)?;
            block.touch(slot, address, size, Some(lane), Touch::Write, event, &self.known)?;
            let allocation = block.memory.at_mut(slot);
            let from = allocation.offset(address);
            self.give(access, lane, &mut allocation.data[from..from + size]);
            allocation.initialised.set(from..from + size);
        }
        Ok(())
    }

    fn take_row(&mut self, access: &Access, bytes: &[u8]) {
        let count = access.elements.len();
        for (k, target) in access.elements.iter().enumerate() {
            let Some(target) = target else { continue };
            let index = usize::from(target.index);
            if target.bank == Bank::Word && access.size == 4 {
                let row = &mut self.registers.words[index];
                for (value, vector) in row.iter_mut().zip(bytes.chunks_exact(4 * count)) {
                    let element = &vector[4 * k..4 * k + 4];
                    *value = u32::from_le_bytes([element[0], element[1], element[2], element[3]]);
                }
            } else {
                for (lane, vector) in bytes.chunks_exact(access.size * count).enumerate() {
                    let value = load_bytes(&vector[access.size * k..access.size * (k + 1)]);
                    self.put(*target, lane, super::access::extend(value, access.size, access.signed));
                }
            }
        }
    }

    fn give_row(&self, access: &Access, bytes: &mut [u8]) {
        let count = access.elements.len();
        for (k, source) in access.elements.iter().flatten().enumerate() {
            let index = usize::from(source.index);
            if source.bank == Bank::Word && access.size == 4 {
                let row = &self.registers.words[index];
                for (value, vector) in row.iter().zip(bytes.chunks_exact_mut(4 * count)) {
                    vector[4 * k..4 * k + 4].copy_from_slice(&value.to_le_bytes());
                }
            } else {
                for (lane, vector) in bytes.chunks_exact_mut(access.size * count).enumerate() {
                    let value = self.get(*source, lane).to_le_bytes();
                    vector[access.size * k..access.size * (k + 1)].copy_from_slice(&value[..access.size]);
                }
            }
        }
    }
}
