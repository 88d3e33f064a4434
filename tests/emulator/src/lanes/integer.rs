//! Integer arithmetic.

use super::{Entry, op};

/// Division by zero is unspecified in PTX; hardware answers all ones, and the dividend for the remainder.
macro_rules! divide {
    ($t:ty) => {
        op!(|a: $t, b: $t| -> $t { if b == 0 { !0 } else { a.wrapping_div(b) } })
    };
}

macro_rules! remainder {
    ($t:ty) => {
        op!(|a: $t, b: $t| -> $t { if b == 0 { a } else { a.wrapping_rem(b) } })
    };
}

pub(super) fn find(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "add.u16" | "add.s16" => op!(|a: u16, b: u16| -> u16 { a.wrapping_add(b) }),
        "add.u32" | "add.s32" => op!(|a: u32, b: u32| -> u32 { a.wrapping_add(b) }),
        "add.u64" | "add.s64" => op!(|a: u64, b: u64| -> u64 { a.wrapping_add(b) }),
        "sub.u16" | "sub.s16" => op!(|a: u16, b: u16| -> u16 { a.wrapping_sub(b) }),
        "sub.u32" | "sub.s32" => op!(|a: u32, b: u32| -> u32 { a.wrapping_sub(b) }),
        "sub.u64" | "sub.s64" => op!(|a: u64, b: u64| -> u64 { a.wrapping_sub(b) }),
        "mul.lo.u16" | "mul.lo.s16" => op!(|a: u16, b: u16| -> u16 { a.wrapping_mul(b) }),
        "mul.lo.u32" | "mul.lo.s32" => op!(|a: u32, b: u32| -> u32 { a.wrapping_mul(b) }),
        "mul.lo.u64" | "mul.lo.s64" => op!(|a: u64, b: u64| -> u64 { a.wrapping_mul(b) }),
        "mul.hi.u16" => op!(|a: u16, b: u16| -> u16 { ((u32::from(a) * u32::from(b)) >> 16) as u16 }),
        "mul.hi.s16" => op!(|a: i16, b: i16| -> i16 { ((i32::from(a) * i32::from(b)) >> 16) as i16 }),
        "mul.hi.u32" => op!(|a: u32, b: u32| -> u32 { ((u64::from(a) * u64::from(b)) >> 32) as u32 }),
        "mul.hi.s32" => op!(|a: i32, b: i32| -> i32 { ((i64::from(a) * i64::from(b)) >> 32) as i32 }),
        "mul.hi.u64" => op!(|a: u64, b: u64| -> u64 { ((u128::from(a) * u128::from(b)) >> 64) as u64 }),
        "mul.hi.s64" => op!(|a: i64, b: i64| -> i64 { ((i128::from(a) * i128::from(b)) >> 64) as i64 }),
        "mul.wide.u16" => op!(|a: u16, b: u16| -> u32 { u32::from(a) * u32::from(b) }),
        "mul.wide.s16" => op!(|a: i16, b: i16| -> i32 { i32::from(a) * i32::from(b) }),
        "mul.wide.u32" => op!(|a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) }),
        "mul.wide.s32" => op!(|a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) }),
        "mad.lo.u16" | "mad.lo.s16" => {
            op!(|a: u16, b: u16, c: u16| -> u16 { a.wrapping_mul(b).wrapping_add(c) })
        }
        "mad.lo.u32" | "mad.lo.s32" => {
            op!(|a: u32, b: u32, c: u32| -> u32 { a.wrapping_mul(b).wrapping_add(c) })
        }
        "mad.lo.u64" | "mad.lo.s64" => {
            op!(|a: u64, b: u64, c: u64| -> u64 { a.wrapping_mul(b).wrapping_add(c) })
        }
        "mad.hi.u32" => {
            op!(|a: u32, b: u32, c: u32| -> u32 {
                (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
            })
        }
        "mad.hi.s32" => {
            op!(|a: i32, b: i32, c: i32| -> i32 {
                (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)
            })
        }
        "mad.wide.u16" => {
            op!(|a: u16, b: u16, c: u32| -> u32 { (u32::from(a) * u32::from(b)).wrapping_add(c) })
        }
        "mad.wide.s16" => {
            op!(|a: i16, b: i16, c: i32| -> i32 { (i32::from(a) * i32::from(b)).wrapping_add(c) })
        }
        "mad.wide.u32" => {
            op!(|a: u32, b: u32, c: u64| -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) })
        }
        "mad.wide.s32" => {
            op!(|a: i32, b: i32, c: i64| -> i64 { (i64::from(a) * i64::from(b)).wrapping_add(c) })
        }
        "div.u16" => divide!(u16),
        "div.s16" => divide!(i16),
        "div.u32" => divide!(u32),
        "div.s32" => divide!(i32),
        "div.u64" => divide!(u64),
        "div.s64" => divide!(i64),
        "rem.u16" => remainder!(u16),
        "rem.s16" => remainder!(i16),
        "rem.u32" => remainder!(u32),
        "rem.s32" => remainder!(i32),
        "rem.u64" => remainder!(u64),
        "rem.s64" => remainder!(i64),
        "abs.s16" => op!(|a: i16| -> i16 { a.wrapping_abs() }),
        "abs.s32" => op!(|a: i32| -> i32 { a.wrapping_abs() }),
        "abs.s64" => op!(|a: i64| -> i64 { a.wrapping_abs() }),
        "neg.s16" => op!(|a: i16| -> i16 { a.wrapping_neg() }),
        "neg.s32" => op!(|a: i32| -> i32 { a.wrapping_neg() }),
        "neg.s64" => op!(|a: i64| -> i64 { a.wrapping_neg() }),
        "min.u16" => op!(|a: u16, b: u16| -> u16 { a.min(b) }),
        "min.s16" => op!(|a: i16, b: i16| -> i16 { a.min(b) }),
        "min.u32" => op!(|a: u32, b: u32| -> u32 { a.min(b) }),
        "min.s32" => op!(|a: i32, b: i32| -> i32 { a.min(b) }),
        "min.u64" => op!(|a: u64, b: u64| -> u64 { a.min(b) }),
        "min.s64" => op!(|a: i64, b: i64| -> i64 { a.min(b) }),
        "max.u16" => op!(|a: u16, b: u16| -> u16 { a.max(b) }),
        "max.s16" => op!(|a: i16, b: i16| -> i16 { a.max(b) }),
        "max.u32" => op!(|a: u32, b: u32| -> u32 { a.max(b) }),
        "max.s32" => op!(|a: i32, b: i32| -> i32 { a.max(b) }),
        "max.u64" => op!(|a: u64, b: u64| -> u64 { a.max(b) }),
        "max.s64" => op!(|a: i64, b: i64| -> i64 { a.max(b) }),
        "sad.u32" => op!(|a: u32, b: u32, c: u32| -> u32 { c.wrapping_add(a.abs_diff(b)) }),
        "sad.s32" => op!(|a: i32, b: i32, c: u32| -> u32 { c.wrapping_add(a.abs_diff(b)) }),
        _ => return None,
    })
}
