//! `fisher_accumulate` and `natural_gradient`: kernels/fisher.cuh, line by line. Element-wise, so any cut will do.

use super::kernel::{Bf16, F32, Gradient};
use super::simd::{Isa, Program, Scalar, Simd, Vector};
use super::sweep::sweep_array;
use crate::job::NaturalGradient;
use crate::{Dtype, Tensor, TensorMut};
use half::bf16;
use std::marker::PhantomData;

/// sum ← sum + g² for each sample of a block in turn; the square of an f32 is exact in f64.
pub(crate) fn fisher_accumulate(sum: &mut [f64], gradients: &Tensor<'_>) {
    match gradients.dtype {
        // SAFETY: a `Tensor` borrows `len` elements of its type.
        Dtype::F32 => accumulate(sum, unsafe { slice::<f32>(gradients) }, |g| f64::from(*g)),
        // SAFETY: as above.
        Dtype::Bf16 => accumulate(sum, unsafe { slice::<bf16>(gradients) }, |g| f64::from(g.to_f32())),
    }
}

/// # Safety
/// The tensor's elements are of type T.
unsafe fn slice<'a, T>(tensor: &Tensor<'a>) -> &'a [T] {
    // SAFETY: the tensor borrows this memory for 'a.
    unsafe { std::slice::from_raw_parts(tensor.host().cast(), tensor.len) }
}

fn accumulate<T: Sync>(sum: &mut [f64], gradients: &[T], widen: impl Fn(&T) -> f64 + Sync) {
    let len = sum.len();
    sweep_array(sum, gradients.len(), &|start, sum| {
        for sample in gradients.chunks_exact(len) {
            for (sum, g) in sum.iter_mut().zip(&sample[start..]) {
                let g = widen(g);
                *sum += g * g;
            }
        }
    });
}

/// θ ← θ − η g / (F̂ + δ), or by √F̂.
pub(crate) fn natural_gradient(
    parameter: TensorMut<'_>,
    gradient: Tensor<'_>,
    fisher: Tensor<'_>,
    &NaturalGradient { neg_lr, damping, root }: &NaturalGradient,
) {
    let simd = Simd::best();
    // SAFETY: the caller has checked that both are f32, and each borrows its memory.
    let (theta, fisher) = unsafe {
        (std::slice::from_raw_parts_mut(parameter.host().cast::<f32>(), parameter.len), slice::<f32>(&fisher))
    };
    let len = theta.len();
    sweep_array(theta, len, &|start, theta| {
        let gradient = &gradient; // the tensor is Sync, its pointer alone is not
        let at = gradient.host().wrapping_add(start * gradient.dtype.size());
        let fisher = &fisher[start..];
        // SAFETY: `best` is available; the caller has checked that the lengths agree.
        unsafe {
            match gradient.dtype {
                Dtype::F32 => simd.run(Natural::<F32>::new(theta, at, fisher, neg_lr, damping, root)),
                Dtype::Bf16 => simd.run(Natural::<Bf16>::new(theta, at, fisher, neg_lr, damping, root)),
            }
        }
    });
}

struct Natural<'a, G> {
    theta: &'a mut [f32],
    /// As many elements as θ has.
    gradient: *const u8,
    fisher: &'a [f32],
    neg_lr: f32,
    damping: f32,
    root: bool,
    dtype: PhantomData<G>,
}

impl<'a, G: Gradient> Natural<'a, G> {
    /// # Safety
    /// `gradient` holds as many elements as θ, and so does the Fisher.
    unsafe fn new(
        theta: &'a mut [f32],
        gradient: *const u8,
        fisher: &'a [f32],
        neg_lr: f32,
        damping: f32,
        root: bool,
    ) -> Self {
        Self { theta, gradient, fisher, neg_lr, damping, root, dtype: PhantomData }
    }

    /// One vector from element `start` on.
    ///
    /// # Safety
    /// It lies within θ.
    #[inline(always)]
    unsafe fn vector<S: Isa>(&mut self, isa: S, start: usize) {
        // SAFETY: the caller's, and `new`'s.
        let (p, g, f) = unsafe {
            let g = G::load(isa, self.gradient.add(start * G::SIZE));
            (isa.load(self.theta.as_ptr().add(start)), g, isa.load(self.fisher.as_ptr().add(start)))
        };
        let d = if self.root { f.sqrt() } else { f } + isa.splat(self.damping); // 1
        let next = isa.splat(self.neg_lr).mul_add(g.div_or_zero(d), p); // 2
        // SAFETY: the caller's.
        unsafe { next.store(self.theta.as_mut_ptr().add(start)) };
    }
}

impl<G: Gradient> Program for Natural<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, isa: S) {
        let (len, width) = (self.theta.len(), S::V::WIDTH);
        for start in (0..len / width * width).step_by(width) {
            // SAFETY: a whole vector within θ.
            unsafe { self.vector(isa, start) };
        }
        for start in len / width * width..len {
            // SAFETY: one element within θ.
            unsafe { self.vector(Scalar, start) };
        }
    }
}
