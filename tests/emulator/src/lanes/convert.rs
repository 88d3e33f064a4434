//! `cvt`.

use super::float::canonical;
use super::{Entry, op};

macro_rules! from_integer {
    ($from:ty, $to:expr) => {
        Some(match $to {
            "u8" => op!(|a: $from| -> u8 { a as u8 }),
            "s8" => op!(|a: $from| -> i8 { a as i8 }),
            "u16" => op!(|a: $from| -> u16 { a as u16 }),
            "s16" => op!(|a: $from| -> i16 { a as i16 }),
            "u32" => op!(|a: $from| -> u32 { a as u32 }),
            "s32" => op!(|a: $from| -> i32 { a as i32 }),
            "u64" => op!(|a: $from| -> u64 { a as u64 }),
            "s64" => op!(|a: $from| -> i64 { a as i64 }),
            "rn.f32" => op!(|a: $from| -> f32 { a as f32 }),
            "rn.f64" => op!(|a: $from| -> f64 { a as f64 }),
            _ => return None,
        })
    };
}

/// Out of range clamps, as Rust's `as` does. NaN becomes 0, or the highest bit alone where either side is of 64 bits (PTX
/// ISA 9.0, cvt).
macro_rules! to_integer {
    ($from:ty, $how:expr, $round:expr) => {
        Some(match $how {
            "u16" => to_integer!(@ $from, u16, $round),
            "s16" => to_integer!(@ $from, i16, $round),
            "u32" => to_integer!(@ $from, u32, $round),
            "s32" => to_integer!(@ $from, i32, $round),
            "u64" => to_integer!(@ $from, u64, $round),
            "s64" => to_integer!(@ $from, i64, $round),
            _ => return None,
        })
    };
    (@ $from:ty, $to:ty, $round:expr) => {
        op!(|a: $from| -> $to {
            if a.is_nan() && size_of::<$from>().max(size_of::<$to>()) == 8 {
                1 << (<$to>::BITS - 1)
            } else {
                $round(a) as $to
            }
        })
    };
}

fn saturate(a: f32) -> f32 {
    if a.is_nan() || a <= 0.0 { 0.0 } else { a.min(1.0) }
}

/// Rounds to nearest, ties to even. Of NaN hardware makes 0x7fff.
fn bf16(a: f32) -> u16 {
    if a.is_nan() {
        return 0x7fff;
    }
    let bits = a.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// f64 to f32 towards zero.
fn truncate(a: f64) -> f32 {
    let nearest = a as f32;
    if f64::from(nearest).abs() > a.abs() {
        return f32::from_bits(nearest.to_bits() - 1);
    }
    canonical(nearest)
}

pub(super) fn find(opcode: &str) -> Option<Entry> {
    let (how, from) = opcode.strip_prefix("cvt.")?.rsplit_once('.')?;
    match from {
        "u8" => from_integer!(u8, how),
        "s8" => from_integer!(i8, how),
        "u16" => from_integer!(u16, how),
        "s16" => from_integer!(i16, how),
        "u32" => from_integer!(u32, how),
        "s32" => from_integer!(i32, how),
        "u64" => from_integer!(u64, how),
        "s64" => from_integer!(i64, how),
        "bf16" if how == "f32" => Some(op!(|a: u16| -> f32 { f32::from_bits(u32::from(a) << 16) })),
        "f32" => from_f32(how),
        "f64" => from_f64(how),
        _ => None,
    }
}

fn from_f32(how: &str) -> Option<Entry> {
    Some(match how {
        "f64" => op!(|a: f32| -> f64 { f64::from(a) }),
        "sat.f32" => op!(|a: f32| -> f32 { saturate(a) }),
        "rni.f32" => op!(|a: f32| -> f32 { canonical(a.round_ties_even()) }),
        "rzi.f32" => op!(|a: f32| -> f32 { canonical(a.trunc()) }),
        "rmi.f32" => op!(|a: f32| -> f32 { canonical(a.floor()) }),
        "rpi.f32" => op!(|a: f32| -> f32 { canonical(a.ceil()) }),
        "rn.bf16" => op!(|a: f32| -> u16 { bf16(a) }),
        _ => {
            let (round, to) = how.split_once('.')?;
            return match round {
                "rni" => to_integer!(f32, to, f32::round_ties_even),
                "rzi" => to_integer!(f32, to, f32::trunc),
                "rmi" => to_integer!(f32, to, f32::floor),
                "rpi" => to_integer!(f32, to, f32::ceil),
                "rn" if to == "bf16x2" => {
                    // The first operand is the upper half.
                    Some(op!(|a: f32, b: f32| -> u32 { u32::from(bf16(a)) << 16 | u32::from(bf16(b)) }))
                }
                _ => None,
            };
        }
    })
}

fn from_f64(how: &str) -> Option<Entry> {
    Some(match how {
        "rn.f32" => op!(|a: f64| -> f32 { canonical(a as f32) }),
        "rz.f32" => op!(|a: f64| -> f32 { truncate(a) }),
        "rni.f64" => op!(|a: f64| -> f64 { a.round_ties_even() }),
        "rzi.f64" => op!(|a: f64| -> f64 { a.trunc() }),
        "rmi.f64" => op!(|a: f64| -> f64 { a.floor() }),
        "rpi.f64" => op!(|a: f64| -> f64 { a.ceil() }),
        _ => {
            let (round, to) = how.split_once('.')?;
            return match round {
                "rni" => to_integer!(f64, to, f64::round_ties_even),
                "rzi" => to_integer!(f64, to, f64::trunc),
                "rmi" => to_integer!(f64, to, f64::floor),
                "rpi" => to_integer!(f64, to, f64::ceil),
                _ => None,
            };
        }
    })
}
