//! One device's global memory.

mod allocation;
mod bits;
mod clock;
mod events;
mod shadow;

pub(crate) use allocation::Allocation;
pub(crate) use bits::Bits;
pub(crate) use clock::{Handed, Locations, Past, Place, Scope};
pub(crate) use events::{Event, Events};
pub(crate) use shadow::{Access, Conflict, Known, Shadow, View};

use crate::ptx::Module;

/// What is wrong with an access or a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No allocation holds these bytes; says what is nearest.
    OutOfBounds {
        /// The first byte.
        address: u64,
        /// Bytes of the access.
        len: usize,
        /// The allocation before it.
        nearest: String,
    },
    /// The allocation was freed.
    UseAfterFree {
        /// The first byte.
        address: u64,
        /// Bytes of the access.
        len: usize,
    },
    /// Freed twice, or never allocated at this address.
    BadFree {
        /// What was to be freed.
        address: u64,
    },
    /// Bytes that nobody has written since they were allocated.
    Uninitialised {
        /// The first of them.
        address: u64,
    },
}

impl std::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfBounds { address, len, nearest } => {
                write!(f, "{len} bytes at {address:#x} are in no allocation; {nearest}")
            }
            Self::UseAfterFree { address, len } => write!(f, "{len} bytes at {address:#x} were freed"),
            Self::BadFree { address } => write!(f, "nothing to free at {address:#x}"),
            Self::Uninitialised { address } => write!(f, "the byte at {address:#x} was never written"),
        }
    }
}

impl std::error::Error for MemoryError {}

/// Global memory with a shadow. Addresses are never reused while the process runs. Allocations start at multiples of 256
/// and are separated by guard gaps. Fresh memory is poisoned and uninitialised. An allocation of more than
/// [`WINDOW_FROM`] bytes is backed by a window of [`WINDOW`] bytes that repeats through it (address modulo `WINDOW`), so
/// that tensors beyond 2³¹ elements can be stepped; races in it are not looked for.
#[derive(Debug, Default)]
pub struct Memory {
    /// In the order of their addresses; freed ones stay.
    allocations: Vec<Allocation>,
    /// `.global` variables of the modules that have run.
    modules: Vec<Allocation>,
    next: u64,
    capacity: usize,
    used: usize,
    pub(crate) events: Events,
}

/// Allocations larger than this are windows.
pub const WINDOW_FROM: usize = 1 << 30;
/// What backs them: not a power of two, so that an index that has lost its high bits lands elsewhere in it.
pub const WINDOW: usize = 17 << 16;

/// Where allocations begin.
const ALIGN: u64 = 256;
/// Between allocations, so that a loop that runs a little too far meets nobody.
const GUARD: u64 = 64 << 10;
/// Variables of modules live above all allocations.
const MODULES: u64 = 0xe000_0000_0000_0000;

/// Where the `.global` variables of a module begin.
pub(crate) fn module_base(id: u64) -> u64 {
    MODULES + (id << 32)
}

impl Memory {
    /// Memory of a device that has `capacity` bytes; its addresses start at `base`.
    pub fn new(base: u64, capacity: usize) -> Self {
        Self { next: base.next_multiple_of(ALIGN), capacity, ..Self::default() }
    }

    /// `None` where there is no room.
    pub fn allocate(&mut self, bytes: usize) -> Option<u64> {
        if bytes > self.capacity - self.used {
            return None;
        }
        let address = self.next;
        self.next = (address + bytes as u64 + GUARD).next_multiple_of(ALIGN);
        self.used += bytes;
        self.allocations.push(Allocation::new(address, bytes));
        Some(address)
    }

