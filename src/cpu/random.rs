//! The random bits of stochastic rounding: which counter of Philox each element has.

use super::simd::{Isa, RANDOM};
use crate::args::{FADAM_RANDOM_BLOCK, FADAM_RANDOM_PURPOSE_BITS};

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
    pub(super) fn fill<S: Isa>(&self, isa: S, purpose: u32, start: usize, into: &mut [u16; RANDOM]) {
        let block = start as u64 / u64::from(FADAM_RANDOM_BLOCK);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        isa.random(key, [block as u32, (block >> 32) as u32, self.step, self.stream | purpose], into);
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
