//! Which bytes a step sees, and which ones the held-out loss is measured on.

use crate::corpus::Corpus;
use crate::model::{CONTEXT, LAGS};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// Sequences in a step.
pub(crate) const BATCH: usize = 16;
/// Sequences that one thread computes together. Independent of the number of threads, and so are the results.
pub(crate) const SHARD: usize = 4;
/// Bytes of a sequence: [`CONTEXT`] positions, the bytes before the first that its embedding needs, and the one after
/// the last, which is its target.
pub(crate) const SPAN: usize = CONTEXT + LAGS;
/// Sequences that the held-out loss is measured on.
const HELD_OUT: usize = 256;

/// A batch of random sequences, in shards.
pub(crate) fn training(corpus: &Corpus, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let starts = (corpus.train.len() - SPAN + 1) as u128;
    let mut sequence = || {
        let start = (u128::from(rng.next_u64()) * starts) >> 64;
        &corpus.train[start as usize..][..SPAN]
    };
    (0..BATCH / SHARD).map(|_| (0..SHARD).flat_map(|_| sequence()).copied().collect()).collect()
}

/// The same sequences every time, spread evenly over the held-out text, in shards.
pub(crate) fn held_out(corpus: &Corpus) -> Vec<Vec<u8>> {
    let last = corpus.held_out.len() - SPAN;
    let sequence = |i: usize| &corpus.held_out[i * last / (HELD_OUT - 1)..][..SPAN];
    (0..HELD_OUT / SHARD)
        .map(|shard| (0..SHARD).flat_map(|i| sequence(shard * SHARD + i)).copied().collect())
        .collect()
}
