//! One device's global memory.

/// What is wrong with an access or a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No allocation holds these bytes; says what is nearest.
    OutOfBounds { address: u64, len: usize, nearest: String },
    /// The allocation was freed.
    UseAfterFree { address: u64, len: usize },
    /// Freed twice, or never allocated at this address.
    BadFree { address: u64 },
    /// Bytes that nobody has written since they were allocated.
    Uninitialised { address: u64 },
}

/// Global memory with a shadow. Addresses are never reused while the process runs. Allocations start at multiples of 256
/// and are separated by guard gaps. Fresh memory is poisoned and uninitialised. An allocation of more than
/// [`WINDOW_FROM`] bytes is backed by a window of [`WINDOW`] bytes that repeats through it (address modulo `WINDOW`), so
/// that tensors beyond 2³¹ elements can be stepped.
#[derive(Debug, Default)]
pub struct Memory {}

/// Allocations larger than this are windows.
pub const WINDOW_FROM: usize = 1 << 30;
/// What backs them.
pub const WINDOW: usize = 1 << 20;

impl Memory {
    /// Memory of a device that has `capacity` bytes; its addresses start at `base`.
    pub fn new(base: u64, capacity: usize) -> Self {
        let _ = (base, capacity);
        Self {}
    }
    /// `None` where there is no room.
    pub fn allocate(&mut self, bytes: usize) -> Option<u64> {
        let _ = bytes;
        None
    }
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        Err(MemoryError::BadFree { address })
    }
    /// Device to host. Reading uninitialised bytes is an error.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let _ = into;
        Err(MemoryError::BadFree { address })
    }
    /// Host to device; initialises.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let _ = from;
        Err(MemoryError::BadFree { address })
    }
    /// `cuMemsetD8`.
    pub fn fill(&mut self, address: u64, value: u8, len: usize) -> Result<(), MemoryError> {
        let _ = (value, len);
        Err(MemoryError::BadFree { address })
    }
    /// Bytes in live allocations.
    pub fn used(&self) -> usize {
        0
    }
    pub fn capacity(&self) -> usize {
        0
    }
    /// Live allocations: address and length.
    pub fn live(&self) -> Vec<(u64, usize)> {
        Vec::new()
    }
}
