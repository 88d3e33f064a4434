//! Any bytes as a file of state, ours or PyTorch's: no panic, and an error changes nothing.
//!
//! What a change of length puts out of order is put in order again in every second try, the length of the header and its
//! checksum, or hardly any input would get past them.
#![no_main]

use fadam::{Adam, Optimizer, Update};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

const CHECKSUM: &[u8] = b"\"header_checksum\":\"";

/// The header ends with the last brace, unless it is known where it does.
fn mend(bytes: &mut [u8]) {
    let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() else { return };
    let end = u64::from_le_bytes(*length) as usize;
    let end = match rest.get(..end) {
        Some(header) if header.ends_with(b"}") || header.ends_with(b" ") => end,
        _ => rest.iter().rposition(|&byte| byte == b'}').map_or(0, |at| at + 1),
    };
    *length = (end as u64).to_le_bytes();
    let header = &mut rest[..end];
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
    for mended in [false, true] {
        if mended {
            mend(&mut bytes);
        }
        for torch in [false, true] {
            let before = ids.map(|id| optimizer.state(id).unwrap());
            let source = &mut Cursor::new(&bytes);
            let result = match torch {
                false => optimizer.load_from(source),
                true => optimizer.load_torch_from(source, &parameters.map(|(name, _)| name)),
            };
            if result.is_err() {
                let same =
                    |(id, before)| format!("{:?}", optimizer.state(id).unwrap()) == format!("{before:?}");
                assert!(ids.into_iter().zip(before).all(same));
            }
        }
    }
    let mut value = [1.0_f32; 2];
    optimizer.step(&mut [Update::new(ids[0], &mut value, &[1.0_f32; 2])]).unwrap();
});
