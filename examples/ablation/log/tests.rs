//! One promise: whatever becomes of the program and of the machine, the log has every run that was kept, and no wrong one.

use super::{Log, Outcome, Spec};
use crate::files::in_memory;
use std::fs;
use std::path::{Path, PathBuf};

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = in_memory().join(format!("fadam-log-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn spec(seed: u64) -> Spec {
    let (task, variant) = ("digits".to_owned(), "Adam + ε".to_owned());
    Spec { task, variant, lr: 0.1, seed, steps: 10, test: true, settings: String::new() }
}

fn outcome(seed: u64) -> Outcome {
    let x = 0.1 + seed as f64;
    Outcome { validation: Some(x), test: vec![x / 3.0, f64::MIN_POSITIVE], training: vec![] }
}

fn add(log: &mut Log, seed: u64) -> anyhow::Result<()> {
    log.add(spec(seed), outcome(seed))
}

/// The seeds of the runs that the log has, each of which must be as it was.
fn seeds(log: &Log) -> Vec<u64> {
    let seeds: Vec<u64> = (0..10).filter(|&seed| log.get(&spec(seed)).unwrap().is_some()).collect();
    assert_eq!(seeds.len(), log.done.len(), "a run that was never done");
    for &seed in &seeds {
        assert_eq!(log.get(&spec(seed)).unwrap(), Some(&outcome(seed)));
    }
    seeds
}

fn refusal(path: &Path) -> String {
    Log::open(path).err().map(|error| format!("{error:#}")).unwrap_or_default()
}

/// The bytes of a log of runs 0 to 2.
fn three(path: &Path) -> Vec<u8> {
    let mut log = Log::open(path).unwrap();
    (0..3).for_each(|seed| add(&mut log, seed).unwrap());
    fs::read(path).unwrap()
}

fn line(log: &[u8], number: usize) -> &[u8] {
    log.split_inclusive(|&byte| byte == b'\n').nth(number).unwrap()
}

/// What a killed program leaves is read, but for the line that it was writing; no bit of a number is lost.
#[test]
fn a_log_goes_on_after_a_torn_line() {
    let folder = folder("torn");
    let path = folder.join("runs");
    let whole = three(&path);
    let last = line(&whole, 0).len() + line(&whole, 1).len();
    for cut in last + 1..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(seeds(&Log::open(&path).unwrap()), [0, 1]);
    }
    // The size was on the disk, and of the data nothing, the beginning or the end.
    for begin in last..whole.len() - 1 {
        for end in [begin + 1, whole.len() - 1, whole.len()] {
            let mut bytes = whole.clone();
            bytes[begin..end].fill(0);
            fs::write(&path, [&bytes[..], &[0; 9]].concat()).unwrap();
            assert_eq!(seeds(&Log::open(&path).unwrap()), [0, 1], "zeros from {begin} to {end}");
            assert!(fs::read(&path).unwrap() == whole[..last]);
        }
    }
    add(&mut Log::open(&path).unwrap(), 2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_finished_log_has_the_order_of_the_plan() {
    let folder = folder("finished");
    let path = folder.join("runs");
    let whole = three(&path);
    let finish = |seeds: &[u64]| {
        let specs: Vec<Spec> = seeds.iter().map(|&seed| spec(seed)).collect();
        Log::open(&path).unwrap().finish(&specs).unwrap();
        fs::read(&path).unwrap()
    };
    assert_ne!(finish(&[2, 1, 0]), whole);
    assert_eq!(finish(&[0, 1, 2]), whole);
    assert_eq!(finish(&[0]), whole); // of a smaller plan
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_log_is_refused() {
    let folder = folder("refused");
    let path = folder.join("runs");
    let whole = three(&path);
    let lines = [0, 1, 2].map(|number| line(&whole, number));
    let zeros = [&[0; 20][..], b"\n"].concat();
    let cases: [(&[&[u8]], &str); 6] = [
        (&[b"{}\n"], "line 1 is not a run"),
        (&[b"Notes\n"], "line 1 is not a run"),
        (&[lines[0], b"\n", lines[1]], "line 2 is not a run"),
        (&[lines[0], &lines[1][1..], lines[2]], "line 2 is not a run"),
        (&[lines[0], &zeros, lines[2]], "line 2 is damaged, and not the last"),
        (&[&zeros, b"Notes\n"], "line 1 is damaged, and not the last"),
    ];
    for (parts, words) in cases {
        fs::write(&path, parts.concat()).unwrap();
        let error = refusal(&path);
        assert!(error.contains(words) && error.contains("runs`"), "{words}: {error}");
        assert_eq!(fs::read(&path).unwrap(), parts.concat(), "{words}: it was changed");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal(&path).contains("not a regular file"), "{}", refusal(&path));
    fs::remove_dir_all(folder).unwrap();
}

#[cfg(unix)]
#[test]
fn pipes_and_giants_are_refused() {
    let folder = folder("pipe");
    let path = folder.join("runs");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(refusal(&path).contains("not a regular file"), "{}", refusal(&path));
    fs::remove_file(&path).unwrap();
    fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
    assert!(refusal(&path).contains("longer than any"), "{}", refusal(&path));
    fs::remove_dir_all(folder).unwrap();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod faults {
    use super::{Log, add, folder, seeds, spec};
    use crate::calls::{Call, Change, Disk, PowerCuts, Record, Wrong, disk, lay, watch, ways};
    use std::cell::Cell;
    use std::fs;
    use std::path::Path;

    /// A program: it opens the log, keeps runs 1 and 2, and ends. Counts the runs that are kept.
    fn work(path: &Path, kept: &Cell<u64>) -> anyhow::Result<()> {
        let mut log = Log::open(path)?;
        for seed in [1, 2] {
            add(&mut log, seed)?;
            kept.set(seed);
        }
        log.finish(&[spec(2), spec(1)])
    }

    /// What is there at first: nothing; run 0; run 0 and a part of another; after a power cut, zeros.
    fn beginnings(path: &Path) -> Vec<Disk> {
        let mut log = Log::open(path).unwrap();
        add(&mut log, 0).unwrap();
        let one = fs::read(path).unwrap();
        let with = |more: &[u8]| Disk::from([(path.to_path_buf(), [&one, more].concat())]);
        vec![Disk::new(), with(b""), with(b"{\"run\":{\"task\":\"dig"), with(&[0; 700])]
    }

    #[test]
    fn every_call_fails_once() {
        let folder = folder("calls");
        let path = folder.join("runs");
        let (mut failed, mut refused) = (0, 0);
        for before in beginnings(&path) {
            let first = before.len() as u64; // whether there is run 0
            lay(&folder, &before);
            let (result, record) = watch(None, || work(&path, &Cell::default()));
            result.unwrap();
            for (nth, &call) in record.calls.iter().enumerate() {
                for wrong in ways(call) {
                    lay(&folder, &before);
                    let what = format!("{call:?}, the {nth}th call, {wrong:?}, {} bytes", before.len());
                    let kept = Cell::new(0);
                    let (result, _) = watch(Some((nth, wrong)), || work(&path, &kept));
                    failed += 1;
                    if let Err(error) = &result {
                        refused += 1;
                        assert!(format!("{error:#}").contains("runs`"), "{what}: {error:#}");
                    }
                    assert!(result.is_err() || kept.get() == 2, "{what}");
                    let log = Log::open(&path).unwrap();
                    let found = seeds(&log);
                    let expected: Vec<u64> = (1 - first..=kept.get()).collect();
                    assert!(found.starts_with(&expected), "{what}: {found:?}, kept {}", kept.get());
                    // The run that was not kept may be there nevertheless, but not a later one.
                    assert!(found.len() <= expected.len() + 1, "{what}: {found:?}");
                    work(&path, &Cell::default()).unwrap();
                    assert_eq!(disk(&folder).len(), 1, "{what}");
                }
            }
        }
        println!("{failed} calls failed, of which {refused} ended the program");
        assert!(failed > 500 && refused > 100);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Runs that had been kept after so many changes, at the most so many: more was written since than what a run needs.
    fn kept_by(record: &Record, path: &Path, cut: usize, most: u64) -> u64 {
        let mut log = record.known.iter().find(|(known, _)| known == path).map(|(_, file)| *file);
        let mut kept = 0;
        for (at, change) in record.changes[..cut].iter().enumerate() {
            let goes_on = |change: &Change| !matches!(change, Change::Sync { .. } | Change::SyncFolder);
            match change {
                Change::Create { file, path: created } if created == path => log = Some(*file),
                Change::Write { file, .. } if Some(*file) == log => {
                    kept += u64::from(record.changes[at + 1..cut].iter().any(goes_on));
                }
                _ => {}
            }
        }
        kept.min(most)
    }

    /// And with that any of the syncs may have failed that do not end the program.
    #[test]
    fn the_power_fails_between_any_two_calls() {
        let folder = folder("power");
        let path = folder.join("runs");
        let (mut disks, mut orders, mut records) = (0, 0, 0);
        for before in beginnings(&path) {
            let first = before.len() as u64;
            lay(&folder, &before);
            let (result, record) = watch(None, || work(&path, &Cell::default()));
            result.unwrap();
            let mut plans = vec![None];
            let syncs = record.calls.iter().enumerate().filter(|(_, call)| **call == Call::Sync);
            plans.extend(syncs.map(|(nth, _)| Some((nth, Wrong::Fails(libc::EIO)))));
            for plan in plans {
                lay(&folder, &before);
                let kept = Cell::new(0);
                let (_, record) = watch(plan, || work(&path, &kept));
                records += 1;
                let (different, tried) = PowerCuts::new(&before, &record, 256).each(|found, cut| {
                    lay(&folder, found);
                    let what = format!("{plan:?}, cut {cut}");
                    let log = Log::open(&path).unwrap_or_else(|error| panic!("{what}: {error:#}"));
                    let found = seeds(&log);
                    let kept = kept_by(&record, &path, cut, kept.get());
                    let expected: Vec<u64> = (1 - first..=kept).collect();
                    assert!(found.starts_with(&expected), "{what}: {found:?}, not {expected:?}");
                    work(&path, &Cell::default()).unwrap();
                    assert_eq!(disk(&folder).len(), 1, "{what}");
                });
                (disks, orders) = (disks + different, orders + tried);
            }
        }
        println!("{records} records, {orders} orders of power cuts, {disks} different disks");
        fs::remove_dir_all(folder).unwrap();
    }
}
