//! State files that are made up.
#![allow(dead_code)] // each test file uses its part

use serde_json::Value;

/// A file being made up: the header's text and the data.
#[derive(Clone)]
pub(crate) struct Craft {
    pub(crate) header: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

const CHECKSUM: &str = "\"header_checksum\":\"";

impl Craft {
    pub(crate) fn new(good: &[u8]) -> Self {
        let end = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        Self { header: good[8..end].trim_ascii_end().to_vec(), data: good[end..].to_vec() }
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        let mut header = serde_json::from_slice(&self.header).unwrap();
        edit(&mut header);
        self.header = header.to_string().into_bytes();
        self
    }

    pub(crate) fn metadata(self, edit: impl FnOnce(&mut Value)) -> Self {
        self.edit(|header| edit(&mut header["__metadata__"]))
    }

    /// Edits an entry of the metadata that is JSON itself.
    pub(crate) fn document(self, key: &str, edit: impl FnOnce(&mut Value)) -> Self {
        self.metadata(|metadata| {
            let mut document = serde_json::from_str(metadata[key].as_str().unwrap()).unwrap();
            edit(&mut document);
            metadata[key] = document.to_string().into();
        })
    }

    pub(crate) fn parameter(self, key: &str, value: Value) -> Self {
        self.document("parameters", |list| list[0][key] = value)
    }

    pub(crate) fn replace(mut self, from: &str, to: &[u8]) -> Self {
        let at = self.header.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        self.header.splice(at..at + from.len(), to.iter().copied());
        self
    }

    /// The file, its header's checksum put right.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut header = self.header;
        let field = header.windows(CHECKSUM.len()).position(|window| window == CHECKSUM.as_bytes());
        let whole =
            |at: &usize| header.get(*at..at + 8).is_some_and(|sum| sum.iter().all(u8::is_ascii_hexdigit));
        let field = field.map(|at| at + CHECKSUM.len()).filter(whole);
        if let Some(at) = field {
            header[at..at + 8].fill(b'0');
            let sum = format!("{:08x}", crc32fast::hash(&header));
            header[at..at + 8].copy_from_slice(sum.as_bytes());
        }
        [&(header.len() as u64).to_le_bytes(), &header[..], &self.data].concat()
    }
}
