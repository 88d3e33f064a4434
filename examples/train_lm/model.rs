//! A byte-level transformer: pre-norm, causal self-attention, GELU.
//!
//! Everything is made of candle's differentiable operations, so it runs wherever candle does. They are chosen by what
//! their gradients cost on a CPU.

use crate::weights::{fan_in, weight};
use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{VarMap, loss};
use rand_chacha::ChaCha8Rng;

/// Bytes the model can look back on.
pub(crate) const CONTEXT: usize = 128;
/// A position starts as the sum of embeddings of this many bytes, its own and those before it. That is cheap and takes
/// a third off the loss after 500 steps: attention need not first learn to find a byte's neighbours.
pub(crate) const LAGS: usize = 4;
const VOCABULARY: usize = 256;
const HEADS: usize = 2;
const LAYERS: usize = 2;

/// Added to the mean square before its root is taken.
const NORM_EPS: f64 = 1e-5;
/// GELU(x) ≈ x σ(1.702 x), of Hendrycks and Gimpel's paper: on a CPU much cheaper than the tanh form.
const GELU_SLOPE: f64 = 1.702;

/// A matrix that is trained, f32 or bf16. The model computes in f32 either way.
struct Weight(Tensor);

impl Weight {
    /// In f32; the gradient is rounded to the weight's own type.
    fn wide(&self) -> candle_core::Result<Tensor> {
        self.0.to_dtype(DType::F32)
    }
}

struct Block {
    query: Weight,
    key: Weight,
    value: Weight,
    mix: Weight,
    widen: Weight,
    narrow: Weight,
}

/// The model's weights, which an optimizer changes in place, and the operations on them.
pub(crate) struct Model {
    pub(crate) weights: VarMap,
    embeddings: Vec<Weight>,
    position: Weight,
    blocks: Vec<Block>,
    logits: Weight,
    width: usize,
    mask: Tensor,
}

impl Model {
    /// A model of this width, with weights of this type, drawn from `rng`.
    pub(crate) fn new(width: usize, rng: &mut ChaCha8Rng, dtype: DType, device: &Device) -> Result<Self> {
        let weights = VarMap::new();
        let hidden = 3 * width;
        let mut init = |name: &str, rows: usize, columns: usize, std: f64| {
            let init = weight(&weights, name, (rows, columns), std, rng, (dtype, device))?;
            anyhow::Ok(Weight(init))
        };
        // Layers that add to the residual stream start smaller, so that its scale does not grow with depth.
        let residual = |n: usize| fan_in(n) / (2.0 * LAYERS as f64).sqrt();
        let mut embeddings = Vec::new();
        for lag in 0..LAGS {
            embeddings.push(init(&format!("embedding.{lag}"), VOCABULARY, width, 0.5)?);
        }
        let position = init("position", CONTEXT, width, 0.1)?;
        let mut blocks = Vec::new();
        for i in 0..LAYERS {
            blocks.push(Block {
                query: init(&format!("blocks.{i}.query"), width, width, fan_in(width))?,
                key: init(&format!("blocks.{i}.key"), width, width, fan_in(width))?,
                value: init(&format!("blocks.{i}.value"), width, width, fan_in(width))?,
                mix: init(&format!("blocks.{i}.mix"), width, width, residual(width))?,
                widen: init(&format!("blocks.{i}.widen"), width, hidden, fan_in(width))?,
                narrow: init(&format!("blocks.{i}.narrow"), hidden, width, residual(hidden))?,
            });
        }
        let logits = init("logits", width, VOCABULARY, 0.1 * fan_in(width))?;
        let mask = causal_mask(device)?;
        Ok(Self { weights, embeddings, position, blocks, logits, width, mask })
    }

    /// Mean negative log likelihood of sequences of equal length, in nats per byte. The first [`LAGS`] bytes of each are
    /// only looked at.
    pub(crate) fn loss(&self, sequences: &[&[u8]]) -> Result<Tensor> {
        let inputs: Vec<&[u8]> = sequences.iter().map(|sequence| &sequence[..sequence.len() - 1]).collect();
        let targets = self.ids(sequences.iter().map(|sequence| &sequence[LAGS..]))?;
        Ok(loss::cross_entropy(&self.forward(&inputs)?, &targets)?)
    }

    /// Logits of the byte after each position, (positions of all sequences, 256). The positions are those of the bytes
    /// from number [`LAGS`] of a sequence on; at most [`CONTEXT`].
    pub(crate) fn forward(&self, sequences: &[&[u8]]) -> Result<Tensor> {
        let shape = (sequences.len(), sequences[0].len() + 1 - LAGS);
        let mut x = self.embed(sequences, shape)?;
        for block in &self.blocks {
            x = (&x + self.attention(block, &norm(&x)?, shape)?)?;
            let hidden = gelu(&norm(&x)?.matmul(&block.widen.wide()?)?)?;
            x = (&x + hidden.matmul(&block.narrow.wide()?)?)?;
        }
        Ok(norm(&x)?.matmul(&self.logits.wide()?)?)
    }

    fn embed(&self, sequences: &[&[u8]], (count, length): (usize, usize)) -> Result<Tensor> {
        let position = self.position.wide()?.narrow(0, 0, length)?;
        let mut x =
            position.broadcast_as((count, length, self.width))?.reshape((count * length, self.width))?;
        for (lag, embedding) in self.embeddings.iter().enumerate() {
            let ids = self.ids(sequences.iter().map(|sequence| &sequence[LAGS - 1 - lag..][..length]))?;
            x = (x + embedding.wide()?.index_select(&ids, 0)?)?;
        }
        Ok(x)
    }

    fn ids<'a>(&self, sequences: impl Iterator<Item = &'a [u8]>) -> Result<Tensor> {
        let ids: Vec<u32> = sequences.flatten().map(|&byte| byte.into()).collect();
        Ok(Tensor::new(ids, self.mask.device())?)
    }

    fn attention(&self, block: &Block, x: &Tensor, (count, length): (usize, usize)) -> Result<Tensor> {
        let heads = |weight: &Weight| {
            let x = x.matmul(&weight.wide()?)?.reshape((count, length, HEADS, self.width / HEADS))?;
            x.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(&block.query)?, heads(&block.key)?, heads(&block.value)?);
        let scale = ((self.width / HEADS) as f64).powf(-0.5);
        let scores = (query * scale)?.matmul(&key.t()?)?;
        let mask = self.mask.narrow(0, 0, length)?.narrow(1, 0, length)?;
        let scores = scores.broadcast_add(&mask)?;
        // Softmax, divided by its sum after the product, where there are fewer numbers. Its maximum is a constant for
        // the gradient: it cancels.
        let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let mixed = exp.matmul(&value)?.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
        let mixed = mixed.transpose(1, 2)?.reshape((count * length, self.width))?;
        Ok(mixed.matmul(&block.mix.wide()?)?)
    }
}

/// Root-mean-square norm without weights: the matrix that follows can scale.
fn norm(x: &Tensor) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_mul(&(mean_square + NORM_EPS)?.sqrt()?.recip()?)?)
}

fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(((x * GELU_SLOPE)?.silu()? * (1.0 / GELU_SLOPE))?)
}

/// 0 where a position (row) may look (column), −∞ where that is in its future.
fn causal_mask(device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..CONTEXT)
        .flat_map(|row| (0..CONTEXT).map(move |column| if column > row { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    Ok(Tensor::from_vec(mask, (CONTEXT, CONTEXT), device)?)
}
