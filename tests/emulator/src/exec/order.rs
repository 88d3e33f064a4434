//! The order of blocks and warps: ascending for seed 0, else any.

/// splitmix64
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// All numbers below `count`, each once: `start + i * step` modulo `count`, with a step that has no factor in common.
pub(super) fn blocks(count: u64, seed: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(seed);
    let (mut start, mut step) = (0, 1);
    if seed != 0 && count > 1 {
        start = random.below(count);
        step = 1 + random.below(count - 1);
        while common_divisor(step, count) != 1 {
            step = step % count + 1;
        }
    }
    (0..count)
        .map(move |i| ((u128::from(start) + u128::from(i) * u128::from(step)) % u128::from(count)) as u64)
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
