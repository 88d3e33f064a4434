//! Every level's bf16 and random bits against formulas in integers, one element at a time.

use super::*;
use half::bf16;
use std::ops::Range;

fn levels() -> impl Iterator<Item = Simd> {
    Simd::ALL.into_iter().filter(|simd| simd.is_available())
}

/// What the operations make of a row: bits.
#[derive(PartialEq)]
struct Results {
    value: [u16; LANES],
    remainder: [u16; LANES],
    joined: [u32; LANES],
    nearest: [u16; LANES],
    stochastic: [u16; LANES],
    widened: [u32; LANES],
}

impl Results {
    fn new() -> Self {
        let (halves, wholes) = ([0; LANES], [0; LANES]);
        Self {
            value: halves,
            remainder: halves,
            joined: wholes,
            nearest: halves,
            stochastic: halves,
            widened: wholes,
        }
    }
}

/// What each level makes of a row.
#[inline(always)]
fn operate<S: Isa>(isa: S, x: &[f32; LANES], random: &[u16; LANES], results: &mut Results) {
    for at in (0..LANES).step_by(S::V::WIDTH) {
        // SAFETY: a vector within arrays of LANES.
        unsafe {
            let v = isa.load(x.as_ptr().add(at));
            let (value, remainder) =
                (results.value.as_mut_ptr().add(at), results.remainder.as_mut_ptr().add(at));
            v.store_split(value, remainder);
            isa.load_joined(value, remainder).store(results.joined.as_mut_ptr().add(at).cast());
            let nearest = results.nearest.as_mut_ptr().add(at);
            v.nearest_bf16().store_high(nearest);
            isa.load_bf16(nearest).store(results.widened.as_mut_ptr().add(at).cast());
            v.stochastic_bf16(random.as_ptr().add(at)).store_high(results.stochastic.as_mut_ptr().add(at));
        }
    }
}

/// What they should make of it.
///
/// Between two neighbours of bf16 all f32 are equally far apart, so the nearest one is decided by the low half of the
/// bits alone; this holds up to infinity, which stands where the next bf16 would. A NaN is its quiet high half.
#[inline(always)] // into a level's code: by its vectors, 2³² patterns take seconds
fn expect(bits: &[u32; LANES], random: &[u16; LANES], results: &mut Results) {
    for lane in 0..LANES {
        let (bits, magnitude) = (bits[lane], bits[lane] & 0x7fff_ffff);
        let (high, low) = ((bits >> 16) as u16, bits & 0xffff);
        let (finite, nan) = (magnitude < 0x7f80_0000, magnitude > 0x7f80_0000);
        let or_nan = |bits: u16| if nan { high | 0x40 } else { bits };
        let to_even = (low > 0x8000) | (low == 0x8000) & (high & 1 == 1);
        let by_chance = finite & (low + u32::from(random[lane]) > 0xffff);
        results.value[lane] = or_nan(high.wrapping_add(u16::from(low >= 0x8000)));
        results.nearest[lane] = or_nan(high.wrapping_add(to_even.into()));
        results.stochastic[lane] = or_nan(high.wrapping_add(by_chance.into()));
        results.remainder[lane] = if nan { 0 } else { low as u16 };
        results.joined[lane] = if nan { (bits | 0x40_0000) & 0xffff_0000 } else { bits };
        results.widened[lane] = u32::from(results.nearest[lane]) << 16;
    }
}

