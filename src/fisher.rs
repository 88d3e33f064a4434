//! The diagonal empirical Fisher information, and the natural-gradient step by it, standalone.

use crate::algorithm::non_negative_f32;
use crate::alias::{NAME, refuse_theta};
use crate::allocation::{collected, filled};
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::environment::with_default_environment;
use crate::job::{DIAGONAL, NaturalGradient};
use crate::tensor::Location;
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
/// let mut fisher = EmpiricalFisher::new(Device::Cpu, 2)?;
/// fisher.add(&[1.0_f32, 2.0])?;                   // one sample
/// fisher.add(&[3.0_f32, 0.0, 0.0, 4.0])?;         // a block of two
/// assert_eq!(fisher.samples(), 3);
/// assert_eq!(fisher.diagonal()?, [10.0 / 3.0, 20.0 / 3.0]);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Debug)]
pub struct EmpiricalFisher {
    sum: Sum,
    len: usize,
    samples: u64,
}

#[derive(Debug)]
enum Sum {
    Cpu(Vec<f64>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::FisherSum),
}

impl EmpiricalFisher {
    /// The Fisher of `len` parameters, without samples yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; on a GPU [`Error::Unavailable`], [`Error::Compile`], [`Error::Cuda`].
    pub fn new(device: Device, len: usize) -> Result<Self, Error> {
        let sum = match device {
            Device::Cpu => Sum::Cpu(filled(0.0, len, DIAGONAL)?),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Sum::Cuda(cuda::FisherSum::new(ordinal, len)?),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(ordinal) => return Err(crate::backend::no_cuda(ordinal)),
        };
        Ok(Self { sum, len, samples: 0 })
    }

    /// Adds the gradients of one sample (`len` elements) or of several (a row-major block of B × `len`), f32 or bf16.
    ///
    /// # Errors
    /// [`Error::Length`] where the length is not a multiple of `len`, [`Error::Device`], [`Error::Cuda`]; then nothing was
    /// added.
    pub fn add<'a>(&mut self, gradients: impl Into<Tensor<'a>>) -> Result<(), Error> {
        let gradients = gradients.into();
        if self.len == 0 || gradients.len() % self.len != 0 {
            return Err(length("gradients", self.len, gradients.len()));
        }
        let samples = gradients.len() / self.len;
        match &mut self.sum {
            Sum::Cpu(sum) => {
                gradients.place.check(Location::Cpu, NAME)?;
                with_default_environment(|| cpu::fisher_accumulate(sum, &gradients));
            }
            #[cfg(feature = "cuda")]
            Sum::Cuda(sum) => {
                gradients.place.check(Location::Cuda(sum.context_id()), NAME)?;
                sum.add(&gradients, samples)?;
            }
        }
        self.samples += samples as u64;
        Ok(())
    }

    /// How many samples were added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// F̂, each element rounded once to f32; zeros without samples. Waits for the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; on a GPU [`Error::Cuda`].
    pub fn diagonal(&self) -> Result<Vec<f32>, Error> {
        let samples = self.samples.max(1) as f64;
        let mean = |sum: &[f64]| {
            with_default_environment(|| collected(sum.iter().map(|sum| (sum / samples) as f32), DIAGONAL))
        };
        match &self.sum {
            Sum::Cpu(sum) => mean(sum),
            #[cfg(feature = "cuda")]
            Sum::Cuda(sum) => mean(&sum.to_vec()?),
        }
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
/// On a GPU it is launched on the parameter's stream and not waited for.
///
/// # Errors
/// [`Error::Hyperparameter`], [`Error::Length`], [`Error::Dtype`], [`Error::Device`], [`Error::Aliased`], on a GPU
/// [`Error::Unavailable`], [`Error::Compile`] and [`Error::Cuda`]; then nothing was changed.
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
    with_default_environment(|| {
        checked_step(device, parameter, gradient, fisher, learning_rate, power, damping)
    })
}

fn checked_step(
    device: Device,
    parameter: TensorMut<'_>,
    gradient: Tensor<'_>,
    fisher: Tensor<'_>,
    learning_rate: f64,
    power: FisherPower,
    damping: f64,
) -> Result<(), Error> {
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
    let step = NaturalGradient {
        neg_lr: -learning_rate as f32,
        damping: damping as f32,
        root: power == FisherPower::Half,
    };
    match device {
        Device::Cpu => {
            parameter.place.check(Location::Cpu, NAME)?;
            gradient.place.check(Location::Cpu, NAME)?;
            fisher.place.check(Location::Cpu, NAME)?;
            let at = |tensor: &Tensor<'_>| tensor.host().addr();
            refuse_theta(parameter.host().addr(), at(&gradient), at(&fisher), &gradient)?;
            cpu::natural_gradient(parameter, gradient, fisher, &step);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => cuda::natural_gradient(ordinal, parameter, gradient, fisher, &step),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(ordinal) => Err(crate::backend::no_cuda(ordinal)),
    }
}

fn length(role: &'static str, expected: usize, found: usize) -> Error {
    Error::Length { name: NAME.into(), role, expected, found }
}
