//! The tasks.

mod digits;
mod images;
mod language;
mod mlp;
mod pixels;
mod vqvae;

use crate::corpus::Corpus;
use crate::task::Task;
use anyhow::{Result, bail};
pub(crate) use pixels::{Guesser, Pixels, Target};

/// Those of these names, or all, in the order of the report.
///
/// # Errors
/// A name that no task has.
pub(crate) fn some(corpus: Corpus, names: Option<&[String]>) -> Result<Vec<Box<dyn Task>>> {
    let images = images::load()?;
    let mut tasks: Vec<Box<dyn Task>> = vec![
        Box::new(language::Language::new(corpus)?),
        Box::new(digits::Digits::new(images.clone())),
        Box::new(vqvae::VqVae::new(images.clone())),
        Box::new(Pixels::new(&images, Target::Ink)),
        Box::new(Pixels::new(&images, Target::Bins)),
    ];
    if let Some(names) = names {
        let known: Vec<_> = tasks.iter().map(|task| task.name()).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no task {name}; there are {}", known.join(", "));
        }
        tasks.retain(|task| names.iter().any(|name| name == task.name()));
    }
    Ok(tasks)
}

/// The last two tasks by themselves: as a number, and as levels.
pub(crate) fn pixels() -> Result<[Pixels; 2]> {
    let images = images::load()?;
    Ok([Target::Ink, Target::Bins].map(|target| Pixels::new(&images, target)))
}
