//! How much ink has a pixel, given those above it and to its left? The same network and data twice: as a regression with
//! squared error, and as a choice among the 17 levels of ink with cross-entropy.

use super::images::{INK, Images, SIDE, Split};
use super::mlp::{Mlp, matrix, scalar};
use crate::task::{Measure, Model, Part, Task};
use crate::weights::index;
use anyhow::Result;
use candle_core::{D, Device, Tensor};
use candle_nn::{VarMap, loss};
use rand_chacha::ChaCha8Rng;

/// Where the pixels that are looked at lie, in rows and columns from the one to guess.
const NEIGHBOURS: [(isize, isize); 12] = [
    (-2, -2),
    (-2, -1),
    (-2, 0),
    (-2, 1),
    (-2, 2),
    (-1, -2),
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (-1, 2),
    (0, -2),
    (0, -1),
];
/// The neighbours' ink, and which row and column it is, as one of [`SIDE`] each.
const INPUTS: usize = NEIGHBOURS.len() + 2 * SIDE;
const BINS: usize = INK as usize + 1;
const HIDDEN: usize = 64;
const BATCH: usize = 128;

/// What the network says.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// The ink, in 0..=1: half the squared error, the negative log-likelihood of a normal distribution with variance 1.
    Ink,
    /// A probability for each level: the negative log-likelihood of a discrete distribution.
    Bins,
}

/// Pixels of one part: what is looked at, a row a pixel, and their level of ink.
struct Samples {
    inputs: Vec<f32>,
    levels: Vec<u32>,
}

pub(crate) struct Pixels {
    target: Target,
    train: Samples,
    validation: Samples,
    test: Samples,
}

/// A network that guesses pixels.
pub(crate) struct Guesser<'a> {
    task: &'a Pixels,
    weights: VarMap,
    mlp: Mlp,
}

impl Samples {
    fn of(images: &Images) -> Self {
        let mut samples = Self { inputs: Vec::new(), levels: Vec::new() };
        for i in 0..images.count() {
            let image = images.image(i);
            for (row, column) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column))) {
                let ink = |(down, right)| {
                    let (row, column) = (row.checked_add_signed(down)?, column.checked_add_signed(right)?);
                    (row < SIDE && column < SIDE).then(|| image[row * SIDE + column])
                };
                samples.inputs.extend(NEIGHBOURS.map(|neighbour| ink(neighbour).unwrap_or(0.0)));
                samples.inputs.extend((0..SIDE).map(|i| f32::from(i == row)));
                samples.inputs.extend((0..SIDE).map(|i| f32::from(i == column)));
                samples.levels.push((image[row * SIDE + column] * INK) as u32);
            }
        }
        samples
    }
}

impl Pixels {
    pub(crate) fn new(images: &Split, target: Target) -> Self {
        let [train, validation, test] = [&images.train, &images.validation, &images.test].map(Samples::of);
        Self { target, train, validation, test }
    }

    fn outputs(&self) -> usize {
        match self.target {
            Target::Ink => 1,
            Target::Bins => BINS,
        }
    }

    pub(crate) fn guesser(&self, rng: &mut ChaCha8Rng) -> Result<Guesser<'_>> {
        let weights = VarMap::new();
        let mlp = Mlp::new(&weights, "mlp", &[INPUTS, HIDDEN, HIDDEN, self.outputs()], rng)?;
        Ok(Guesser { task: self, weights, mlp })
    }
}

impl Task for Pixels {
    fn name(&self) -> &'static str {
        match self.target {
            Target::Ink => "ink",
            Target::Bins => "bins",
        }
    }

    fn about(&self) -> String {
        let widths = [INPUTS, HIDDEN, HIDDEN, self.outputs()];
        let how = match self.target {
            Target::Ink => "as a number, by squared error",
            Target::Bins => "as one of 17 levels, by cross-entropy",
        };
        format!(
            "the ink of a pixel of these images, given {} pixels above it and to its left, {how}; a perceptron of widths \
             {widths:?}, batches of {BATCH}",
            NEIGHBOURS.len()
        )
    }

    fn measures(&self) -> &'static [Measure] {
        match self.target {
            Target::Ink => &[
                Measure { name: "half squared error", unit: "of ink in 0..1" },
                Measure { name: "error of the mean", unit: "levels, root mean square" },
            ],
            Target::Bins => &[
                Measure { name: "cross-entropy", unit: "nats a pixel" },
                Measure { name: "error of the mean", unit: "levels, root mean square" },
            ],
        }
    }

    fn steps_per_minute(&self) -> f64 {
        80.0
    }

    fn model(&self, rng: &mut ChaCha8Rng) -> Result<Box<dyn Model + '_>> {
        Ok(Box::new(self.guesser(rng)?))
    }
}

