//! Images through a few discrete codes: a VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937).

use super::images::{Images, PIXELS, Split};
use super::mlp::{Mlp, matrix, scalar};
use crate::task::{Measure, Model, Part, Task};
use crate::weights::{index, weight};
use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarMap;
use rand_chacha::ChaCha8Rng;

/// Codes of an image.
const LATENTS: usize = 4;
/// Vectors that a code may choose from, and their length.
const CODES: usize = 32;
const LENGTH: usize = 8;
const ENCODER: [usize; 3] = [PIXELS, 128, LATENTS * LENGTH];
const DECODER: [usize; 3] = [LATENTS * LENGTH, 128, PIXELS];
/// How much the encoder is drawn to the vectors that it chooses; the paper's β.
const COMMITMENT: f64 = 0.25;
const BATCH: usize = 64;

pub(crate) struct VqVae {
    images: Split,
}

struct Coder<'a> {
    images: &'a Split,
    weights: VarMap,
    encoder: Mlp,
    codebook: Tensor,
    decoder: Mlp,
}

/// What comes of a batch.
struct Coded {
    /// Squared error of an image, all its pixels together.
    reconstruction: Tensor,
    /// Squared distance between what the encoder says and the vectors that it is rounded to: moving these, and moving it.
    codebook: Tensor,
    commitment: Tensor,
    codes: Tensor,
}

impl VqVae {
    pub(crate) fn new(images: Split) -> Self {
        Self { images }
    }
}

impl Task for VqVae {
    fn name(&self) -> &'static str {
        "vqvae"
    }

    fn about(&self) -> String {
        format!(
            "a VQ-VAE of the same images: {LATENTS} codes an image, {CODES} vectors of {LENGTH} numbers to choose from, encoder \
             {ENCODER:?}, decoder {DECODER:?}, batches of {BATCH}"
        )
    }

    fn measures(&self) -> &'static [Measure] {
        &[
            Measure { name: "reconstruction error", unit: "squared error an image" },
            Measure { name: "codebook use", unit: "perplexity" },
        ]
    }

    fn steps_per_minute(&self) -> f64 {
        80.0
    }

    fn model(&self, rng: &mut ChaCha8Rng) -> Result<Box<dyn Model + '_>> {
        let weights = VarMap::new();
        let encoder = Mlp::new(&weights, "encoder", &ENCODER, rng)?;
        let place = (DType::F32, &Device::Cpu);
        let codebook = weight(&weights, "codebook", (CODES, LENGTH), 0.5, rng, place)?;
        let decoder = Mlp::new(&weights, "decoder", &DECODER, rng)?;
        Ok(Box::new(Coder { images: &self.images, weights, encoder, codebook, decoder }))
    }
}

impl Coder<'_> {
    fn code(&self, images: &Tensor) -> candle_core::Result<Coded> {
        let count = images.dim(0)?;
        let said = self.encoder.forward(images)?.reshape((count * LATENTS, LENGTH))?;
        // |z − e|² without |z|², which does not change which e is nearest.
        let square = self.codebook.sqr()?.sum_keepdim(D::Minus1)?.t()?;
        let codes = square.broadcast_sub(&(said.matmul(&self.codebook.t()?)? * 2.0)?)?.argmin(D::Minus1)?;
        let chosen = self.codebook.index_select(&codes, 0)?;
        // The decoder's gradient passes the rounding by.
        let rounded = (&said + (&chosen - &said)?.detach())?;
        let drawn = self.decoder.forward(&rounded.reshape((count, LATENTS * LENGTH))?)?;
        let per_image = 1.0 / count as f64;
        Ok(Coded {
            reconstruction: ((drawn - images)?.sqr()?.sum_all()? * per_image)?,
            codebook: ((said.detach() - &chosen)?.sqr()?.sum_all()? * per_image)?,
            commitment: ((&said - chosen.detach())?.sqr()?.sum_all()? * per_image)?,
            codes,
        })
    }
}

impl Model for Coder<'_> {
    fn weights(&self) -> &VarMap {
        &self.weights
    }

    fn loss(&self, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let train = &self.images.train;
        let batch = (0..BATCH).flat_map(|_| train.image(index(rng, train.count()))).copied().collect();
        let Coded { reconstruction, codebook, commitment, .. } = self.code(&matrix(batch, PIXELS)?)?;
        Ok(((reconstruction + codebook)? + (commitment * COMMITMENT)?)?)
    }

    fn measure(&self, part: Part) -> Result<Vec<f64>> {
        let Images { pixels, .. } = match part {
            Part::Validation => &self.images.validation,
            Part::Test => &self.images.test,
        };
        let coded = self.code(&matrix(pixels.clone(), PIXELS)?)?;
        Ok(vec![scalar(&coded.reconstruction)?, perplexity(&coded.codes.to_vec1()?)])
    }
}

/// How many codes would be in use if all that are were used equally.
fn perplexity(codes: &[u32]) -> f64 {
    let mut counts = [0_u32; CODES];
    for &code in codes {
        counts[code as usize] += 1;
    }
    let share = |count: u32| f64::from(count) / codes.len() as f64;
    let entropy: f64 = counts.into_iter().filter(|&n| n > 0).map(|n| -share(n) * share(n).ln()).sum();
    entropy.exp()
}
