//! Rows of f32 between a kernel and arrays that are kept otherwise, or that end within a row: brought in, and taken out
//! again. With the random bits of these rows.

use super::chunk::{Chunk, Master, Parameter, Rows};
use super::kernel::{Gradient, Kernel, Moments, Use};
use super::simd::{Isa, LANES, RANDOM, Vector};
use crate::args::{FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ, FADAM_RANDOM_PARAMETER};
use crate::tensor::Dtype;
use std::mem::MaybeUninit;
use std::ptr::null;

/// Elements of each array that are on the stage at a time: they fit the innermost cache, and random bits are drawn for as
/// many at a time.
pub(super) const BLOCK: usize = RANDOM;

/// Room for BLOCK elements.
type Floats = MaybeUninit<[f32; BLOCK]>;
type Halves = MaybeUninit<[u16; BLOCK]>;

/// Room for BLOCK elements of each array. Nothing in it is read before it is written.
#[repr(align(64))]
pub(super) struct Stage {
    parameter: Floats,
    moments: [Floats; 3],
    ema: Floats,
    /// Of either type.
    gradient: Floats,
    /// Of bf16 that ends within a row.
    halves: [Halves; 2],
    /// For parameter, first and second moment.
    random: [Halves; 3],
}

/// What the random bits are for, in the order of `Stage::random`.
const PURPOSES: [u32; 3] = [FADAM_RANDOM_PARAMETER, FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ];

impl Stage {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            parameter: Floats::uninit(),
            moments: [Floats::uninit(); 3],
            ema: Floats::uninit(),
            gradient: Floats::uninit(),
            halves: [Halves::uninit(); 2],
            random: [Halves::uninit(); 3],
        }
    }

    /// At most BLOCK elements, padded with zeros to whole rows: in place where they are whole rows and kept as f32, else
    /// copies here.
    ///
    /// # Safety
    /// Every array of `part` that the kernel uses is valid for its length.
    #[inline(always)]
    pub(super) unsafe fn bring_in<S: Isa, K: Kernel, G: Gradient, M: Moments>(
        &mut self,
        isa: S,
        part: &Chunk,
    ) -> Rows {
        let whole = part.len.is_multiple_of(LANES);
        // The copies are filled by these pointers: a reference to one, or to all of `self`, would end them.
        let mut rows = Rows {
            parameter: floats(&mut self.parameter),
            moments: self.moments.each_mut().map(floats),
            ema: part.ema,
            gradient: part.gradient,
            random: [null(); 2],
        };
        // SAFETY: the caller's; copies have room for the part.
        unsafe {
            if !whole {
                let copy = floats(&mut self.gradient).cast::<u8>();
                part.gradient.copy_to_nonoverlapping(copy, part.len * G::SIZE);
                copy.add(part.len * G::SIZE).write_bytes(0, (whole_rows(part.len) - part.len) * G::SIZE);
                rows.gradient = copy;
            }
            if !whole && !part.ema.is_null() && K::PARAMETER == Use::Writes {
                rows.ema = floats(&mut self.ema);
                pad(part.ema, part.len, rows.ema);
            }
            if K::PARAMETER != Use::No {
                match part.parameter {
                    Parameter::F32(array) if whole => rows.parameter = array,
                    Parameter::F32(array) => pad(array, part.len, rows.parameter),
                    Parameter::Bf16 { value, master, has_master } => match master {
                        Master::F32(array) if has_master && whole => rows.parameter = array,
                        Master::F32(array) if has_master => pad(array, part.len, rows.parameter),
                        Master::Remainder(array) if has_master => {
                            join(isa, value, array, part.len, &mut self.halves, rows.parameter);
                        }
                        _ => widen(isa, value, part.len, &mut self.halves[0], rows.parameter),
                    },
                }
            }
            for (i, &array) in part.moments.iter().enumerate() {
                if array.is_null() || K::MOMENTS[i] == Use::No {
                    continue;
                }
                match M::DTYPE {
                    Dtype::F32 if whole => rows.moments[i] = array.cast(),
                    Dtype::F32 => pad(array.cast(), part.len, rows.moments[i]),
                    Dtype::Bf16 => widen(isa, array.cast(), part.len, &mut self.halves[0], rows.moments[i]),
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
                let bits = self.random[i].write([0; BLOCK]);
                random.fill(isa, purpose, part.start, bits);
                if i > 0 {
                    rows.random[i - 1] = bits.as_ptr();
                }
            }
        }
        rows
    }

    /// What the kernel has written, to where it is kept.
    ///
    /// # Safety
    /// As for `bring_in`, which went before with the same part.
    #[inline(always)]
    pub(super) unsafe fn take_out<S: Isa, K: Kernel, M: Moments>(&mut self, isa: S, part: &Chunk) {
        let whole = part.len.is_multiple_of(LANES);
        // SAFETY: the caller's.
        unsafe {
            for (i, &array) in part.moments.iter().enumerate() {
                if array.is_null() || K::MOMENTS[i] != Use::Writes {
                    continue;
                }
                match M::DTYPE {
                    Dtype::F32 if whole => {}
                    Dtype::F32 => unpad(floats(&mut self.moments[i]), array.cast(), part.len),
                    Dtype::Bf16 => {
                        // The kernel has rounded them.
                        let from = floats(&mut self.moments[i]);
                        narrow(isa, Round::No, from, array.cast(), part.len, &mut self.halves[0]);
                    }
                }
            }
            if K::PARAMETER != Use::Writes {
                return;
            }
            let parameter = floats(&mut self.parameter);
            if !whole && !part.ema.is_null() {
                unpad(floats(&mut self.ema), part.ema, part.len);
            }
            match part.parameter {
                Parameter::F32(_) if whole => {}
                Parameter::F32(array) => unpad(parameter, array, part.len),
                Parameter::Bf16 { value, master: Master::Remainder(array), .. } => {
                    split(isa, parameter, value, array, part.len, &mut self.halves);
                }
                Parameter::Bf16 { value, master: Master::F32(array), has_master } => {
                    let in_place = whole && has_master;
                    let from = if in_place { array } else { parameter };
                    if !in_place {
                        unpad(parameter, array, part.len);
                    }
                    narrow(isa, Round::Nearest, from, value, part.len, &mut self.halves[0]);
                }
                Parameter::Bf16 { value, master: Master::None, .. } => {
                    let stochastic = part.random.map(|_| Round::Stochastic(self.random[0].as_ptr().cast()));
                    let round = stochastic.unwrap_or(Round::Nearest);
                    narrow(isa, round, parameter, value, part.len, &mut self.halves[0]);
                }
            }
        }
    }
}

