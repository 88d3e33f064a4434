//! From the optimizer into a file, a buffer full at a time however small the tensors are.

use super::PIECE;
use super::fault::{Fault, io};
use crate::allocation::{filled, push, reserve, with_capacity};
use crate::slot::{Slot, Stored};
use crate::{Error, Optimizer};
use crc32fast::Hasher;
use std::io::Write;

/// What a tensor of the file holds.
pub(super) enum Content {
    /// That of the parameter of this index.
    Slot(usize, Slot),
    Number(f32),
}

pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) stored: Stored,
    /// `None` of a scalar.
    pub(super) len: Option<usize>,
    pub(super) content: Content,
    /// Behind the header.
    pub(super) begin: u64,
}

impl Tensor {
    pub(super) fn bytes(&self) -> usize {
        self.len.unwrap_or(1) * self.stored.size
    }
}

/// Builder of a file's list of tensors.
#[derive(Default)]
pub(super) struct Tensors {
    wide: Vec<Tensor>,
    /// Of 16-bit elements.
    narrow: Vec<Tensor>,
}

const TENSORS: &str = "the tensors of a state file";

impl Tensors {
    /// A scalar has no length.
    pub(super) fn add(
        &mut self,
        name: String,
        stored: Stored,
        len: Option<usize>,
        content: Content,
    ) -> Result<(), Error> {
        let row = if stored.size == 4 { &mut self.wide } else { &mut self.narrow };
        push(row, Tensor { name, stored, len, content, begin: 0 }, TENSORS)
    }

    /// In the order of their data: wide elements first, so that each is aligned for its type.
    pub(super) fn in_order(self) -> Result<Vec<Tensor>, Error> {
        let Self { mut wide, mut narrow } = self;
        reserve(&mut wide, narrow.len(), TENSORS)?;
        wide.append(&mut narrow);
        let mut end = 0;
        for tensor in &mut wide {
            tensor.begin = end;
            end += tensor.bytes() as u64;
        }
        Ok(wide)
    }
}

/// Gathers what is written in a buffer.
struct Buffered<'a, W> {
    to: &'a mut W,
    buffer: &'a mut [u8],
    filled: usize,
}

impl<W: Write> Buffered<'_, W> {
    fn flush(&mut self) -> Result<(), Fault> {
        let filled = std::mem::take(&mut self.filled);
        self.to.write_all(&self.buffer[..filled]).map_err(io("writing"))
    }

    /// The next `bytes` of the file, or so many as there is room for: whole elements, at least one. They are to be filled.
    fn room(&mut self, bytes: usize, element: usize) -> Result<&mut [u8], Fault> {
        let left = (self.buffer.len() - self.filled) / element * element;
        if left < bytes.min(WORTH_A_COPY) {
            self.flush()?;
        }
        let start = self.filled;
        self.filled += bytes.min((self.buffer.len() - start) / element * element);
        Ok(&mut self.buffer[start..self.filled])
    }
}

/// A tensor is not cut for less: on a GPU each part is a copy that is waited for.
const WORTH_A_COPY: usize = PIECE / 4;

/// What writing takes, allocated before there is a file.
pub(super) struct Room {
    buffer: Vec<u8>,
    /// The tensors' CRC-32s, when they are written.
    pub(super) sums: Vec<u32>,
}

impl Room {
    pub(super) fn new(tensors: &[Tensor]) -> Result<Self, Error> {
        let bytes = tensors.iter().map(Tensor::bytes).fold(0, usize::saturating_add);
        let sums = with_capacity(tensors.len(), TENSORS)?;
        Ok(Self { buffer: filled(0, bytes.clamp(16, PIECE), "a piece of a state file")?, sums })
    }
}

/// A whole file.
pub(super) fn write_to(
    file: &mut impl Write,
    header: &[u8],
    optimizer: &mut Optimizer,
    tensors: &[Tensor],
    room: &mut Room,
) -> Result<(), Fault> {
    let length = (header.len() as u64).to_le_bytes();
    file.write_all(&length).and_then(|()| file.write_all(header)).map_err(io("writing"))?;
    let mut to = Buffered { to: file, buffer: &mut room.buffer, filled: 0 };
    for tensor in tensors {
        let mut sum = Hasher::new();
        let mut offset = 0;
        while offset < tensor.bytes() {
            let piece = to.room(tensor.bytes() - offset, tensor.stored.size)?;
            match tensor.content {
                Content::Slot(index, slot) => {
                    optimizer.ask(|backend| backend.read_slot(index, slot, offset, piece))?;
                }
                Content::Number(number) => piece.copy_from_slice(&number.to_le_bytes()),
            }
            sum.update(piece);
            offset += piece.len();
        }
        room.sums.push(sum.finalize());
    }
    to.flush()
}
