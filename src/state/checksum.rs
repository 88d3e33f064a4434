//! CRC-32 of what a file holds. A tensor's is in the metadata; the header's own is in the header, computed while the field
//! says zeros.

use crc32fast::Hasher;

/// The field's name in the metadata.
pub(super) const FIELD: &str = "header_checksum";
/// What stands in a checksum's place while it is not known.
pub(super) const BLANK: &str = "00000000";

/// Always of the same width, so that it can be filled in afterwards.
pub(super) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

/// The way back.
pub(super) fn read(digits: &str) -> Option<u32> {
    u32::from_str_radix(digits, 16).ok().filter(|&crc| hex(crc) == digits)
}

/// Of a header in which the field's eight digits begin at `field`.
pub(super) fn of_header(header: &[u8], field: usize) -> u32 {
    let mut sum = Hasher::new();
    sum.update(&header[..field]);
    sum.update(BLANK.as_bytes());
    sum.update(&header[field + BLANK.len()..]);
    sum.finalize()
}
