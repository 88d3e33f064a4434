//! The diagonal empirical Fisher information, and the natural-gradient step by it, for their own sake.

use crate::algorithm::non_negative_f32;
use crate::cpu;
use crate::{Device, Dtype, Error, Tensor, TensorMut};

/// The diagonal empirical Fisher of a minibatch, `F̂ = (1/B) Σ_i g_i ⊙ g_i`, from the gradients of single samples.
///
/// It is the Fisher information matrix's diagonal with the data's own labels in place of the model's; it means
/// something only for the log-likelihood of a discrete distribution (see Kunstner et al. 2019,
/// [arXiv:1905.12558](https://arxiv.org/abs/1905.12558), on its limits). The sum is in f64, in the order of the samples,
/// so the bits do not depend on the number of threads, nor on how samples are grouped into calls.
///
/// ```
/// use fadam::{Device, EmpiricalFisher};
/// let mut fisher = EmpiricalFisher::new(Device::Cpu, 2);
/// fisher.add(&[1.0_f32, 2.0])?;                   // one sample
/// fisher.add(&[3.0_f32, 0.0, 0.0, 4.0])?;         // a block of two
/// assert_eq!(fisher.samples(), 3);
/// assert_eq!(fisher.diagonal(), [10.0 / 3.0, 20.0 / 3.0]);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EmpiricalFisher {
    device: Device,
    sum: Vec<f64>,
    samples: u64,
}

impl EmpiricalFisher {
    /// The Fisher of `len` parameters, without samples yet.
    pub fn new(device: Device, len: usize) -> Self {
        Self { device, sum: vec![0.0; len], samples: 0 }
    }

    /// Adds the gradients of one sample (`len` elements) or of several (a row-major block of B × `len`), f32 or bf16.
    ///
    /// # Errors
    /// [`Error::Length`] where the length is not a multiple of `len`; then nothing was added.
    pub fn add<'a>(&mut self, gradients: impl Into<Tensor<'a>>) -> Result<(), Error> {
        let (gradients, len) = (gradients.into(), self.sum.len());
        if len == 0 || gradients.len() % len != 0 {
            return Err(length("gradients", len, gradients.len()));
        }
        match self.device {
            Device::Cpu => cpu::fisher_accumulate(&mut self.sum, &gradients),
        }
        self.samples += (gradients.len() / len) as u64;
        Ok(())
    }

    /// How many samples were added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// F̂, each element rounded once to f32; zeros without samples.
    pub fn diagonal(&self) -> Vec<f32> {
        let samples = self.samples.max(1) as f64;
        self.sum.iter().map(|sum| (sum / samples) as f32).collect()
    }
}

/// By which power of the Fisher diagonal a gradient is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FisherPower {
    /// `g / (F̂ + δ)`: the natural gradient (Amari 1998).
    #[default]
    One,
    /// `g / (√F̂ + δ)`: Adam's preconditioner.
    Half,
}

/// Steps along the natural gradient, in place: `θ ← θ − η g / (F̂ + δ)`, or `θ ← θ − η g / (√F̂ + δ)`. Where the
/// denominator is 0, θ stays.
///
/// `learning_rate` η and `damping` δ are ≥ 0 and within f32's range. The gradient is f32 or bf16; all three have the same
/// length.
///
/// ```
/// use fadam::{Device, FisherPower, natural_gradient_step};
/// let (mut theta, gradient, fisher) = ([1.0_f32, 1.0], [0.5_f32, 0.0], [0.25_f32, 0.0]);
/// natural_gradient_step(Device::Cpu, &mut theta, &gradient, &fisher, 0.5, FisherPower::Half, 0.0)?;
/// assert_eq!(theta, [0.5, 1.0]);
/// # Ok::<(), fadam::Error>(())
/// ```
///
/// # Errors
/// [`Error::Hyperparameter`], [`Error::Length`], [`Error::Dtype`], [`Error::Aliased`]; then nothing was changed.
pub fn natural_gradient_step<'a>(
    device: Device,
    parameter: impl Into<TensorMut<'a>>,
    gradient: impl Into<Tensor<'a>>,
    fisher: impl Into<Tensor<'a>>,
    learning_rate: f64,
    power: FisherPower,
    damping: f64,
) -> Result<(), Error> {
    let (parameter, gradient, fisher) = (parameter.into(), gradient.into(), fisher.into());
    non_negative_f32("learning_rate", learning_rate)?;
    non_negative_f32("damping", damping)?;
    for (role, found) in [("gradient", gradient.len()), ("fisher", fisher.len())] {
        if found != parameter.len() {
            return Err(length(role, parameter.len(), found));
        }
    }
    for (role, dtype) in [("parameter", parameter.dtype()), ("fisher", fisher.dtype())] {
        if dtype != Dtype::F32 {
            return Err(Error::Dtype { name: NAME.into(), role, expected: "f32", found: dtype.to_string() });
        }
    }
    let overlaps = |other: &Tensor<'_>| {
        let (theta, at) = (parameter.ptr.addr(), other.ptr.addr());
        theta < at + other.len * other.dtype.size() && at < theta + parameter.len * Dtype::F32.size()
    };
    for (other, role) in [(&gradient, "its gradient"), (&fisher, "its Fisher diagonal")] {
        if overlaps(other) {
            return Err(Error::Aliased { name: NAME.into(), other: role.into() });
        }
    }
    let (neg_lr, damping, root) = (-learning_rate as f32, damping as f32, power == FisherPower::Half);
    match device {
        Device::Cpu => cpu::natural_gradient(parameter, gradient, fisher, neg_lr, damping, root),
    }
    Ok(())
}

/// These functions know no names; errors call their parameter θ.
const NAME: &str = "θ";

fn length(role: &'static str, expected: usize, found: usize) -> Error {
    Error::Length { name: NAME.into(), role, expected, found }
}
