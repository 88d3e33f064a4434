//! Fused multiply-add. Without the machine's instruction it is a library call a lane, so there are two versions.

use super::float::canonical;
use super::{Entry, Function, Lane, Out, Registers, op, three};

pub(super) fn find(opcode: &str) -> Option<Entry> {
    Some(match opcode {
        "fma.rn.f32" => entry::<f32>(fma_f32),
        "fma.rn.f64" => entry::<f64>(fma_f64),
        "fma.rm.f32" => op!(|a: f32, b: f32, c: f32| -> f32 { canonical(fma_down(a, b, c)) }),
        _ => return None,
    })
}

fn entry<T: Lane>(function: Function) -> Entry {
    Entry { inputs: const { &[T::KIND, T::KIND, T::KIND] }, output: T::KIND, function }
}

fn fma_f32(r: &Registers, s: &[u16; 4], out: &mut Out) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features were detected just now.
        return unsafe { machine::fma_f32(r, s, out) };
    }
    three(r, s, out, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c)));
}

fn fma_f64(r: &Registers, s: &[u16; 4], out: &mut Out) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features were detected just now.
        return unsafe { machine::fma_f64(r, s, out) };
    }
    three(r, s, out, |a: f64, b: f64, c: f64| a.mul_add(b, c));
}

/// Rounded towards minus infinity. The product is exact in f64, and what the sum loses there is known exactly.
fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if !sum.is_finite() {
        return sum as f32;
    }
    if sum == 0.0 {
        // The sum of two opposite numbers, or of two zeros: -0 unless both are +0.
        let positive = product.is_sign_positive() && c.is_sign_positive();
        return if positive { 0.0 } else { -0.0 };
    }
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    let nearest = sum as f32;
    let above = f64::from(nearest) > sum || (f64::from(nearest) == sum && lost < 0.0);
    if above { nearest.next_down() } else { nearest }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::{Out, Registers, canonical, three};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_f32(r: &Registers, s: &[u16; 4], out: &mut Out) {
        three(r, s, out, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c)));
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_f64(r: &Registers, s: &[u16; 4], out: &mut Out) {
        three(r, s, out, |a: f64, b: f64, c: f64| a.mul_add(b, c));
    }
}
