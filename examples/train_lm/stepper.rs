//! The optimizer, beside the model or on a GPU. The model is on the CPU either way: a GPU gets gradients and gives back
//! parameters (in one's own program the model would be there too: see fadam's feature `candle-cuda`).

use crate::gpu::{self, OnGpu, Values};
use crate::model::Model;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer as _;
use fadam::cuda::cudarc::driver::CudaStream;
use fadam::{Builder, Device, Optimizer, ParameterId, Update};
use std::path::Path;
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

    pub(crate) fn step(&mut self, gradients: &GradStore) -> Result<()> {
        match self {
            Self::Here(optimizer) => Ok(optimizer.step(gradients)?),
            Self::There(remote) => remote.step(gradients),
        }
    }

    pub(crate) fn save(&mut self, path: &Path) -> Result<()> {
        Ok(self.optimizer().save(path)?)
    }

    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        Ok(self.optimizer().load(path)?)
    }

    fn optimizer(&mut self) -> &mut Optimizer {
        match self {
            Self::Here(optimizer) => optimizer.inner_mut(),
            Self::There(remote) => &mut remote.optimizer,
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
    copy: OnGpu,
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
            let bf16 = var.dtype() == DType::BF16;
            let id = match bf16 {
                true => optimizer.register_bf16(name, var.elem_count())?,
                false => optimizer.register(name, var.elem_count())?,
            };
            let copy = OnGpu::of(&stream, &values(&var)?)?;
            parameters.push(Parameter { var, id, copy });
        }
        Ok(Self { optimizer, stream, parameters })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let mut taking_part = Vec::new();
        for parameter in &mut self.parameters {
            if let Some(gradient) = gradients.get(&parameter.var) {
                let gradient = OnGpu::of(&self.stream, &values(gradient)?)?;
                taking_part.push((parameter, gradient));
            }
        }
        let views = taking_part
            .iter_mut()
            .map(|(parameter, gradient)| (parameter.id, parameter.copy.view_mut(), gradient.view()));
        let mut views: Vec<_> = views.collect();
        let updates = views
            .iter_mut()
            .map(|(id, parameter, gradient)| Update::new(*id, parameter.tensor(), gradient.tensor()));
        self.optimizer.step(&mut updates.collect::<Vec<_>>())?;
        for (Parameter { var, copy, .. }, _) in &taking_part {
            let mut read = values(var)?;
            copy.read(&self.stream, &mut read)?;
            let (shape, device) = (var.shape(), var.device());
            var.set(&match read {
                Values::F32(values) => Tensor::from_vec(values, shape, device)?,
                Values::Bf16(values) => Tensor::from_vec(values, shape, device)?,
            })?;
        }
        Ok(())
    }
}

fn values(tensor: &Tensor) -> Result<Values> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::BF16 => Values::Bf16(flat.to_vec1()?),
        _ => Values::F32(flat.to_vec1()?),
    })
}
