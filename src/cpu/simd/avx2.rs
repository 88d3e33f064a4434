//! 8 lanes of AVX2 and FMA.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Avx2 exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, Program, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<P: Program>(program: P) -> P::Output {
    program.run(Avx2(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

impl Isa for Avx2 {
    type V = F32x8;
    type Lanes = [F32x8; LANES / 8];
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        F32x8(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn zero_lanes(self) -> Self::Lanes {
        [self.splat(0.0); LANES / 8]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        F32x8(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        let wide = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())) };
        F32x8(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)) })
    }
}

impl Add for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
}

impl Sub for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
}

impl Mul for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
}

impl Vector for F32x8 {
    const WIDTH: usize = 8;
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn mul_sub(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm256_fmsub_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn div_or_zero(self, d: Self) -> Self {
        let nonzero = unsafe { _mm256_cmp_ps::<_CMP_NEQ_UQ>(d.0, _mm256_setzero_ps()) };
        Self(unsafe { _mm256_and_ps(nonzero, _mm256_div_ps(self.0, d.0)) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn select_max(self, other: Self) -> Self {
        let greater = unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0) };
        Self(unsafe { _mm256_blendv_ps(other.0, self.0, greater) })
    }
    #[inline(always)]
    fn select_min(self, other: Self) -> Self {
        let greater = unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0) };
        Self(unsafe { _mm256_blendv_ps(self.0, other.0, greater) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
}
