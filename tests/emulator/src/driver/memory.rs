//! Device memory: who owns which address.

use std::ffi::c_void;

use super::Driver;
use super::api::{Handle, Out, api};
use super::errors::{Code, Result};
use super::work::Work;

/// An allocation.
pub(super) struct Allocation {
    pub(super) context: u64,
    pub(super) len: usize,
    /// By `cuMemAllocAsync`.
    is_ordered: bool,
    /// A stream-ordered one exists once its place in its stream was reached.
    pub(super) is_born: bool,
    /// A stream-ordered free is queued.
    pub(super) is_freed: bool,
}

/// `CUpointer_attribute`.
mod attribute {
    pub(super) const CONTEXT: i32 = 1;
    pub(super) const MEMORY_TYPE: i32 = 2;
    pub(super) const DEVICE_POINTER: i32 = 3;
    pub(super) const HOST_POINTER: i32 = 4;
    pub(super) const IS_MANAGED: i32 = 8;
    pub(super) const DEVICE_ORDINAL: i32 = 9;
    pub(super) const RANGE_START_ADDR: i32 = 11;
    pub(super) const RANGE_SIZE: i32 = 12;
}

/// `CU_MEMORYTYPE_HOST` and `CU_MEMORYTYPE_DEVICE`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

impl Driver {
    /// The allocation that holds an address.
    pub(super) fn allocation_at(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        (address - start < allocation.len as u64).then_some((*start, allocation))
    }

    pub(super) fn addresses_of(&self, context: u64) -> Vec<u64> {
        let owned = self.allocations.iter().filter(|(_, allocation)| allocation.context == context);
        owned.map(|(address, _)| *address).collect()
    }

    /// Refuses what is no address of this context's device, or of another context. Whether the bytes exist shows later.
    pub(super) fn must_own(&self, context: u64, address: u64) -> Result<()> {
        if self.device_at(address) != Some(self.device_of(context)?) {
            return Err(Code::INVALID_VALUE);
        }
        match self.allocation_at(address) {
            Some((_, allocation)) if allocation.context != context => Err(Code::INVALID_VALUE),
            _ => Ok(()),
        }
    }

    fn allocate(&mut self, context: u64, len: usize, is_ordered: bool) -> Result<u64> {
        let device = self.device_of(context)?;
        let address = self.devices[device].memory.allocate(len).ok_or(Code::OUT_OF_MEMORY)?;
        self.allocations
            .insert(address, Allocation { context, len, is_ordered, is_born: !is_ordered, is_freed: false });
        Ok(address)
    }

    /// An allocation that a call may free.
    fn freeable(&mut self, context: u64, address: u64) -> Result<&mut Allocation> {
        match self.allocations.get_mut(&address) {
            Some(allocation) if allocation.context == context && !allocation.is_freed => Ok(allocation),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// As hardware does, waits for everything first, unless the memory is stream-ordered.
    fn free(&mut self, context: u64, address: u64) -> Result<()> {
        let is_ordered = self.freeable(context, address)?.is_ordered;
        if !is_ordered {
            let tails = self.queue.tails(context);
            self.synchronize(context, &tails)?;
        }
        self.allocations.remove(&address);
        let device = self.device_of(context)?;
        self.devices[device].memory.free(address).map_err(|_| Code::INVALID_VALUE)
    }

    /// Frees in a context that an error ended, where nothing is queued any more.
    fn forget(&mut self, address: u64) {
        if self.allocations.remove(&address).is_some()
            && let Some(device) = self.device_at(address)
        {
            // It was allocated and is freed once only: the entry is gone now.
            let _ = self.devices[device].memory.free(address);
        }
    }

    fn pointer_attribute(&self, wanted: i32, address: u64, data: *mut c_void) -> Result<()> {
        use attribute::*;
        let (start, len, context, kind) = match self.allocation_at(address) {
            Some((start, allocation)) => (start, allocation.len, allocation.context, DEVICE),
            None => {
                let (start, pinned) = self.pinned_at(address).ok_or(Code::INVALID_VALUE)?;
                (start, pinned.len(), pinned.context, HOST)
            }
        };
        match wanted {
            CONTEXT => put(data, super::api::handle(context)),
            MEMORY_TYPE => put(data, kind),
            DEVICE_POINTER if kind == DEVICE => put(data, address),
            HOST_POINTER if kind == HOST => put(data, address),
            IS_MANAGED => put(data, 0_u32),
            DEVICE_ORDINAL => put(data, self.device_of(context)? as i32),
            RANGE_START_ADDR => put(data, start),
            RANGE_SIZE => put(data, len),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

fn put<T>(data: *mut c_void, value: T) -> Result<()> {
    if data.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and `cuPointerGetAttribute`'s caller passes a place of the attribute's type, which `T` is.
    unsafe { data.cast::<T>().write_unaligned(value) };
    Ok(())
}

api! {
    fn cuMemGetInfo_v2(driver, free: Out<usize>, total: Out<usize>) {
        let context = driver.current()?;
        let memory = &driver.devices[driver.device_of(context)?].memory;
        free.put(memory.capacity() - memory.used())?;
        total.put(memory.capacity())
    }
    fn cuMemAlloc_v2(driver, address: Out<u64>, bytes: usize) {
        let context = driver.current()?;
        driver.unsafe_in_capture()?;
        if bytes == 0 || address.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        address.put(driver.allocate(context, bytes, false)?)
    }
    fn cuMemFree_v2(driver, address: u64) {
        let (context, answer) = driver.current_to_release()?;
        if address == 0 {
            return answer;
        }
        driver.unsafe_in_capture()?;
        if answer.is_err() {
            driver.forget(address);
            return answer;
        }
        driver.free(context, address)
    }
    /// 0 bytes are an allocation at 0, as cudarc's `null` expects.
    fn cuMemAllocAsync(driver, address: Out<u64>, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.no_memory_nodes(stream)?;
        let context = driver.streams.get(stream)?.context;
        if address.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        if bytes == 0 {
            return address.put(0);
        }
        let at = driver.allocate(context, bytes, true)?;
        driver.submit(stream, Work::Born { address: at })?;
        address.put(at)
    }
    fn cuMemFreeAsync(driver, address: u64, stream: Handle) {
        let stream = match driver.stream(stream) {
            Err(code) if code.is_sticky() => {
                driver.forget(address);
                return Err(code);
            }
            found => found?,
        };
        driver.no_memory_nodes(stream)?;
        let context = driver.streams.get(stream)?.context;
        if address == 0 {
            return Ok(());
        }
        driver.freeable(context, address)?.is_freed = true;
        driver.submit(stream, Work::Free { address })
    }
    fn cuPointerGetAttribute(driver, data: *mut c_void, wanted: i32, address: u64) {
        driver.pointer_attribute(wanted, address, data)
    }
}
