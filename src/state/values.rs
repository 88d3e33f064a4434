//! A tensor's bytes as numbers.

use super::fault::{Fault, shown, wrong};
use crate::slot::Slot;
use half::{bf16, f16};

/// An exact f32 of each element of a type of floats; `None` for other types.
fn floats(dtype: &str, bytes: &[u8]) -> Option<impl Iterator<Item = f32>> {
    let (size, read): (usize, fn(&[u8]) -> f32) = match dtype {
        "F32" => (4, |x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])),
        "BF16" => (2, |x| bf16::from_le_bytes([x[0], x[1]]).to_f32()),
        "F16" => (2, |x| f16::from_le_bytes([x[0], x[1]]).to_f32()),
        _ => return None,
    };
    Some(bytes.chunks_exact(size).map(read))
}

/// Whether elements of one type are also of the other one, an f32.
pub(super) fn widens(from: &str, to: &str) -> bool {
    to == "F32" && matches!(from, "BF16" | "F16")
}

/// 16-bit floats as f32, in `room`, which is twice as long.
pub(super) fn widen<'a>(dtype: &str, bytes: &[u8], room: &'a mut [u8]) -> &'a [u8] {
    let room = &mut room[..2 * bytes.len()];
    for (value, into) in floats(dtype, bytes).into_iter().flatten().zip(room.chunks_exact_mut(4)) {
        into.copy_from_slice(&value.to_le_bytes());
    }
    room
}

/// Refuses what Adam cannot have written after `step` steps; `first` is the place of the first element.
pub(super) fn plausible(
    name: &str,
    (slot, step): (Slot, u64),
    dtype: &str,
    bytes: &[u8],
    first: u64,
) -> Result<(), Fault> {
    for (value, at) in floats(dtype, bytes).into_iter().flatten().zip(first..) {
        let expected = if !value.is_finite() {
            "a finite number"
        } else if slot != Slot::ExpAvg && value < 0.0 {
            "an average of squares"
        } else if step == 0 && value != 0.0 {
            "0 before the first step"
        } else {
            continue;
        };
        return wrong(format!("element {at} of {} is {value}, expected {expected}", shown(name)));
    }
    Ok(())
}

/// The number in a scalar of a type in which steps are counted.
pub(super) fn scalar(dtype: &str, bytes: &[u8]) -> Option<f64> {
    match dtype {
        "F32" => bytes.try_into().ok().map(|bytes| f32::from_le_bytes(bytes).into()),
        "F64" => bytes.try_into().ok().map(f64::from_le_bytes),
        "I32" => bytes.try_into().ok().map(|bytes| i32::from_le_bytes(bytes).into()),
        // Above 2^53 it is rounded, and refused in any case.
        "I64" => bytes.try_into().ok().map(|bytes| i64::from_le_bytes(bytes) as f64),
        _ => None,
    }
}
