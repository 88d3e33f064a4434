//! 4 lanes of Arm NEON.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a Neon exists only inside `run`, whose caller has detected the instruction set"
)]

use super::{Isa, LANES, PHILOX, Program, RANDOM, Vector, round_keys};
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
    #[inline(always)]
    unsafe fn load_joined(self, value: *const u16, remainder: *const u16) -> Self::V {
        unsafe {
            let value = vshll_n_u16::<16>(vld1_u16(value));
            let remainder = vreinterpretq_u32_s32(vmovl_s16(vld1_s16(remainder.cast())));
            F32x4(vreinterpretq_f32_u32(vaddq_u32(value, remainder)))
        }
    }
    /// A counter a vector: the draws lie in memory as they are.
    #[inline(always)]
    fn random(self, key: [u32; 2], [c0, c1, c2, c3]: [u32; 4], into: &mut [u16; RANDOM]) {
        const VECTORS: usize = 16; // half of the registers
        unsafe {
            let multipliers = vld1_u32(PHILOX.as_ptr());
            let keys = round_keys(key);
            for (block, into) in into.as_chunks_mut::<{ 8 * VECTORS }>().0.iter_mut().enumerate() {
                let mut state = [four([c0.wrapping_add((VECTORS * block) as u32), c1, c2, c3]); VECTORS];
                for (i, state) in state.iter_mut().enumerate() {
                    *state = vaddq_u32(*state, four([i as u32, 0, 0, 0]));
                }
                for [k0, k1] in keys {
                    let key = four([k0, 0, k1, 0]);
                    for state in &mut state {
                        let pairs = vreinterpretq_u64_u32(*state);
                        let product = vreinterpretq_u32_u64(vmull_u32(vmovn_u64(pairs), multipliers));
                        let swapped = vrev64q_u32(product);
                        let reversed = vextq_u32::<2>(swapped, swapped);
                        let odd = vreinterpretq_u32_u64(vshrq_n_u64::<32>(pairs));
                        *state = veorq_u32(veorq_u32(reversed, odd), key);
                    }
                }
                for (state, into) in state.iter().zip(into.as_chunks_mut::<8>().0) {
                    vst1q_u16(into.as_mut_ptr(), vreinterpretq_u16_u32(*state));
                }
            }
        }
    }
}

#[inline(always)]
fn four(words: [u32; 4]) -> uint32x4_t {
    unsafe { vld1q_u32(words.as_ptr()) }
}

impl F32x4 {
    /// Lanes that hold NaN have their quiet bit set, others are `others`'.
    #[inline(always)]
    fn quiet_nan_or(self, others: uint32x4_t) -> uint32x4_t {
        unsafe {
            let number = vceqq_f32(self.0, self.0);
            let quiet = vorrq_u32(vreinterpretq_u32_f32(self.0), vdupq_n_u32(0x0040_0000));
            vbslq_u32(number, others, quiet)
        }
    }
    #[inline(always)]
    fn high(bits: uint32x4_t) -> Self {
        Self(unsafe { vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff_0000))) })
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
    fn count_less(self, a: Self, b: Self) -> Self {
        unsafe {
            let minus_one = vcltq_f32(a.0, b.0);
            Self(vreinterpretq_f32_u32(vsubq_u32(vreinterpretq_u32_f32(self.0), minus_one)))
        }
    }
    #[inline(always)]
    fn nearest_bf16(self) -> Self {
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
            Self::high(self.quiet_nan_or(up))
        }
    }
    #[inline(always)]
    unsafe fn stochastic_bf16(self, random: *const u16) -> Self {
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            Self::high(self.quiet_nan_or(vaddq_u32(bits, vmovl_u16(vld1_u16(random)))))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_high(self, to: *mut u16) {
        unsafe { vst1_u16(to, vshrn_n_u32::<16>(vreinterpretq_u32_f32(self.0))) }
    }
    #[inline(always)]
    unsafe fn store_split(self, value: *mut u16, remainder: *mut u16) {
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let up = self.quiet_nan_or(vaddq_u32(bits, vdupq_n_u32(0x8000)));
            let low = vandq_u32(bits, vceqq_f32(self.0, self.0));
            vst1_u16(value, vshrn_n_u32::<16>(up));
            vst1_u16(remainder, vmovn_u32(low));
        }
    }
}
