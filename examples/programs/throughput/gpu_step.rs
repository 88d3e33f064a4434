//! The step on a GPU: an optimizer, its tensors and their gradients, on the stream that is asked for.

use crate::case::Case;
use crate::gpu::{self, OnGpu, Values};
use crate::options::Stream;
use crate::step::{algorithm, builder, values};
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::CudaStream;
use fadam::{Device, Dtype, Optimizer, ParameterId, Update};
use std::sync::Arc;

pub(crate) struct Step {
    pub(crate) optimizer: Optimizer,
    pub(crate) stream: Arc<CudaStream>,
    tensors: Vec<(ParameterId, OnGpu, OnGpu)>,
}

impl Step {
    /// # Errors
    /// No memory, or hyper-parameters that the library refuses.
    pub(crate) fn new(case: &Case, ordinal: usize, on: Stream) -> Result<Self> {
        let builder = builder(case, algorithm(case));
        let (mut optimizer, stream) = match on {
            Stream::Default => (builder.device(Device::Cuda(ordinal)).build()?, gpu::stream(ordinal)?),
            Stream::Own | Stream::Graph => {
                fadam::cuda::devices()?; // a missing driver is an error, where cudarc would panic
                let context = gpu::context(ordinal)?;
                if on == Stream::Graph {
                    // SAFETY: all work of this context is on the one stream made below.
                    unsafe { context.disable_event_tracking() };
                }
                let stream = context.new_stream().context("cannot create a stream")?;
                (builder.stream(stream.clone()).build()?, stream)
            }
        };
        let mut tensors = Vec::new();
        for (index, &len) in case.shape.tensors().iter().enumerate() {
            let name = format!("tensor{index}");
            let id = match case.param {
                Dtype::F32 => optimizer.register(name, len)?,
                _ => optimizer.register_bf16(name, len)?,
            };
            let copy = |dtype| OnGpu::of(&stream, &Values::of(values().take(len).collect(), dtype));
            let [parameter, gradient] = [case.param, case.grad].map(copy);
            tensors.push((id, parameter?, gradient?));
        }
        stream.synchronize().context("cannot fill the tensors")?;
        Ok(Self { optimizer, stream, tensors })
    }

    /// # Errors
    /// The library's.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut views: Vec<_> = (self.tensors.iter_mut())
            .map(|(id, parameter, gradient)| (*id, parameter.view_mut(), gradient.view()))
            .collect();
        let updates = views
            .iter_mut()
            .map(|(id, parameter, gradient)| Update::new(*id, parameter.tensor(), gradient.tensor()));
        Ok(self.optimizer.step(&mut updates.collect::<Vec<_>>())?)
    }
}
