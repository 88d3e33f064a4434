//! A tensor of more than 2³² elements, stepped and looked at on both sides of 2³¹, of 2³² and at its ends.

use crate::gpu;
use anyhow::{Context, Result, bail};
use fadam::cuda::cudarc::driver::CudaContext;
use fadam::{Adam, Device, NonFinite, Optimizer, Update};

const LEN: usize = (1 << 32) + 4096 + 5;
/// Parameter, gradient, two moments, and something for tables.
const BYTES: usize = 4 * 4 * LEN + (256 << 20);
const WINDOW: usize = 64;

pub(crate) fn step(ordinal: usize) -> Result<String> {
    let stream = gpu::stream(ordinal)?;
    let (free, _) = CudaContext::new(ordinal)?.mem_get_info()?;
    if free < BYTES {
        return Ok(format!("left out: {BYTES} bytes wanted, {free} free"));
    }
    let builder = Optimizer::builder(Adam { lr: 0.5, ..Adam::default() }).device(Device::Cuda(ordinal));
    let mut optimizer = builder.non_finite(NonFinite::Propagate).build()?;
    let id = optimizer.register("large", LEN)?;
    let mut parameter = stream.alloc_zeros::<f32>(LEN).context("the parameter")?;
    let mut gradient = stream.alloc_zeros::<f32>(LEN).context("the gradient")?;
    let places = [0, (1 << 31) - WINDOW / 2, (1 << 32) - WINDOW / 2, LEN - WINDOW];
    for place in places {
        stream.memcpy_htod(&[1.0_f32; WINDOW], &mut gradient.slice_mut(place..place + WINDOW))?;
    }
    optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)])?;
    optimizer.synchronize()?;
    for place in places {
        let mut window = [0.0_f32; WINDOW];
        stream.memcpy_dtoh(&parameter.slice(place..place + WINDOW), &mut window)?;
        stream.synchronize()?;
        if let Some(i) = window.iter().position(|&x| x != -0.5) {
            bail!("element {} is {}, not -0.5", place + i, window[i]);
        }
    }
    Ok(format!("{LEN} elements, stepped to the last one"))
}
