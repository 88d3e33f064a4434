//! Which digit is it?

use super::images::{CLASSES, Images, PIXELS, Split};
use super::mlp::{Mlp, matrix, scalar};
use crate::task::{Measure, Model, Part, Task};
use crate::weights::index;
use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{VarMap, loss};
use rand_chacha::ChaCha8Rng;

const WIDTHS: [usize; 4] = [PIXELS, 128, 64, CLASSES];
const BATCH: usize = 64;

pub(crate) struct Digits {
    images: Split,
}

struct Classifier<'a> {
    images: &'a Split,
    weights: VarMap,
    mlp: Mlp,
}

impl Digits {
    pub(crate) fn new(images: Split) -> Self {
        Self { images }
    }
}

impl Task for Digits {
    fn name(&self) -> &'static str {
        "digits"
    }

    fn about(&self) -> String {
        let Split { train, validation, test } = &self.images;
        let (train, validation, test) = (train.count(), validation.count(), test.count());
        format!(
            "classification of handwritten digits ({train} images to train on, {validation} for validation, {test} to \
             test), a perceptron of widths {WIDTHS:?}, batches of {BATCH}"
        )
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure { name: "cross-entropy", unit: "nats" }, Measure { name: "errors", unit: "%" }]
    }

    fn steps_per_minute(&self) -> f64 {
        15.0
    }

    fn model(&self, rng: &mut ChaCha8Rng) -> Result<Box<dyn Model + '_>> {
        let weights = VarMap::new();
        let mlp = Mlp::new(&weights, "mlp", &WIDTHS, rng)?;
        Ok(Box::new(Classifier { images: &self.images, weights, mlp }))
    }
}

impl Model for Classifier<'_> {
    fn weights(&self) -> &VarMap {
        &self.weights
    }

    fn loss(&self, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let train = &self.images.train;
        let batch: Vec<usize> = (0..BATCH).map(|_| index(rng, train.count())).collect();
        let pixels = batch.iter().flat_map(|&i| train.image(i)).copied().collect();
        let labels: Vec<u32> = batch.iter().map(|&i| train.labels[i]).collect();
        let logits = self.mlp.forward(&matrix(pixels, PIXELS)?)?;
        Ok(loss::cross_entropy(&logits, &Tensor::new(labels, &Device::Cpu)?)?)
    }

    fn measure(&self, part: Part) -> Result<Vec<f64>> {
        let Images { pixels, labels } = match part {
            Part::Validation => &self.images.validation,
            Part::Test => &self.images.test,
        };
        let labels = Tensor::new(labels.as_slice(), &Device::Cpu)?;
        let logits = self.mlp.forward(&matrix(pixels.clone(), PIXELS)?)?;
        let wrong = logits.argmax(D::Minus1)?.ne(&labels)?.to_dtype(DType::F32)?.mean_all()?;
        Ok(vec![scalar(&loss::cross_entropy(&logits, &labels)?)?, 100.0 * scalar(&wrong)?])
    }
}
