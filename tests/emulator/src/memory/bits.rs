//! One bit a byte: whether it was ever written.

use std::ops::Range;

#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// Calls `f` with each word that the range touches and the bits of it in the range.
    #[inline(always)]
    fn words(range: Range<usize>, mut f: impl FnMut(usize, u64) -> bool) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / 64, (range.end - 1) / 64);
        let from = u64::MAX << (range.start % 64);
        let to = u64::MAX >> (63 - (range.end - 1) % 64);
        if first == last {
            f(first, from & to);
            return;
        }
        if f(first, from) && (first + 1..last).all(|word| f(word, u64::MAX)) {
            f(last, to);
        }
    }

    #[inline]
    pub(crate) fn set(&mut self, range: Range<usize>) {
        Self::words(range, |word, mask| {
            self.0[word] |= mask;
            true
        });
    }

    #[inline]
    pub(crate) fn first_unset(&self, range: Range<usize>) -> Option<usize> {
        let mut found = None;
        Self::words(range, |word, mask| {
            let unset = !self.0[word] & mask;
            if unset != 0 {
                found = Some(word * 64 + unset.trailing_zeros() as usize);
            }
            unset == 0
        });
        found
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }
}
