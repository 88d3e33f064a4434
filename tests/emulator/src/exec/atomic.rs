//! `atom` and `red`: lane after lane.

use super::access::{check_aligned, load_bytes, within};
use super::block::Block;
use super::warp::{Warp, lanes};
use super::{FaultKind, Problem, problem, window};
use crate::memory::{Access as Touch, View};
use crate::ptx::ast::Space;
use crate::ptx::code::{Atomic, AtomicKind};

fn apply(kind: AtomicKind, size: usize, old: u64, operand: u64, swap: u64) -> u64 {
    let signed = |value: u64| if size == 4 { i64::from(value as u32 as i32) } else { value as i64 };
    match kind {
        AtomicKind::Add => old.wrapping_add(operand),
        AtomicKind::AddF32 => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(operand as u32);
            u64::from(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() })
        }
        AtomicKind::AddF64 => (f64::from_bits(old) + f64::from_bits(operand)).to_bits(),
        AtomicKind::Min => old.min(operand),
        AtomicKind::Max => old.max(operand),
        AtomicKind::MinSigned => {
            if signed(operand) < signed(old) {
                operand
            } else {
                old
            }
        }
        AtomicKind::MaxSigned => {
            if signed(operand) > signed(old) {
                operand
            } else {
                old
            }
        }
        AtomicKind::And => old & operand,
        AtomicKind::Or => old | operand,
        AtomicKind::Xor => old ^ operand,
        AtomicKind::Exchange => operand,
        AtomicKind::CompareAndSwap => {
            if old == operand {
                swap
            } else {
                old
            }
        }
        AtomicKind::Increment => {
            if old >= operand {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old == 0 || old > operand {
                operand
            } else {
                old - 1
            }
        }
    }
}

impl Warp {
    pub(super) fn atomic(
        &mut self,
        block: &mut Block<'_>,
        atomic: &Atomic,
        at: u32,
        active: u32,
    ) -> Result<(), Problem> {
        for register in [Some(atomic.base), Some(atomic.operand), atomic.swap].into_iter().flatten() {
            self.check_written(block.code, register, active)?;
        }
        let addresses = self.addresses(atomic.base, atomic.offset);
        check_aligned(&addresses, atomic.size, active)?;
        let size = atomic.size;
        let event = self.event(block, at, Some(atomic.strong), size);
        let shared = window(Space::Shared);
        let mut global = 0;
        for lane in lanes(active) {
            let address = addresses[lane];
            let generic_shared = atomic.space == Space::Generic && address >> 32 == shared >> 32;
            let (operand, swap) =
                (self.get(atomic.operand, lane), atomic.swap.map_or(0, |swap| self.get(swap, lane)));
            let act = |bytes: &mut [u8]| {
                let old = load_bytes(bytes);
                bytes.copy_from_slice(&apply(atomic.kind, size, old, operand, swap).to_le_bytes()[..size]);
                old
            };
            let old = if atomic.space == Space::Shared || generic_shared {
                let address = if generic_shared { address - shared } else { address };
                let range = within(address, size, block.shared.len(), lane, Space::Shared)?;
                let events = &block.memory.events;
                let view = View {
                    events,
                    first: block.first_event,
                    event: event.0,
                    me: event.1,
                    known: &self.known,
                };
                if let Err(conflict) = block.shared_shadow.touch(range.clone(), Touch::Atomic, lane, &view) {
                    return Err(block.race(conflict, "shared memory", conflict.offset as u64));
                }
                if let Some(first) = block.shared_initialised.first_unset(range.clone()) {
                    let detail = format!("byte {first} of shared memory was never written");
                    return problem(FaultKind::Uninitialised, lane, detail);
                }
                act(&mut block.shared[range])
            } else {
                global |= 1 << lane;
                let slot = block.find(at, address, size, lane)?;
                block.touch(slot, address, size, Some(lane), Touch::Atomic, event, &self.known)?;
                let allocation = block.memory.at_mut(slot);
                let from = allocation.offset(address);
                if allocation.initialised.first_unset(from..from + size).is_some() {
                    return super::global::uninitialised(address, lane);
                }
                act(&mut allocation.data[from..from + size])
            };
            if let Some(target) = atomic.target {
                self.put(target, lane, old);
            }
        }
        if let Some(target) = atomic.target {
            self.written(block.code, target, active);
        }
        self.strong(block, atomic.strong, Touch::Atomic, atomic.space, &addresses, (size, 1), active);
        block.count_atomic(&addresses, size, global);
        Ok(())
    }
}
