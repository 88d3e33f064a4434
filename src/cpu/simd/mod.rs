//! Vectors of f32: one trait, one file an instruction set. Every operation is IEEE-754, so all give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(test)]
pub(super) mod tests;

use crate::Error;
use crate::args::FADAM_LANES;
pub(super) use scalar::Scalar;
use std::fmt;
use std::ops::{Add, IndexMut, Mul, Sub};
use std::str::FromStr;

/// Lanes of a chunk's sums; see kernels/args.h.
pub(crate) const LANES: usize = FADAM_LANES as usize;

/// An instruction set of the CPU. All give the same bits; they differ in speed alone.
///
/// ```
/// use fadam::Simd;
/// assert!(Simd::best().is_available());
/// assert_eq!("scalar".parse::<Simd>()?, Simd::Scalar);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Simd {
    /// Plain Rust. Slow where the target has no fused multiply-add (x86-64).
    Scalar,
    /// AVX2 and FMA, 8 lanes.
    Avx2,
    /// AVX-512F, 16 lanes.
    Avx512,
    /// Arm NEON, 4 lanes.
    Neon,
}

impl Simd {
    /// Every level, the best first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Scalar];

    /// The best that this machine has.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|simd| simd.is_available()).unwrap_or(Self::Scalar)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true, // the base of AArch64
            _ => false,
        }
    }

    /// This level, or an error where the machine lacks it: what [`run`](Self::run) relies on.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        if self.is_available() {
            return Ok(self);
        }
        let remedy = format!("this machine's best instruction set is {}", Self::best());
        Err(Error::Unavailable { what: format!("instruction set {self}"), remedy })
    }

    /// Runs a program with this level's vectors.
    ///
    /// # Safety
    /// The level is available.
    #[inline]
    pub(crate) unsafe fn run<P: Program>(self, program: P) -> P::Output {
        match self {
            // SAFETY: forwarded.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::run(program) },
            // SAFETY: forwarded.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::run(program) },
            // SAFETY: forwarded.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { neon::run(program) },
            _ => scalar::run(program),
        }
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        })
    }
}

impl FromStr for Simd {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|simd| simd.to_string() == name).ok_or_else(|| Error::Unavailable {
            what: format!("instruction set `{name}`"),
            remedy: "known are scalar, avx2, avx512, neon".into(),
        })
    }
}

/// What [`Simd::run`] runs, compiled once for each instruction set.
pub(crate) trait Program {
    type Output;
    fn run<S: Isa>(self, isa: S) -> Self::Output;
}

/// A token that proves that the CPU has an instruction set; all vectors come from one.
pub(crate) trait Isa: Copy {
    type V: Vector;
    /// One vector after the other, LANES lanes.
    type Lanes: Copy + IndexMut<usize, Output = Self::V>;
    fn splat(self, value: f32) -> Self::V;
    fn zero_lanes(self) -> Self::Lanes;
    /// # Safety
    /// `from` is valid for reads of WIDTH f32, aligned to 4 bytes.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Widens bf16: exact.
    /// # Safety
    /// `from` is valid for reads of WIDTH u16, aligned to 2 bytes.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// bf16 values and the rests of their bits: `join` of kernels/element.cuh.
    /// # Safety
    /// Both are valid for reads of WIDTH u16, aligned to 2 bytes.
    unsafe fn load_joined(self, value: *const u16, remainder: *const u16) -> Self::V;
    /// Random bits of RANDOM elements: `philox` of kernels/element.cuh with the counter's first word counted up.
    fn random(self, key: [u32; 2], counter: [u32; 4], into: &mut [u16; RANDOM]);
}

/// How many elements random bits are drawn for at a time: a round waits for the one before it, so many counters go at once.
pub(crate) const RANDOM: usize = 4 * LANES;

/// Of Philox4x32-10: its multipliers, and what a round adds to the key.
const PHILOX: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The keys of each round.
#[inline(always)]
fn round_keys(mut key: [u32; 2]) -> [[u32; 2]; ROUNDS] {
    let mut keys = [key; ROUNDS];
    for this in &mut keys {
        *this = key;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    keys
}

/// `+`, `−` and `×` round once each, as everything here does.
pub(crate) trait Vector: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    const WIDTH: usize;
    /// self × a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// self × a − b, rounded once.
    fn mul_sub(self, a: Self, b: Self) -> Self;
    /// self / d, and 0 where d = 0.
    fn div_or_zero(self, d: Self) -> Self;
    fn sqrt(self) -> Self;
    /// self > other ? self : other
    fn select_max(self, other: Self) -> Self;
    /// self > other ? other : self
    fn select_min(self, other: Self) -> Self;
    /// A count by the bits of each lane: one more where a < b.
    fn count_less(self, a: Self, b: Self) -> Self;
    /// To the nearest bf16, ties to even; still as f32.
    fn nearest_bf16(self) -> Self;
    /// To one of the two bf16 around it, by WIDTH random u16; still as f32.
    /// # Safety
    /// `random` is valid for reads of WIDTH u16, aligned to 2 bytes.
    unsafe fn stochastic_bf16(self, random: *const u16) -> Self;
    /// # Safety
    /// `to` is valid for writes of WIDTH f32, aligned to 4 bytes.
    unsafe fn store(self, to: *mut f32);
    /// The high halves: exact where the values are bf16.
    /// # Safety
    /// `to` is valid for writes of WIDTH u16, aligned to 2 bytes.
    unsafe fn store_high(self, to: *mut u16);
    /// bf16 values and the rests of their bits: `split_value` and `split_remainder` of kernels/element.cuh.
    /// # Safety
    /// Both are valid for writes of WIDTH u16, aligned to 2 bytes.
    unsafe fn store_split(self, value: *mut u16, remainder: *mut u16);
}

/// self^exponent, by one scalar function at every level.
#[inline(always)]
pub(crate) fn pow<S: Isa>(isa: S, base: S::V, exponent: f32) -> S::V {
    let mut lanes = [0.0; LANES];
    // SAFETY: a vector is no wider than LANES.
    unsafe { base.store(lanes.as_mut_ptr()) };
    for lane in &mut lanes[..S::V::WIDTH] {
        *lane = libm::powf(*lane, exponent);
    }
    // SAFETY: as above.
    unsafe { isa.load(lanes.as_ptr()) }
}

/// All lanes of a count.
#[inline(always)]
pub(crate) fn count<S: Isa>(lanes: S::V) -> u32 {
    let mut counts = [0.0_f32; LANES];
    // SAFETY: a vector is no wider than LANES.
    unsafe { lanes.store(counts.as_mut_ptr()) };
    counts[..S::V::WIDTH].iter().map(|count| count.to_bits()).sum()
}

/// Folds LANES lanes by halves: lane j takes lane j + 64, then j + 32, … j + 1. Part of the numerics contract.
#[inline(always)]
pub(crate) fn fold<S: Isa>(mut lanes: S::Lanes) -> f32 {
    let mut vectors = LANES / S::V::WIDTH;
    while vectors > 1 {
        vectors /= 2;
        for i in 0..vectors {
            lanes[i] = lanes[i] + lanes[i + vectors];
        }
    }
    let mut last = [0.0_f32; LANES];
    // SAFETY: a vector is no wider than LANES.
    unsafe { lanes[0].store(last.as_mut_ptr()) };
    let mut width = S::V::WIDTH;
    while width > 1 {
        width /= 2;
        for j in 0..width {
            last[j] += last[j + width];
        }
    }
    last[0]
}