/// How values become bf16.
#[derive(Clone, Copy)]
enum Round {
    /// They are.
    No,
    Nearest,
    /// By as many random bits.
    Stochastic(*const u16),
}

fn floats(room: &mut Floats) -> *mut f32 {
    room.as_mut_ptr().cast()
}

/// The end of the row that the last element is in.
#[inline(always)]
fn whole_rows(len: usize) -> usize {
    len.next_multiple_of(LANES)
}

/// # Safety
/// `from` is valid for `len` elements, at most BLOCK; so below.
#[inline(always)]
unsafe fn pad(from: *const f32, len: usize, into: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        from.copy_to_nonoverlapping(into, len);
        into.add(len).write_bytes(0, whole_rows(len) - len);
    }
}

#[inline(always)]
unsafe fn unpad(from: *const f32, to: *mut f32, len: usize) {
    // SAFETY: the caller's.
    unsafe { from.copy_to_nonoverlapping(to, len) };
}

/// Whole rows of u16: themselves, else a copy with zeros behind.
#[inline(always)]
unsafe fn padded(from: *const u16, len: usize, copy: &mut Halves) -> *const u16 {
    if len == whole_rows(len) {
        return from;
    }
    let copy = copy.as_mut_ptr().cast::<u16>();
    // SAFETY: the caller's.
    unsafe {
        from.copy_to_nonoverlapping(copy, len);
        copy.add(len).write_bytes(0, whole_rows(len) - len);
    }
    copy
}

#[inline(always)]
unsafe fn widen<S: Isa>(isa: S, from: *const u16, len: usize, copy: &mut Halves, into: *mut f32) {
    // SAFETY: the caller's; vectors within whole rows.
    unsafe {
        let from = padded(from, len, copy);
        for at in (0..whole_rows(len)).step_by(S::V::WIDTH) {
            isa.load_bf16(from.add(at)).store(into.add(at));
        }
    }
}

#[inline(always)]
unsafe fn join<S: Isa>(
    isa: S,
    value: *const u16,
    remainder: *const u16,
    len: usize,
    [first, second]: &mut [Halves; 2],
    into: *mut f32,
) {
    // SAFETY: the caller's; vectors within whole rows.
    unsafe {
        let (value, remainder) = (padded(value, len, first), padded(remainder, len, second));
        for at in (0..whole_rows(len)).step_by(S::V::WIDTH) {
            isa.load_joined(value.add(at), remainder.add(at)).store(into.add(at));
        }
    }
}

#[inline(always)]
unsafe fn narrow<S: Isa>(
    isa: S,
    round: Round,
    from: *const f32,
    to: *mut u16,
    len: usize,
    copy: &mut Halves,
) {
    let whole = len == whole_rows(len);
    let into = if whole { to } else { copy.as_mut_ptr().cast() };
    // SAFETY: the caller's; vectors within whole rows.
    unsafe {
        for at in (0..whole_rows(len)).step_by(S::V::WIDTH) {
            let values = isa.load(from.add(at));
            let rounded = match round {
                Round::No => values,
                Round::Nearest => values.nearest_bf16(),
                Round::Stochastic(random) => values.stochastic_bf16(random.add(at)),
            };
            rounded.store_high(into.add(at));
        }
        if !whole {
            into.copy_to_nonoverlapping(to, len);
        }
    }
}

#[inline(always)]
unsafe fn split<S: Isa>(
    isa: S,
    from: *const f32,
    value: *mut u16,
    remainder: *mut u16,
    len: usize,
    copies: &mut [Halves; 2],
) {
    let whole = len == whole_rows(len);
    let [first, second] = copies.each_mut().map(|copy| copy.as_mut_ptr().cast::<u16>());
    let (high, low) = if whole { (value, remainder) } else { (first, second) };
    // SAFETY: the caller's; vectors within whole rows.
    unsafe {
        for at in (0..whole_rows(len)).step_by(S::V::WIDTH) {
            isa.load(from.add(at)).store_split(high.add(at), low.add(at));
        }
        if !whole {
            first.copy_to_nonoverlapping(value, len);
            second.copy_to_nonoverlapping(remainder, len);
        }
    }
}
