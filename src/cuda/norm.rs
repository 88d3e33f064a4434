//! The global norm on its own.

use super::context::{driver_error, open, refuse_capture, settle};
use super::module::{Module, Source};
use super::step::{Finalize, Sweep};
use super::table::{TABLES, Tables, flags};
use super::tensor::Guards;
use crate::allocation::with_capacity;
use crate::args::{Control, FADAM_CHUNK, Settings, Task};
use crate::tensor::{ContextId, Location, Place};
use crate::{Dtype, Error, Tensor};
use cudarc::driver::CudaStream;

/// The norm over all tensors of a device, on the first one's stream; waits for it.
pub(crate) fn global_norm(ordinal: usize, tensors: &[Tensor<'_>]) -> Result<f64, Error> {
    let primary = open(ordinal)?;
    for (index, tensor) in tensors.iter().enumerate() {
        tensor.place.check(Location::Cuda(ContextId::of(&primary)), &format!("tensor {index}"))?;
    }
    let first = tensors.iter().find_map(|tensor| match &tensor.place {
        Place::Cuda(source) => source.stream().cloned(),
        Place::Host(_) => None,
    });
    let stream = first.unwrap_or_else(|| primary.default_stream());
    let context = stream.context();
    refuse_capture(&stream)?;
    let module = Module::load_for_good(context, Source::Norm)?;
    let kernels = (Sweep::load(&module, context, "norm_partial")?, Finalize::load(&module, "global_norm")?);
    let mut tables = Tables::new(&stream)?;
    let norm = run(&mut tables, &stream, kernels, tensors);
    if norm.is_err() {
        settle(&stream); // what is under way reads pinned memory, which goes with the tables
    }
    norm
}

fn run(
    tables: &mut Tables,
    stream: &CudaStream,
    (norm_partial, fold): (Sweep, Finalize),
    tensors: &[Tensor<'_>],
) -> Result<f64, Error> {
    let chunks = tensors.iter().map(|tensor| (tensor.len as u64).div_ceil(FADAM_CHUNK.into())).sum();
    tables.reserve(tensors.len(), chunks, false)?;
    let settings = Settings { grad_scale: 1.0, ..Settings::default() };
    tables.settings(settings, std::iter::empty(), None, false)?;
    let mut guards = Guards::default();
    let mut tasks = with_capacity(tensors.len(), TABLES)?;
    for tensor in tensors {
        let Place::Cuda(source) = &tensor.place else { continue }; // refused above
        let gradient = guards.read(source, stream)?;
        let flags = flags((0, Dtype::F32), (gradient, tensor.dtype));
        tasks.push(Task { gradient, len: tensor.len as u64, flags, ..Task::default() });
    }
    tables.tasks(tasks.into_iter(), false)?;
    guards.check(stream)?;
    let args = tables.args();
    let launching = driver_error("launching a kernel");
    if args.chunks > 0 {
        norm_partial.launch(stream, &args, args.chunks).map_err(&launching)?;
    }
    fold.launch(stream, &args).map_err(&launching)?;
    drop(guards);
    let mut control = [Control::default()];
    tables.control().download(&mut control)?;
    Ok(control[0].grad_norm)
}
