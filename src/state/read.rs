//! From a file into the optimizer, in two readings of its tensors, each in the order of the file and a buffer full at a time.
//!
//! The first reading checks everything; nothing has changed when it refuses. The second one writes. A file may change between
//! them (in place, by somebody who knows no better; [`save`](super::save) never does that), so what the second one has written
//! must have the checksums of what the first one has seen. Else the optimizer is lost: it holds parts of two files.

use super::PIECE;
use super::fault::{Fault, io, shown, wrong};
use super::header::{Header, Tensor};
use super::values;
use crate::allocation::{filled, push};
use crate::args::Progress;
use crate::job::Counters;
use crate::slot::{Slot, Stored};
use crate::{Error, Optimizer};
use crc32fast::Hasher;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Of the same types as here, with checksums.
    Fadam,
    /// Narrower floats are widened, and the values looked at.
    PyTorch,
}

/// A tensor of the optimizer's, and the one of the file that it is to be.
struct Copy {
    index: usize,
    slot: Slot,
    stored: Stored,
    step: u64,
    bytes: usize,
    /// Nowhere: zeros.
    from: Option<Source>,
}

struct Source {
    name: String,
    tensor: Tensor,
}

impl Copy {
    /// What the values of one piece take that are not the file's bytes.
    fn room(&self) -> usize {
        match &self.from {
            Some(Source { tensor, .. }) if tensor.size == self.stored.size => 0,
            _ => self.bytes.min(2 * PIECE),
        }
    }
}

/// What loading will change.
pub(super) struct Plan {
    origin: Origin,
    copies: Vec<Copy>,
    /// Parts of the file that were read before, and their checksums: they must still be there when the rest has been read.
    seen: Vec<(Range<u64>, u32)>,
    progress: Vec<(usize, Progress)>,
    pub(super) counters: Option<Counters>,
}

const PLAN: &str = "what is to be loaded";

