//! From a file into the optimizer, in pieces, once everything is checked.

use super::fault::{Fault, io, shown, wrong};
use super::header::{Header, Tensor};
use super::slot::{Slot, Stored};
use super::{PIECE, pieces};
use crate::Optimizer;
use crate::args::Progress;
use crate::backend::Counters;
use crc32fast::Hasher;
use std::io::{Read, Seek, SeekFrom};

/// A tensor of the optimizer's and its place in the file; nowhere: zeros.
struct Copy {
    index: usize,
    slot: Slot,
    bytes: usize,
    from: Option<u64>,
}

/// What loading will change.
#[derive(Default)]
pub(super) struct Plan {
    copies: Vec<Copy>,
    progress: Vec<(usize, Progress)>,
    pub(super) counters: Option<Counters>,
}

impl Plan {
    /// Takes what the file has of these slots of a parameter; `name` says how the file calls a slot. A tensor that one side
    /// has and the other has not is an error, and so are another length and dtype.
    pub(super) fn parameter(
        &mut self,
        optimizer: &Optimizer,
        index: usize,
        progress: Progress,
        header: &mut Header,
        slots: &[Slot],
        name: impl Fn(Slot) -> String,
    ) -> Result<(), Fault> {
        let len = optimizer.parameters[index].len;
        for &slot in slots {
            let name = name(slot);
            match (optimizer.backend.slot(index, slot), header.tensors.remove(&name)) {
                (Some(stored), Some(tensor)) => {
                    check(&name, &tensor, stored, len)?;
                    let bytes = len * stored.size;
                    self.copies.push(Copy { index, slot, bytes, from: Some(tensor.begin) });
                }
                (Some(_), None) => {
                    return wrong(format!("it has no {}, which this optimizer keeps", shown(&name)));
                }
                (None, Some(_)) => {
                    return wrong(format!("it has {}, which this optimizer does not keep", shown(&name)));
                }
                (None, None) => {}
            }
        }
        self.progress.push((index, progress));
        Ok(())
    }

    /// Puts a parameter back to where it was before its first step.
    pub(super) fn restart(&mut self, optimizer: &Optimizer, index: usize) {
        for slot in Slot::ALL {
            if let Some(stored) = optimizer.backend.slot(index, slot) {
                let bytes = optimizer.parameters[index].len * stored.size;
                self.copies.push(Copy { index, slot, bytes, from: None });
            }
        }
        self.progress.push((index, Progress::START));
    }

    /// Changes the optimizer. Where it fails, the optimizer is lost.
    pub(super) fn carry_out(
        self,
        optimizer: &mut Optimizer,
        source: &mut (impl Read + Seek),
    ) -> Result<(), Fault> {
        optimizer.ask(|backend| backend.counters())?; // refuses a device that is dead or captures, nothing changed yet
        optimizer.lost = true;
        let backend = &mut optimizer.backend;
        let mut buffer = vec![0; PIECE];
        for Copy { index, slot, bytes, from } in self.copies {
            match from {
                Some(begin) => {
                    source.seek(SeekFrom::Start(begin)).map_err(io("reading"))?;
                }
                None => buffer.fill(0),
            }
            for (offset, len) in pieces(bytes) {
                let piece = &mut buffer[..len];
                if from.is_some() {
                    source.read_exact(piece).map_err(io("reading"))?;
                }
                backend.write_slot(index, slot, offset, piece)?;
            }
        }
        for (index, progress) in self.progress {
            backend.set_progress(index, progress)?;
        }
        if let Some(counters) = self.counters {
            optimizer.set_counters(&counters)?;
        }
        optimizer.lost = false;
        Ok(())
    }
}

fn check(name: &str, tensor: &Tensor, stored: Stored, len: usize) -> Result<(), Fault> {
    let name = shown(name);
    if tensor.dtype != stored.dtype {
        return wrong(format!("{name} is {} in the file, {} here", tensor.dtype, stored.dtype));
    }
    if tensor.elements != len as u64 {
        return wrong(format!("{name} has {} elements in the file, {len} here", tensor.elements));
    }
    Ok(())
}

/// The CRC-32 of a tensor.
pub(super) fn sum(source: &mut (impl Read + Seek), tensor: &Tensor) -> Result<u32, Fault> {
    source.seek(SeekFrom::Start(tensor.begin)).map_err(io("reading"))?;
    let mut rest = tensor.end - tensor.begin;
    let mut buffer = vec![0; rest.min(PIECE as u64) as usize];
    let mut sum = Hasher::new();
    while rest > 0 {
        let piece = &mut buffer[..rest.min(PIECE as u64) as usize];
        source.read_exact(piece).map_err(io("reading"))?;
        sum.update(piece);
        rest -= piece.len() as u64;
    }
    Ok(sum.finalize())
}
