//! The replay itself: one step of the library for every t, and what it reports.

use crate::config::Config;
use crate::recording::{Decoded, Recording};
use anyhow::{Result, bail};
use fadam::{Algorithm, Device, Error, NonFinite, Optimizer, Report, Simd, State, Update};
use serde::Serialize;

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
    let mut optimizer = builder.build()?;
    optimizer.set_grad_scale(config.grad_scale)?;
    Ok(optimizer)
}

/// Steps through the recording; its parameters are updated in place.
pub(crate) fn replay(recording: &mut Recording<'_>, mut optimizer: Optimizer) -> Result<Replayed> {
    let Recording { config, parameters, steps } = recording;
    let mut ids = Vec::new();
    for parameter in parameters.iter() {
        ids.push(optimizer.register(&parameter.name, parameter.value.len())?);
    }

    let mut report = Vec::with_capacity(steps.len());
    for (t, gradients) in (1..).zip(steps.iter()) {
        if let Some(schedule) = &config.schedule {
            optimizer.set_learning_rate(schedule[t - 1])?;
        }
        let decoded: Vec<(usize, Decoded)> =
            gradients.iter().map(|(&index, gradient)| (index, gradient.decode())).collect();
        let mut taking_part = decoded.iter().peekable();
        let mut updates = Vec::with_capacity(decoded.len());
        for (index, parameter) in parameters.iter_mut().enumerate() {
            if let Some((_, gradient)) = taking_part.next_if(|(next, _)| *next == index) {
                updates.push(Update::new(ids[index], &mut parameter.value, gradient.tensor()));
            }
        }
        match optimizer.step(&mut updates) {
            Ok(()) => {}
            Err(Error::NonFinite { name, .. }) => {
                bail!("step {t}: tensor `grad/{t}/{name}` is not finite, or its squares overflow f32")
            }
            Err(other) => return Err(other.into()),
        }
        report.push(line(t, &optimizer.report()?, &config.algorithm));
    }
    let states = ids.into_iter().map(|id| optimizer.state(id)).collect::<Result<_, _>>()?;
    Ok(Replayed { states, report })
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
