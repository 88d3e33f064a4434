//! `accumulate`: kernels/accumulate.cu, in one sweep over all tensors.

use super::chunk::Chunk;
use super::kernel::{At, Counter, Gradient, Kernel, Moments, Use};
use super::simd::{Isa, Simd, Vector};
use super::sweep::Chunked;
use super::task::{Task, run_all};
use crate::allocation::collected;
use crate::job::PAIRS;
use crate::{Error, Tensor, TensorMut};

/// sum ← sum + g, or with FIRST sum ← g.
struct Accumulate<const FIRST: bool>;

impl<const FIRST: bool> Kernel for Accumulate<FIRST> {
    const SUMS: [bool; 3] = [false; 3];
    const PARAMETER: Use = Use::Writes;
    const MOMENTS: [Use; 3] = [Use::No; 3];

    #[inline(always)]
    unsafe fn vector<S: Isa, G: Gradient, M: Moments>(
        &self,
        isa: S,
        at: At,
        _: &mut [S::V; 3],
        _: &mut Counter<S::V>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let g = G::load(isa, at.gradient);
            let sum = if FIRST { g } else { isa.load(at.parameter) + g };
            sum.store(at.parameter);
        }
    }
}

/// # Safety
/// Each pair's memory lies here, both of one length, the sum f32; no sum overlaps another tensor.
pub(crate) unsafe fn accumulate(pairs: &[(TensorMut<'_>, Tensor<'_>)], first: bool) -> Result<(), Error> {
    let mut end = 0;
    let task = |(index, (sum, gradient)): (usize, &(TensorMut<'_>, Tensor<'_>))| {
        let task = Task::bare(index, Chunk::outside(sum.host(), gradient), end);
        end = task.chunks().end;
        task
    };
    let tasks = collected(pairs.iter().enumerate().map(task), PAIRS)?;
    let mut none = Default::default();
    if first {
        run_all(Simd::best(), &tasks, &mut none, |_| Some(Accumulate::<true>));
    } else {
        run_all(Simd::best(), &tasks, &mut none, |_| Some(Accumulate::<false>));
    }
    Ok(())
}
