//! 4 lanes of Arm NEON.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Neon exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, Program, Vector};
use std::arch::aarch64::*;
use std::ops::{Add, Mul, Sub};

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<P: Program>(program: P) -> P::Output {
    program.run(Neon(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Neon(());

#[derive(Clone, Copy)]
pub(crate) struct F32x4(float32x4_t);

impl Isa for Neon {
    type V = F32x4;
    type Lanes = [F32x4; LANES / 4];
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        F32x4(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    fn zero_lanes(self) -> Self::Lanes {
        [self.splat(0.0); LANES / 4]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        F32x4(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        let wide = unsafe { vshll_n_u16::<16>(vld1_u16(from)) };
        F32x4(unsafe { vreinterpretq_f32_u32(wide) })
    }
}

impl Add for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }
}

impl Sub for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }
}

impl Mul for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }
}

impl Vector for F32x4 {
    const WIDTH: usize = 4;
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { vfmaq_f32(b.0, self.0, a.0) })
    }
    #[inline(always)]
    fn mul_sub(self, a: Self, b: Self) -> Self {
        Self(unsafe { vfmaq_f32(vnegq_f32(b.0), self.0, a.0) })
    }
    #[inline(always)]
    fn div_or_zero(self, d: Self) -> Self {
        let zero = unsafe { vceqzq_f32(d.0) };
        let quotient = unsafe { vreinterpretq_u32_f32(vdivq_f32(self.0, d.0)) };
        Self(unsafe { vreinterpretq_f32_u32(vbicq_u32(quotient, zero)) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { vsqrtq_f32(self.0) })
    }
    #[inline(always)]
    fn select_max(self, other: Self) -> Self {
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }
    #[inline(always)]
    fn select_min(self, other: Self) -> Self {
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), other.0, self.0) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
}
