//! The global norm on its own.

use crate::cpu::sum_of_squares;
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
/// # Errors
/// None on the CPU.
pub fn global_norm(device: Device, tensors: &[Tensor<'_>]) -> Result<f64, Error> {
    match device {
        // SAFETY: a `Tensor` borrows its memory.
        Device::Cpu => Ok(unsafe { sum_of_squares(tensors) }.sqrt()),
    }
}
