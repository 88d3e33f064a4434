//! Device memory and pinned memory that an optimizer owns. All of it is used on the optimizer's stream alone, which
//! orders it; no events are needed.

use super::driver_error;
use crate::{Error, args};
use cudarc::driver::result;
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Bytes of device memory.
#[derive(Debug)]
pub(super) struct Buffer {
    address: u64,
    bytes: usize,
    stream: Arc<CudaStream>,
}

impl Buffer {
    /// Zeros, once the stream gets there. Never empty: the driver knows no empty allocation.
    pub(super) fn zeroed(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        let bytes = bytes.max(1);
        let context = stream.context();
        context.bind_to_thread()?;
        // SAFETY: the context is bound; the memory is owned by the result from here on.
        let address = unsafe {
            if context.has_async_alloc() {
                result::malloc_async(stream.cu_stream(), bytes)?
            } else {
                result::malloc_sync(bytes)?
            }
        };
        let buffer = Self { address, bytes, stream: stream.clone() };
        // SAFETY: `bytes` bytes were just allocated there.
        unsafe { result::memset_d8_async(address, 0, bytes, stream.cu_stream()) }?;
        Ok(buffer)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies to its beginning, in the stream's order. The driver takes the bytes before this returns.
    pub(super) fn upload<T: Plain>(&self, offset: usize, from: &[T]) -> Result<(), DriverError> {
        let len = size_of_val(from);
        if len == 0 {
            return Ok(());
        }
        debug_assert!(offset + len <= self.bytes);
        self.stream.context().bind_to_thread()?;
        // SAFETY: the range lies within the buffer; memory that is not pinned is read before the call returns.
        unsafe { result::memcpy_htod_async(self.address + offset as u64, from, self.stream.cu_stream()) }
    }

    /// Copies from `offset` on, and waits for it, as the driver does where memory is not pinned.
    pub(super) fn download<T: Plain>(&self, offset: usize, into: &mut [T]) -> Result<(), DriverError> {
        let len = size_of_val(into);
        if len == 0 {
            return Ok(());
        }
        debug_assert!(offset + len <= self.bytes);
        self.stream.context().bind_to_thread()?;
        // SAFETY: the range lies within the buffer, and `T` is any bytes; the copy ends before the call returns.
        unsafe { result::memcpy_dtoh_async(into, self.address + offset as u64, self.stream.cu_stream()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        // SAFETY: allocated by `zeroed`, freed once; what the stream still does with it comes first.
        context.record_err(unsafe {
            if context.has_async_alloc() {
                result::free_async(self.address, self.stream.cu_stream())
            } else {
                context.record_err(self.stream.synchronize());
                result::free_sync(self.address)
            }
        });
    }
}

/// Types that are nothing but their bytes: what travels to the device and back.
///
/// # Safety
/// `repr(C)` or a primitive, every bit pattern valid.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: primitives.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: any byte.
unsafe impl Plain for MaybeUninit<u8> {}
// SAFETY: `repr(C)` structs of integers and floats, written by bindgen; so are all that follow.
unsafe impl Plain for args::Task {}
// SAFETY: as above.
unsafe impl Plain for args::Control {}
// SAFETY: as above.
unsafe impl Plain for args::Record {}
// SAFETY: as above.
unsafe impl Plain for args::Settings {}
// SAFETY: as above.
unsafe impl Plain for args::AdamHyper {}
// SAFETY: as above.
unsafe impl Plain for args::FAdamHyper {}
// SAFETY: as above.
unsafe impl Plain for args::FisherAdamHyper {}

/// One value in page-locked host memory, into which the device copies while the host goes on.
#[derive(Debug)]
pub(super) struct Pinned<T> {
    value: *mut T,
    context: Arc<CudaContext>,
}

// SAFETY: owns its memory, like a `Box`.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: as above; `&self` only reads.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    pub(super) fn new(context: &Arc<CudaContext>, value: T) -> Result<Self, Error> {
        let failed = driver_error("allocating pinned memory");
        context.bind_to_thread().map_err(&failed)?;
        // SAFETY: the context is bound.
        let memory = unsafe { result::malloc_host(size_of::<T>(), 0) }.map_err(&failed)?;
        let value_at = memory.cast::<T>();
        // SAFETY: just allocated, page-aligned, large enough.
        unsafe { value_at.write(value) };
        Ok(Self { value: value_at, context: context.clone() })
    }

    /// Copies from a buffer's beginning when the stream gets there.
    ///
    /// # Safety
    /// `self` is neither read nor dropped before the stream has.
    pub(super) unsafe fn copy_from(&mut self, buffer: &Buffer) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the buffer holds a `T` at its beginning; the caller's for the rest.
        unsafe {
            let into = std::slice::from_raw_parts_mut(self.value, 1);
            result::memcpy_dtoh_async(into, buffer.address, buffer.stream.cu_stream())
        }
    }

    /// # Safety
    /// No copy into it is under way.
    pub(super) unsafe fn read(&self) -> T {
        // SAFETY: written by `new`, any bytes are a `T`; volatile, since the device wrote it.
        unsafe { self.value.read_volatile() }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: allocated by `new`, freed once.
        self.context.record_err(unsafe { result::free_host(self.value.cast()) });
    }
}
