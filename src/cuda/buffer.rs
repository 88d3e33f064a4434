//! Device memory and pinned memory that an optimizer owns. All of it is used on the optimizer's stream alone, which
//! orders it; no events are needed.

use super::context::{bind, driver_error, refuse_capture, refused};
use crate::{Error, args};
use cudarc::driver::result;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
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
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for `name`, [`Error::Cuda`], [`Error::Capture`].
    pub(super) fn zeroed(stream: &Arc<CudaStream>, bytes: usize, name: &str) -> Result<Self, Error> {
        refuse_capture(stream)?;
        let bytes = bytes.max(1);
        Self::allocate(stream, bytes).map_err(refused("allocating memory of the device", name, bytes))
    }

    /// These values, once the stream gets there. They may go when this returns: of memory that is not page-locked the driver
    /// makes a copy first.
    pub(super) fn of<T: Plain>(stream: &Arc<CudaStream>, values: &[T], name: &str) -> Result<Self, Error> {
        let buffer = Self::zeroed(stream, size_of_val(values), name)?;
        // SAFETY: the buffer has room for the values.
        unsafe { result::memcpy_htod_async(buffer.address, values, stream.cu_stream()) }
            .map_err(driver_error("copying to the device"))?;
        Ok(buffer)
    }

    fn allocate(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
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

    /// Copies its beginning to the host, and waits for it.
    ///
    /// # Errors
    /// [`Error::Cuda`], [`Error::Capture`].
    pub(super) fn download<T: Plain>(&self, into: &mut [T]) -> Result<(), Error> {
        self.download_at(0, into)
    }

    /// Copies from a byte on to the host, and waits for it.
    ///
    /// # Errors
    /// As `download`.
    pub(super) fn download_at<T: Plain>(&self, offset: usize, into: &mut [T]) -> Result<(), Error> {
        refuse_capture(&self.stream)?;
        let address = self.range(offset, size_of_val(into));
        if into.is_empty() {
            return Ok(());
        }
        let mut copy = || {
            self.stream.context().bind_to_thread()?;
            // SAFETY: the range lies within the buffer, `T` is any bytes, and `into` is borrowed until the stream is done.
            unsafe { result::memcpy_dtoh_async(into, address, self.stream.cu_stream()) }?;
            self.stream.synchronize()
        };
        copy().map_err(driver_error("copying from the device"))
    }

    /// Copies from the host to a byte on, in the stream's order, and waits for it.
    ///
    /// # Errors
    /// As `download`.
    pub(super) fn upload_at<T: Plain>(&self, offset: usize, from: &[T]) -> Result<(), Error> {
        refuse_capture(&self.stream)?;
        let address = self.range(offset, size_of_val(from));
        if from.is_empty() {
            return Ok(());
        }
        let copy = || {
            self.stream.context().bind_to_thread()?;
            // SAFETY: the range lies within the buffer, and `from` is borrowed until the stream is done.
            unsafe { result::memcpy_htod_async(address, from, self.stream.cu_stream()) }?;
            self.stream.synchronize()
        };
        copy().map_err(driver_error("copying to the device"))
    }

    /// The address of bytes within the buffer.
    fn range(&self, offset: usize, bytes: usize) -> u64 {
        assert!(self.bytes.checked_sub(offset).is_some_and(|rest| bytes <= rest), "a copy within the buffer");
        self.address + offset as u64
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(bind(context));
        // SAFETY: allocated by `zeroed`, freed once; what the stream still does with it comes first.
        context.record_err(unsafe {
            if context.has_async_alloc() {
                result::free_async(self.address, self.stream.cu_stream())
            } else {
                context.record_err(result::stream::synchronize(self.stream.cu_stream()));
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
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: a transparent u16.
unsafe impl Plain for half::bf16 {}
// SAFETY: any byte.
unsafe impl Plain for MaybeUninit<u8> {}
// SAFETY: as above.
unsafe impl Plain for u8 {}
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

/// Page-locked host memory, and the last copy from or to it.
#[derive(Debug)]
struct Pinned {
    memory: *mut u8,
    bytes: usize,
    copied: CudaEvent,
}

// SAFETY: owns its memory, like a `Box`.
unsafe impl Send for Pinned {}
// SAFETY: as above; `&self` reads alone.
unsafe impl Sync for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        let copied = context.new_event(None)?;
        // SAFETY: `new_event` has bound the context.
        let memory = unsafe { result::malloc_host(bytes, 0) }?.cast();
        Ok(Self { memory, bytes, copied })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let context = self.copied.context();
        context.record_err(bind(context));
        // SAFETY: allocated by `new`, freed once. Whoever owns it has waited for the stream (`Cuda::drop`).
        context.record_err(unsafe { result::free_host(self.memory.cast()) });
    }
}

/// Uploads without waiting: the bytes lie in pinned memory until the device has taken them.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// As many as uploads were ever under way at a time.
    pinned: Vec<Pinned>,
}

impl Stage {
    /// Copies to a buffer's beginning, in its stream's order.
    pub(super) fn upload<T: Plain>(&mut self, from: &[T], to: &Buffer) -> Result<(), DriverError> {
        self.upload_at(0, from, to)
    }

    /// Copies to a buffer, from this byte of it on.
    pub(super) fn upload_at<T: Plain>(
        &mut self,
        offset: usize,
        from: &[T],
        to: &Buffer,
    ) -> Result<(), DriverError> {
        let bytes = size_of_val(from);
        assert!(offset + bytes <= to.bytes, "a copy within the buffer");
        if bytes == 0 {
            return Ok(());
        }
        let context = to.stream.context();
        context.bind_to_thread()?;
        let mut free = None;
        for (index, pinned) in self.pinned.iter().enumerate() {
            if pinned.bytes >= bytes && pinned.copied.try_is_complete()? {
                free = Some(index);
                break;
            }
        }
        let index = match free {
            Some(index) => index,
            None => {
                self.pinned.push(Pinned::new(context, bytes.next_power_of_two())?);
                self.pinned.len() - 1
            }
        };
        let pinned = &self.pinned[index];
        // SAFETY: the memory has room, and no copy from it is under way; the device reads it before `copied`, and nobody
        // writes it before that. The range lies within the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr().cast(), pinned.memory, bytes);
            let staged = std::slice::from_raw_parts(pinned.memory.cast::<MaybeUninit<u8>>(), bytes);
            result::memcpy_htod_async(to.address + offset as u64, staged, to.stream.cu_stream())?;
        }
        pinned.copied.record(&to.stream)
    }
}

/// A copy of a small struct on the device, as it is when the stream gets there.
#[derive(Debug)]
pub(super) struct Mirror<T> {
    pinned: Pinned,
    value: std::marker::PhantomData<T>,
}

impl<T: Plain> Mirror<T> {
    pub(super) fn new(context: &Arc<CudaContext>, value: T) -> Result<Self, Error> {
        let pinned =
            Pinned::new(context, size_of::<T>()).map_err(driver_error("allocating pinned memory"))?;
        // SAFETY: just allocated, page-aligned, large enough.
        unsafe { pinned.memory.cast::<T>().write(value) };
        Ok(Self { pinned, value: std::marker::PhantomData })
    }

    /// Copies a buffer's beginning when its stream gets there.
    pub(super) fn copy_from(&mut self, buffer: &Buffer) -> Result<(), DriverError> {
        buffer.stream.context().bind_to_thread()?;
        // SAFETY: the buffer holds a `T` at its beginning, which is any bytes. `read` waits for the copy, and so does
        // `Cuda::drop` before the memory is freed.
        unsafe {
            let into = std::slice::from_raw_parts_mut(self.pinned.memory.cast::<T>(), 1);
            result::memcpy_dtoh_async(into, buffer.address, buffer.stream.cu_stream())?;
        }
        self.pinned.copied.record(&buffer.stream)
    }

    /// Whether the last copy is there.
    pub(super) fn is_complete(&self) -> Result<bool, DriverError> {
        self.pinned.copied.context().bind_to_thread()?;
        self.pinned.copied.try_is_complete()
    }

    /// What the last copy brought; waits for it.
    pub(super) fn read(&self) -> Result<T, DriverError> {
        self.pinned.copied.synchronize()?;
        // SAFETY: written by `new` or by a copy that is complete; volatile, since the device wrote it.
        Ok(unsafe { self.pinned.memory.cast::<T>().read_volatile() })
    }
}
