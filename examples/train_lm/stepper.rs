//! The optimizer, beside the model or on a GPU. The model is on the CPU either way: a GPU gets gradients and gives back
//! parameters (in one's own program the model would be there too: see fadam's feature `candle-cuda`).

use crate::gpu;
use crate::model::Model;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer as _;
use fadam::cuda::cudarc::driver::CudaStream;
use fadam::{Builder, Device, Optimizer, ParameterId, Update};
use std::sync::{Arc, PoisonError};

pub(crate) enum Stepper {
    Here(fadam::candle::Optimizer),
    There(Remote),
}

impl Stepper {
    pub(crate) fn new(model: &Model, builder: Builder, device: Device) -> Result<Self> {
        Ok(match device {
            Device::Cuda(ordinal) => Self::There(Remote::new(model, builder.device(device), ordinal)?),
            _ => Self::Here(fadam::candle::Optimizer::from_varmap(&model.weights, builder)?),
        })
    }

    /// Steps with this learning rate.
    pub(crate) fn step(&mut self, learning_rate: f64, gradients: &GradStore) -> Result<()> {
        match self {
            Self::Here(optimizer) => {
                optimizer.set_learning_rate(learning_rate);
                Ok(optimizer.step(gradients)?)
            }
            Self::There(remote) => remote.step(learning_rate, gradients),
        }
    }
}

pub(crate) struct Remote {
    optimizer: Optimizer,
    stream: Arc<CudaStream>,
    parameters: Vec<Parameter>,
}

struct Parameter {
    var: Var,
    id: ParameterId,
    copy: gpu::Copy<f32>,
}

impl Remote {
    fn new(model: &Model, builder: Builder, ordinal: usize) -> Result<Self> {
        let mut optimizer = builder.build()?;
        let stream = gpu::stream(ordinal)?;
        let mut named: Vec<(String, Var)> = {
            let data = model.weights.data().lock().unwrap_or_else(PoisonError::into_inner);
            data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
        };
        named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut parameters = Vec::new();
        for (name, var) in named {
            let id = optimizer.register(name, var.elem_count())?;
            let copy = gpu::Copy::of(&stream, &values(&var)?)?;
            parameters.push(Parameter { var, id, copy });
        }
        Ok(Self { optimizer, stream, parameters })
    }

    fn step(&mut self, learning_rate: f64, gradients: &GradStore) -> Result<()> {
        self.optimizer.set_learning_rate(learning_rate)?;
        let mut taking_part = Vec::new();
        for parameter in &mut self.parameters {
            if let Some(gradient) = gradients.get(&parameter.var) {
                let gradient = gpu::Copy::of(&self.stream, &values(gradient)?)?;
                taking_part.push((parameter, gradient));
            }
        }
        let views = taking_part
            .iter_mut()
            .map(|(parameter, gradient)| (parameter.id, parameter.copy.view_mut(), gradient.view()));
        let mut views: Vec<_> = views.collect();
        let updates =
            views.iter_mut().map(|(id, parameter, gradient)| Update::new(*id, parameter, &*gradient));
        self.optimizer.step(&mut updates.collect::<Vec<_>>())?;
        for (parameter, _) in &taking_part {
            let var = &parameter.var;
            let mut values = vec![0.0; var.elem_count()];
            parameter.copy.read(&self.stream, &mut values)?;
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
