//! Any bytes as a file of state: no panic, and an error changes nothing. The header's checksum is put right in every second
//! input, or none would get past it.
#![no_main]

use fadam::{Adam, Optimizer, Update};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

const CHECKSUM: &[u8] = b"\"header_checksum\":\"";

fn seal(bytes: &mut [u8]) {
    let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length) as usize) else {
        return;
    };
    let Some(header) = bytes[8..].get_mut(..length) else { return };
    let Some(at) = header.windows(CHECKSUM.len()).position(|window| window == CHECKSUM) else { return };
    let at = at + CHECKSUM.len();
    if at + 8 <= header.len() {
        header[at..at + 8].fill(b'0');
        let sum = format!("{:08x}", crc32fast::hash(header));
        header[at..at + 8].copy_from_slice(sum.as_bytes());
    }
}

fuzz_target!(|bytes: &[u8]| {
    // As tests/state_hostile.rs has it.
    let mut optimizer = Optimizer::new(Adam { amsgrad: true, ..Adam::default() }).unwrap();
    let parameters = [("p0", 2), ("p1", 0), ("p2", 1)];
    let ids = parameters.map(|(name, len)| optimizer.register(name, len).unwrap());
    let mut bytes = bytes.to_vec();
    for sealed in [false, true] {
        if sealed {
            seal(&mut bytes);
        }
        let before = ids.map(|id| optimizer.state(id).unwrap());
        if optimizer.load_from(&mut Cursor::new(&bytes)).is_err() {
            let same =
                |(id, before)| format!("{:?}", optimizer.state(id).unwrap()) == format!("{before:?}");
            assert!(ids.into_iter().zip(before).all(same));
        }
    }
    let mut value = [1.0_f32; 2];
    optimizer.step(&mut [Update::new(ids[0], &mut value, &[1.0_f32; 2])]).unwrap();
});
