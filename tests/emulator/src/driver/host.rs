//! Host memory: the pinned blocks that the driver gives out, and ranges that transfers read and write.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;

use super::Driver;
use super::api::{Out, api};
use super::errors::{Code, Result};
use super::work::Failed;

/// Pinned memory. Freed when it is dropped.
pub(super) struct Pinned {
    pub(super) context: u64,
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its block; the pointer is only given to the program and to `dealloc`.
unsafe impl Send for Pinned {}

/// Fresh memory is filled with this, so that its use shows.
const POISON: u8 = 0xcd;
/// Pinned memory is made of pages.
const PAGE: usize = 4096;

impl Pinned {
    fn new(context: u64, len: usize) -> Result<Self> {
        let layout = Layout::from_size_align(len, PAGE).map_err(|_| Code::OUT_OF_MEMORY)?;
        if len == 0 {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the layout's size is not 0, checked above.
        let at = NonNull::new(unsafe { alloc(layout) }).ok_or(Code::OUT_OF_MEMORY)?;
        // SAFETY: the block was just allocated with this size.
        unsafe { at.write_bytes(POISON, len) };
        Ok(Self { context, at, layout })
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    fn address(&self) -> u64 {
        self.at.as_ptr().expose_provenance() as u64
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, and freed only here.
        unsafe { dealloc(self.at.as_ptr(), self.layout) };
    }
}

/// Host bytes that a transfer reads or writes.
#[derive(Clone, Copy)]
pub(super) struct HostRange {
    at: usize,
    pub(super) len: usize,
    pub(super) is_pinned: bool,
}

impl Driver {
    /// The pinned block that holds an address.
    pub(super) fn pinned_at(&self, address: u64) -> Option<(u64, &Pinned)> {
        let (start, pinned) = self.pinned.range(..=address).next_back()?;
        (address - start < pinned.len() as u64).then_some((*start, pinned))
    }

    /// The range that a caller means. All of it pinned, or pageable.
    pub(super) fn host_range(&self, pointer: *const c_void, len: usize) -> Result<HostRange> {
        if pointer.is_null() || self.device_at(pointer.addr() as u64).is_some() {
            return Err(Code::INVALID_VALUE);
        }
        let at = pointer.expose_provenance();
        Ok(HostRange { at, len, is_pinned: self.is_pinned(at, len) })
    }

    fn is_pinned(&self, at: usize, len: usize) -> bool {
        let end = at as u64 + len as u64;
        self.pinned_at(at as u64).is_some_and(|(start, pinned)| end <= start + pinned.len() as u64)
    }

    /// Pinned memory that was freed while a copy was queued is an error, not a crash.
    fn must_be_there(&self, range: HostRange) -> std::result::Result<(), Failed> {
        if range.is_pinned && !self.is_pinned(range.at, range.len) {
            return Err((
                Code::ILLEGAL_ADDRESS,
                format!(
                    "pinned memory at {:#x} ({} bytes) was freed before a queued copy ran",
                    range.at, range.len
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn read_host(&self, range: HostRange) -> std::result::Result<std::sync::Arc<[u8]>, Failed> {
        self.must_be_there(range)?;
        let mut bytes = vec![0; range.len];
        let from = std::ptr::with_exposed_provenance::<u8>(range.at);
        // SAFETY: pinned memory is there, checked above; pageable memory the C caller of the copy, or of the graph's
        // launch, promises to keep readable until this runs. `bytes` has the length and is new.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), range.len) };
        Ok(bytes.into())
    }

    pub(super) fn write_host(&self, range: HostRange, bytes: &[u8]) -> std::result::Result<(), Failed> {
        self.must_be_there(range)?;
        let to = std::ptr::with_exposed_provenance_mut::<u8>(range.at);
        // SAFETY: pinned memory is there, checked above; pageable memory the C caller of the copy, which waits for it, or
        // of the graph's launch, promises to keep writable until this runs. `bytes` has the range's length.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, range.len) };
        Ok(())
    }

    fn pin(&mut self, len: usize) -> Result<*mut c_void> {
        let context = self.current()?;
        self.unsafe_in_capture()?;
        let pinned = Pinned::new(context, len)?;
        let pointer = pinned.at.as_ptr().cast();
        self.pinned.insert(pinned.address(), pinned);
        Ok(pointer)
    }
}

api! {
    fn cuMemHostAlloc(driver, pointer: Out<*mut c_void>, bytes: usize, flags: u32) {
        // PORTABLE, DEVICEMAP, WRITECOMBINED.
        if flags & !7 != 0 || pointer.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        pointer.put(driver.pin(bytes)?)
    }
    fn cuMemAllocHost_v2(driver, pointer: Out<*mut c_void>, bytes: usize) {
        if pointer.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        pointer.put(driver.pin(bytes)?)
    }
    fn cuMemFreeHost(driver, pointer: *mut c_void) {
        let (_, answer) = driver.current_to_release()?;
        driver.unsafe_in_capture()?;
        driver.pinned.remove(&(pointer.addr() as u64)).ok_or(Code::INVALID_VALUE)?;
        answer
    }
}
