//! Tensors in device memory, as callers pass them: cudarc's slices and views, which order their uses by events, or bare
//! addresses.

use super::{Element, Location, OnDevice, Tensor, TensorMut};
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
    SyncOnDrop,
};
use std::fmt;
use std::sync::Arc;

/// Which context an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContextId {
    context: usize,
    pub(crate) ordinal: usize,
}

impl ContextId {
    pub(crate) fn of(context: &CudaContext) -> Self {
        Self { context: context.cu_ctx().addr(), ordinal: context.ordinal() }
    }
}

/// What a kernel reads.
pub(crate) trait Readable: Sync {
    fn stream(&self) -> &Arc<CudaStream>;
    /// The address, once `stream` waits for all writes so far; the guard tells later writers to wait for `stream`.
    fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
}

/// What a kernel reads and writes.
pub(crate) trait Writable: Send + Sync {
    fn stream(&self) -> &Arc<CudaStream>;
    /// As [`Readable::read`], with regard to readers too.
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
}

impl<T: Element> Readable for CudaSlice<T> {
    fn stream(&self) -> &Arc<CudaStream> {
        DeviceSlice::stream(self)
    }
    fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr(stream)
    }
}

impl<T: Element> Readable for CudaView<'_, T> {
    fn stream(&self) -> &Arc<CudaStream> {
        DeviceSlice::stream(self)
    }
    fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr(stream)
    }
}

impl<T: Element> Writable for CudaSlice<T> {
    fn stream(&self) -> &Arc<CudaStream> {
        DeviceSlice::stream(self)
    }
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr_mut(stream)
    }
}

impl<T: Element> Writable for CudaViewMut<'_, T> {
    fn stream(&self) -> &Arc<CudaStream> {
        DeviceSlice::stream(self)
    }
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr_mut(stream)
    }
}

/// Where a [`Tensor`] on a device lies.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Slice(&'a dyn Readable),
    Address(u64, ContextId),
}

/// Where a [`TensorMut`] on a device lies.
pub(crate) enum Target<'a> {
    Slice(&'a mut dyn Writable),
    Address(u64, ContextId),
}

impl OnDevice for Source<'_> {
    fn location(&self) -> Location {
        Location::Cuda(match self {
            Self::Slice(slice) => ContextId::of(slice.stream().context()),
            Self::Address(_, context) => *context,
        })
    }
}

impl OnDevice for Target<'_> {
    fn location(&self) -> Location {
        Location::Cuda(match self {
            Self::Slice(slice) => ContextId::of(slice.stream().context()),
            Self::Address(_, context) => *context,
        })
    }
}

impl Source<'_> {
    /// The stream that it was made on, if it knows.
    pub(crate) fn stream(&self) -> Option<&Arc<CudaStream>> {
        match self {
            Self::Slice(slice) => Some(slice.stream()),
            Self::Address(..) => None,
        }
    }

    pub(crate) fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        match self {
            Self::Slice(slice) => slice.read(stream),
            Self::Address(address, _) => (*address, SyncOnDrop::Record(None)),
        }
    }
}

impl Target<'_> {
    /// The stream that it was made on, if it knows.
    pub(crate) fn stream(&self) -> Option<&Arc<CudaStream>> {
        match self {
            Self::Slice(slice) => Some(slice.stream()),
            Self::Address(..) => None,
        }
    }

    pub(crate) fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        match self {
            Self::Slice(slice) => slice.write(stream),
            Self::Address(address, _) => (*address, SyncOnDrop::Record(None)),
        }
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.location())
    }
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.location())
    }
}

impl<'a, T: Element> From<&'a CudaSlice<T>> for Tensor<'a> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self::on_device(Source::Slice(slice), slice.len(), T::DTYPE)
    }
}

impl<'a, T: Element> From<&'a CudaView<'_, T>> for Tensor<'a> {
    fn from(view: &'a CudaView<'_, T>) -> Self {
        Self::on_device(Source::Slice(view), view.len(), T::DTYPE)
    }
}

impl<'a, T: Element> From<&'a mut CudaSlice<T>> for TensorMut<'a> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        let len = slice.len();
        Self::on_device(Target::Slice(slice), len, T::DTYPE)
    }
}

impl<'a, T: Element> From<&'a mut CudaViewMut<'_, T>> for TensorMut<'a> {
    fn from(view: &'a mut CudaViewMut<'_, T>) -> Self {
        let len = view.len();
        Self::on_device(Target::Slice(view), len, T::DTYPE)
    }
}

impl Tensor<'_> {
    /// A view of device memory by its address, in the order of the optimizer's stream: it is up to the caller that
    /// whatever writes it on another stream is waited for.
    ///
    /// # Safety
    /// `len` elements of `T` lie at `address` in `context`, valid until the optimizer's stream has run the step that the
    /// view is used in (and every replay of a graph that captured it), and nothing writes them meanwhile.
    ///
    /// ```no_run
    /// # use fadam::cuda::cudarc::driver::CudaContext;
    /// # fn allocated_elsewhere() -> u64 { 0 }
    /// let context = CudaContext::new(0)?; // needs a GPU
    /// // SAFETY: 1000 f32 lie there, and stay; whoever wrote them was waited for.
    /// let gradient = unsafe { fadam::Tensor::from_device_address::<f32>(allocated_elsewhere(), 1000, &context) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn from_device_address<T: Element>(
        address: u64,
        len: usize,
        context: &Arc<CudaContext>,
    ) -> Self {
        Self::on_device(Source::Address(address, ContextId::of(context)), len, T::DTYPE)
    }
}

impl TensorMut<'_> {
    /// As [`Tensor::from_device_address`], for what a step updates.
    ///
    /// # Safety
    /// As there, and nothing else reads or writes the memory meanwhile.
    pub unsafe fn from_device_address<T: Element>(
        address: u64,
        len: usize,
        context: &Arc<CudaContext>,
    ) -> Self {
        Self::on_device(Target::Address(address, ContextId::of(context)), len, T::DTYPE)
    }
}
