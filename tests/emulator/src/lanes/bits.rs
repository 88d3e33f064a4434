//! Moves, selection and bit manipulation.

use super::{Entry, op};

/// The field of `len` bits from `start` on; what lies beyond the most significant bit reads as `fill`.
fn extract(value: u64, width: u32, start: u32, len: u32, signed: bool) -> u64 {
    let (start, len) = (start & 0xff, len & 0xff);
    let bit = |i: u32| value >> i & 1;
    let sign = if !signed || len == 0 { 0 } else { bit((start + len - 1).min(width - 1)) };
    (0..width).fold(0, |field, i| {
        let from = if i < len && start + i < width { bit(start + i) } else { sign };
        field | from << i
    })
}

fn insert(from: u64, into: u64, width: u32, start: u32, len: u32) -> u64 {
    let (start, len) = (start & 0xff, len & 0xff);
    (0..len)
        .take_while(|i| start + i < width)
        .fold(into, |field, i| field & !(1 << (start + i)) | (from >> i & 1) << (start + i))
}

/// `prmt` in its default mode: each nibble of the selector takes one byte of `{b, a}`, or its sign all over.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: usize| {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes(std::array::from_fn(pick))
}

fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 != 0).fold(0, |out, i| {
        let side = |x: u32, bit: u32| if i >> bit & 1 != 0 { x } else { !x };
        out | side(a, 2) & side(b, 1) & side(c, 0)
    })
}

fn highest(a: u32, shift_amount: bool) -> u32 {
    if a == 0 {
        !0
    } else if shift_amount {
        a.leading_zeros()
    } else {
        31 - a.leading_zeros()
    }
}

pub(super) fn find(opcode: &str) -> Option<Entry> {
    moves(opcode).or_else(|| logic(opcode)).or_else(|| shifts(opcode)).or_else(|| fields(opcode))
}

fn moves(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "mov.pred" => op!(|a: bool| -> bool { a }),
        "mov.b16" | "mov.u16" | "mov.s16" => op!(|a: u16| -> u16 { a }),
        "mov.b32" | "mov.u32" | "mov.s32" | "mov.f32" => op!(|a: u32| -> u32 { a }),
        "mov.b64" | "mov.u64" | "mov.s64" | "mov.f64" => op!(|a: u64| -> u64 { a }),
        "selp.b16" | "selp.u16" | "selp.s16" => {
            op!(|a: u16, b: u16, p: bool| -> u16 { if p { a } else { b } })
        }
        "selp.b32" | "selp.u32" | "selp.s32" | "selp.f32" => {
            op!(|a: u32, b: u32, p: bool| -> u32 { if p { a } else { b } })
        }
        "selp.b64" | "selp.u64" | "selp.s64" | "selp.f64" => {
            op!(|a: u64, b: u64, p: bool| -> u64 { if p { a } else { b } })
        }
        _ => return None,
    })
}

fn logic(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "and.pred" => op!(|a: bool, b: bool| -> bool { a & b }),
        "or.pred" => op!(|a: bool, b: bool| -> bool { a | b }),
        "xor.pred" => op!(|a: bool, b: bool| -> bool { a ^ b }),
        "not.pred" => op!(|a: bool| -> bool { !a }),
        "and.b16" => op!(|a: u16, b: u16| -> u16 { a & b }),
        "and.b32" => op!(|a: u32, b: u32| -> u32 { a & b }),
        "and.b64" => op!(|a: u64, b: u64| -> u64 { a & b }),
        "or.b16" => op!(|a: u16, b: u16| -> u16 { a | b }),
        "or.b32" => op!(|a: u32, b: u32| -> u32 { a | b }),
        "or.b64" => op!(|a: u64, b: u64| -> u64 { a | b }),
        "xor.b16" => op!(|a: u16, b: u16| -> u16 { a ^ b }),
        "xor.b32" => op!(|a: u32, b: u32| -> u32 { a ^ b }),
        "xor.b64" => op!(|a: u64, b: u64| -> u64 { a ^ b }),
        "not.b16" => op!(|a: u16| -> u16 { !a }),
        "not.b32" => op!(|a: u32| -> u32 { !a }),
        "not.b64" => op!(|a: u64| -> u64 { !a }),
        "lop3.b32" => op!(|a: u32, b: u32, c: u32, t: u32| -> u32 { lop3(a, b, c, t) }),
        _ => return None,
    })
}

