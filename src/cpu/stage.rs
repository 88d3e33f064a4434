//! A row of f32 between a kernel and arrays that are kept otherwise, or that end within the row: brought in, and taken out
//! again. And the random bits of a row.

use super::kernel::{Chunk, Gradient, Kernel, Master, Moments, Parameter, Row, Use};
use super::simd::{Isa, LANES, RANDOM, Vector};
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

    /// For RANDOM elements from `start` on, a multiple of RANDOM.
    #[inline(always)]
    fn fill<S: Isa>(&self, isa: S, purpose: u32, start: usize, into: &mut [u16; RANDOM]) {
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
    /// For parameter, first and second moment: of this row and the next ones.
    random: [[u16; RANDOM]; 3],
}

/// What the random bits are for, in the order of `Stage::random`.
const PURPOSES: [u32; 3] = [FADAM_RANDOM_PARAMETER, FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ];

impl Stage {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            parameter: [0.0; LANES],
            moments: [[0.0; LANES]; 3],
            ema: [0.0; LANES],
            gradient: [0.0; LANES],
            random: [[0; RANDOM]; 3],
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
        // The copies are filled by these pointers: a reference to one, or to all of `self`, would end them.
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
                row.ema = self.ema.as_mut_ptr();
                pad(part.ema, part.len, row.ema);
            }
            if K::PARAMETER != Use::No {
                match part.parameter {
                    Parameter::F32(array) if whole => row.parameter = array,
                    Parameter::F32(array) => pad(array, part.len, row.parameter),
                    Parameter::Bf16 { value, master, has_master } => match master {
                        Master::F32(array) if has_master && whole => row.parameter = array,
                        Master::F32(array) if has_master => pad(array, part.len, row.parameter),
                        Master::Remainder(array) if has_master => {
                            join(isa, value, array, part.len, row.parameter);
                        }
                        _ => widen(isa, value, part.len, row.parameter),
                    },
                }
            }
            for (i, &array) in part.moments.iter().enumerate() {
                if array.is_null() || K::MOMENTS[i] == Use::No {
                    continue;
                }
                match M::DTYPE {
                    Dtype::F32 if whole => row.moments[i] = array.cast(),
                    Dtype::F32 => pad(array.cast(), part.len, row.moments[i]),
                    Dtype::Bf16 => widen(isa, array.cast(), part.len, row.moments[i]),
                }
            }
        }
        if let Some(random) = part.random {
            let bare = matches!(part.parameter, Parameter::Bf16 { master: Master::None, .. });
            let moments = M::DTYPE == Dtype::Bf16;
            let rounds = [
                bare && K::PARAMETER == Use::Writes,
                moments && K::MOMENTS[0] == Use::Writes,
                moments && K::MOMENTS[1] == Use::Writes,
            ];
            for (i, purpose) in PURPOSES.into_iter().enumerate().filter(|&(i, _)| rounds[i]) {
                if part.start.is_multiple_of(RANDOM) {
                    random.fill(isa, purpose, part.start, &mut self.random[i]);
                }
                if i > 0 {
                    row.random[i - 1] = random_bits(&self.random[i], part.start);
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
                    Dtype::Bf16 => {
                        // The kernel has rounded them.
                        narrow(isa, Round::No, self.moments[i].as_ptr(), array.cast(), part.len);
                    }
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
                    narrow(isa, Round::Nearest, from, value, part.len);
                }
                Parameter::Bf16 { value, master: Master::None, .. } => {
                    let stochastic =
                        part.random.map(|_| Round::Stochastic(random_bits(&self.random[0], part.start)));
                    let round = stochastic.unwrap_or(Round::Nearest);
                    narrow(isa, round, self.parameter.as_ptr(), value, part.len);
                }
            }
        }
    }
}

/// Of the row that begins at this element.
#[inline(always)]
fn random_bits(rows: &[u16; RANDOM], start: usize) -> *const u16 {
    rows[start % RANDOM..].as_ptr()
}

/// How values become bf16.
#[derive(Clone, Copy)]
enum Round {
    /// They are.
    No,
    Nearest,
    /// By the random bits of a row.
    Stochastic(*const u16),
}

/// # Safety
/// `from` is valid for `len` elements, at most LANES, and `into` for LANES; so below.
#[inline(always)]
unsafe fn pad(from: *const f32, len: usize, into: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        into.write_bytes(0, LANES);
        from.copy_to_nonoverlapping(into, len);
    }
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
unsafe fn widen<S: Isa>(isa: S, from: *const u16, len: usize, into: *mut f32) {
    let mut copy = [0; LANES];
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        let from = padded(from, len, &mut copy);
        for at in (0..LANES).step_by(S::V::WIDTH) {
            isa.load_bf16(from.add(at)).store(into.add(at));
        }
    }
}

#[inline(always)]
unsafe fn join<S: Isa>(isa: S, value: *const u16, remainder: *const u16, len: usize, into: *mut f32) {
    let mut copies = [[0; LANES]; 2];
    let [first, second] = &mut copies;
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        let (value, remainder) = (padded(value, len, first), padded(remainder, len, second));
        for at in (0..LANES).step_by(S::V::WIDTH) {
            isa.load_joined(value.add(at), remainder.add(at)).store(into.add(at));
        }
    }
}

#[inline(always)]
unsafe fn narrow<S: Isa>(isa: S, round: Round, from: *const f32, to: *mut u16, len: usize) {
    let mut copy = [0_u16; LANES];
    let whole = len == LANES;
    let into = if whole { to } else { copy.as_mut_ptr() };
    // SAFETY: the caller's; vectors within a row.
    unsafe {
        for at in (0..LANES).step_by(S::V::WIDTH) {
            let values = isa.load(from.add(at));
            let rounded = match round {
                Round::No => values,
                Round::Nearest => values.nearest_bf16(),
                Round::Stochastic(random) => values.stochastic_bf16(random.add(at)),
            };
            rounded.store_high(into.add(at));
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
        for (start, step, index, purpose) in
            [(0, 1, 0, 0), (512, 2, 1, 1), ((1 << 36) + 1024, (1 << 32) + 5, 77, 2)]
        {
            let mut row = [0; RANDOM];
            Random::new(seed, step, index).fill(Scalar, purpose, start, &mut row);
            let block = start as u64 / 8;
            let last = [step as u32, (index as u32) << 2 | purpose];
            let expected = (block..).flat_map(|block| {
                halves(philox(
                    [0x89ab_cdef, 0x0123_4567],
                    [block as u32, (block >> 32) as u32, last[0], last[1]],
                ))
            });
            assert!(row.into_iter().eq(expected.take(RANDOM)), "from {start} on");
        }
    }
}
