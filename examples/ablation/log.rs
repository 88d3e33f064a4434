//! Runs that are done, kept in a file of one JSON object a line: what an interrupted program goes on from.

use crate::files;
use crate::run::{Outcome, Spec};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct Line {
    run: Spec,
    outcome: Outcome,
}

/// The file, and what it holds.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// By the spec's JSON.
    done: HashMap<String, Line>,
}

impl Log {
    /// Opens `path`, or makes it. A last line that was cut off in the middle is dropped.
    ///
    /// # Errors
    /// Another line that is not a run; a program that has the file open.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = OpenOptions::new().read(true).create(true).append(true).open(path).with_context(cannot)?;
        file.try_lock().with_context(|| format!("{}: another program is at work there", path.display()))?;
        let bytes = fs::read(path).with_context(cannot)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut done = HashMap::new();
        for (number, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let line: Line = serde_json::from_slice(line)
                .with_context(|| format!("{}, line {} is not a run of this program", cannot(), number + 1))?;
            done.insert(key(&line.run)?, line);
        }
        if whole < bytes.len() {
            file.set_len(whole as u64).with_context(cannot)?;
        }
        Ok(Self { path: path.to_owned(), file, done })
    }

    pub(crate) fn get(&self, spec: &Spec) -> Result<Option<&Outcome>> {
        Ok(self.done.get(&key(spec)?).map(|line| &line.outcome))
    }

    /// Keeps a run, on disk before this returns.
    pub(crate) fn add(&mut self, spec: Spec, outcome: Outcome) -> Result<()> {
        let line = Line { run: spec, outcome };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()).with_context(|| {
            format!("cannot write {}; what is done so far is kept there", self.path.display())
        })?;
        self.done.insert(key(&line.run)?, line);
        Ok(())
    }

    /// Writes the file anew, these runs in this order, and then whatever other plans have left there: two complete programs
    /// leave the same bytes.
    pub(crate) fn finish(&self, specs: &[Spec]) -> Result<()> {
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
        files::write(&self.path, |path| Ok(fs::write(path, text)?))
    }
}

fn key(spec: &Spec) -> Result<String> {
    Ok(serde_json::to_string(spec)?)
}

#[cfg(test)]
mod tests {
    use super::{Log, Outcome, Spec};
    use std::fs;

    fn spec(seed: u64) -> Spec {
        let (task, variant) = ("digits".to_owned(), "Adam + ε".to_owned());
        Spec { task, variant, lr: 0.1, seed, steps: 10, test: true, settings: String::new() }
    }

    /// What a killed program leaves is read, but for the line that it was writing; no bit of a number is lost.
    #[test]
    fn a_log_goes_on_after_a_torn_line() {
        let path = std::env::temp_dir().join(format!("fadam-log-{}.jsonl", std::process::id()));
        let of = |x: f64| Outcome {
            validation: Some(x),
            test: vec![x / 3.0, f64::MIN_POSITIVE],
            training: vec![],
        };
        let mut log = Log::open(&path).unwrap();
        for seed in 0..3 {
            log.add(spec(seed), of(0.1 + seed as f64)).unwrap();
        }
        let second = Log::open(&path).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(second.contains("another program"), "{second}");
        drop(log);
        let whole = fs::read(&path).unwrap();
        for cut in whole.len() * 2 / 3 + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let log = Log::open(&path).unwrap();
            assert_eq!(log.get(&spec(1)).unwrap(), Some(&of(1.1)));
            assert_eq!(log.get(&spec(2)).unwrap(), None);
        }

        let mut log = Log::open(&path).unwrap();
        log.add(spec(2), of(2.1)).unwrap();
        log.finish(&[spec(0), spec(1), spec(2)]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        log.finish(&[spec(0)]).unwrap(); // of a smaller plan
        assert_eq!(fs::read(&path).unwrap(), whole);

        drop(log);
        fs::write(&path, b"{}\n").unwrap();
        let error = Log::open(&path).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("line 1"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
