//! A row of f32 between a kernel and arrays that are kept otherwise, or that end within the row: brought in, and taken out
//! again. And the random bits of a row.

use super::kernel::{Chunk, Gradient, Kernel, Master, Moments, Parameter, Row, Use};
use super::simd::{Isa, LANES, Vector};
use crate::Dtype;
use crate::args::{
    FADAM_RANDOM_BLOCK, FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ, FADAM_RANDOM_PARAMETER,
    FADAM_RANDOM_PURPOSE_BITS,
};
use std::ptr::null;

/// Where a parameter's random bits in one step come from: Philox4x32-10, the seed its key, and the counter
/// (element / 8, step, parameter and purpose).
#[derive(Clone, Copy, Debug)]
pub(super) struct Random {
    seed: u64,
    step: u32,
    stream: u32,
}

impl Random {
    /// Of the parameter of this index, in its own step of this number.
    pub(super) fn new(seed: u64, step: u64, index: usize) -> Self {
        Self { seed, step: step as u32, stream: (index as u32) << FADAM_RANDOM_PURPOSE_BITS }
    }

    /// For LANES elements from `start` on, a multiple of LANES.
    #[inline(always)]
    fn row<S: Isa>(&self, isa: S, purpose: u32, start: usize, into: &mut [u16; LANES]) {
        let block = start as u64 / u64::from(FADAM_RANDOM_BLOCK);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        isa.random(key, [block as u32, (block >> 32) as u32, self.step, self.stream | purpose], into);
    }
}

/// Room for one row of each array.
#[repr(align(64))]
pub(super) struct Stage {
    parameter: [f32; LANES],
    moments: [[f32; LANES]; 3],
    ema: [f32; LANES],
    /// Of either type.
    gradient: [f32; LANES],
    random: [[u16; LANES]; 2],
}

impl Stage {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            parameter: [0.0; LANES],
            moments: [[0.0; LANES]; 3],
            ema: [0.0; LANES],
            gradient: [0.0; LANES],
            random: [[0; LANES]; 2],
        }
    }

    /// A row of at most LANES elements, padded with zeros: in place where it is whole and kept as f32, else a copy here.
    ///
    /// # Safety
    /// Every array of `part` that the kernel uses is valid for its length.
    #[inline(always)]
    pub(super) unsafe fn bring_in<S: Isa, K: Kernel, G: Gradient, M: Moments>(
        &mut self,
        isa: S,
        part: &Chunk,
    ) -> Row {
        let whole = part.len == LANES;
        let mut row = Row {
            parameter: self.parameter.as_mut_ptr(),
            moments: self.moments.each_mut().map(|moment| moment.as_mut_ptr()),
            ema: part.ema,
            gradient: part.gradient,
            random: [null(); 2],
        };
        // SAFETY: the caller's; copies have room for a row.
        unsafe {
            if !whole {
                self.gradient = [0.0; LANES];
                let from = part.gradient;
                from.copy_to_nonoverlapping(self.gradient.as_mut_ptr().cast(), part.len * G::SIZE);
                row.gradient = self.gradient.as_ptr().cast();
            }
            if !whole && !part.ema.is_null() && K::PARAMETER == Use::Writes {
                pad(part.ema, part.len, &mut self.ema);
                row.ema = self.ema.as_mut_ptr();
            }
            if K::PARAMETER != Use::No {
                match part.parameter {
                    Parameter::F32(array) if whole => row.parameter = array,
                    Parameter::F32(array) => pad(array, part.len, &mut self.parameter),
                    Parameter::Bf16 { value, master, has_master } => match master {
                        Master::F32(array) if has_master && whole => row.parameter = array,
                        Master::F32(array) if has_master => pad(array, part.len, &mut self.parameter),
                        Master::Remainder(array) if has_master => {
                            join(isa, value, array, part.len, &mut self.parameter);
                        }
                        _ => widen(isa, value, part.len, &mut self.parameter),
                    },
                }
            }
            for (i, &array) in part.moments.iter().enumerate() {
                if array.is_null() || K::MOMENTS[i] == Use::No {
                    continue;
                }
                match M::DTYPE {
                    Dtype::F32 if whole => row.moments[i] = array.cast(),
                    Dtype::F32 => pad(array.cast(), part.len, &mut self.moments[i]),
                    Dtype::Bf16 => widen(isa, array.cast(), part.len, &mut self.moments[i]),
                }
            }
        }
        if let Some(random) = part.random.filter(|_| M::DTYPE == Dtype::Bf16) {
            for (i, purpose) in [FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ].into_iter().enumerate() {
                if K::MOMENTS[i] == Use::Writes {
                    random.row(isa, purpose, part.start, &mut self.random[i]);
                    row.random[i] = self.random[i].as_ptr();
                }
            }
        }
        row
    }

    /// What the kernel has written, to where it is kept.
    ///
    /// # Safety
    /// As for `bring_in`, which went before with the same part.
    #[inline(always)]
    pub(super) unsafe fn take_out<S: Isa, K: Kernel, M: Moments>(&mut self, isa: S, part: &Chunk) {
        let whole = part.len == LANES;
        // SAFETY: the caller's.
        unsafe {
            for (i, &array) in part.moments.iter().enumerate() {
                if array.is_null() || K::MOMENTS[i] != Use::Writes {
                    continue;
                }
                match M::DTYPE {
                    Dtype::F32 if whole => {}
                    Dtype::F32 => unpad(&self.moments[i], array.cast(), part.len),
                    Dtype::Bf16 => narrow(isa, self.moments[i].as_ptr(), array.cast(), part.len, |m, _| m),
                }
            }
            if K::PARAMETER != Use::Writes {
                return;
            }
            if !whole && !part.ema.is_null() {
                unpad(&self.ema, part.ema, part.len);
            }
            match part.parameter {
                Parameter::F32(_) if whole => {}
                Parameter::F32(array) => unpad(&self.parameter, array, part.len),
                Parameter::Bf16 { value, master: Master::Remainder(array), .. } => {
                    split(isa, &self.parameter, value, array, part.len);
                }
                Parameter::Bf16 { value, master: Master::F32(array), has_master } => {
                    let in_place = whole && has_master;
                    let from = if in_place { array.cast_const() } else { self.parameter.as_ptr() };
                    if !in_place {
                        unpad(&self.parameter, array, part.len);
                    }
                    narrow(isa, from, value, part.len, |p, _| p.nearest_bf16());
                }
                Parameter::Bf16 { value, master: Master::None, .. } => match part.random {
                    None => narrow(isa, self.parameter.as_ptr(), value, part.len, |p, _| p.nearest_bf16()),
                    Some(random) => {
                        let bits = &mut self.random[0]; // the kernel has done with it
                        random.row(isa, FADAM_RANDOM_PARAMETER, part.start, bits);
                        let round = |p: S::V, at: usize| p.stochastic_bf16(bits.as_ptr().add(at));
                        narrow(isa, self.parameter.as_ptr(), value, part.len, round);
                    }
                },
            }
        }
    }
}