    /// Frees what was allocated at exactly this address.
    ///
    /// # Errors
    /// [`MemoryError::BadFree`] where nothing, or nothing more, is allocated there.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(slot) if self.allocations[slot].live => {
                self.allocations[slot].free();
                self.used -= self.allocations[slot].len;
                Ok(())
            }
            _ => Err(MemoryError::BadFree { address }),
        }
    }

    /// Device to host. Reading uninitialised bytes is an error.
    ///
    /// # Errors
    /// Bytes that are not there, freed, or never written.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let slot = self.find(address, into.len())?;
        let allocation = self.at(slot);
        allocation.check_initialised(address, into.len())?;
        let mut rest = into;
        for range in allocation.ranges(address, rest.len()) {
            let (part, behind) = rest.split_at_mut(range.len());
            part.copy_from_slice(&allocation.data[range]);
            rest = behind;
        }
        Ok(())
    }

    /// Host to device; initialises.
    ///
    /// # Errors
    /// Bytes that are not there or freed.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let slot = self.find(address, from.len())?;
        let allocation = self.at_mut(slot);
        let mut rest = from;
        for range in allocation.ranges(address, from.len()) {
            let (part, behind) = rest.split_at(range.len());
            allocation.data[range.clone()].copy_from_slice(part);
            allocation.initialised.set(range);
            rest = behind;
        }
        Ok(())
    }

    /// `cuMemsetD8`.
    ///
    /// # Errors
    /// Bytes that are not there or freed.
    pub fn fill(&mut self, address: u64, value: u8, len: usize) -> Result<(), MemoryError> {
        let slot = self.find(address, len)?;
        let allocation = self.at_mut(slot);
        // Once round a window is enough.
        let len = len.min(allocation.data.len());
        for range in allocation.ranges(address, len) {
            allocation.data[range.clone()].fill(value);
            allocation.initialised.set(range);
        }
        Ok(())
    }

    /// Bytes in live allocations.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes that there are in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Live allocations: address and length.
    pub fn live(&self) -> Vec<(u64, usize)> {
        self.allocations.iter().filter(|a| a.live).map(|a| (a.base, a.len)).collect()
    }

    /// Makes the `.global` variables of a module, where this is its first launch.
    pub(crate) fn load(&mut self, module: &Module) {
        let base = module_base(module.id);
        if module.globals.is_empty() || self.modules.iter().any(|allocation| allocation.base == base) {
            return;
        }
        let mut allocation = Allocation::new(base, module.globals.len());
        allocation.data.copy_from_slice(&module.globals);
        allocation.initialised.set(0..module.globals.len());
        self.modules.push(allocation);
        self.modules.sort_by_key(|allocation| allocation.base);
    }

    /// Which allocation holds these bytes; [`Self::at`] has it.
    pub(crate) fn find(&self, address: u64, len: usize) -> Result<usize, MemoryError> {
        let (list, first) =
            if address >= MODULES { (&self.modules, self.allocations.len()) } else { (&self.allocations, 0) };
        let behind = list.partition_point(|allocation| allocation.base <= address);
        let Some(slot) = behind.checked_sub(1) else {
            return Err(MemoryError::OutOfBounds { address, len, nearest: "nothing lies before".into() });
        };
        let allocation = &list[slot];
        if !allocation.holds(address, len) {
            let (base, size) = (allocation.base, allocation.len);
            let beyond = address - base;
            let state = if allocation.live { "live" } else { "freed" };
            let nearest = format!("{beyond} bytes into the {state} allocation of {size} bytes at {base:#x}");
            return Err(MemoryError::OutOfBounds { address, len, nearest });
        }
        if !allocation.live {
            return Err(MemoryError::UseAfterFree { address, len });
        }
        Ok(first + slot)
    }

    pub(crate) fn at(&self, slot: usize) -> &Allocation {
        self.allocations.get(slot).unwrap_or_else(|| &self.modules[slot - self.allocations.len()])
    }

    pub(crate) fn at_mut(&mut self, slot: usize) -> &mut Allocation {
        let count = self.allocations.len();
        if slot < count { &mut self.allocations[slot] } else { &mut self.modules[slot - count] }
    }

    /// An allocation and the events, both of which a launch changes.
    pub(crate) fn split(&mut self, slot: usize) -> (&mut Allocation, &Events) {
        let count = self.allocations.len();
        let allocation =
            if slot < count { &mut self.allocations[slot] } else { &mut self.modules[slot - count] };
        (allocation, &self.events)
    }

    /// How many allocations and variables [`Self::at`] knows.
    pub(crate) fn slots(&self) -> usize {
        self.allocations.len() + self.modules.len()
    }

    /// A launch begins: nothing from before it races with it. Every so often the numbers of events start over.
    pub(crate) fn begin_launch(&mut self) {
        if self.events.begin_launch() {
            for allocation in self.allocations.iter_mut().chain(&mut self.modules) {
                allocation.shadow = Shadow::new(allocation.data.len());
            }
        }
    }
}
