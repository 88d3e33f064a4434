//! A whole file of an optimizer.

use super::fault::{Fault, io, wrong};
use super::header::PREFIX;
use super::write::{Content, Room, Tensors, write_to};
use super::{Slot, describe, file, tensor_name};
use crate::Optimizer;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

pub(super) fn save(optimizer: &mut Optimizer, path: &Path) -> Result<(), Fault> {
    check_path(path)?;
    let mut tensors = Tensors::default();
    for (index, parameter) in optimizer.parameters.iter().enumerate() {
        for slot in Slot::ALL {
            if let Some(stored) = optimizer.backend.slot(index, slot) {
                let name = tensor_name(slot, &parameter.name);
                tensors.add(name, stored, Some(parameter.len), Content::Slot(index, slot))?;
            }
        }
    }
    let tensors = tensors.in_order()?;
    let mut header = describe::header(optimizer, &tensors)?;
    let mut room = Room::new(&tensors)?;
    file::replace(path, |file| {
        write_to(file, &header.bytes, optimizer, &tensors, &mut room)?;
        // The checksums are known now; the header has room for them.
        header.seal(&room.sums);
        file.seek(SeekFrom::Start(PREFIX as u64))
            .and_then(|_| file.write_all(&header.bytes))
            .map_err(io("writing"))
    })
}

pub(super) fn check_path(path: &Path) -> Result<(), Fault> {
    if path.file_name().is_some() { Ok(()) } else { wrong("the path names no file") }
}
