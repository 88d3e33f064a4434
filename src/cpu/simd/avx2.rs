//! 8 lanes of AVX2 and FMA.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Avx2 exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, PHILOX, Program, RANDOM, Vector, round_keys};
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
    #[inline(always)]
    unsafe fn load_joined(self, value: *const u16, remainder: *const u16) -> Self::V {
        unsafe {
            let value = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(value.cast())));
            let remainder = _mm256_cvtepi16_epi32(_mm_loadu_si128(remainder.cast()));
            F32x8(_mm256_castsi256_ps(_mm256_add_epi32(value, remainder)))
        }
    }
    /// Two counters a vector, the words of each in a half of it: the draws lie in memory as they are.
    #[inline(always)]
    fn random(self, key: [u32; 2], [c0, c1, c2, c3]: [u32; 4], into: &mut [u16; RANDOM]) {
        const VECTORS: usize = 8; // half of the registers
        unsafe {
            let multipliers = halves([PHILOX[0], 0, PHILOX[1], 0]);
            let keys = round_keys(key);
            for (block, into) in into.as_chunks_mut::<{ 16 * VECTORS }>().0.iter_mut().enumerate() {
                let first = halves([c0.wrapping_add((2 * VECTORS * block) as u32), c1, c2, c3]);
                let mut state = [first; VECTORS];
                for (i, state) in state.iter_mut().enumerate() {
                    let i = 2 * i as i32;
                    *state = _mm256_add_epi32(first, _mm256_setr_epi32(i, 0, 0, 0, i + 1, 0, 0, 0));
                }
                for [k0, k1] in keys {
                    let key = halves([k0, 0, k1, 0]);
                    for state in &mut state {
                        let product = _mm256_shuffle_epi32::<0x1b>(_mm256_mul_epu32(*state, multipliers));
                        let odd = _mm256_srli_epi64::<32>(*state);
                        *state = _mm256_xor_si256(_mm256_xor_si256(product, odd), key);
                    }
                }
                for (state, into) in state.iter().zip(into.as_chunks_mut::<16>().0) {
                    _mm256_storeu_si256(into.as_mut_ptr().cast(), *state);
                }
            }
        }
    }
}

/// The same four words in each half of a vector.
#[inline(always)]
fn halves([a, b, c, d]: [u32; 4]) -> __m256i {
    unsafe { _mm256_broadcastsi128_si256(_mm_setr_epi32(a as i32, b as i32, c as i32, d as i32)) }
}

impl F32x8 {
    /// Lanes that hold NaN have their quiet bit set, others are `others`'.
    #[inline(always)]
    fn quiet_nan_or(self, others: __m256i) -> __m256i {
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm256_or_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(0x0040_0000));
            _mm256_blendv_epi8(others, quiet, _mm256_castps_si256(nan))
        }
    }
    #[inline(always)]
    fn high(bits: __m256i) -> Self {
        Self(unsafe {
            _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32)))
        })
    }
    /// # Safety
    /// `to` is valid for writes of 8 u16; no lane is above 0xffff.
    #[inline(always)]
    unsafe fn store_u16(lanes: __m256i, to: *mut u16) {
        unsafe {
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(lanes, lanes));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
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
    fn count_less(self, a: Self, b: Self) -> Self {
        unsafe {
            let minus_one = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0));
            Self(_mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(self.0), minus_one)))
        }
    }
    #[inline(always)]
    fn nearest_bf16(self) -> Self {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            Self::high(self.quiet_nan_or(up))
        }
    }
    #[inline(always)]
    unsafe fn stochastic_bf16(self, random: *const u16) -> Self {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let random = _mm256_cvtepu16_epi32(_mm_loadu_si128(random.cast()));
            Self::high(self.quiet_nan_or(_mm256_add_epi32(bits, random)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_high(self, to: *mut u16) {
        unsafe { Self::store_u16(_mm256_srli_epi32::<16>(_mm256_castps_si256(self.0)), to) }
    }
    #[inline(always)]
    unsafe fn store_split(self, value: *mut u16, remainder: *mut u16) {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let up = self.quiet_nan_or(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)));
            let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(self.0, self.0));
            let low = _mm256_and_si256(_mm256_and_si256(bits, number), _mm256_set1_epi32(0xffff));
            Self::store_u16(_mm256_srli_epi32::<16>(up), value);
            Self::store_u16(low, remainder);
        }
    }
}
