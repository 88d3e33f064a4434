//! The replay itself: one step of the library for every t, and what it reports.

use crate::config::{Config, Storage};
use crate::gpu::{self, OnGpu, Values};
use crate::recording::{Parameter, Recording};
use anyhow::{Result, bail};
use fadam::cuda::cudarc::driver::CudaStream;
use fadam::{
    Algorithm, Device, Dtype, Error, NonFinite, Optimizer, ParameterId, Report, Simd, State, Update,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One object of OUT's metadata `report`.
#[derive(Serialize)]
pub(crate) struct Line {
    step: usize,
    grad_norm: Option<f64>,
    clip_coefficient: Option<f64>,
    update_norm: Option<f64>,
    pub(crate) skipped: bool,
}

pub(crate) struct Replayed {
    /// The optimizer's memory of every parameter, in the recording's order.
    pub(crate) states: Vec<State>,
    pub(crate) report: Vec<Line>,
}

/// The optimizer that the recording asks for, without parameters yet.
pub(crate) fn optimizer(config: &Config, device: Device, simd: Option<Simd>) -> Result<Optimizer> {
    let mut builder = Optimizer::builder(config.algorithm).device(device).non_finite(config.non_finite);
    // The step itself needs no norm of the gradients here, the report does. Asking for it changes no bit of the step.
    builder = builder.norms(config.non_finite == NonFinite::Propagate && config.max_grad_norm.is_none());
    if let Some(simd) = simd {
        builder = builder.simd(simd);
    }
    if let Some(max_grad_norm) = config.max_grad_norm {
        builder = builder.max_grad_norm(max_grad_norm);
    }
    let Storage { master, moments, rounding, seed } = config.storage;
    if let Some(master) = master {
        builder = builder.master(master);
    }
    if let Some(moments) = moments {
        builder = builder.moments(moments);
    }
    if let Some(rounding) = rounding {
        builder = builder.rounding(rounding);
    }
    if let Some(seed) = seed {
        builder = builder.seed(seed);
    }
    let mut optimizer = builder.build()?;
    optimizer.set_grad_scale(config.grad_scale)?;
    Ok(optimizer)
}

/// Steps through the recording; its parameters are updated in place.
pub(crate) fn replay(
    recording: &mut Recording<'_>,
    mut optimizer: Optimizer,
    device: Device,
) -> Result<Replayed> {
    let Recording { config, parameters, steps } = recording;
    let mut ids = Vec::new();
    for Parameter { name, value, .. } in parameters.iter() {
        ids.push(match value.dtype() {
            Dtype::Bf16 => optimizer.register_bf16(name, value.len())?,
            _ => optimizer.register(name, value.len())?,
        });
    }
    let mut home = match device {
        Device::Cuda(ordinal) => Home::on_gpu(gpu::stream(ordinal)?, parameters)?,
        _ => Home::Host,
    };

    let mut report = Vec::with_capacity(steps.len());
    for (t, gradients) in (1..).zip(steps.iter()) {
        if let Some(schedule) = &config.schedule {
            optimizer.set_learning_rate(schedule[t - 1])?;
        }
        let decoded: BTreeMap<usize, Values> =
            gradients.iter().map(|(&index, gradient)| (index, gradient.decode())).collect();
        let stepped = home.step(&mut optimizer, &ids, parameters, &decoded);
        // On a GPU a gradient that is not finite is found when the report is asked for.
        match stepped.and_then(|()| Ok(optimizer.report()?)) {
            Ok(figures) => report.push(line(t, &figures, &config.algorithm)),
            Err(error) => match error.downcast_ref() {
                Some(Error::NonFinite { name, .. }) => {
                    bail!("step {t}: tensor `grad/{t}/{name}` is not finite, or its squares overflow f32")
                }
                _ => return Err(error),
            },
        }
    }
    home.read(parameters)?;
    let states = ids.into_iter().map(|id| optimizer.state(id)).collect::<Result<_, _>>()?;
    Ok(Replayed { states, report })
}

/// Where the parameters are while they are stepped.
enum Home {
    /// In the recording.
    Host,
    /// In copies.
    Gpu { stream: Arc<CudaStream>, parameters: Vec<OnGpu> },
}

impl Home {
    fn on_gpu(stream: Arc<CudaStream>, parameters: &[Parameter]) -> Result<Self> {
        let copies = parameters.iter().map(|parameter| OnGpu::of(&stream, &parameter.value));
        let parameters = copies.collect::<Result<_>>()?;
        Ok(Self::Gpu { stream, parameters })
    }

    fn step(
        &mut self,
        optimizer: &mut Optimizer,
        ids: &[ParameterId],
        host: &mut [Parameter],
        gradients: &BTreeMap<usize, Values>,
    ) -> Result<()> {
        match self {
            Self::Host => {
                let updates = host.iter_mut().enumerate().filter_map(|(index, parameter)| {
                    let gradient = gradients.get(&index)?.tensor();
                    Some(Update::new(ids[index], parameter.value.tensor_mut(), gradient))
                });
                optimizer.step(&mut updates.collect::<Vec<_>>())?;
            }
            Self::Gpu { stream, parameters } => {
                let copy = |(&index, gradient)| Ok((index, OnGpu::of(stream, gradient)?));
                let copies = gradients.iter().map(copy).collect::<Result<BTreeMap<_, _>>>()?;
                let mut targets: Vec<_> = parameters.iter_mut().map(OnGpu::view_mut).collect();
                let sources: BTreeMap<usize, _> =
                    copies.iter().map(|(&index, copy)| (index, copy.view())).collect();
                let updates = targets.iter_mut().enumerate().filter_map(|(index, target)| {
                    Some(Update::new(ids[index], target.tensor(), sources.get(&index)?.tensor()))
                });
                optimizer.step(&mut updates.collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Brings the parameters back to the host.
    fn read(&self, host: &mut [Parameter]) -> Result<()> {
        let Self::Gpu { stream, parameters } = self else { return Ok(()) };
        parameters.iter().zip(host).try_for_each(|(copy, parameter)| copy.read(stream, &mut parameter.value))
    }
}

fn line(t: usize, report: &Report, algorithm: &Algorithm) -> Line {
    // Of Adam and of FAdam without κ the library reports ‖Δ‖₂ too where it is asked for norms.
    let clips_update = matches!(algorithm, Algorithm::FAdam(fadam) if fadam.kappa.is_some());
    let known = |figure: Option<f64>| figure.filter(|figure| figure.is_finite());
    Line {
        step: t,
        grad_norm: known(report.grad_norm),
        clip_coefficient: known(report.clip_coefficient),
        update_norm: known(report.update_norm).filter(|_| clips_update),
        skipped: report.skipped,
    }
}
