//! One figure a device: how fast AdamW goes through memory.

use crate::gpu;
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::sys::CUevent_flags;
use fadam::{Adam, Device, NonFinite, Optimizer, Update};
use std::time::Instant;

/// Parameter, gradient and both moments, of which all but the gradient are written too.
const BYTES: f64 = 28.0;

/// A step of AdamW over one tensor, without clipping or check: the median.
pub(crate) fn measure(device: Device, elements: usize, seconds: f64) -> Result<String> {
    let builder = Optimizer::builder(Adam { lr: 1e-9, ..Adam::adamw() }).non_finite(NonFinite::Propagate);
    let mut optimizer = builder.device(device).build()?;
    let id = optimizer.register("tensor", elements)?;
    let (mut parameter, gradient) = (vec![0.5_f32; elements], vec![0.25_f32; elements]);
    let mut times = match device {
        Device::Cuda(ordinal) => {
            let stream = gpu::stream(ordinal)?;
            let (mut target, source) =
                (gpu::Copy::of(&stream, &parameter)?, gpu::Copy::of(&stream, &gradient)?);
            let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
            timed(seconds, || {
                let before = stream.record_event(timing).context("cannot record an event")?;
                optimizer.step(&mut [Update::new(id, &mut target.view_mut(), &source.view())])?;
                let after = stream.record_event(timing).context("cannot record an event")?;
                gpu::seconds(&before, &after)
            })?
        }
        _ => timed(seconds, || {
            let start = Instant::now();
            optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)])?;
            Ok(start.elapsed().as_secs_f64())
        })?,
    };
    times.sort_unstable_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let gb_per_s = BYTES * elements as f64 / median * 1e-9;
    Ok(format!(
        "AdamW, {elements} elements, {:.4} ms, {gb_per_s:.1} GB/s of 28 bytes a parameter",
        median * 1e3
    ))
}

/// At least three times, after two that do not count.
fn timed(seconds: f64, mut run: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    (0..2).try_for_each(|_| run().map(drop))?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed().as_secs_f64() < seconds {
        times.push(run()?);
    }
    Ok(times)
}
