//! A whole file of an optimizer.

use super::fault::{Fault, io};
use super::header::PREFIX;
use super::write::{Content, Tensor, header, write_to};
use super::{Slot, checksum, file, manifest, tensor_name};
use crate::Optimizer;
use serde_json::{Map, Value};
use std::cmp::Reverse;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

pub(super) fn save(optimizer: &mut Optimizer, path: &Path) -> Result<(), Fault> {
    let mut metadata = manifest::describe(optimizer)?;
    let mut tensors = Vec::new();
    for (index, parameter) in optimizer.parameters.iter().enumerate() {
        for slot in Slot::ALL {
            let Some(stored) = optimizer.backend.slot(index, slot) else { continue };
            tensors.push(Tensor {
                name: tensor_name(slot, &parameter.name),
                stored,
                shape: vec![parameter.len],
                content: Content::Slot(index, slot),
            });
        }
    }
    tensors.sort_by_key(|tensor| Reverse(tensor.stored.size)); // so that each is aligned for its type
    let mut sealed = |sums: &[u32]| {
        let sum = |(i, tensor): (usize, &Tensor)| {
            let sum = sums.get(i).copied().unwrap_or_default();
            (tensor.name.clone(), checksum::hex(sum).into())
        };
        let sums: Map<String, Value> = tensors.iter().enumerate().map(sum).collect();
        metadata.insert("checksums".into(), Value::Object(sums).to_string().into());
        metadata.insert(checksum::FIELD.into(), checksum::hex(0).into());
        let mut header = header(&metadata, &tensors)?;
        checksum::seal(&mut header);
        Ok::<_, Fault>(header)
    };
    // The tensors' checksums are known when the tensors are written; the header has their room by then.
    let room = sealed(&[])?;
    file::replace(path, |file| {
        let sums = write_to(file, &room, optimizer, &tensors)?;
        let header = sealed(&sums)?;
        file.seek(SeekFrom::Start(PREFIX as u64)).and_then(|_| file.write_all(&header)).map_err(io("writing"))
    })
}
