//! CRC-32 of what a file holds. A tensor's is in the metadata; the header's own is in the header, computed while the field
//! says zeros.

use crc32fast::hash;
use std::ops::Range;

/// The field's name in the metadata.
pub(super) const FIELD: &str = "header_checksum";

/// Always of the same width, so that it can be filled in afterwards.
pub(super) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

/// Fills in the field of a header that has zeros there.
pub(super) fn seal(header: &mut [u8]) {
    if let Some(field) = field(header) {
        let sum = hex(hash(header));
        header[field].copy_from_slice(sum.as_bytes());
    }
}

/// Whether the header is as it was sealed.
pub(super) fn is_sealed(header: &[u8]) -> bool {
    let mut copy = header.to_vec();
    if let Some(field) = field(header) {
        copy[field].copy_from_slice(hex(0).as_bytes());
    }
    seal(&mut copy);
    copy == header && field(header).is_some()
}

/// Within a string its quotes would be escaped: it can be but the field.
fn field(header: &[u8]) -> Option<Range<usize>> {
    let key = format!("\"{FIELD}\":\"");
    let start = header.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let end = start + hex(0).len();
    (end <= header.len()).then_some(start..end)
}
