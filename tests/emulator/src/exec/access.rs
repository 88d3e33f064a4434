//! Loads and stores: which space, and all spaces but the global one.

use super::block::Block;
use super::warp::{Warp, lanes};
use super::{FaultKind, Problem, problem, window};
use crate::lanes::{Doubles, LANES};
use crate::memory::{Access as Touch, View};
use crate::ptx::ast::Space;
use crate::ptx::code::{Access, Bank, Register};

/// The spaces that have windows among the generic addresses.
const WINDOWS: [Space; 4] = [Space::Shared, Space::Local, Space::Const, Space::Param];

pub(super) fn load_bytes(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

/// A value of `size` bytes as a register holds it.
pub(super) fn extend(value: u64, size: usize, signed: bool) -> u64 {
    let unused = 64 - 8 * size as u32;
    if signed { ((value << unused) as i64 >> unused) as u64 } else { value }
}

impl Warp {
    /// Register and offset are added in the width of the register: NVRTC writes `[%r1+252]` where `%r1` is -252.
    pub(super) fn addresses(&self, base: Register, offset: i32) -> Doubles {
        let index = usize::from(base.index);
        match base.bank {
            Bank::Double => {
                self.registers.doubles[index].map(|address| address.wrapping_add_signed(i64::from(offset)))
            }
            _ => self.registers.words[index].map(|address| u64::from(address.wrapping_add_signed(offset))),
        }
    }

    pub(super) fn load(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
    ) -> Result<(), Problem> {
        self.check_written(block.code, access.base, active)?;
        let addresses = self.addresses(access.base, access.offset);
        self.transfer(block, access, at, active, &addresses, false)?;
        self.passed(block, access, Touch::Read, &addresses, active);
        for target in access.elements.iter().flatten() {
            self.written(block.code, *target, active);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
    ) -> Result<(), Problem> {
        self.check_written(block.code, access.base, active)?;
        for source in access.elements.iter().flatten() {
            self.check_written(block.code, *source, active)?;
        }
        let addresses = self.addresses(access.base, access.offset);
        self.transfer(block, access, at, active, &addresses, true)?;
        self.passed(block, access, Touch::Write, &addresses, active);
        Ok(())
    }

    fn passed(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        touch: Touch,
        addresses: &Doubles,
        active: u32,
    ) {
        if let Some(strong) = access.strong {
            let shape = (access.size, access.elements.len());
            self.strong(block, strong, touch, access.space, addresses, shape, active);
        }
    }

    fn transfer(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
        addresses: &Doubles,
        store: bool,
    ) -> Result<(), Problem> {
        check_aligned(addresses, access.size * access.elements.len(), active)?;
        if access.space != Space::Generic {
            return self.within(block, access, access.space, at, active, addresses, store);
        }
        let mut rest = active;
        for space in WINDOWS {
            let base = window(space);
            let inside = lanes(active).filter(|lane| addresses[*lane] >> 32 == base >> 32);
            let inside = inside.fold(0, |mask, lane| mask | 1 << lane);
            if inside != 0 {
                let moved = addresses.map(|address| address.wrapping_sub(base));
                self.within(block, access, space, at, inside, &moved, store)?;
                rest &= !inside;
            }
        }
        if rest != 0 {
            self.within(block, access, Space::Global, at, rest, addresses, store)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one access is all of these
    fn within(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        space: Space,
        at: u32,
        active: u32,
        addresses: &Doubles,
        store: bool,
    ) -> Result<(), Problem> {
        match (space, store) {
            (Space::Global, false) => self.load_global(block, access, at, active, addresses),
            (Space::Global, true) => self.store_global(block, access, at, active, addresses),
            (Space::Shared, _) => self.shared(block, access, at, active, addresses, store),
            (Space::Local, _) => self.local(access, active, addresses, store),
            (Space::Param, false) => self.constant(access, block.launch.parameters, active, addresses),
            (Space::Const, false) => self.constant(access, &block.launch.module.constants, active, addresses),
            (space, true) => {
                let lane = active.trailing_zeros() as usize;
                problem(FaultKind::OutOfBounds, lane, format!("a store to {space:?} memory"))
            }
            (Space::Generic, false) => unreachable!("generic addresses were resolved"),
        }
    }

    /// The bytes of one lane, into its registers.
    pub(super) fn take(&mut self, access: &Access, lane: usize, bytes: &[u8]) {
        for (element, target) in bytes.chunks_exact(access.size).zip(&access.elements) {
            if let Some(target) = target {
                self.put(*target, lane, extend(load_bytes(element), access.size, access.signed));
            }
        }
    }

    /// The registers of one lane, as its bytes.
    pub(super) fn give(&self, access: &Access, lane: usize, bytes: &mut [u8]) {
        for (element, source) in bytes.chunks_exact_mut(access.size).zip(access.elements.iter().flatten()) {
            element.copy_from_slice(&self.get(*source, lane).to_le_bytes()[..access.size]);
        }
    }

    /// Parameters and constants.
    fn constant(
        &mut self,
        access: &Access,
        from: &[u8],
        active: u32,
        addresses: &Doubles,
    ) -> Result<(), Problem> {
        let size = access.size * access.elements.len();
        for lane in lanes(active) {
            let range = within(addresses[lane], size, from.len(), lane, access.space)?;
            self.take(access, lane, &from[range]);
        }
        Ok(())
    }

    fn local(
        &mut self,
        access: &Access,
        active: u32,
        addresses: &Doubles,
        store: bool,
    ) -> Result<(), Problem> {
        let size = access.size * access.elements.len();
        let frame = self.local.len() / LANES;
        for lane in lanes(active) {
            let range = within(addresses[lane], size, frame, lane, Space::Local)?;
            let range = lane * frame + range.start..lane * frame + range.end;
            let mut bytes = [0; 32];
            let bytes = &mut bytes[..size];
            if store {
                self.give(access, lane, bytes);
                self.local[range.clone()].copy_from_slice(bytes);
                self.local_initialised.set(range);
            } else {
                if let Some(first) = self.local_initialised.first_unset(range.clone()) {
                    let detail = format!("byte {} of local memory was never written", first - lane * frame);
                    return problem(FaultKind::Uninitialised, lane, detail);
                }
                bytes.copy_from_slice(&self.local[range]);
                self.take(access, lane, bytes);
            }
        }
        Ok(())
    }

    fn shared(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        at: u32,
        active: u32,
        addresses: &Doubles,
        store: bool,
    ) -> Result<(), Problem> {
        let size = access.size * access.elements.len();
        let again = if store { self.check_distinct(access, active, addresses)? } else { 0 };
        let (event, me) = self.event(block, at, access.strong, access.size);
        let touch = if store { Touch::Write } else { Touch::Read };
        for lane in lanes(active) {
            let range = within(addresses[lane], size, block.shared.len(), lane, Space::Shared)?;
            if again >> lane & 1 == 0 {
                let events = &block.memory.events;
                let view = View { events, first: block.first_event, event, me, known: &self.known };
                if let Err(conflict) = block.shared_shadow.touch(range.clone(), touch, lane, &view) {
                    return Err(block.race(conflict, "shared memory", conflict.offset as u64));
                }
            }
            if store {
                self.give(access, lane, &mut block.shared[range.clone()]);
                block.shared_initialised.set(range);
            } else {
                if let Some(first) = block.shared_initialised.first_unset(range.clone()) {
                    let detail = format!("byte {first} of shared memory was never written");
                    return problem(FaultKind::Uninitialised, lane, detail);
                }
                self.take(access, lane, &block.shared[range]);
            }
        }
        Ok(())
    }

    /// Lanes of one store that write the same bytes must write the same values. Returns those whose bytes an earlier lane
    /// writes too.
    pub(super) fn check_distinct(
        &self,
        access: &Access,
        active: u32,
        addresses: &Doubles,
    ) -> Result<u32, Problem> {
        let size = (access.size * access.elements.len()) as u64;
        let mut behind = 0;
        let ascending = lanes(active).all(|lane| {
            let fine = addresses[lane] >= behind;
            behind = addresses[lane].saturating_add(size);
            fine
        });
        if ascending {
            return Ok(0);
        }
        let mut again = 0;
        for lane in lanes(active) {
            let before = active & ((1 << lane) - 1);
            // All are aligned to their size: they are the same bytes or none.
            let Some(other) = lanes(before).find(|other| addresses[*other] == addresses[lane]) else {
                continue;
            };
            if access
                .elements
                .iter()
                .flatten()
                .any(|source| self.get(*source, lane) != self.get(*source, other))
            {
                let address = addresses[lane];
                let detail =
                    format!("lanes {other} and {lane} of one store write different values to {address:#x}");
                return problem(FaultKind::Race, lane, detail);
            }
            again |= 1 << lane;
        }
        Ok(again)
    }
}

pub(super) fn check_aligned(addresses: &Doubles, size: usize, active: u32) -> Result<(), Problem> {
    let low = |address: u64| address & (size as u64 - 1);
    if addresses.iter().fold(0, |bits, address| bits | low(*address)) == 0 {
        return Ok(());
    }
    match lanes(active).find(|lane| low(addresses[*lane]) != 0) {
        None => Ok(()),
        Some(lane) => {
            let address = addresses[lane];
            problem(FaultKind::Misaligned, lane, format!("{size} bytes at {address:#x}"))
        }
    }
}

pub(super) fn within(
    address: u64,
    size: usize,
    len: usize,
    lane: usize,
    space: Space,
) -> Result<std::ops::Range<usize>, Problem> {
    match address.checked_add(size as u64) {
        Some(end) if end <= len as u64 => Ok(address as usize..end as usize),
        _ => {
            let detail = format!("{size} bytes at {} of {len} bytes of {space:?} memory", address as i64);
            problem(FaultKind::OutOfBounds, lane, detail)
        }
    }
}
