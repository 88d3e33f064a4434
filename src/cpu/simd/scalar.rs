//! One lane in plain Rust: the reference for every other level, and the fallback.

use super::{Isa, LANES, PHILOX, Program, RANDOM, Vector, round_keys};

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
    #[inline(always)]
    unsafe fn load_joined(self, value: *const u16, remainder: *const u16) -> f32 {
        // SAFETY: the caller's.
        let (value, remainder) = unsafe { (*value, *remainder) };
        f32::from_bits((u32::from(value) << 16).wrapping_add_signed((remainder as i16).into()))
    }
    #[inline(always)]
    fn random(self, key: [u32; 2], [c0, c1, c2, c3]: [u32; 4], into: &mut [u16; RANDOM]) {
        let keys = round_keys(key);
        for (block, into) in (0..).zip(into.as_chunks_mut::<8>().0) {
            let mut words = [c0.wrapping_add(block), c1, c2, c3];
            for [k0, k1] in keys {
                let [a, b] =
                    [u64::from(PHILOX[0]) * u64::from(words[0]), u64::from(PHILOX[1]) * u64::from(words[2])];
                let high = |product: u64| (product >> 32) as u32;
                words = [high(b) ^ words[1] ^ k0, b as u32, high(a) ^ words[3] ^ k1, a as u32];
            }
            for (into, word) in into.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                *into = [word as u16, (word >> 16) as u16];
            }
        }
    }
}

/// Kept a NaN where the low half is cut off.
const QUIET: u32 = 0x0040_0000;
const HIGH: u32 = 0xffff_0000;

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
    fn count_less(self, a: f32, b: f32) -> f32 {
        f32::from_bits(self.to_bits() + u32::from(a < b))
    }
    #[inline(always)]
    fn nearest_bf16(self) -> f32 {
        let bits = self.to_bits();
        let up = if self.is_nan() { bits | QUIET } else { bits + 0x7fff + (bits >> 16 & 1) };
        f32::from_bits(up & HIGH)
    }
    #[inline(always)]
    unsafe fn stochastic_bf16(self, random: *const u16) -> f32 {
        let bits = self.to_bits();
        // SAFETY: the caller's. An infinity has no bits below, so no draw carries it.
        let up = if self.is_nan() { bits | QUIET } else { bits + u32::from(unsafe { *random }) };
        f32::from_bits(up & HIGH)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *to = self }
    }
    #[inline(always)]
    unsafe fn store_high(self, to: *mut u16) {
        // SAFETY: the caller's.
        unsafe { *to = (self.to_bits() >> 16) as u16 }
    }
    #[inline(always)]
    unsafe fn store_split(self, value: *mut u16, remainder: *mut u16) {
        let bits = self.to_bits();
        let (up, low) = if self.is_nan() { (bits | QUIET, 0) } else { (bits + 0x8000, bits as u16) };
        // SAFETY: the caller's.
        unsafe {
            *value = (up >> 16) as u16;
            *remainder = low;
        }
    }
}
