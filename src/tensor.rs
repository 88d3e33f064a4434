//! Borrowed views of the caller's memory: where it is, how long, of which type. No arithmetic.

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
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
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

/// A tensor that a step reads: a gradient. Made from `&[f32]`, `&[bf16]`, a `&Vec` or a reference to an array.
///
/// ```
/// let gradient = vec![0.5_f32; 3];
/// assert_eq!(fadam::Tensor::from(&gradient).len(), 3);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(crate) ptr: *const u8,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    borrow: PhantomData<&'a [u8]>,
}

/// A tensor that a step updates in place: a parameter. Made from `&mut [f32]`, a `&mut Vec` or an array.
///
/// ```
/// let mut weight = [0.0_f32; 4];
/// assert_eq!(fadam::TensorMut::from(&mut weight).dtype(), fadam::Dtype::F32);
/// ```
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) ptr: *mut u8,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `Tensor` is a `&[f32]` or a `&[bf16]` that has forgotten which; both are Send and Sync.
unsafe impl Send for Tensor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tensor<'_> {}
// SAFETY: a `TensorMut` is a `&mut [f32]` or `&mut [bf16]` that has forgotten which; both are Send and Sync.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorMut<'_> {}

impl Tensor<'_> {
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
        Self { ptr: ptr.cast(), len, dtype: T::DTYPE, borrow: PhantomData }
    }
}

impl TensorMut<'_> {
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
        Self { ptr: ptr.cast(), len, dtype: T::DTYPE, borrow: PhantomData }
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