/// Amounts beyond the width count as the width.
fn shifts(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "shl.b16" => op!(|a: u16, n: u32| -> u16 { a.checked_shl(n).unwrap_or(0) }),
        "shl.b32" => op!(|a: u32, n: u32| -> u32 { a.checked_shl(n).unwrap_or(0) }),
        "shl.b64" => op!(|a: u64, n: u32| -> u64 { a.checked_shl(n).unwrap_or(0) }),
        "shr.u16" | "shr.b16" => op!(|a: u16, n: u32| -> u16 { a.checked_shr(n).unwrap_or(0) }),
        "shr.u32" | "shr.b32" => op!(|a: u32, n: u32| -> u32 { a.checked_shr(n).unwrap_or(0) }),
        "shr.u64" | "shr.b64" => op!(|a: u64, n: u32| -> u64 { a.checked_shr(n).unwrap_or(0) }),
        "shr.s16" => op!(|a: i16, n: u32| -> i16 { a >> n.min(15) }),
        "shr.s32" => op!(|a: i32, n: u32| -> i32 { a >> n.min(31) }),
        "shr.s64" => op!(|a: i64, n: u32| -> i64 { a >> n.min(63) }),
        "shf.l.wrap.b32" => op!(|a: u32, b: u32, n: u32| -> u32 { funnel_left(a, b, n & 31) }),
        "shf.l.clamp.b32" => op!(|a: u32, b: u32, n: u32| -> u32 { funnel_left(a, b, n.min(32)) }),
        "shf.r.wrap.b32" => op!(|a: u32, b: u32, n: u32| -> u32 { funnel_right(a, b, n & 31) }),
        "shf.r.clamp.b32" => op!(|a: u32, b: u32, n: u32| -> u32 { funnel_right(a, b, n.min(32)) }),
        _ => return None,
    })
}

fn funnel_left(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) << n >> 32) as u32
}

fn funnel_right(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> n) as u32
}

fn fields(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "popc.b32" => op!(|a: u32| -> u32 { a.count_ones() }),
        "popc.b64" => op!(|a: u64| -> u32 { a.count_ones() }),
        "clz.b32" => op!(|a: u32| -> u32 { a.leading_zeros() }),
        "clz.b64" => op!(|a: u64| -> u32 { a.leading_zeros() }),
        "brev.b32" => op!(|a: u32| -> u32 { a.reverse_bits() }),
        "brev.b64" => op!(|a: u64| -> u64 { a.reverse_bits() }),
        "bfind.u32" => op!(|a: u32| -> u32 { highest(a, false) }),
        "bfind.shiftamt.u32" => op!(|a: u32| -> u32 { highest(a, true) }),
        "bfe.u32" => op!(|a: u32, s: u32, n: u32| -> u32 { extract(a.into(), 32, s, n, false) as u32 }),
        "bfe.s32" => op!(|a: u32, s: u32, n: u32| -> u32 { extract(a.into(), 32, s, n, true) as u32 }),
        "bfe.u64" => op!(|a: u64, s: u32, n: u32| -> u64 { extract(a, 64, s, n, false) }),
        "bfe.s64" => op!(|a: u64, s: u32, n: u32| -> u64 { extract(a, 64, s, n, true) }),
        "bfi.b32" => {
            op!(|a: u32, b: u32, s: u32, n: u32| -> u32 { insert(a.into(), b.into(), 32, s, n) as u32 })
        }
        "bfi.b64" => op!(|a: u64, b: u64, s: u32, n: u32| -> u64 { insert(a, b, 64, s, n) }),
        "prmt.b32" => op!(|a: u32, b: u32, s: u32| -> u32 { permute(a, b, s) }),
        _ => return None,
    })
}
