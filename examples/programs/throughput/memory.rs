//! Memory as the library takes it for the moments: huge pages for large arrays, where the system offers them.

use anyhow::{Context, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

const LINE: usize = 64;
/// From here on, an array is aligned to a huge page and asked to be made of them.
const HUGE_PAGE: usize = 2 << 20;

/// Owned bytes, never empty.
#[derive(Debug)]
pub(crate) struct Pages {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Pages` owns its memory as a Vec<u8> does.
unsafe impl Send for Pages {}
// SAFETY: as above; sharing it gives out the address alone.
unsafe impl Sync for Pages {}

impl Pages {
    /// `bytes` of memory, each of this value.
    ///
    /// # Errors
    /// The system has no room.
    pub(crate) fn filled(bytes: usize, value: u8) -> Result<Self> {
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(LINE), align).ok();
        // SAFETY: the layout is not empty.
        let allocated = layout.and_then(|layout| Some((NonNull::new(unsafe { alloc(layout) })?, layout)));
        let (ptr, layout) = allocated.with_context(|| format!("no memory for an array of {bytes} bytes"))?;
        #[cfg(target_os = "linux")]
        if align == HUGE_PAGE {
            // SAFETY: the range was just allocated. A refusal changes nothing, so the result does not matter.
            unsafe { libc::madvise(ptr.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation is layout.size() bytes long.
        unsafe { ptr.write_bytes(value, layout.size()) };
        Ok(Self { ptr, layout })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `filled` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}
