//! 16 lanes of AVX-512F.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Avx512 exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, Program, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

/// # Safety
/// The CPU has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run<P: Program>(program: P) -> P::Output {
    program.run(Avx512(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

impl Isa for Avx512 {
    type V = F32x16;
    type Lanes = [F32x16; LANES / 16];
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        F32x16(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn zero_lanes(self) -> Self::Lanes {
        [self.splat(0.0); LANES / 16]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        F32x16(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        let wide = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) };
        F32x16(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)) })
    }
}

impl Add for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

impl Sub for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
}

impl Mul for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
}

impl Vector for F32x16 {
    const WIDTH: usize = 16;
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn mul_sub(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmsub_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn div_or_zero(self, d: Self) -> Self {
        let nonzero = unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(d.0, _mm512_setzero_ps()) };
        Self(unsafe { _mm512_maskz_div_ps(nonzero, self.0, d.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn select_max(self, other: Self) -> Self {
        let greater = unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) };
        Self(unsafe { _mm512_mask_blend_ps(greater, other.0, self.0) })
    }
    #[inline(always)]
    fn select_min(self, other: Self) -> Self {
        let greater = unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) };
        Self(unsafe { _mm512_mask_blend_ps(greater, self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
}
