//! The step under measurement: an optimizer, its tensors and their gradients.

use crate::case::{Algorithm, Case};
use crate::memory::Pages;
use anyhow::Result;
use fadam::{
    Adam, Builder, Dtype, Element, FAdam, FisherAdam, NonFinite, Optimizer, Simd, Tensor, TensorMut, Update,
};
use half::bf16;

/// So small that parameters stay what they are, however many steps are timed.
const LEARNING_RATE: f64 = 1e-9;

pub(crate) struct Step {
    optimizer: Optimizer,
    updates: Vec<Update<'static>>,
    // After the updates, which point into it.
    _memory: Vec<Pages>,
}

impl Step {
    /// # Errors
    /// No memory, or a hyper-parameter outside its domain.
    pub(crate) fn new(case: &Case, simd: Simd) -> Result<Self> {
        let optimizer = builder(case, algorithm(case)).simd(simd).build()?;
        let mut step = Self { optimizer, updates: Vec::new(), _memory: Vec::new() };
        for (index, &len) in case.shape.tensors().iter().enumerate() {
            step.add(index, len, case)?;
        }
        Ok(step)
    }

    fn add(&mut self, index: usize, len: usize, case: &Case) -> Result<()> {
        let name = format!("tensor{index}");
        let (id, parameter) = match case.param {
            Dtype::F32 => (self.optimizer.register(name, len)?, filled::<f32>(len, |x| x)?),
            _ => (self.optimizer.register_bf16(name, len)?, filled::<bf16>(len, bf16::from_f32)?),
        };
        let (gradient, gradient_view) = match case.grad {
            Dtype::F32 => gradient::<f32>(len, |x| x)?,
            _ => gradient::<bf16>(len, bf16::from_f32)?,
        };
        // SAFETY: `len` elements, written by `filled`, which nothing else uses and which live as long as the update.
        let parameter_view = unsafe {
            match case.param {
                Dtype::F32 => TensorMut::from_raw_parts(parameter.as_ptr().cast::<f32>(), len),
                _ => TensorMut::from_raw_parts(parameter.as_ptr().cast::<bf16>(), len),
            }
        };
        self.updates.push(Update::new(id, parameter_view, gradient_view));
        self._memory.extend([parameter, gradient]);
        Ok(())
    }

    /// # Panics
    /// If the step refuses its own tensors: a bug.
    #[inline]
    pub(crate) fn run(&mut self) {
        self.optimizer.step(&mut self.updates).expect("the tensors are those registered");
    }

    /// The norm of FAdam's update in the last step.
    pub(crate) fn update_norm(&mut self) -> Result<Option<f64>> {
        Ok(self.optimizer.report()?.update_norm)
    }
}

/// What is kept how; clipping and the check, or neither.
pub(crate) fn builder(case: &Case, algorithm: fadam::Algorithm) -> Builder {
    let mut builder =
        Optimizer::builder(algorithm).moments(case.moments).master(case.master.unwrap_or_default());
    if let Some(rounding) = case.rounding {
        builder = builder.rounding(rounding);
    }
    if case.clip { builder.max_grad_norm(1.0) } else { builder.non_finite(NonFinite::Propagate) }
}

pub(crate) fn algorithm(case: &Case) -> fadam::Algorithm {
    let (lr, weight_decay) = (LEARNING_RATE, case.weight_decay);
    match case.algorithm {
        Algorithm::Adam => Adam { lr, weight_decay, ..Adam::default() }.into(),
        Algorithm::Adamw => Adam { lr, weight_decay, ..Adam::adamw() }.into(),
        Algorithm::Fadam => FAdam { lr, weight_decay, kappa: case.kappa, ..FAdam::default() }.into(),
        Algorithm::FisherAdam => FisherAdam { lr, weight_decay, ..FisherAdam::default() }.into(),
    }
}

/// Numbers of both signs between 2⁻⁸ and 2⁻⁷ in size: neither subnormals nor a denominator near 0 on the way.
pub(crate) fn values() -> impl Iterator<Item = f32> {
    let mut state = 0_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // Numerical Recipes' generator
        let sign = state & (1 << 31);
        let mantissa = state >> 9 & ((1 << 23) - 1);
        f32::from_bits(sign | (127 - 8) << 23 | mantissa)
    })
}

fn filled<T: Element>(len: usize, from: impl Fn(f32) -> T) -> Result<Pages> {
    let memory = Pages::filled(len.saturating_mul(size_of::<T>()), 0)?;
    let array = memory.as_ptr().cast::<T>();
    for (i, value) in values().take(len).enumerate() {
        // SAFETY: the memory has room for `len` elements.
        unsafe { array.add(i).write(from(value)) };
    }
    Ok(memory)
}

/// The view is valid as long as the memory is.
fn gradient<T: Element>(len: usize, from: impl Fn(f32) -> T) -> Result<(Pages, Tensor<'static>)> {
    let memory = filled(len, from)?;
    // SAFETY: `len` elements of T, written by `filled`; the caller keeps the memory as long as the view.
    let view = unsafe { Tensor::from_raw_parts(memory.as_ptr().cast::<T>(), len) };
    Ok((memory, view))
}
