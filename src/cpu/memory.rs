//! Zeroed memory for what is kept of a parameter: huge pages for large state where the system offers them.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

/// A cache line: no vector load straddles two.
#[repr(align(64))]
struct Line;

/// From here on, memory is aligned to a huge page and asked to be made of them.
const HUGE_PAGE: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Buffer owns its memory as a Vec<u8> does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// So many bytes of zeros, or how many the system refused.
    pub(crate) fn zeroed(bytes: usize) -> Result<Self, usize> {
        let layout = Self::layout(bytes).ok_or(bytes)?;
        if bytes == 0 {
            return Ok(Self { ptr: NonNull::<Line>::dangling().cast(), bytes });
        }
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc(layout) }).ok_or(bytes)?;
        #[cfg(all(target_os = "linux", not(miri)))] // miri knows no madvise
        if layout.align() == HUGE_PAGE {
            // SAFETY: the range was just allocated. A refusal changes nothing, so the result does not matter.
            unsafe { libc::madvise(ptr.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation is that long. Zeroed here, not by the allocator, so that the pages are first touched
        // after the advice.
        unsafe { ptr.write_bytes(0, bytes) };
        Ok(Self { ptr, bytes })
    }

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, if bytes >= HUGE_PAGE { HUGE_PAGE } else { align_of::<Line>() }).ok()
    }

    /// Aligned for any element.
    pub(crate) fn as_mut_ptr<T: Plain>(&mut self) -> *mut T {
        self.ptr.as_ptr().cast()
    }

    pub(crate) fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: initialised bytes (zeroed on allocation), or none behind a dangling pointer, aligned for any element.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; exclusive as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.bytes).filter(|layout| layout.size() > 0) {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

/// An element of a buffer: every bit pattern is one.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i16 {}
impl Plain for half::bf16 {}
impl Plain for u8 {}
