//! The optimizer, beside the model or on a GPU. The model is on the CPU either way: a GPU gets gradients and gives back
//! parameters (in one's own program the model would be there too: see fadam's feature `candle-cuda`).

use crate::gpu;
use crate::model::Model;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer as _;
use fadam::cuda::cudarc::driver::{CudaStream, CudaViewMut};
use fadam::{Builder, Device, Optimizer, ParameterId, TensorMut, Update};
use half::bf16;
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
    copy: Copied,
}

/// On the GPU, of the variable's type.
enum Copied {
    F32(gpu::Copy<f32>),
    Bf16(gpu::Copy<bf16>),
}

impl Copied {
    /// Reads it back.
    fn read(&self, stream: &Arc<CudaStream>, var: &Var) -> Result<Tensor> {
        let (len, shape, device) = (var.elem_count(), var.shape(), var.device());
        Ok(match self {
            Self::F32(copy) => {
                let mut values = vec![0.0_f32; len];
                copy.read(stream, &mut values)?;
                Tensor::from_vec(values, shape, device)?
            }
            Self::Bf16(copy) => {
                let mut values = vec![bf16::ZERO; len];
                copy.read(stream, &mut values)?;
                Tensor::from_vec(values, shape, device)?
            }
        })
    }
}

enum View<'a> {
    F32(CudaViewMut<'a, f32>),
    Bf16(CudaViewMut<'a, bf16>),
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
            let (id, copy) = if var.dtype() == DType::BF16 {
                let values = var.flatten_all()?.to_vec1::<bf16>()?;
                let id = optimizer.register_bf16(name, var.elem_count())?;
                (id, Copied::Bf16(gpu::Copy::of(&stream, &values)?))
            } else {
                let id = optimizer.register(name, var.elem_count())?;
                (id, Copied::F32(gpu::Copy::of(&stream, &wide(&var)?)?))
            };
            parameters.push(Parameter { var, id, copy });
        }
        Ok(Self { optimizer, stream, parameters })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let mut taking_part = Vec::new();
        for parameter in &mut self.parameters {
            if let Some(gradient) = gradients.get(&parameter.var) {
                let gradient = gpu::Copy::of(&self.stream, &wide(gradient)?)?;
                taking_part.push((parameter, gradient));
            }
        }
        let views = taking_part.iter_mut().map(|(parameter, gradient)| {
            let view = match &mut parameter.copy {
                Copied::F32(copy) => View::F32(copy.view_mut()),
                Copied::Bf16(copy) => View::Bf16(copy.view_mut()),
            };
            (parameter.id, view, gradient.view())
        });
        let mut views: Vec<_> = views.collect();
        let updates = views.iter_mut().map(|(id, parameter, gradient)| {
            let parameter: TensorMut<'_> = match parameter {
                View::F32(view) => view.into(),
                View::Bf16(view) => view.into(),
            };
            Update::new(*id, parameter, &*gradient)
        });
        self.optimizer.step(&mut updates.collect::<Vec<_>>())?;
        for (Parameter { var, copy, .. }, _) in &taking_part {
            var.set(&copy.read(&self.stream, var)?)?;
        }
        Ok(())
    }
}

fn wide(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}
