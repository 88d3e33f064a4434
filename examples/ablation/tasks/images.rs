//! Real handwritten digits: the 1797 images of the UCI test set "Optical Recognition of Handwritten Digits" (Alpaydin and
//! Kaynak 1998, CC BY 4.0), 8 by 8 pixels with 17 levels of ink, which the crate smartcore brings along.

use crate::weights::{generator, index};
use anyhow::{Result, ensure};
use smartcore::dataset::digits;

/// Pixels of a side.
pub(crate) const SIDE: usize = 8;
/// Pixels of an image.
pub(crate) const PIXELS: usize = SIDE * SIDE;
/// The most ink that a pixel has: an integer from 0 on.
pub(crate) const INK: f32 = 16.0;
/// What an image can show.
pub(crate) const CLASSES: usize = 10;
/// Of the validation and of the test images.
const HELD_OUT: usize = 400;

/// Images of one part: [`PIXELS`] values in 0..=1 each, row by row, and what they show.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) pixels: Vec<f32>,
    pub(crate) labels: Vec<u32>,
}

/// The split that every task uses.
#[derive(Clone)]
pub(crate) struct Split {
    pub(crate) train: Images,
    pub(crate) validation: Images,
    pub(crate) test: Images,
}

impl Images {
    pub(crate) fn count(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * PIXELS..][..PIXELS]
    }
}

pub(crate) fn load() -> Result<Split> {
    let digits = digits::load_dataset();
    ensure!(
        digits.data.len() == digits.num_samples * PIXELS && digits.num_samples > 3 * HELD_OUT,
        "smartcore's digits are not what they were"
    );
    // In the file, the digits of one writer stand together.
    let mut order: Vec<usize> = (0..digits.num_samples).collect();
    let mut rng = generator(0, 0);
    for i in (1..order.len()).rev() {
        order.swap(i, index(&mut rng, i + 1));
    }
    let part = |order: &[usize]| Images {
        pixels: order
            .iter()
            .flat_map(|&i| &digits.data[i * PIXELS..][..PIXELS])
            .map(|ink| ink / INK)
            .collect(),
        labels: order.iter().map(|&i| digits.target[i] as u32).collect(),
    };
    let (validation, rest) = order.split_at(HELD_OUT);
    let (test, train) = rest.split_at(HELD_OUT);
    Ok(Split { train: part(train), validation: part(validation), test: part(test) })
}
