//! Which bytes a step sees, and which ones the held-out loss is measured on.

use crate::corpus::Corpus;
use crate::model::{CONTEXT, LAGS};
use crate::weights::index;
use rand_chacha::ChaCha8Rng;

/// Sequences in a step.
pub(crate) const BATCH: usize = 16;
/// Sequences of a shard. Independent of the number of threads, and so are the results.
const SHARD: usize = 4;
/// Bytes of a sequence: [`LAGS`] − 1 before the first position, [`CONTEXT`] positions, and the one to guess at the last.
pub(crate) const SPAN: usize = CONTEXT + LAGS;
/// Sequences that the held-out loss is measured on.
const HELD_OUT: usize = 256;

/// What one thread computes together.
pub(crate) type Shard<'a> = Vec<&'a [u8]>;

/// A batch of random sequences.
pub(crate) fn training<'a>(corpus: &'a Corpus, rng: &mut ChaCha8Rng) -> Vec<Shard<'a>> {
    let sequence = |_| &corpus.train[index(rng, corpus.train.len() - SPAN + 1)..][..SPAN];
    shards((0..BATCH).map(sequence).collect())
}

/// The same sequences every time, spread evenly over the held-out text.
pub(crate) fn held_out(corpus: &Corpus) -> Vec<Shard<'_>> {
    let last = corpus.held_out.len() - SPAN;
    let sequence = |i| &corpus.held_out[i * last / (HELD_OUT - 1)..][..SPAN];
    shards((0..HELD_OUT).map(sequence).collect())
}

fn shards(sequences: Shard<'_>) -> Vec<Shard<'_>> {
    sequences.chunks(SHARD).map(<[_]>::to_vec).collect()
}
