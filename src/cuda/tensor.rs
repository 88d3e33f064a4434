//! Whose turn it is: a step waits for the last uses of its tensors, and their next uses wait for it.

use super::context::{capturing, driver_error};
use crate::allocation::reserve;
use crate::error::Error;
use crate::tensor::{Place, Source, Target};
use crate::update::Update;
use cudarc::driver::{CudaStream, SyncOnDrop};
use std::sync::Arc;

const WAITING: &str = "waiting for a tensor's last use";
/// What an allocation is for, should it fail.
const ORDER: &str = "the order of a step's tensors";

/// What orders a step's tensors for whoever uses them next: dropped when the step is launched.
#[derive(Default)]
pub(crate) struct Guards<'a> {
    events: Vec<SyncOnDrop<'a>>,
    /// Streams that no events order, to wait for this one.
    joined: Vec<(Arc<CudaStream>, &'a CudaStream)>,
}

impl Drop for Guards<'_> {
    fn drop(&mut self) {
        self.events.clear();
        for (theirs, ours) in &self.joined {
            ours.context().record_err(theirs.join(ours));
        }
    }
}

impl<'a> Guards<'a> {
    /// The address of what a kernel on `stream` reads.
    pub(crate) fn read(&mut self, source: &'a Source<'_>, stream: &'a CudaStream) -> Result<u64, Error> {
        self.join(source.stream(), stream)?;
        reserve(&mut self.events, 1, ORDER)?;
        let (address, guard) = source.read(stream);
        self.events.push(guard);
        Ok(address)
    }

    /// The address of what it writes.
    pub(crate) fn write(&mut self, target: &'a mut Target<'_>, stream: &'a CudaStream) -> Result<u64, Error> {
        self.join(target.stream(), stream)?;
        reserve(&mut self.events, 1, ORDER)?;
        let (address, guard) = target.write(stream);
        self.events.push(guard);
        Ok(address)
    }

    /// Whether all waits are under way: cudarc keeps their errors for later.
    pub(crate) fn check(&self, stream: &CudaStream) -> Result<(), Error> {
        stream.context().check_err().map_err(driver_error(WAITING))
    }

    /// cudarc's events order two streams if both context objects record them. Otherwise `stream` waits here for all that
    /// the tensor's stream has to do, and the latter waits for `stream` when the guards are dropped. (Not in a capture:
    /// what happens outside it is for the caller to order.)
    fn join(&mut self, theirs: Option<&Arc<CudaStream>>, stream: &'a CudaStream) -> Result<(), Error> {
        let Some(theirs) = theirs else { return Ok(()) };
        let same = |a: &CudaStream, b: &CudaStream| a.cu_stream() == b.cu_stream();
        let by_events = theirs.context().is_managing_stream_synchronization()
            && stream.context().is_managing_stream_synchronization();
        if same(theirs, stream) || by_events || self.joined.iter().any(|(joined, _)| same(joined, theirs)) {
            return Ok(());
        }
        if capturing(stream)? {
            return Ok(());
        }
        reserve(&mut self.joined, 1, ORDER)?;
        stream.join(theirs).map_err(driver_error(WAITING))?;
        self.joined.push((theirs.clone(), stream));
        Ok(())
    }
}

/// Fills in the addresses of a step's tensors, all known to lie on the stream's device, and makes `stream` wait for
/// whoever used them last.
pub(crate) fn borrow<'a>(
    updates: &'a mut [Update<'_>],
    stream: &'a CudaStream,
    mut found: impl FnMut(usize, u64, u64),
) -> Result<Guards<'a>, Error> {
    let mut guards = Guards::default();
    for (index, update) in updates.iter_mut().enumerate() {
        let (Place::Cuda(target), Place::Cuda(source)) =
            (&mut update.parameter.place, &update.gradient.place)
        else {
            continue; // refused by the caller
        };
        found(index, guards.write(target, stream)?, guards.read(source, stream)?);
    }
    guards.check(stream)?;
    Ok(guards)
}
