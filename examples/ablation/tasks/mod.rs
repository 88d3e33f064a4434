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
pub(crate) use pixels::{Guesser, Pixels, Target};

/// Their names, in the order of the report.
pub(crate) const NAMES: [&str; 5] = [LANGUAGE, "digits", "vqvae", "ink", "bins"];
/// The one that needs a corpus.
pub(crate) const LANGUAGE: &str = "lm";

/// Those of these names, in the order of the report. Without a corpus the language model is not among them.
pub(crate) fn some(names: &[String], corpus: Option<Corpus>) -> Result<Vec<Box<dyn Task>>> {
    let images = images::load()?;
    let mut tasks: Vec<Box<dyn Task>> = Vec::new();
    if let Some(corpus) = corpus {
        tasks.push(Box::new(language::Language::new(corpus)?));
    }
    tasks.push(Box::new(digits::Digits::new(images.clone())));
    tasks.push(Box::new(vqvae::VqVae::new(images.clone())));
    for target in [Target::Ink, Target::Bins] {
        tasks.push(Box::new(Pixels::new(&images, target)));
    }
    tasks.retain(|task| names.iter().any(|name| name == task.name()));
    Ok(tasks)
}

/// The last two tasks by themselves: as a number, and as levels.
pub(crate) fn pixels() -> Result<[Pixels; 2]> {
    let images = images::load()?;
    Ok([Target::Ink, Target::Bins].map(|target| Pixels::new(&images, target)))
}
