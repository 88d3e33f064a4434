//! Step and ceiling on a GPU, in turns, timed by the device's own events.

use crate::case::Case;
use crate::gpu;
use crate::gpu_ceiling::Ceiling;
use crate::gpu_graph::Graph;
use crate::gpu_step::Step;
use crate::measure::{Measured, Medians, median};
use crate::options::Stream;
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::CudaStream;
use fadam::cuda::cudarc::driver::sys::CUevent_flags;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LEAST_ROUNDS: usize = 5;
/// Steps between two events: an event is then nothing beside them.
const STEPS: usize = 4;
/// Replays of one kernel for its time.
const REPLAYS: usize = 5;

/// What only a GPU has.
pub(crate) struct OnGpu {
    /// Median seconds that the host spends in a call of `step`, or in launching the graph.
    pub(crate) host: f64,
    /// Each kernel alone, as a graph without the others: its name and seconds.
    pub(crate) kernels: Option<Vec<(String, f64)>>,
}

/// # Errors
/// No memory, or hyper-parameters that the library refuses.
pub(crate) fn measure(case: &Case, ordinal: usize, on: Stream, time: Duration) -> Result<Measured> {
    let mut step = Step::new(case, ordinal, on)?;
    step.run()?;
    let norm = step.optimizer.report()?.update_norm;
    let kappa_acts = case.kappa.zip(norm).is_some_and(|(kappa, norm)| norm > kappa);
    let sweeps = case.sweeps(kappa_acts, true);
    let stream = step.stream.clone();
    let ceiling = Ceiling::new(case, &sweeps, stream.clone())?;
    let graph = if on == Stream::Graph { Some(Graph::capture(&mut step)?) } else { None };
    let mut run = || graph.as_ref().map_or_else(|| step.run(), Graph::replay);
    let (mut steps, mut ceilings, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    let begin = Instant::now();
    while steps.len() < LEAST_ROUNDS || begin.elapsed() < time {
        steps.push(timed(&stream, &mut run)?);
        ceilings.push(timed(&stream, || ceiling.run())?);
        // The queue is empty: nothing makes the host wait.
        let start = Instant::now();
        run()?;
        hosts.push(start.elapsed().as_secs_f64());
        stream.synchronize()?;
    }
    let kernels = graph.as_ref().map(|graph| kernels(graph, &stream)).transpose()?;
    let shares: Vec<f64> = ceilings.iter().zip(&steps).map(|(ceiling, step)| ceiling / step).collect();
    let tensors = case.shape.tensors();
    Ok(Measured {
        params: tensors.iter().sum(),
        tensors: tensors.len(),
        bytes_per_param: case.bytes(&sweeps),
        medians: Medians {
            step: median(&steps),
            ceiling: median(&ceilings),
            share: median(&shares),
            busy: false,
        },
        on_gpu: Some(OnGpu { host: median(&hosts), kernels }),
    })
}

/// The kernels compute on what the last step has left, and their results are not used.
fn kernels(graph: &Graph, stream: &Arc<CudaStream>) -> Result<Vec<(String, f64)>> {
    let mut kernels = Vec::new();
    for (index, name) in graph.kernels().enumerate() {
        graph.only(Some(index))?;
        let times = (0..REPLAYS).map(|_| timed(stream, || graph.replay())).collect::<Result<Vec<_>>>()?;
        kernels.push((name.to_owned(), median(&times)));
    }
    graph.only(None)?;
    Ok(kernels)
}

/// Seconds for one of them.
fn timed(stream: &Arc<CudaStream>, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let event =
        || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).context("cannot record an event");
    let before = event()?;
    (0..STEPS).try_for_each(|_| run())?;
    let after = event()?;
    Ok(gpu::seconds(&before, &after)? / STEPS as f64)
}