/// Some 16 bits of an element's own.
fn some_bits(x: u32) -> u16 {
    (x.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// Compares the rows that `bits` makes of each index; the first index where they differ.
struct Compare<F> {
    rows: Range<u32>,
    bits: F,
}

impl<F: Fn(u32, u32) -> u32> Program for Compare<F> {
    type Output = Option<u32>;
    #[inline(always)]
    fn run<S: Isa>(mut self, isa: S) -> Option<u32> {
        let (mut results, mut expected) = (Results::new(), Results::new());
        self.rows.find(|&row| {
            let mut bits = [0; LANES];
            for (lane, bits) in (0..).zip(&mut bits) {
                *bits = (self.bits)(row, lane);
            }
            let random = bits.map(some_bits);
            operate(isa, &bits.map(f32::from_bits), &random, &mut results);
            expect(&bits, &random, &mut expected);
            results != expected
        })
    }
}

fn compare(simd: Simd, rows: Range<u32>, bits: impl Fn(u32, u32) -> u32) {
    // SAFETY: the caller's levels are available.
    let different = unsafe { simd.run(Compare { rows, bits }) };
    assert_eq!(different, None, "{simd}: this row of {LANES}");
}

/// The formulas above, where they can be said in other words.
#[test]
fn what_is_expected_is_right() {
    let step = if cfg!(miri) { 0x1555 } else { 1 };
    let mut results = Results::new();
    for high in (0..=0xffff_u32).step_by(step) {
        let bits: [u32; LANES] =
            std::array::from_fn(|lane| high << 16 | u32::from(some_bits((lane as u32 / 4) << 3)));
        let mut bits = bits;
        [bits[0], bits[1], bits[2], bits[3]] = [0, 0x7fff, 0x8000, 0x8001].map(|low| high << 16 | low);
        expect(&bits, &[0; LANES], &mut results);
        for (lane, bits) in bits.into_iter().enumerate() {
            let x = f32::from_bits(bits);
            let [value, nearest, down] = [&results.value, &results.nearest, &results.stochastic]
                .map(|values| bf16::from_bits(values[lane]));
            let joined = crate::join(value, results.remainder[lane] as i16);
            if x.is_nan() {
                assert!(value.is_nan() && nearest.is_nan() && down.is_nan() && joined.is_nan());
                continue;
            }
            assert_eq!(joined.to_bits(), bits);
            assert_eq!(nearest.to_bits(), bf16::from_f32(x).to_bits());
            let distance = |value: bf16| (value.to_f64() - f64::from(x)).abs();
            let (below, above) = (bf16::from_bits(high as u16), bf16::from_bits(high as u16 + 1));
            if above.is_finite() {
                let closer = if distance(below) < distance(above) { below } else { above };
                assert_eq!(value.to_bits(), closer.to_bits(), "{bits:#010x}");
            }
            assert_eq!(down.to_bits(), below.to_bits());
        }
    }
}

/// Every high half, with low halves around those on which a rounding turns.
#[test]
fn bf16_is_right_at_every_level() {
    let step = if cfg!(miri) { 0x1555 } else { 1 };
    for simd in levels() {
        compare(simd, 0..0x1_0000 / step, |row, lane| {
            let low = [0, 0x8000, 0xffff, 0x7fff][lane as usize % 4] + lane / 4 * (lane % 3);
            (row * step) << 16 | low & 0xffff
        });
    }
}

#[test]
#[cfg_attr(
    any(debug_assertions, not(target_arch = "x86_64")),
    ignore = "2³² patterns at every level: cargo test --release --lib"
)]
fn bf16_is_right_for_every_pattern() {
    use rayon::prelude::*;
    let parts = 1 << 10;
    let rows = u32::try_from((1_u64 << 32) / LANES as u64).unwrap() / parts;
    for simd in levels() {
        (0..parts).into_par_iter().for_each(|part| {
            compare(simd, part * rows..(part + 1) * rows, |row, lane| row * LANES as u32 + lane);
        });
    }
}

/// How often a value goes up, of all draws.
struct Ups(f32);

impl Program for Ups {
    type Output = usize;
    fn run<S: Isa>(self, isa: S) -> usize {
        let mut results = Results::new();
        let up = |row: usize| {
            let random = std::array::from_fn(|lane| (row * LANES + lane) as u16);
            operate(isa, &[self.0; LANES], &random, &mut results);
            results.stochastic.iter().filter(|&&bits| bits == 0x3f81).count()
        };
        (0..(1 << 16) / LANES).map(up).sum()
    }
}

/// By a uniform draw, a value goes up as often as the part that is cut off has it: the mean is the value.
#[test]
fn stochastic_rounding_has_no_bias() {
    let lows = if cfg!(miri) { vec![] } else { vec![0, 1, 0x1234, 0x8000, 0xfffe, 0xffff] };
    for simd in levels() {
        for &low in &lows {
            // SAFETY: the level is available.
            let ups = unsafe { simd.run(Ups(f32::from_bits(0x3f80_0000 | low))) };
            assert_eq!(ups, low as usize, "{simd}");
        }
    }
}

struct Draw<'a> {
    key: [u32; 2],
    counter: [u32; 4],
    into: &'a mut [u16; RANDOM],
}

impl Program for Draw<'_> {
    type Output = ();
    fn run<S: Isa>(self, isa: S) {
        isa.random(self.key, self.counter, self.into);
    }
}

/// Philox4x32-10 as in Salmon et al. 2011.
pub(crate) fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let halves = |a: u32, b: u32| {
            let product = u64::from(a) * u64::from(b);
            ((product >> 32) as u32, product as u32)
        };
        let [l0, r0, l1, r1] = counter;
        let ((high0, low0), (high1, low1)) = (halves(0xd251_1f53, l0), halves(0xcd9e_8d57, l1));
        counter = [high1 ^ r0 ^ key[0], low1, high0 ^ r1 ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// The known answers of Random123, where Philox comes from: counter, key, result.
const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

/// The low half of a word first.
pub(crate) fn halves(words: [u32; 4]) -> impl Iterator<Item = u16> {
    words.into_iter().flat_map(|word| [word as u16, (word >> 16) as u16])
}

#[test]
fn philox_gives_the_published_answers_at_every_level() {
    for (counter, key, answer) in KNOWN {
        assert_eq!(philox(key, counter), answer);
        let [first, c1, c2, c3] = counter;
        for simd in levels() {
            let mut row = [0; RANDOM];
            // SAFETY: the level is available.
            unsafe { simd.run(Draw { key, counter, into: &mut row }) };
            let expected: Vec<u16> = (0..RANDOM as u32 / 8)
                .flat_map(|block| halves(philox(key, [first.wrapping_add(block), c1, c2, c3])))
                .collect();
            assert_eq!(row[..], expected, "{simd}");
            assert!(row[..8].iter().copied().eq(halves(answer)), "{simd}");
        }
    }
}
