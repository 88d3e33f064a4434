//! What an instruction computes: functions over the 32 lanes of a warp, found by the whole opcode. An opcode that is not
//! in a table here is not known.

mod approx;
mod bits;
mod compare;
mod convert;
mod float;
mod fused;
mod integer;

pub(crate) use compare::{Combine, compare};

/// Threads of a warp.
pub(crate) const LANES: usize = 32;
/// A register of 32 bits or less, of every lane.
pub(crate) type Words = [u32; LANES];
/// A register of 64 bits.
pub(crate) type Doubles = [u64; LANES];

/// The registers of a warp, constants and special registers among them. A predicate is a bit a lane.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    pub(crate) words: Vec<Words>,
    pub(crate) doubles: Vec<Doubles>,
    pub(crate) predicates: Vec<u32>,
}

/// Where a function leaves its result, in the part that its output's kind says.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) words: Words,
    pub(crate) doubles: Doubles,
    pub(crate) predicate: u32,
}

impl Default for Out {
    fn default() -> Self {
        Self { words: [0; LANES], doubles: [0; LANES], predicate: 0 }
    }
}

/// Computes all lanes, whether active or not: no function here has an effect, and none can fail.
pub(crate) type Function = fn(&Registers, &[u16; 4], &mut Out);

/// What may stand for an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 8 bits in a register of 16 or 32.
    Byte,
    Half,
    Word,
    Double,
    /// As `Word` and `Double`; a literal must be written as a float.
    Float,
    FloatDouble,
    Predicate,
}

/// An instruction without an effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) inputs: &'static [Kind],
    pub(crate) output: Kind,
    pub(crate) function: Function,
}

/// The value of a register in one lane.
pub(crate) trait Lane: Copy {
    const KIND: Kind;
    fn get(registers: &Registers, index: u16) -> [Self; LANES];
    fn put(out: &mut Out, row: [Self; LANES]);
}

macro_rules! lane {
    ($type:ty, $kind:ident, $bank:ident, $from:expr, $to:expr) => {
        impl Lane for $type {
            const KIND: Kind = Kind::$kind;
            #[inline(always)]
            fn get(registers: &Registers, index: u16) -> [Self; LANES] {
                registers.$bank[usize::from(index)].map($from)
            }
            #[inline(always)]
            fn put(out: &mut Out, row: [Self; LANES]) {
                out.$bank = row.map($to);
            }
        }
    };
}

lane!(u8, Byte, words, |x| x as u8, u32::from);
lane!(i8, Byte, words, |x| x as i8, |x| x as u32);
lane!(u16, Half, words, |x| x as u16, u32::from);
lane!(i16, Half, words, |x| x as i16, |x| x as u32);
lane!(u32, Word, words, |x| x, |x| x);
lane!(i32, Word, words, |x| x as i32, |x| x as u32);
lane!(u64, Double, doubles, |x| x, |x| x);
lane!(i64, Double, doubles, |x| x as i64, |x| x as u64);
lane!(f32, Float, words, f32::from_bits, f32::to_bits);
lane!(f64, FloatDouble, doubles, f64::from_bits, f64::to_bits);

impl Lane for bool {
    const KIND: Kind = Kind::Predicate;
    #[inline(always)]
    fn get(registers: &Registers, index: u16) -> [Self; LANES] {
        let bits = registers.predicates[usize::from(index)];
        std::array::from_fn(|i| bits >> i & 1 != 0)
    }
    #[inline(always)]
    fn put(out: &mut Out, row: [Self; LANES]) {
        out.predicate = (0..LANES).fold(0, |bits, i| bits | u32::from(row[i]) << i);
    }
}

#[inline(always)]
pub(crate) fn one<A: Lane, R: Lane>(r: &Registers, s: &[u16; 4], out: &mut Out, f: impl Fn(A) -> R) {
    let a = A::get(r, s[0]);
    R::put(out, std::array::from_fn(|i| f(a[i])));
}

#[inline(always)]
pub(crate) fn two<A: Lane, B: Lane, R: Lane>(
    r: &Registers,
    s: &[u16; 4],
    out: &mut Out,
    f: impl Fn(A, B) -> R,
) {
    let (a, b) = (A::get(r, s[0]), B::get(r, s[1]));
    R::put(out, std::array::from_fn(|i| f(a[i], b[i])));
}

#[inline(always)]
pub(crate) fn three<A: Lane, B: Lane, C: Lane, R: Lane>(
    r: &Registers,
    s: &[u16; 4],
    out: &mut Out,
    f: impl Fn(A, B, C) -> R,
) {
    let (a, b, c) = (A::get(r, s[0]), B::get(r, s[1]), C::get(r, s[2]));
    R::put(out, std::array::from_fn(|i| f(a[i], b[i], c[i])));
}

#[inline(always)]
pub(crate) fn four<A: Lane, B: Lane, C: Lane, D: Lane, R: Lane>(
    r: &Registers,
    s: &[u16; 4],
    out: &mut Out,
    f: impl Fn(A, B, C, D) -> R,
) {
    let (a, b, c, d) = (A::get(r, s[0]), B::get(r, s[1]), C::get(r, s[2]), D::get(r, s[3]));
    R::put(out, std::array::from_fn(|i| f(a[i], b[i], c[i], d[i])));
}

/// An [`Entry`] from a closure of typed lanes.
macro_rules! op {
    (|$a:ident: $A:ty| -> $R:ty { $e:expr }) => {
        $crate::lanes::op!(@ [$A] $R, |r, s, o| $crate::lanes::one(r, s, o, |$a: $A| -> $R { $e }))
    };
    (|$a:ident: $A:ty, $b:ident: $B:ty| -> $R:ty { $e:expr }) => {
        $crate::lanes::op!(@ [$A, $B] $R, |r, s, o| $crate::lanes::two(r, s, o, |$a: $A, $b: $B| -> $R { $e }))
    };
    (|$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty| -> $R:ty { $e:expr }) => {
        $crate::lanes::op!(@ [$A, $B, $C] $R, |r, s, o| {
            $crate::lanes::three(r, s, o, |$a: $A, $b: $B, $c: $C| -> $R { $e })
        })
    };
    (|$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty, $d:ident: $D:ty| -> $R:ty { $e:expr }) => {
        $crate::lanes::op!(@ [$A, $B, $C, $D] $R, |r, s, o| {
            $crate::lanes::four(r, s, o, |$a: $A, $b: $B, $c: $C, $d: $D| -> $R { $e })
        })
    };
    (@ [$($A:ty),*] $R:ty, $f:expr) => {
        $crate::lanes::Entry {
            inputs: &[$(<$A as $crate::lanes::Lane>::KIND),*],
            output: <$R as $crate::lanes::Lane>::KIND,
            function: $f,
        }
    };
}
pub(crate) use op;

/// The instruction of this opcode.
pub(crate) fn find(opcode: &str) -> Option<Entry> {
    integer::find(opcode)
        .or_else(|| bits::find(opcode))
        .or_else(|| float::find(opcode))
        .or_else(|| fused::find(opcode))
        .or_else(|| approx::find(opcode))
        .or_else(|| convert::find(opcode))
}
