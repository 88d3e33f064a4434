//! One lane in plain Rust: the reference for every other level, and the fallback.

use super::{Isa, LANES, Program, Vector};

pub(super) fn run<P: Program>(program: P) -> P::Output {
    program.run(Scalar)
}

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Isa for Scalar {
    type V = f32;
    type Lanes = [f32; LANES];
    #[inline(always)]
    fn splat(self, value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn zero_lanes(self) -> Self::Lanes {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(u32::from(unsafe { *from }) << 16)
    }
}

impl Vector for f32 {
    const WIDTH: usize = 1;
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn mul_sub(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, -b)
    }
    #[inline(always)]
    fn div_or_zero(self, d: f32) -> f32 {
        if d == 0.0 { 0.0 } else { self / d }
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn select_max(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn select_min(self, other: f32) -> f32 {
        if self > other { other } else { self }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *to = self }
    }
}
