//! `fisher_accumulate` and `natural_gradient`: kernels/fisher.cuh, line by line.

use super::kernel::{At, Chunk, Gradient, Kernel, run};
use super::simd::{Isa, Simd, Vector};
use super::{CHUNK, sweep};
use crate::Tensor;
use std::ptr::null_mut;
