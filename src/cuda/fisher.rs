//! The diagonal empirical Fisher and the natural-gradient step.

use super::buffer::Buffer;
use super::context::{driver_error, open};
use super::module::{Module, Source as Kernels};
use super::step::Sweep;
use super::tensor::Guards;
use crate::alias::{NAME, refuse_theta};
use crate::allocation::filled;
use crate::args::{FADAM_WARP, FisherArgs};
use crate::job::{DIAGONAL, NaturalGradient};
use crate::tensor::{ContextId, Location, Place};
use crate::{Dtype, Error, Tensor, TensorMut};
use cudarc::driver::CudaStream;
use std::sync::Arc;

/// Σ g² of each parameter in f64, on a device.
#[derive(Debug)]
pub(crate) struct FisherSum {
    stream: Arc<CudaStream>,
    len: usize,
    sum: Buffer,
    fisher_accumulate: Sweep,
}

impl FisherSum {
    pub(crate) fn new(ordinal: usize, len: usize) -> Result<Self, Error> {
        let stream = open(ordinal)?.default_stream();
        let context = stream.context();
        let module = Module::load_for_good(context, Kernels::Fisher)?;
        Ok(Self {
            len,
            sum: Buffer::zeroed(&stream, len.saturating_mul(size_of::<f64>()), DIAGONAL)?,
            fisher_accumulate: Sweep::load(&module, context, "fisher_accumulate")?,
            stream,
        })
    }

    pub(crate) fn context_id(&self) -> ContextId {
        ContextId::of(self.stream.context())
    }

    /// Adds `samples` rows of gradients, checked by the caller.
    pub(crate) fn add(&mut self, gradients: &Tensor<'_>, samples: usize) -> Result<(), Error> {
        let Place::Cuda(source) = &gradients.place else { return Ok(()) }; // refused by the caller
        let mut guards = Guards::default();
        let gradient = guards.read(source, &self.stream)?;
        guards.check(&self.stream)?;
        let args = FisherArgs {
            gradient,
            fisher: self.sum.address(),
            len: self.len as u64,
            samples: samples as u64,
            bf16_gradient: (gradients.dtype == Dtype::Bf16).into(),
            ..FisherArgs::default()
        };
        run(&self.fisher_accumulate, &self.stream, &args)
    }

    /// The sums so far; waits for them.
    pub(crate) fn to_vec(&self) -> Result<Vec<f64>, Error> {
        let mut sum = filled(0.0, self.len, DIAGONAL)?;
        self.sum.download(&mut sum)?;
        Ok(sum)
    }
}

/// θ ← θ − η g / (F̂ + δ), or by √F̂, on the stream of θ, or of another that has one; lengths and types checked by the caller.
pub(crate) fn natural_gradient(
    ordinal: usize,
    mut parameter: TensorMut<'_>,
    gradient: Tensor<'_>,
    fisher: Tensor<'_>,
    step: &NaturalGradient,
) -> Result<(), Error> {
    let primary = open(ordinal)?;
    let here = Location::Cuda(ContextId::of(&primary));
    parameter.place.check(here, NAME)?;
    gradient.place.check(here, NAME)?;
    fisher.place.check(here, NAME)?;
    let (Place::Cuda(target), Place::Cuda(source), Place::Cuda(diagonal)) =
        (&mut parameter.place, &gradient.place, &fisher.place)
    else {
        return Ok(()); // refused above
    };
    let known = target.stream().or(source.stream()).or(diagonal.stream());
    let stream = known.cloned().unwrap_or_else(|| primary.default_stream());
    let context = stream.context();
    let kernel = Sweep::load(&Module::load_for_good(context, Kernels::Fisher)?, context, "natural_gradient")?;
    let mut guards = Guards::default();
    let theta = guards.write(target, &stream)?;
    let (g, f) = (guards.read(source, &stream)?, guards.read(diagonal, &stream)?);
    guards.check(&stream)?;
    refuse_theta(theta as usize, g as usize, f as usize, &gradient)?;
    let args = FisherArgs {
        parameter: theta,
        gradient: g,
        fisher: f,
        len: gradient.len as u64,
        samples: 1,
        neg_lr: step.neg_lr,
        damping: step.damping,
        bf16_gradient: (gradient.dtype == Dtype::Bf16).into(),
        root: step.root.into(),
    };
    run(&kernel, &stream, &args)
}

fn run(kernel: &Sweep, stream: &CudaStream, args: &FisherArgs) -> Result<(), Error> {
    if args.len == 0 {
        return Ok(());
    }
    let warps = args.len.div_ceil(FADAM_WARP.into());
    kernel.launch(stream, args, warps).map_err(driver_error("launching a kernel"))
}