impl Guesser<'_> {
    /// Pixels to train on: what is looked at, and their levels.
    pub(crate) fn batch(&self, count: usize, rng: &mut ChaCha8Rng) -> Result<(Tensor, Vec<u32>)> {
        let Samples { inputs, levels } = &self.task.train;
        let batch: Vec<usize> = (0..count).map(|_| index(rng, levels.len())).collect();
        let seen = batch.iter().flat_map(|&i| &inputs[i * INPUTS..][..INPUTS]).copied().collect();
        Ok((matrix(seen, INPUTS)?, batch.iter().map(|&i| levels[i]).collect()))
    }

    /// What the network says of each pixel.
    pub(crate) fn forward(&self, inputs: &Tensor) -> Result<Tensor> {
        Ok(self.mlp.forward(inputs)?)
    }

    /// Mean negative log-likelihood, of ink up to a constant.
    pub(crate) fn mismatch(&self, said: &Tensor, levels: &[u32]) -> Result<Tensor> {
        Ok(match self.task.target {
            Target::Ink => {
                let ink = levels.iter().map(|&level| level as f32 / INK).collect();
                ((said - matrix(ink, 1)?)?.sqr()?.mean_all()? * 0.5)?
            }
            Target::Bins => loss::cross_entropy(said, &Tensor::new(levels, &Device::Cpu)?)?,
        })
    }

    /// The same for targets that are drawn from what the network says. Of ink, they lie 1 above: that has the gradient's square
    /// that a normal distribution with variance 1 has in the mean.
    pub(crate) fn own_mismatch(&self, said: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        Ok(match self.task.target {
            Target::Ink => ((said - (said + 1.0)?.detach())?.sqr()?.mean_all()? * 0.5)?,
            Target::Bins => {
                let rows = candle_nn::ops::softmax(said, D::Minus1)?.to_vec2::<f32>()?;
                let levels: Vec<u32> = rows.iter().map(|row| draw(row, rng)).collect();
                loss::cross_entropy(said, &Tensor::new(levels, &Device::Cpu)?)?
            }
        })
    }

    /// The ink that it expects, in levels.
    fn mean(&self, said: &Tensor) -> Result<Tensor> {
        Ok(match self.task.target {
            Target::Ink => (said * f64::from(INK))?,
            Target::Bins => {
                let levels = matrix((0..BINS).map(|level| level as f32).collect(), 1)?;
                candle_nn::ops::softmax(said, D::Minus1)?.matmul(&levels)?
            }
        })
    }
}

impl Model for Guesser<'_> {
    fn weights(&self) -> &VarMap {
        &self.weights
    }

    fn loss(&self, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let (inputs, levels) = self.batch(BATCH, rng)?;
        self.mismatch(&self.forward(&inputs)?, &levels)
    }

    fn measure(&self, part: Part) -> Result<Vec<f64>> {
        let Samples { inputs, levels } = match part {
            Part::Validation => &self.task.validation,
            Part::Test => &self.task.test,
        };
        let said = self.forward(&matrix(inputs.clone(), INPUTS)?)?;
        let truth = matrix(levels.iter().map(|&level| level as f32).collect(), 1)?;
        let error = (self.mean(&said)? - truth)?.sqr()?.mean_all()?;
        Ok(vec![scalar(&self.mismatch(&said, levels)?)?, scalar(&error)?.sqrt()])
    }
}

/// A level, by its probability.
fn draw(probabilities: &[f32], rng: &mut ChaCha8Rng) -> u32 {
    let mut left = index(rng, 1 << 24) as f32 / (1 << 24) as f32;
    let level = probabilities.iter().position(|probability| {
        left -= probability;
        left < 0.0
    });
    level.unwrap_or(probabilities.len() - 1) as u32 // rounding may leave a rest
}
