//! Approximations. PTX bounds their error; these are nearer than it asks, and no bits should depend on them.

use super::float::{canonical, flush};
use super::{Entry, op};

/// Only the upper half of the operand counts, and only the upper half of the result is set.
fn rcp_upper(a: f64) -> f64 {
    let a = f64::from_bits(a.to_bits() & !0xffff_ffff);
    let a = if a.is_subnormal() { 0.0_f64.copysign(a) } else { a };
    let x = 1.0 / a;
    if x.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    let x = if x.is_subnormal() { 0.0_f64.copysign(x) } else { x };
    f64::from_bits(x.to_bits() & !0xffff_ffff)
}

#[inline(always)]
fn via(a: f32, f: impl Fn(f64) -> f64) -> f32 {
    canonical(f(f64::from(a)) as f32)
}

pub(super) fn find(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "ex2.approx.f32" => op!(|a: f32| -> f32 { via(a, f64::exp2) }),
        "ex2.approx.ftz.f32" => op!(|a: f32| -> f32 { flush(via(flush(a), f64::exp2)) }),
        "lg2.approx.f32" => op!(|a: f32| -> f32 { via(a, f64::log2) }),
        "lg2.approx.ftz.f32" => op!(|a: f32| -> f32 { flush(via(flush(a), f64::log2)) }),
        "rcp.approx.f32" => op!(|a: f32| -> f32 { canonical(1.0 / a) }),
        "rcp.approx.ftz.f32" => op!(|a: f32| -> f32 { flush(canonical(1.0 / flush(a))) }),
        "rsqrt.approx.f32" => op!(|a: f32| -> f32 { via(a, |x| 1.0 / x.sqrt()) }),
        "rsqrt.approx.ftz.f32" => op!(|a: f32| -> f32 { via(flush(a), |x| 1.0 / x.sqrt()) }),
        "sqrt.approx.f32" => op!(|a: f32| -> f32 { canonical(a.sqrt()) }),
        "sqrt.approx.ftz.f32" => op!(|a: f32| -> f32 { canonical(flush(a).sqrt()) }),
        "div.approx.f32" | "div.full.f32" => op!(|a: f32, b: f32| -> f32 { canonical(a / b) }),
        "div.approx.ftz.f32" | "div.full.ftz.f32" => {
            op!(|a: f32, b: f32| -> f32 { flush(canonical(flush(a) / flush(b))) })
        }
        "sin.approx.f32" => op!(|a: f32| -> f32 { via(a, f64::sin) }),
        "cos.approx.f32" => op!(|a: f32| -> f32 { via(a, f64::cos) }),
        "tanh.approx.f32" => op!(|a: f32| -> f32 { via(a, f64::tanh) }),
        "rcp.approx.ftz.f64" => op!(|a: f64| -> f64 { rcp_upper(a) }),
        _ => return None,
    })
}
