//! The header of a safetensors file: an eight-byte length, then JSON. Nothing in it is believed before it is checked.

use super::fault::{Fault, io, shown, wrong};
use super::json::{Fields, entries};
use super::{Slot, tensor_name};
use crate::Optimizer;
use crate::allocation::{collected, filled};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};

/// Bytes of the length in front of the header.
pub(super) const PREFIX: usize = 8;
/// The limit of the safetensors crate.
pub(super) const LARGEST: u64 = 100_000_000;
/// However small an optimizer is, its header may be as long.
const GENEROUS: u64 = 4 << 20;
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

#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) dtype: &'static str,
    /// Bytes of one element.
    pub(super) size: usize,
    pub(super) elements: u64,
    /// Where its bytes are in the file.
    pub(super) begin: u64,
    pub(super) end: u64,
    /// The CRC-32 that its bytes should have, if the file says so.
    pub(super) sum: Option<u32>,
}

pub(super) struct Header<'a> {
    pub(super) text: &'a str,
    pub(super) metadata: Option<&'a RawValue>,
    pub(super) tensors: BTreeMap<Cow<'a, str>, Tensor>,
}

/// How long a header may be for an optimizer: four times as long as its own would be. A header costs a few times its length
/// in memory, and what cannot be a state of this optimizer shall not cost more.
fn limit(optimizer: &Optimizer) -> u64 {
    // In an entry of a tensor, its checksum and the entry of a parameter, but for names.
    const TENSOR: usize = 110 + 20;
    const PARAMETER: usize = 220;
    let mut bytes = 4096 + 200 * optimizer.groups.len();
    for (index, parameter) in optimizer.parameters.iter().enumerate() {
        let slots =
            Slot::ALL.into_iter().filter(|slot| optimizer.backend.slot(index, *slot).is_some()).count();
        bytes += PARAMETER + slots * TENSOR + (1 + 2 * slots) * longest(&parameter.name);
    }
    (4 * bytes as u64).clamp(GENEROUS, LARGEST)
}

/// Bytes of a name as a JSON string within a JSON string.
fn longest(name: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 4,
        _ if byte.is_ascii_control() => 7,
        _ => 1,
    };
    name.bytes().map(escaped).sum()
}

/// The header's JSON, and the length of the whole file.
pub(super) fn read(source: &mut (impl Read + Seek), optimizer: &Optimizer) -> Result<(Vec<u8>, u64), Fault> {
    let size = source.seek(SeekFrom::End(0)).map_err(io("asking for the length of"))?;
    source.rewind().map_err(io("reading"))?;
    let Some(rest) = size.checked_sub(PREFIX as u64) else {
        return wrong(format!("it has {size} bytes, too few for a safetensors file"));
    };
    let mut length = [0; PREFIX];
    source.read_exact(&mut length).map_err(io("reading"))?;
    let length = u64::from_le_bytes(length);
    if length > rest {
        return wrong(format!(
            "it is no safetensors file, or cut off: its header would be {length} bytes long"
        ));
    }
    let limit = limit(optimizer);
    if length > limit {
        return wrong(format!(
            "its header is {length} bytes long, and for this optimizer no more than {limit} are read"
        ));
    }
    let mut bytes = filled(0, length as usize, "the header")?;
    source.read_exact(&mut bytes).map_err(io("reading"))?;
    Ok((bytes, size))
}

impl<'a> Header<'a> {
    /// Makes sure that the tensors fill the rest of the file, without a gap and without overlap.
    pub(super) fn parse(bytes: &'a [u8], size: u64) -> Result<Self, Fault> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return wrong("the header is not JSON: it is not UTF-8");
        };
        let data = (PREFIX + bytes.len()) as u64;
        let mut metadata = None;
        let mut tensors = BTreeMap::new();
        entries(&"the header", text, |name, value| {
            if name == "__metadata__" {
                return match metadata.replace(value) {
                    None => Ok(()),
                    Some(_) => wrong("the metadata occurs twice"),
                };
            }
            match tensors.entry(name) {
                Entry::Vacant(entry) => {
                    let tensor = tensor(entry.key(), value, data)?;
                    entry.insert(tensor);
                    Ok(())
                }
                Entry::Occupied(entry) => wrong(format!("{} occurs twice", shown(entry.key()))),
            }
        })?;
        fill(&tensors, data, size)?;
        Ok(Self { text, metadata, tensors })
    }

    /// Leaves out what there is of a parameter of `len` elements.
    pub(super) fn leave_out(&mut self, parameter: &str, len: u64) -> Result<(), Fault> {
        for slot in Slot::ALL {
            let name = tensor_name(slot, parameter);
            let removed = self.tensors.remove(name.as_str());
            if let Some(tensor) = removed.filter(|tensor| tensor.elements != len) {
                let (name, parameter, found) = (shown(&name), shown(parameter), tensor.elements);
                return wrong(format!("{name} has {found} elements, and parameter {parameter} {len}"));
            }
        }
        Ok(())
    }
}

/// A tensor in errors.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor {}", shown(self.0))
    }
}

fn tensor(name: &str, value: &RawValue, data: u64) -> Result<Tensor, Fault> {
    let name = Named(name);
    let mut fields = Fields::of(&name, value.get())?;
    let dtype = fields.plain("dtype")?;
    let mut elements = Some(1_u64);
    fields.wholes("shape", |n| elements = elements.and_then(|product| product.checked_mul(n)))?;
    let (mut offsets, mut count) = ([0; 2], 0);
    fields.wholes("data_offsets", |offset| {
        if let Some(known) = offsets.get_mut(count) {
            *known = offset;
        }
        count += 1;
    })?;
    fields.finish()?;
    let Some(&(dtype, size)) = SIZES.iter().find(|(known, _)| *known == dtype) else {
        return wrong(format!("{name} has the unknown dtype {}", shown(dtype)));
    };
    let bytes = elements.and_then(|elements| elements.checked_mul(size));
    let (Some(elements), Some(bytes), 2) = (elements, bytes, count) else {
        return wrong(format!("{name} has a shape or offsets that cannot be"));
    };
    let [begin, end] = offsets;
    if end.checked_sub(begin) != Some(bytes) {
        return wrong(format!("{name} is to take {bytes} bytes, its offsets are {begin} and {end}"));
    }
    // At most 2^53 each.
    Ok(Tensor { dtype, size: size as usize, elements, begin: data + begin, end: data + end, sum: None })
}

fn fill(tensors: &BTreeMap<Cow<'_, str>, Tensor>, data: u64, size: u64) -> Result<(), Fault> {
    let spans = tensors.iter().map(|(name, tensor)| (tensor.begin, tensor.end, name));
    let mut row = collected(spans, "the header's tensors")?;
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
