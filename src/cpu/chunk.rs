//! Where the arrays of a tensor, or of a part of it, lie in memory. Addresses alone: nothing here reads or writes them.

use super::random::Random;
use crate::args::FADAM_CHUNK;
use crate::tensor::{Dtype, Tensor};
use std::ptr::null_mut;

/// Elements of a whole chunk.
pub(super) const CHUNK: usize = FADAM_CHUNK as usize;

/// The memory of one chunk. A null pointer stands for an array that is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) parameter: Parameter,
    /// First and second moment, largest second moment: f32 or bf16.
    pub(super) moments: [*mut u8; 3],
    pub(super) moments_dtype: Dtype,
    pub(super) ema: *mut f32,
    pub(super) gradient: *const u8,
    pub(super) gradient_dtype: Dtype,
    /// The chunk's first element in the tensor.
    pub(super) start: usize,
    pub(super) len: usize,
    /// How bf16 is rounded; `None` is to nearest.
    pub(super) random: Option<Random>,
}

/// How a parameter is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter {
    F32(*mut f32),
    Bf16 {
        value: *mut u16,
        master: Master,
        /// Else the master begins with the value in this step.
        has_master: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Master {
    None,
    F32(*mut f32),
    Remainder(*mut u16),
}

impl Chunk {
    /// An f32 tensor, or null, and a gradient, outside an optimizer.
    pub(super) fn outside(parameter: *mut u8, gradient: &Tensor<'_>) -> Self {
        Self {
            parameter: Parameter::F32(parameter.cast()),
            moments: [null_mut(); 3],
            moments_dtype: Dtype::F32,
            ema: null_mut(),
            gradient: gradient.host(),
            gradient_dtype: gradient.dtype,
            start: 0,
            len: gradient.len,
            random: None,
        }
    }

    /// Its elements from `start` on, at most `len` of them.
    pub(super) fn part(&self, start: usize, len: usize) -> Self {
        let offset = |array: *mut u8, dtype: Dtype| {
            if array.is_null() { array } else { array.wrapping_add(start * dtype.size()) }
        };
        Self {
            parameter: match self.parameter {
                Parameter::F32(array) => Parameter::F32(array.wrapping_add(start)),
                Parameter::Bf16 { value, master, has_master } => Parameter::Bf16 {
                    value: value.wrapping_add(start),
                    master: match master {
                        Master::None => Master::None,
                        Master::F32(array) => Master::F32(array.wrapping_add(start)),
                        Master::Remainder(array) => Master::Remainder(array.wrapping_add(start)),
                    },
                    has_master,
                },
            },
            moments: self.moments.map(|array| offset(array, self.moments_dtype)),
            ema: offset(self.ema.cast(), Dtype::F32).cast(),
            gradient: self.gradient.wrapping_add(start * self.gradient_dtype.size()),
            start: self.start + start,
            len: (self.len - start).min(len),
            ..*self
        }
    }
}

/// Whole rows of each array in f32, and of the gradient in its own type.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) parameter: *mut f32,
    pub(super) moments: [*mut f32; 3],
    pub(super) ema: *mut f32,
    pub(super) gradient: *const u8,
    /// Random bits for the first and the second moment; null where they are rounded to nearest, or not at all.
    pub(super) random: [*const u16; 2],
}