impl Plan {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, copies: Vec::new(), seen: Vec::new(), progress: Vec::new(), counters: None }
    }

    /// Takes from the header what is kept of these slots of a parameter; `name` says how the file calls a slot. A tensor that
    /// it does not have is an error, and so are another length and dtype.
    pub(super) fn parameter(
        &mut self,
        optimizer: &Optimizer,
        (index, progress): (usize, Progress),
        header: &mut Header<'_>,
        slots: &[Slot],
        name: impl Fn(Slot) -> String,
    ) -> Result<(), Fault> {
        let len = optimizer.parameters[index].len;
        for &slot in slots {
            let Some(stored) = optimizer.backend.slot(index, slot) else { continue };
            let name = name(slot);
            let Some(tensor) = header.tensors.remove(name.as_str()) else {
                return wrong(format!("it has no {}, which this optimizer keeps", shown(&name)));
            };
            self.check(&name, &tensor, stored, len)?;
            let (bytes, from) = (len * stored.size, Some(Source { name, tensor }));
            push(&mut self.copies, Copy { index, slot, stored, step: progress.step, bytes, from }, PLAN)?;
        }
        Ok(push(&mut self.progress, (index, progress), PLAN)?)
    }

    /// A parameter begins anew.
    pub(super) fn restart(&mut self, optimizer: &Optimizer, index: usize) -> Result<(), Error> {
        for slot in Slot::ALL {
            if let Some(stored) = optimizer.backend.slot(index, slot) {
                let bytes = optimizer.parameters[index].len * stored.size;
                push(&mut self.copies, Copy { index, slot, stored, step: 0, bytes, from: None }, PLAN)?;
            }
        }
        push(&mut self.progress, (index, Progress::START), PLAN)
    }

    fn check(&self, name: &str, tensor: &Tensor, stored: Stored, len: usize) -> Result<(), Fault> {
        let Tensor { dtype, elements, .. } = tensor;
        let widens = self.origin == Origin::PyTorch && values::widens(dtype, stored.dtype);
        if *dtype != stored.dtype && !widens {
            return wrong(format!("{} is {dtype} in the file, {} here", shown(name), stored.dtype));
        }
        if *elements != len as u64 {
            return wrong(format!("{} has {elements} elements in the file, {len} here", shown(name)));
        }
        Ok(())
    }

    /// Of a file without checksums.
    pub(super) fn seen(&mut self, part: Range<u64>, sum: u32) -> Result<(), Error> {
        push(&mut self.seen, (part, sum), PLAN)
    }

    /// Changes the optimizer, when everything is checked. Where it fails after that, the optimizer is lost.
    pub(super) fn carry_out(
        mut self,
        optimizer: &mut Optimizer,
        source: &mut (impl Read + Seek),
    ) -> Result<(), Fault> {
        self.copies.sort_unstable_by_key(|copy| copy.from.as_ref().map(|from| from.tensor.begin));
        let mut room = filled(0, self.copies.iter().map(Copy::room).max().unwrap_or(0), PLAN)?;
        let mut stream = Stream::new(source)?;
        self.verify(&mut stream)?;
        optimizer.ask(|backend| backend.counters())?; // refuses a device that is dead or captures, nothing changed yet
        optimizer.lost = true;
        let backend = &mut optimizer.backend;
        for Copy { index, slot, stored, bytes, from, .. } in self.copies {
            let mut offset = 0;
            let Some(Source { name, tensor }) = from else {
                room.fill(0);
                while offset < bytes {
                    let zeros = &room[..room.len().min(bytes - offset)];
                    backend.write_slot(index, slot, offset, zeros)?;
                    offset += zeros.len();
                }
                continue;
            };
            let sum = stream.read(&tensor, |piece| {
                let same = tensor.size == stored.size;
                let piece = if same { piece } else { values::widen(tensor.dtype, piece, &mut room) };
                backend.write_slot(index, slot, offset, piece)?;
                offset += piece.len();
                Ok(())
            })?;
            if tensor.sum != Some(sum) {
                return wrong(format!("{} changed while it was loaded", shown(&name)));
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

    /// The first reading. Keeps the checksums of what it has seen.
    fn verify(&mut self, stream: &mut Stream<'_, impl Read + Seek>) -> Result<(), Fault> {
        for Copy { slot, step, from, .. } in &mut self.copies {
            let Some(Source { name, tensor }) = from else { continue };
            let mut first = 0;
            let sum = stream.read(tensor, |piece| {
                if self.origin == Origin::PyTorch {
                    values::plausible(name, (*slot, *step), tensor.dtype, piece, first)?;
                    first += (piece.len() / tensor.size) as u64;
                }
                Ok(())
            })?;
            if tensor.sum.is_some_and(|expected| expected != sum) {
                return wrong(format!("{} is damaged: its checksum differs", shown(name)));
            }
            tensor.sum = Some(sum);
        }
        if self.origin == Origin::PyTorch {
            let mut again = Stream::scattered(&mut *stream.source)?;
            for (part, sum) in &self.seen {
                if again.read_bytes(part.clone(), 1, |_| Ok(()))? != *sum {
                    return wrong("it changed while it was read");
                }
            }
            stream.filled = 0; // a buffer may be of two files
        }
        Ok(())
    }
}

/// A file as it is read in order: a buffer full at a time, however small its tensors are.
pub(super) struct Stream<'a, R> {
    source: &'a mut R,
    buffer: Vec<u8>,
    /// Where in the file the buffer's bytes begin, and how many they are.
    begin: u64,
    filled: usize,
}

impl<'a, R: Read + Seek> Stream<'a, R> {
    fn new(source: &'a mut R) -> Result<Self, Fault> {
        Self::with_buffer(source, PIECE)
    }

    /// For small parts that may lie far from one another.
    pub(super) fn scattered(source: &'a mut R) -> Result<Self, Fault> {
        Self::with_buffer(source, 8192)
    }

    fn with_buffer(source: &'a mut R, most: usize) -> Result<Self, Fault> {
        let size = source.seek(SeekFrom::End(0)).map_err(io("asking for the length of"))?;
        let buffer = filled(0, size.min(most as u64) as usize, "a piece of a state file")?;
        Ok(Self { source, buffer, begin: 0, filled: 0 })
    }

    pub(super) fn read(
        &mut self,
        tensor: &Tensor,
        each: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<u32, Fault> {
        self.read_bytes(tensor.begin..tensor.end, tensor.size, each)
    }

    /// Hands out bytes in parts of whole elements. Their CRC-32.
    fn read_bytes(
        &mut self,
        Range { start, end }: Range<u64>,
        element: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<u32, Fault> {
        let mut sum = Hasher::new();
        let mut at = start;
        while at < end {
            let wanted = (end - at).min(PIECE as u64) as usize;
            let mut part = self.buffered(at, wanted, element);
            if part.is_empty() {
                self.fill(at)?;
                part = self.buffered(at, wanted, element);
            }
            if part.is_empty() {
                return Err(io("reading")(ErrorKind::UnexpectedEof.into()));
            }
            let part = &self.buffer[part];
            sum.update(part);
            each(part)?;
            at += part.len() as u64;
        }
        Ok(sum.finalize())
    }

    /// What the buffer has from `at` on.
    fn buffered(&self, at: u64, wanted: usize, element: usize) -> Range<usize> {
        let start =
            at.checked_sub(self.begin).map_or(self.filled, |start| start.min(self.filled as u64) as usize);
        let len = wanted.min(self.filled - start) / element * element;
        start..start + len
    }

    fn fill(&mut self, at: u64) -> Result<(), Fault> {
        if at != self.begin + self.filled as u64 || self.filled == 0 {
            self.source.seek(SeekFrom::Start(at)).map_err(io("reading"))?;
        }
        (self.begin, self.filled) = (at, 0);
        while self.filled < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io("reading")(error)),
            }
        }
        Ok(())
    }
}
