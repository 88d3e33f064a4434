//! IEEE arithmetic. A NaN that f32 arithmetic makes is the one that hardware makes (PTX leaves it unspecified); f64 keeps
//! payloads.

use super::{Entry, op};

/// `0x7fffffff` for any NaN.
#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    // By integers: to the optimizer one NaN is as good as another, and a choice between two floats no choice.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// Subnormals to zeros of their sign.
#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

#[inline(always)]
fn min32(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => canonical(a),
        (true, false) => b,
        (false, true) => a,
        // -0 is smaller than +0.
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

#[inline(always)]
fn max32(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => canonical(a),
        (true, false) => b,
        (false, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() & b.to_bits()),
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

#[inline(always)]
fn min64(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f64::from_bits(a.to_bits() | b.to_bits()),
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

#[inline(always)]
fn max64(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f64::from_bits(a.to_bits() & b.to_bits()),
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

pub(super) fn find(opcode: &str) -> Option<Entry> {
    single(opcode).or_else(|| double(opcode))
}

fn single(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "add.f32" | "add.rn.f32" => op!(|a: f32, b: f32| -> f32 { canonical(a + b) }),
        "sub.f32" | "sub.rn.f32" => op!(|a: f32, b: f32| -> f32 { canonical(a - b) }),
        "mul.f32" | "mul.rn.f32" => op!(|a: f32, b: f32| -> f32 { canonical(a * b) }),
        "add.ftz.f32" | "add.rn.ftz.f32" => {
            op!(|a: f32, b: f32| -> f32 { flush(canonical(flush(a) + flush(b))) })
        }
        "mul.ftz.f32" | "mul.rn.ftz.f32" => {
            op!(|a: f32, b: f32| -> f32 { flush(canonical(flush(a) * flush(b))) })
        }
        "div.rn.f32" => op!(|a: f32, b: f32| -> f32 { canonical(a / b) }),
        "rcp.rn.f32" => op!(|a: f32| -> f32 { canonical(1.0 / a) }),
        "sqrt.rn.f32" => op!(|a: f32| -> f32 { canonical(a.sqrt()) }),
        "neg.f32" => op!(|a: f32| -> f32 { -a }),
        "abs.f32" => op!(|a: f32| -> f32 { a.abs() }),
        "min.f32" => op!(|a: f32, b: f32| -> f32 { min32(a, b) }),
        "max.f32" => op!(|a: f32, b: f32| -> f32 { max32(a, b) }),
        // PTX: the sign of a, the magnitude of b.
        "copysign.f32" => op!(|a: f32, b: f32| -> f32 { b.copysign(a) }),
        _ => return None,
    })
}

fn double(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "add.f64" | "add.rn.f64" => op!(|a: f64, b: f64| -> f64 { a + b }),
        "sub.f64" | "sub.rn.f64" => op!(|a: f64, b: f64| -> f64 { a - b }),
        "mul.f64" | "mul.rn.f64" => op!(|a: f64, b: f64| -> f64 { a * b }),
        "div.rn.f64" => op!(|a: f64, b: f64| -> f64 { a / b }),
        "rcp.rn.f64" => op!(|a: f64| -> f64 { 1.0 / a }),
        "sqrt.rn.f64" => op!(|a: f64| -> f64 { a.sqrt() }),
        "neg.f64" => op!(|a: f64| -> f64 { -a }),
        "abs.f64" => op!(|a: f64| -> f64 { a.abs() }),
        "min.f64" => op!(|a: f64, b: f64| -> f64 { min64(a, b) }),
        "max.f64" => op!(|a: f64, b: f64| -> f64 { max64(a, b) }),
        "copysign.f64" => op!(|a: f64, b: f64| -> f64 { b.copysign(a) }),
        _ => return None,
    })
}