/// # Safety
/// `from` is valid for `len` elements, at most LANES; so below.
#[inline(always)]
unsafe fn pad(from: *const f32, len: usize, into: &mut [f32; LANES]) {
    *into = [0.0; LANES];
    // SAFETY: the caller's.
    unsafe { from.copy_to_nonoverlapping(into.as_mut_ptr(), len) };
}

#[inline(always)]
unsafe fn unpad(from: &[f32; LANES], to: *mut f32, len: usize) {
    // SAFETY: the caller's.
    unsafe { from.as_ptr().copy_to_nonoverlapping(to, len) };
}

/// A row of u16: itself where it is whole, else its copy with zeros.
#[inline(always)]
unsafe fn padded(from: *const u16, len: usize, copy: &mut [u16; LANES]) -> *const u16 {
    if len == LANES {
        return from;
    }
    *copy = [0; LANES];
    // SAFETY: the caller's.
    unsafe { from.copy_to_nonoverlapping(copy.as_mut_ptr(), len) };
    copy.as_ptr()
}

#[inline(always)]
unsafe fn widen<S: Isa>(isa: S, from: *const u16, len: usize, into: &mut [f32; LANES]) {
    let mut copy = [0; LANES];
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        let from = padded(from, len, &mut copy);
        for at in (0..LANES).step_by(S::V::WIDTH) {
            isa.load_bf16(from.add(at)).store(into.as_mut_ptr().add(at));
        }
    }
}

#[inline(always)]
unsafe fn join<S: Isa>(
    isa: S,
    value: *const u16,
    remainder: *const u16,
    len: usize,
    into: &mut [f32; LANES],
) {
    let mut copies = [[0; LANES]; 2];
    let [first, second] = &mut copies;
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        let (value, remainder) = (padded(value, len, first), padded(remainder, len, second));
        for at in (0..LANES).step_by(S::V::WIDTH) {
            isa.load_joined(value.add(at), remainder.add(at)).store(into.as_mut_ptr().add(at));
        }
    }
}

/// Rounds by `round(values, where they are in the row)` and keeps the high halves.
#[inline(always)]
unsafe fn narrow<S: Isa>(
    isa: S,
    from: *const f32,
    to: *mut u16,
    len: usize,
    round: impl Fn(S::V, usize) -> S::V,
) {
    let mut copy = [0_u16; LANES];
    let whole = len == LANES;
    let into = if whole { to } else { copy.as_mut_ptr() };
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        for at in (0..LANES).step_by(S::V::WIDTH) {
            round(isa.load(from.add(at)), at).store_high(into.add(at));
        }
        if !whole {
            copy.as_ptr().copy_to_nonoverlapping(to, len);
        }
    }
}

#[inline(always)]
unsafe fn split<S: Isa>(isa: S, from: &[f32; LANES], value: *mut u16, remainder: *mut u16, len: usize) {
    let mut copies = [[0_u16; LANES]; 2];
    let whole = len == LANES;
    let [first, second] = copies.each_mut().map(|copy| copy.as_mut_ptr());
    let (high, low) = if whole { (value, remainder) } else { (first, second) };
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        for at in (0..LANES).step_by(S::V::WIDTH) {
            isa.load(from.as_ptr().add(at)).store_split(high.add(at), low.add(at));
        }
        if !whole {
            first.copy_to_nonoverlapping(value, len);
            second.copy_to_nonoverlapping(remainder, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Scalar;
    use super::super::simd::tests::{halves, philox};
    use super::*;

    /// The seed is the key; the counter is the block of 8 elements in 64 bits, the step modulo 2³², and the parameter's
    /// index above the purpose.
    #[test]
    fn a_draw_is_of_seed_element_step_parameter_and_purpose() {
        let seed = 0x0123_4567_89ab_cdef;
        for (start, step, index, purpose) in [(0, 1, 0, 0), (128, 2, 1, 1), ((1 << 36) + 256, (1 << 32) + 5, 77, 2)] {
            let mut row = [0; LANES];
            Random::new(seed, step, index).row(Scalar, purpose, start, &mut row);
            let block = start as u64 / 8;
            let last = [step as u32, (index as u32) << 2 | purpose];
            let expected = (block..).flat_map(|block| {
                halves(philox([0x89ab_cdef, 0x0123_4567], [block as u32, (block >> 32) as u32, last[0], last[1]]))
            });
            assert!(row.into_iter().eq(expected.take(LANES)), "from {start} on");
        }
    }
}
