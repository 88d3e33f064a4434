//! The tasks.

mod digits;
mod images;
mod language;
mod mlp;
mod pixels;
mod vqvae;

use crate::corpus::Corpus;
use crate::task::Task;
use anyhow::Result;
pub(crate) use pixels::{Pixels, Target};

/// All of them, in the order of the report.
pub(crate) fn all(corpus: Corpus) -> Result<Vec<Box<dyn Task>>> {
    let images = images::load()?;
    Ok(vec![
        Box::new(language::Language::new(corpus)?),
        Box::new(digits::Digits::new(images.clone())),
        Box::new(vqvae::VqVae::new(images.clone())),
        Box::new(Pixels::new(&images, Target::Ink)),
        Box::new(Pixels::new(&images, Target::Bins)),
    ])
}
