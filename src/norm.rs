//! The global norm on its own.

use crate::cpu::sum_of_squares;
use crate::environment::with_default_environment;
use crate::tensor::Location;
use crate::{Device, Error, Tensor};

/// ‖x‖₂ over all tensors taken together, f32 and bf16 mixed at will: two passes, deterministic, the same bits on every
/// device and thread count. The tensors' order is part of the result's last bits. ∞ where a sum of squares overflows
/// f32 within a chunk of 4096 elements (|x| > 1.8e19 does), NaN where there is one.
///
/// ```
/// use fadam::{Device, global_norm};
/// let (a, b) = (vec![3.0_f32], vec![4.0_f32]);
/// assert_eq!(global_norm(Device::Cpu, &[(&a).into(), (&b).into()])?, 5.0);
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// On a GPU it runs on the first tensor's stream, and waits for the result.
///
/// # Errors
/// [`Error::Device`] for a tensor of another device, named by its index, [`Error::OutOfMemory`]; on a GPU
/// [`Error::Unavailable`], [`Error::Compile`], [`Error::Cuda`].
pub fn global_norm(device: Device, tensors: &[Tensor<'_>]) -> Result<f64, Error> {
    with_default_environment(|| match device {
        Device::Cpu => {
            for (index, tensor) in tensors.iter().enumerate() {
                tensor.place.check(Location::Cpu, &format!("tensor {index}"))?;
            }
            // SAFETY: a `Tensor` borrows its memory, which lies here.
            unsafe { sum_of_squares(tensors) }.map(f64::sqrt)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => crate::cuda::global_norm(ordinal, tensors),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(ordinal) => Err(crate::backend::no_cuda(ordinal)),
    })
}
