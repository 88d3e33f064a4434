//! The byte-level language model of `train_lm`, narrower, on the same text.

use super::mlp::scalar;
use crate::corpus::Corpus;
use crate::model::{CONTEXT, LAGS, Model as Transformer};
use crate::task::{Measure, Model, Part, Task};
use crate::weights::index;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use rand_chacha::ChaCha8Rng;

/// Half of train_lm's.
const WIDTH: usize = 64;
/// Sequences of a step.
const BATCH: usize = 4;
/// Bytes of a sequence.
const SPAN: usize = CONTEXT + LAGS;
/// Sequences that a part is measured on, and how many at a time.
const HELD_OUT: usize = 128;

pub(crate) struct Language {
    corpus: Corpus,
}

struct Writer<'a> {
    corpus: &'a Corpus,
    transformer: Transformer,
}

impl Language {
    pub(crate) fn new(corpus: Corpus) -> Result<Self> {
        corpus.require(2 * SPAN)?; // held out: for validation, and to test
        Ok(Self { corpus })
    }
}

impl Task for Language {
    fn name(&self) -> &'static str {
        super::LANGUAGE
    }

    fn about(&self) -> String {
        format!(
            "the byte-level transformer of `train_lm` at width {WIDTH}, batches of {BATCH} sequences of {CONTEXT} bytes; text: \
             FNV-1a {}",
            self.corpus.fingerprint()
        )
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure { name: "cross-entropy", unit: "nats a byte" }]
    }

    fn steps_per_minute(&self) -> f64 {
        15.0
    }

    fn model(&self, rng: &mut ChaCha8Rng) -> Result<Box<dyn Model + '_>> {
        let transformer = Transformer::new(WIDTH, rng, DType::F32, &Device::Cpu)?;
        Ok(Box::new(Writer { corpus: &self.corpus, transformer }))
    }
}

impl Model for Writer<'_> {
    fn weights(&self) -> &VarMap {
        &self.transformer.weights
    }

    fn loss(&self, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let text = &self.corpus.train;
        let batch: Vec<&[u8]> =
            (0..BATCH).map(|_| &text[index(rng, text.len() - SPAN + 1)..][..SPAN]).collect();
        self.transformer.loss(&batch)
    }

    /// The held-out text's first half is for validation, its second half to test.
    fn measure(&self, part: Part) -> Result<Vec<f64>> {
        let (first, second) = self.corpus.held_out.split_at(self.corpus.held_out.len() / 2);
        let text = match part {
            Part::Validation => first,
            Part::Test => second,
        };
        let last = text.len() - SPAN;
        let sequences: Vec<&[u8]> =
            (0..HELD_OUT).map(|i| &text[i * last / (HELD_OUT - 1)..][..SPAN]).collect();
        let mut sum = 0.0;
        for batch in sequences.chunks(BATCH) {
            sum += scalar(&self.transformer.loss(batch)?)? * batch.len() as f64;
        }
        Ok(vec![sum / HELD_OUT as f64])
    }
}
