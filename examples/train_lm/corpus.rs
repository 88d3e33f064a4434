//! The text: where it comes from, and which part of it is held out.
//!
//! By default it is the source of a few packages that cargo has already fetched to build this program. `Cargo.lock`
//! pins their versions, so everybody trains on the same bytes.

use crate::files;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Packages with mostly hand-written, documented code.
const PACKAGES: [&str; 9] = [
    "anyhow",
    "candle-nn",
    "clap_builder",
    "indicatif",
    "rayon",
    "rayon-core",
    "safetensors",
    "serde_core",
    "serde_json",
];

/// The versions that this program was built with.
const LOCK_FILE: &str = include_str!("../../Cargo.lock");

/// One file in this many is held out.
const HELD_OUT_EVERY: usize = 10;

/// Bytes to train on, and bytes to measure on, which are never trained on.
pub(crate) struct Corpus {
    pub(crate) train: Vec<u8>,
    pub(crate) held_out: Vec<u8>,
    files: usize,
    source: String,
}

impl Corpus {
    /// The sources of [`PACKAGES`], or, if `path` is given, that file or every text file under that folder.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let (files, source) = match path {
            Some(path) => (text_files(path, "")?, path.display().to_string()),
            None => (package_files()?, format!("Rust source of {}", PACKAGES.join(", "))),
        };
        let texts = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
        let texts: Vec<_> = texts.into_iter().filter(|text| !text.is_empty() && !text.contains(&0)).collect();
        ensure!(!texts.is_empty(), "{source} has no text in it");
        Ok(Self::split(&texts, source))
    }

    /// Whole files are held out, so that nothing the model is measured on sits next to something it has seen.
    /// A single file can only be cut.
    fn split(texts: &[Vec<u8>], source: String) -> Self {
        let files = texts.len();
        if let [text] = texts {
            let (train, held_out) = text.split_at(text.len() - text.len() / HELD_OUT_EVERY);
            return Self { train: train.to_vec(), held_out: held_out.to_vec(), files, source };
        }
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (i, text) in texts.iter().enumerate() {
            // Not the first of each ten but the second, so that two files already give one of each.
            let part = if i % HELD_OUT_EVERY == 1 { &mut held_out } else { &mut train };
            part.extend_from_slice(text);
        }
        Self { train, held_out, files, source }
    }

    /// Refuses a corpus of which a part has fewer than `bytes` bytes.
    pub(crate) fn require(&self, bytes: usize) -> Result<()> {
        for (part, text) in [("training", &self.train), ("held-out", &self.held_out)] {
            ensure!(
                text.len() >= bytes,
                "{} is too short: its {part} part has {} bytes, and {bytes} are needed",
                self.source,
                text.len()
            );
        }
        Ok(())
    }

    /// What it is, how long, and a checksum to compare two machines by.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{}\n          {} files, {} bytes to train on, {} held out, FNV-1a {}",
            self.source,
            self.files,
            self.train.len(),
            self.held_out.len(),
            self.fingerprint()
        )
    }

    /// FNV-1a of all bytes.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:016x}", fnv1a(&[&self.train, &self.held_out]))
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The 64-bit Fowler-Noll-Vo hash.
pub(crate) fn fnv1a(parts: &[&[u8]]) -> u64 {
    files::fnv1a(parts.iter().copied().flatten())
}

/// `path` if it is a file, else the files below it whose names end in `suffix`, in an order that the file system has
/// no say in. Hidden entries and links are passed over.
fn text_files(path: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", path.display());
    if fs::metadata(path).with_context(context)?.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries = fs::read_dir(path)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(context)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().with_context(context)?;
        if name.starts_with('.') {
            continue;
        } else if kind.is_dir() {
            files.extend(text_files(&entry.path(), suffix)?);
        } else if kind.is_file() && name.ends_with(suffix) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn package_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in PACKAGES {
        let version = locked_version(name)?;
        let package = in_registry(name, version).or_else(|| by_metadata(name, version));
        let Some(package) = package else {
            bail!(
                "the source of {name} {version} is not on this machine: run `cargo fetch`, or give a text with --corpus"
            )
        };
        files.extend(text_files(&package.join("src"), ".rs")?);
    }
    Ok(files)
}

fn locked_version(name: &str) -> Result<&'static str> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let at = LOCK_FILE.find(&entry).with_context(|| format!("Cargo.lock does not mention {name}"))?;
    let rest = &LOCK_FILE[at + entry.len()..];
    rest.split('"').next().with_context(|| format!("Cargo.lock has no version of {name}"))
}

/// Where cargo unpacks what it downloads, from whichever registry.
fn in_registry(name: &str, version: &str) -> Option<PathBuf> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir()?.join(".cargo"),
    };
    let mut registries: Vec<_> = fs::read_dir(home.join("registry/src")).ok()?.flatten().collect();
    registries.sort_by_key(fs::DirEntry::file_name);
    let unpacked = registries.iter().map(|registry| registry.path().join(format!("{name}-{version}")));
    unpacked.into_iter().find(|package| package.join("src").is_dir())
}

/// Asks cargo, which knows about vendored packages. Slower, and without them it insists on packages of every platform.
fn by_metadata(name: &str, version: &str) -> Option<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let mut packages = metadata["packages"].as_array()?.iter();
    let package = packages.find(|package| package["name"] == name && package["version"] == version)?;
    Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_path_buf())
}
