//! Gradient accumulation, outside an optimizer.

use super::buffer::Buffer;
use super::context::{driver_error, open, refuse_capture};
use super::module::{Module, Source};
use super::step::Sweep;
use super::table::flags;
use super::tensor::Guards;
use crate::alias::{Pair, check_places, refuse_pairs};
use crate::allocation::{collected, with_capacity};
use crate::args::{FADAM_CHUNK, StepArgs, Task};
use crate::job::PAIRS;
use crate::tensor::{ContextId, Location, Place};
use crate::{Dtype, Error, Tensor, TensorMut};

/// On the first sum's stream, or on another that has one; lengths and types checked by the caller. Not waited for.
pub(crate) fn accumulate(
    ordinal: usize,
    pairs: &mut [(TensorMut<'_>, Tensor<'_>)],
    first: bool,
) -> Result<(), Error> {
    let primary = open(ordinal)?;
    check_places(pairs, Location::Cuda(ContextId::of(&primary)))?;
    let known = pairs.iter().find_map(|(sum, gradient)| match (&sum.place, &gradient.place) {
        (Place::Cuda(target), Place::Cuda(source)) => target.stream().or(source.stream()).cloned(),
        _ => None,
    });
    let stream = known.unwrap_or_else(|| primary.default_stream());
    let context = stream.context();
    refuse_capture(&stream)?;
    let module = Module::load_for_good(context, Source::Accumulate)?;
    let kernel = Sweep::load(&module, context, if first { "accumulate_first" } else { "accumulate" })?;
    let mut guards = Guards::default();
    let mut found = with_capacity(pairs.len(), PAIRS)?;
    for (sum, gradient) in pairs {
        let (Place::Cuda(target), Place::Cuda(source)) = (&mut sum.place, &gradient.place) else {
            continue; // refused above
        };
        let (to, from) = (guards.write(target, &stream)?, guards.read(source, &stream)?);
        found.push(Pair {
            sum: to as usize,
            gradient: from as usize,
            len: sum.len,
            gradient_dtype: gradient.dtype,
        });
    }
    guards.check(&stream)?;
    refuse_pairs(&found)?;
    let mut chunks = 0;
    let task = |pair: &Pair| {
        let (parameter, gradient, len) = (pair.sum as u64, pair.gradient as u64, pair.len as u64);
        let first_chunk = chunks;
        chunks += len.div_ceil(FADAM_CHUNK.into());
        let flags = flags((parameter, Dtype::F32), (gradient, pair.gradient_dtype));
        Task { parameter, gradient, len, first_chunk, flags, ..Task::default() }
    };
    let tasks = collected(found.iter().map(task), PAIRS)?;
    if chunks == 0 {
        return Ok(());
    }
    let table = Buffer::of(&stream, &tasks, PAIRS)?;
    let args =
        StepArgs { tasks: table.address(), task_count: tasks.len() as u64, chunks, ..StepArgs::default() };
    kernel.launch(&stream, &args, chunks).map_err(driver_error("launching a kernel"))
}
