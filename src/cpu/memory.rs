//! Zeroed f32 memory for the moments: huge pages for large state where the system offers them.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

/// A cache line: no vector load straddles two.
const LINE: usize = 64;
/// From here on, memory is aligned to a huge page and asked to be made of them.
const HUGE_PAGE: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Buffer {
    ptr: NonNull<f32>,
    len: usize,
}

// SAFETY: a Buffer owns its memory as a Vec<f32> does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros, or how many bytes the system refused.
    pub(crate) fn zeroed(len: usize) -> Result<Self, usize> {
        let bytes = len.saturating_mul(size_of::<f32>());
        let layout = Self::layout(len).ok_or(bytes)?;
        if layout.size() == 0 {
            return Ok(Self { ptr: NonNull::dangling(), len });
        }
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc(layout) }).ok_or(bytes)?;
        #[cfg(all(target_os = "linux", not(miri)))] // miri knows no madvise
        if layout.align() == HUGE_PAGE {
            // SAFETY: the range was just allocated. A refusal changes nothing, so the result does not matter.
            unsafe { libc::madvise(ptr.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation is layout.size() bytes long. Zeroed here, not by the allocator, so that the pages are
        // first touched after the advice.
        unsafe { ptr.write_bytes(0, layout.size()) };
        Ok(Self { ptr: ptr.cast(), len })
    }

    fn layout(len: usize) -> Option<Layout> {
        let layout = Layout::array::<f32>(len).ok()?;
        layout.align_to(if layout.size() >= HUGE_PAGE { HUGE_PAGE } else { LINE }).ok()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.ptr.as_ptr()
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: len initialised elements (zeroed on allocation), or none behind a dangling pointer.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the elements as above, of which every bit pattern is one; exclusive as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.len * size_of::<f32>()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|layout| layout.size() > 0) {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) };
        }
    }
}
