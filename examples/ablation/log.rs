//! Runs that are done, kept in a file of one JSON object a line: what an interrupted program goes on from.

use crate::files;
use crate::run::{Outcome, Spec};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Its name in the folder of results.
pub(crate) const RUNS: &str = "runs.jsonl";

#[derive(Serialize, Deserialize)]
struct Line {
    run: Spec,
    outcome: Outcome,
}

/// The file, and what it holds.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Of the file, in bytes: all of it runs.
    len: u64,
    /// By the spec's JSON.
    done: HashMap<String, Line>,
}

impl Log {
    /// Opens `path`, or makes it. The caller sees to it that no other program does. What a killed program or a power cut has
    /// left of a line at the end is dropped, with a note.
    ///
    /// # Errors
    /// Another line that is not a run.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read `{}`", path.display());
        let file = files::edit(path)?;
        sync_name(path);
        let bytes = files::contents(&file).with_context(cannot)?;
        let (mut done, mut whole, mut torn) = (HashMap::new(), 0, None);
        for (number, line) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
            if is_torn(line) {
                torn.get_or_insert(number);
                continue;
            }
            if let Some(torn) = torn {
                bail!("{}: line {torn} is damaged, and not the last", cannot());
            }
            let line_read: Line = serde_json::from_slice(line)
                .with_context(|| format!("{}: line {number} is not a run of this program", cannot()))?;
            done.insert(key(&line_read.run)?, line_read);
            whole += line.len();
        }
        if let Some(torn) = torn {
            // On the disk before there is more: else a longer file might still have it.
            file.set_len(whole as u64)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write `{}`", path.display()))?;
            let dropped = bytes.len() - whole;
            let path = path.display();
            files::note(&format!("`{path}`: line {torn} is damaged; {dropped} bytes are dropped"));
        }
        Ok(Self { path: path.to_owned(), file, len: whole as u64, done })
    }

    pub(crate) fn get(&self, spec: &Spec) -> Result<Option<&Outcome>> {
        Ok(self.done.get(&key(spec)?).map(|line| &line.outcome))
    }

    /// Keeps a run, on disk before this returns.
    pub(crate) fn add(&mut self, spec: Spec, outcome: Outcome) -> Result<()> {
        let line = Line { run: spec, outcome };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        let mut keep = || {
            self.file.seek(SeekFrom::Start(self.len))?;
            self.file.write_all(text.as_bytes())?;
            self.file.sync_data()
        };
        if let Err(error) = keep() {
            // It may be there in part, or not on the disk. The next program drops what it finds damaged.
            let _ = self.file.set_len(self.len);
            let cannot = format!("cannot write `{}`; what is done so far is kept there", self.path.display());
            return Err(error).context(cannot);
        }
        sync_name(&self.path); // where that has failed before
        self.len += text.len() as u64;
        self.done.insert(key(&line.run)?, line);
        Ok(())
    }

    /// Writes the file anew, these runs in this order, and then whatever other plans have left there: two complete programs
    /// leave the same bytes. The old one is what `self` has open.
    pub(crate) fn finish(self, specs: &[Spec]) -> Result<()> {
        let keys = specs.iter().map(key).collect::<Result<Vec<_>>>()?;
        let planned: HashSet<&String> = keys.iter().collect();
        let mut others: Vec<&String> = self.done.keys().filter(|key| !planned.contains(key)).collect();
        others.sort();
        let mut text = String::new();
        for key in keys.iter().chain(others) {
            let line = self.done.get(key).context("a run is missing")?;
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        files::write(&self.path, text.as_bytes())
    }
}

/// Brings a new file's name to the disk, where the system can.
fn sync_name(path: &Path) {
    if let Some(folder) = path.parent() {
        files::sync_folder(folder);
    }
}

/// A line whose end is not on the disk, or of which a part is not: file systems read zeros there.
fn is_torn(line: &[u8]) -> bool {
    !line.ends_with(b"\n") || line.contains(&0)
}

fn key(spec: &Spec) -> Result<String> {
    Ok(serde_json::to_string(spec)?)
}

#[cfg(test)]
mod tests;
