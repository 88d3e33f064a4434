//! The header of a safetensors file: an eight-byte length, then JSON. Nothing in it is believed before it is checked.

use super::fault::{Fault, io, shown, wrong};
use super::json::{Fields, parse};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

/// Bytes of the length in front of the header.
pub(super) const PREFIX: usize = 8;
/// The limit of the safetensors crate.
pub(super) const LARGEST: u64 = 100_000_000;
/// Bytes of one element.
const SIZES: [(&str, u64); 13] = [
    ("F64", 8),
    ("I64", 8),
    ("U64", 8),
    ("F32", 4),
    ("I32", 4),
    ("U32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("I16", 2),
    ("U16", 2),
    ("I8", 1),
    ("U8", 1),
    ("BOOL", 1),
];

pub(super) struct Tensor {
    pub(super) dtype: String,
    pub(super) elements: u64,
    /// Where its bytes are in the file.
    pub(super) begin: u64,
    pub(super) end: u64,
}

pub(super) struct Header {
    pub(super) bytes: Vec<u8>,
    pub(super) metadata: Option<Value>,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Header {
    /// Reads it, and makes sure that the tensors fill the rest of the file, without a gap and without overlap.
    pub(super) fn read(source: &mut (impl Read + Seek)) -> Result<Self, Fault> {
        let size = source.seek(SeekFrom::End(0)).map_err(io("asking for the length of"))?;
        source.rewind().map_err(io("reading"))?;
        let Some(rest) = size.checked_sub(PREFIX as u64) else {
            return wrong(format!("it has {size} bytes, too few for a safetensors file"));
        };
        let mut length = [0; PREFIX];
        source.read_exact(&mut length).map_err(io("reading"))?;
        let length = u64::from_le_bytes(length);
        if length > rest.min(LARGEST) {
            return wrong(format!(
                "it is no safetensors file, or cut off: its header would be {length} bytes long"
            ));
        }
        let mut bytes = vec![0; length as usize];
        source.read_exact(&mut bytes).map_err(io("reading"))?;
        let mut metadata = None;
        let mut tensors = BTreeMap::new();
        for (name, value) in Fields::of("the header", parse("the header", &bytes)?)?.pairs() {
            if name == "__metadata__" {
                metadata = Some(value);
            } else {
                let tensor = tensor(&name, value, PREFIX as u64 + length)?;
                tensors.insert(name, tensor);
            }
        }
        fill(&tensors, PREFIX as u64 + length, size)?;
        Ok(Self { bytes, metadata, tensors })
    }
}

fn tensor(name: &str, value: Value, data: u64) -> Result<Tensor, Fault> {
    let name = shown(name);
    let mut fields = Fields::of(format!("tensor {name}"), value)?;
    let (dtype, shape, offsets) =
        (fields.text("dtype")?, fields.wholes("shape")?, fields.wholes("data_offsets")?);
    fields.finish()?;
    let Some((_, size)) = SIZES.iter().find(|(known, _)| *known == dtype) else {
        return wrong(format!("tensor {name} has the unknown dtype {}", shown(&dtype)));
    };
    let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let bytes = elements.and_then(|elements| elements.checked_mul(*size));
    let (Some(elements), Some(bytes), &[begin, end]) = (elements, bytes, &offsets[..]) else {
        return wrong(format!("tensor {name} has a shape or offsets that cannot be"));
    };
    if end.checked_sub(begin) != Some(bytes) {
        return wrong(format!("tensor {name} is to take {bytes} bytes, its offsets are {begin} and {end}"));
    }
    // At most 2^53 each.
    Ok(Tensor { dtype, elements, begin: data + begin, end: data + end })
}

fn fill(tensors: &BTreeMap<String, Tensor>, data: u64, size: u64) -> Result<(), Fault> {
    let mut row: Vec<_> = tensors.iter().map(|(name, tensor)| (tensor.begin, tensor.end, name)).collect();
    row.sort_unstable();
    let mut filled = data;
    for (begin, end, name) in row {
        if begin != filled {
            let how = if begin < filled { "overlaps what lies before it" } else { "leaves a gap before it" };
            return wrong(format!("tensor {} {how}", shown(name)));
        }
        filled = end;
    }
    match filled == size {
        true => Ok(()),
        false => wrong(format!("it has {size} bytes, and its tensors end at {filled}")),
    }
}
