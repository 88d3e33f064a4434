//! Borrowed views of the caller's memory: where it is, how long, of which type. No arithmetic.

#[cfg(feature = "cuda")]
mod cuda;

use crate::error::Error;
#[cfg(feature = "cuda")]
pub(crate) use cuda::{ContextId, Source, Target};
use half::bf16;
use std::fmt;
use std::marker::PhantomData;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE-754 binary32.
    F32,
    /// bfloat16, the high half of a binary32.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    ///
    /// ```
    /// assert_eq!(fadam::Dtype::Bf16.size(), 2);
    /// ```
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A Rust type that a tensor can hold: `f32` or [`half::bf16`]. Sealed.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// Its [`Dtype`].
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

/// Where a tensor lies: at an address of this process, or on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<H, D> {
    Host(H),
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no device to be on"))]
    Cuda(D),
}

#[cfg(not(feature = "cuda"))]
use std::convert::Infallible as Source;
#[cfg(not(feature = "cuda"))]
use std::convert::Infallible as Target;

/// Where a tensor lies, to be compared with where an optimizer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(ContextId),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda(context) => write!(f, "cuda:{}", context.ordinal),
        }
    }
}

/// What lies on a device.
pub(crate) trait OnDevice {
    fn location(&self) -> Location;
}

#[cfg(not(feature = "cuda"))]
impl OnDevice for Source {
    fn location(&self) -> Location {
        match *self {}
    }
}

impl Location {
    /// # Errors
    /// [`Error::Device`] where it is not `expected`.
    pub(crate) fn check(self, expected: Self, name: &str) -> Result<(), Error> {
        if self == expected {
            return Ok(());
        }
        let (expected, mut found) = (expected.to_string(), self.to_string());
        if found == expected {
            found = format!("another context of {found}");
        }
        Err(Error::Device { name: name.into(), expected, found })
    }
}

impl<H, D: OnDevice> Place<H, D> {
    /// # Errors
    /// [`Error::Device`] where it is not `expected`.
    pub(crate) fn check(&self, expected: Location, name: &str) -> Result<(), Error> {
        match self {
            Self::Host(_) => Location::Cpu,
            Self::Cuda(device) => device.location(),
        }
        .check(expected, name)
    }
}

/// A tensor that a step reads: a gradient. On the CPU it is made from `&[f32]`, `&[bf16]`, a `&Vec` or a reference to an
/// array; on a GPU from cudarc's `&CudaSlice` or `&CudaView`.
///
/// ```
/// let gradient = vec![0.5_f32; 3];
/// assert_eq!(fadam::Tensor::from(&gradient).len(), 3);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    #[cfg(feature = "cuda")]
    pub(crate) place: Place<*const u8, Source<'a>>,
    #[cfg(not(feature = "cuda"))]
    pub(crate) place: Place<*const u8, Source>,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    borrow: PhantomData<&'a [u8]>,
}

/// A tensor that a step updates in place: a parameter. On the CPU it is made from `&mut [f32]`, a `&mut Vec` or an array;
/// on a GPU from cudarc's `&mut CudaSlice` or `&mut CudaViewMut`.
///
/// ```
/// let mut weight = [0.0_f32; 4];
/// assert_eq!(fadam::TensorMut::from(&mut weight).dtype(), fadam::Dtype::F32);
/// ```
#[derive(Debug)]
pub struct TensorMut<'a> {
    #[cfg(feature = "cuda")]
    pub(crate) place: Place<*mut u8, Target<'a>>,
    #[cfg(not(feature = "cuda"))]
    pub(crate) place: Place<*mut u8, Target>,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: on the CPU a `Tensor` is a `&[f32]` or a `&[bf16]` that has forgotten which; both are Send and Sync. On a device
