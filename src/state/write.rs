//! From the optimizer into a file, in pieces.

use super::fault::{Fault, io, wrong};
use super::header::LARGEST;
use super::slot::{Slot, Stored};
use super::{PIECE, pieces};
use crate::Optimizer;
use crc32fast::Hasher;
use serde_json::{Map, Value, json};
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
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.stored.size
    }
}

/// JSON of the header, padded so that the data begin at a multiple of eight.
pub(super) fn header(metadata: &Map<String, Value>, tensors: &[Tensor]) -> Result<Vec<u8>, Fault> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), Value::Object(metadata.clone()));
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += tensor.bytes() as u64;
        let entry =
            json!({ "dtype": tensor.stored.dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
        entries.insert(tensor.name.clone(), entry);
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > LARGEST {
        let bytes = header.len();
        return wrong(format!(
            "its header would take {bytes} bytes, more than safetensors allows: {LARGEST}"
        ));
    }
    Ok(header)
}

/// A header with its length in front.
fn write_header(to: &mut impl Write, header: &[u8]) -> Result<(), Fault> {
    let length = (header.len() as u64).to_le_bytes();
    to.write_all(&length).and_then(|()| to.write_all(header)).map_err(io("writing"))
}

/// The tensors' bytes. Their CRC-32s.
fn write_tensors(
    optimizer: &mut Optimizer,
    to: &mut impl Write,
    tensors: &[Tensor],
) -> Result<Vec<u32>, Fault> {
    let mut buffer = vec![0; PIECE];
    let mut sums = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let mut sum = Hasher::new();
        for (offset, len) in pieces(tensor.bytes()) {
            let piece = &mut buffer[..len];
            match tensor.content {
                Content::Slot(index, slot) => {
                    optimizer.ask(|backend| backend.read_slot(index, slot, offset, piece))?;
                }
                Content::Number(number) => piece.copy_from_slice(&number.to_le_bytes()),
            }
            sum.update(piece);
            to.write_all(piece).map_err(io("writing"))?;
        }
        sums.push(sum.finalize());
    }
    Ok(sums)
}

/// A whole file. The tensors' CRC-32s.
pub(super) fn write_to(
    file: &mut impl Write,
    header: &[u8],
    optimizer: &mut Optimizer,
    tensors: &[Tensor],
) -> Result<Vec<u32>, Fault> {
    write_header(file, header)?;
    write_tensors(optimizer, file, tensors)
}
