//! What went wrong, while the file's path is not at hand.

use super::file::Failed;
use crate::Error;
use std::io;
use std::path::Path;

#[derive(Debug)]
pub(super) enum Fault {
    /// With what the file holds.
    Wrong(String),
    /// With the file.
    Io(&'static str, io::Error),
    /// With the optimizer.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failed> for Fault {
    fn from(Failed { doing, source }: Failed) -> Self {
        Self::Io(doing, source)
    }
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Wrong(what) => Error::State { path: path.into(), what },
            Self::Io(doing, source) => Error::Io { path: path.into(), doing, source },
            Self::Other(error) => error,
        }
    }
}

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(what.into()))
}

pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::Io(doing, error)
}

/// Text of a file, fit for a message of one line.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let cut = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    let start: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    format!("`{start}{cut}`")
}
