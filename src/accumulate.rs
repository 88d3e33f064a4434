//! Gradient accumulation over micro-batches.

use crate::alias::{Pair, check_places, pair_name, refuse_pairs};
use crate::allocation::collected;
use crate::environment::with_default_environment;
use crate::job::PAIRS;
use crate::tensor::Location;
use crate::{Device, Dtype, Error, Tensor, TensorMut};

/// Adds the gradients of a micro-batch to their f32 sums, all tensors in one sweep: `sum ← sum + g`, rounded once, for f32
/// and bf16 gradients. In the `first` micro-batch `sum ← g`, whatever it held: nothing needs to be zeroed. 12 bytes of
/// memory traffic an element, 10 with bf16; in the first micro-batch 8 and 6.
///
/// The sums are then a step's gradients, divided by the number of micro-batches:
///
/// ```
/// use fadam::{Adam, Device, Optimizer, Update, accumulate};
/// let mut optimizer = Optimizer::new(Adam::adamw())?;
/// let w = optimizer.register("w", 2)?;
/// let (mut weight, mut sum) = ([1.0_f32, 1.0], [0.0_f32; 2]);
/// let micro_batches = 4;
/// optimizer.set_grad_scale(f64::from(micro_batches))?;
/// for micro_batch in 0..micro_batches {
///     let gradient = [half::bf16::from_f32(0.25); 2]; // from your backward pass
///     accumulate(Device::Cpu, &mut [((&mut sum).into(), (&gradient).into())], micro_batch == 0)?;
/// }
/// assert_eq!(sum, [1.0, 1.0]);
/// optimizer.step(&mut [Update::new(w, &mut weight, &sum)])?; // by their mean, 0.25
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// The bits are the same on every device. A gradient that is not finite makes the sum so, and the step's check finds it.
/// On a GPU it is launched on the first sum's stream and, if the device has memory pools, not waited for; it cannot be
/// captured into a graph.
///
/// # Errors
/// Tensors are named by their place, "pair 0": [`Error::Length`], [`Error::Dtype`] for a sum that is not f32,
/// [`Error::Device`], [`Error::Aliased`] for a sum that shares memory with another tensor; [`Error::OutOfMemory`]; on a GPU
/// [`Error::Unavailable`], [`Error::Compile`], [`Error::Cuda`] and [`Error::Capture`]. Then nothing was changed.
pub fn accumulate(
    device: Device,
    pairs: &mut [(TensorMut<'_>, Tensor<'_>)],
    first: bool,
) -> Result<(), Error> {
    for (index, (sum, gradient)) in pairs.iter().enumerate() {
        if gradient.len != sum.len {
            let (expected, found) = (sum.len, gradient.len);
            return Err(Error::Length { name: pair_name(index), role: "gradient", expected, found });
        }
        if sum.dtype != Dtype::F32 {
            let found = sum.dtype.to_string();
            return Err(Error::Dtype { name: pair_name(index), role: "sum", expected: "f32", found });
        }
    }
    match device {
        Device::Cpu => {
            check_places(pairs, Location::Cpu)?;
            let pair = |(sum, gradient): &(TensorMut<'_>, Tensor<'_>)| Pair {
                sum: sum.host().addr(),
                gradient: gradient.host().addr(),
                len: sum.len,
                gradient_dtype: gradient.dtype,
            };
            refuse_pairs(&collected(pairs.iter().map(pair), PAIRS)?)?;
            // SAFETY: checked just now; the pairs borrow their memory.
            with_default_environment(|| unsafe { crate::cpu::accumulate(pairs, first) })
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => crate::cuda::accumulate(ordinal, pairs, first),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(ordinal) => Err(crate::backend::no_cuda(ordinal)),
    }
}