// it is a reference to something `Sync`, or a number.
unsafe impl Send for Tensor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tensor<'_> {}
// SAFETY: on the CPU a `TensorMut` is a `&mut [f32]` or `&mut [bf16]` that has forgotten which; both are Send and Sync. On
// a device it is a mutable reference to something `Send` and `Sync`, or a number.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> Tensor<'a> {
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(source: Source<'a>, len: usize, dtype: Dtype) -> Self {
        Self { place: Place::Cuda(source), len, dtype, borrow: PhantomData }
    }

    /// Its address; null on a device, which callers have excluded.
    pub(crate) fn host(&self) -> *const u8 {
        match self.place {
            Place::Host(address) => address,
            Place::Cuda(_) => std::ptr::null(),
        }
    }

    /// The elements, if they are of this type and in this process's memory.
    ///
    /// ```
    /// let gradient = [0.5_f32, 1.5];
    /// let tensor = fadam::Tensor::from(&gradient);
    /// assert_eq!(tensor.as_slice::<f32>(), Some(&gradient[..]));
    /// assert_eq!(tensor.as_slice::<half::bf16>(), None);
    /// ```
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        match self.place {
            Place::Host(address) if self.dtype == T::DTYPE => {
                // SAFETY: a host tensor borrows `len` elements of its type for 'a.
                Some(unsafe { std::slice::from_raw_parts(address.cast(), self.len) })
            }
            _ => None,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// A view of memory that no Rust slice describes.
    ///
    /// # Safety
    /// As for [`std::slice::from_raw_parts`], for the lifetime that the caller lets the result have; only that it may
    /// overlap other views is allowed: a step refuses what it must not mix.
    ///
    /// ```
    /// let gradient = [1.0_f32, 2.0];
    /// // SAFETY: the array outlives the view.
    /// let view = unsafe { fadam::Tensor::from_raw_parts(gradient.as_ptr(), 2) };
    /// assert!(!view.is_empty());
    /// ```
    pub unsafe fn from_raw_parts<T: Element>(ptr: *const T, len: usize) -> Self {
        Self { place: Place::Host(ptr.cast()), len, dtype: T::DTYPE, borrow: PhantomData }
    }
}

impl<'a> TensorMut<'a> {
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(target: Target<'a>, len: usize, dtype: Dtype) -> Self {
        Self { place: Place::Cuda(target), len, dtype, borrow: PhantomData }
    }

    /// Its address; null on a device, which callers have excluded.
    pub(crate) fn host(&self) -> *mut u8 {
        match self.place {
            Place::Host(address) => address,
            Place::Cuda(_) => std::ptr::null_mut(),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// A view of memory that no Rust slice describes.
    ///
    /// # Safety
    /// As for [`std::slice::from_raw_parts_mut`], for the lifetime that the caller lets the result have; only that it
    /// may overlap other views is allowed: a step refuses what it must not mix.
    ///
    /// ```
    /// let mut weight = [1.0_f32, 2.0];
    /// // SAFETY: the array outlives the view, and nothing else touches it meanwhile.
    /// let view = unsafe { fadam::TensorMut::from_raw_parts(weight.as_mut_ptr(), 2) };
    /// assert_eq!(view.len(), 2);
    /// ```
    pub unsafe fn from_raw_parts<T: Element>(ptr: *mut T, len: usize) -> Self {
        Self { place: Place::Host(ptr.cast()), len, dtype: T::DTYPE, borrow: PhantomData }
    }
}

impl<'a, T: Element> From<&'a [T]> for Tensor<'a> {
    fn from(slice: &'a [T]) -> Self {
        // SAFETY: the slice is valid for 'a, which the result carries.
        unsafe { Self::from_raw_parts(slice.as_ptr(), slice.len()) }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Tensor<'a> {
    fn from(vec: &'a Vec<T>) -> Self {
        vec.as_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for Tensor<'a> {
    fn from(array: &'a [T; N]) -> Self {
        array.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a> {
    fn from(slice: &'a mut [T]) -> Self {
        // SAFETY: the slice is valid and exclusive for 'a, which the result carries.
        unsafe { Self::from_raw_parts(slice.as_mut_ptr(), slice.len()) }
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorMut<'a> {
    fn from(vec: &'a mut Vec<T>) -> Self {
        vec.as_mut_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorMut<'a> {
    fn from(array: &'a mut [T; N]) -> Self {
        array.as_mut_slice().into()
    }
}
