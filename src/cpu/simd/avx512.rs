//! 16 lanes of AVX-512F.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Avx512 exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, PHILOX, Program, RANDOM, Vector, round_keys};
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
    #[inline(always)]
    unsafe fn load_joined(self, value: *const u16, remainder: *const u16) -> Self::V {
        unsafe {
            let value = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(value.cast())));
            let remainder = _mm512_cvtepi16_epi32(_mm256_loadu_si256(remainder.cast()));
            F32x16(_mm512_castsi512_ps(_mm512_add_epi32(value, remainder)))
        }
    }
    /// Four counters a vector, the words of each in a quarter of it: the draws lie in memory as they are.
    #[inline(always)]
    fn random(self, key: [u32; 2], [c0, c1, c2, c3]: [u32; 4], into: &mut [u16; RANDOM]) {
        const VECTORS: usize = RANDOM / 32; // half of the registers
        unsafe {
            let first = quarters([c0, c1, c2, c3]);
            let mut state = [first; VECTORS];
            for (i, state) in state.iter_mut().enumerate() {
                let i = 4 * i as i32;
                let count = _mm512_setr_epi32(i, 0, 0, 0, i + 1, 0, 0, 0, i + 2, 0, 0, 0, i + 3, 0, 0, 0);
                *state = _mm512_add_epi32(first, count);
            }
            let multipliers = quarters([PHILOX[0], 0, PHILOX[1], 0]);
            for [k0, k1] in round_keys(key) {
                let key = quarters([k0, 0, k1, 0]);
                for state in &mut state {
                    let product = _mm512_shuffle_epi32::<0x1b>(_mm512_mul_epu32(*state, multipliers));
                    let odd = _mm512_srli_epi64::<32>(*state);
                    *state = _mm512_xor_si512(_mm512_xor_si512(product, odd), key);
                }
            }
            for (state, into) in state.iter().zip(into.as_chunks_mut::<32>().0) {
                _mm512_storeu_si512(into.as_mut_ptr().cast(), *state);
            }
        }
    }
}

/// The same four words in each quarter of a vector.
#[inline(always)]
fn quarters([a, b, c, d]: [u32; 4]) -> __m512i {
    unsafe { _mm512_broadcast_i32x4(_mm_setr_epi32(a as i32, b as i32, c as i32, d as i32)) }
}

impl F32x16 {
    /// Lanes that hold NaN have their quiet bit set, others are `others`'.
    #[inline(always)]
    fn quiet_nan_or(self, others: __m512i) -> __m512i {
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let bits = _mm512_castps_si512(self.0);
            _mm512_mask_or_epi32(others, nan, bits, _mm512_set1_epi32(0x0040_0000))
        }
    }
    #[inline(always)]
    fn high(bits: __m512i) -> Self {
        Self(unsafe {
            _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        })
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
    fn count_less(self, a: Self, b: Self) -> Self {
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0);
            let count = _mm512_castps_si512(self.0);
            Self(_mm512_castsi512_ps(_mm512_mask_add_epi32(count, less, count, _mm512_set1_epi32(1))))
        }
    }
    #[inline(always)]
    fn nearest_bf16(self) -> Self {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            Self::high(self.quiet_nan_or(up))
        }
    }
    #[inline(always)]
    unsafe fn stochastic_bf16(self, random: *const u16) -> Self {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let random = _mm512_cvtepu16_epi32(_mm256_loadu_si256(random.cast()));
            Self::high(self.quiet_nan_or(_mm512_add_epi32(bits, random)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_high(self, to: *mut u16) {
        unsafe {
            let high = _mm512_srli_epi32::<16>(_mm512_castps_si512(self.0));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(high));
        }
    }
    #[inline(always)]
    unsafe fn store_split(self, value: *mut u16, remainder: *mut u16) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let up = self.quiet_nan_or(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)));
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(self.0, self.0);
            let low = _mm512_maskz_mov_epi32(number, bits);
            _mm256_storeu_si256(value.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(up)));
            _mm256_storeu_si256(remainder.cast(), _mm512_cvtepi32_epi16(low));
        }
    }
}
