//! One promise: whichever call of the file system fails, and whenever the power does, there is one whole checkpoint.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "common/calls.rs"]
mod calls;
mod common;
#[path = "common/paths.rs"]
mod paths;

use calls::{Call, PowerCuts, Wrong, disk, lay, watch, ways};
use common::{Model, noise};
use fadam::{Adam, Error};
use libc::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = paths::scratch(&format!("state-calls-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    disk(folder).into_keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// After as many steps.
fn model(steps: usize) -> Model {
    let mut model = Model::new(Adam::default(), &[&noise(1000, 1), &[]]);
    for step in 0..steps {
        model.step(&[&noise(1000, 2 + step as u64), &[]]);
    }
    model
}

/// Of how many steps the state in this file is.
fn steps(path: &Path) -> Result<u64, Error> {
    let mut reader = model(0);
    reader.optimizer.load(path)?;
    let found = reader.state(0);
    let step = found.step;
    assert!(found == model(step as usize).state(0), "of no step");
    Ok(step)
}

#[test]
fn every_call_of_a_save_fails_once() {
    let folder = folder("save");
    let path = folder.join("s");
    let leftover = folder.join(leftover_name(&folder));
    let mut new = model(2);
    let (mut failed, mut refused) = (BTreeMap::new(), 0);
    for there in [false, true] {
        // Each time the same files: what a killed save has left, and an old state or none.
        let prepare = || {
            lay(&folder, &Default::default());
            if there {
                model(1).optimizer.save(&path).unwrap();
                // Another user's, where this one may give files away.
                let _ = std::os::unix::fs::chown(&path, Some(12345), Some(54321));
            }
            fs::write(&leftover, "left").unwrap();
        };
        prepare();
        let (result, record) = watch(None, || new.optimizer.save(&path));
        result.unwrap();
        assert_eq!(names(&folder), ["s"]);
        for (nth, &call) in record.calls.iter().enumerate() {
            for wrong in ways(call) {
                prepare();
                let what = format!("{call:?}, the {nth}th call, {wrong:?}, old state: {there}");
                let (result, _) = watch(Some((nth, wrong)), || new.optimizer.save(&path));
                *failed.entry(call).or_insert(0) += 1;
                let found = steps(&path);
                match result {
                    Ok(()) => assert_eq!(found.unwrap(), 2, "{what}"),
                    Err(error) => {
                        refused += 1;
                        assert!(matches!(error, Error::Io { .. }), "{what}: {error:?}");
                        match found {
                            Ok(steps) => assert!(there && steps == 1, "{what}: {error}: {steps}"),
                            Err(none) => {
                                assert!(!there && none.to_string().contains("No such file"), "{what}: {none}")
                            }
                        }
                        let essential = matches!(
                            call,
                            Call::Open
                                | Call::Write
                                | Call::Seek
                                | Call::Sync
                                | Call::Rename
                                | Call::Stat
                                | Call::ReadLink
                        );
                        assert!(essential, "{what}: {error}");
                    }
                }
                assert!(names(&folder).len() <= 3, "{what}: {:?}", names(&folder));
                new.optimizer.save(&path).unwrap();
                assert_eq!((steps(&path).unwrap(), names(&folder)), (2, vec!["s".to_owned()]), "{what}");
            }
        }
    }
    println!("failed calls of a save: {failed:?}; the save was refused {refused} times");
    for call in [
        Call::Open,
        Call::Stat,
        Call::ListFolder,
        Call::Write,
        Call::Lock,
        Call::Chmod,
        Call::Sync,
        Call::Rename,
        Call::Remove,
    ] {
        assert!(failed.contains_key(&call), "{call:?} was not seen");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// As a killed save of `s` names what it leaves.
fn leftover_name(folder: &Path) -> String {
    let (_, record) = watch(None, || model(0).optimizer.save(folder.join("s")).unwrap());
    let created = record.changes.iter().find_map(|change| match change {
        calls::Change::Create { path, .. } => Some(path.file_name().unwrap().to_str().unwrap().to_owned()),
        _ => None,
    });
    created.unwrap()
}

#[test]
fn every_call_of_a_load_fails_once() {
    let folder = folder("load");
    let path = folder.join("s");
    let long = || {
        let mut long = Model::new(Adam::default(), &[&noise(600_000, 1)]);
        long.step(&[&noise(600_000, 2)]);
        long
    };
    let mut saved = long();
    saved.optimizer.save(&path).unwrap();
    let state = saved.state(0);
    let other = folder.join("other");
    saved.step(&[&noise(600_000, 3)]);
    saved.optimizer.save(&other).unwrap();
    let before = saved.state(0);
    let mut reader = long();
    let (result, record) = watch(None, || reader.optimizer.load(&path));
    result.unwrap();
    assert!(reader.state(0) == state);
    let mut count = [0; 3];
    for (nth, &call) in record.calls.iter().enumerate() {
        for wrong in ways(call) {
            reader.optimizer.load(&other).unwrap();
            let what = format!("{call:?}, the {nth}th call, {wrong:?}");
            let (result, _) = watch(Some((nth, wrong)), || reader.optimizer.load(&path));
            let kind = match (&result, reader.optimizer.state(reader.ids[0])) {
                (Ok(()), Ok(found)) => {
                    assert!(found == state, "{what}");
                    0
                }
                (Err(error), Ok(found)) => {
                    assert!(found == before && matches!(error, Error::Io { .. }), "{what}: {error:?}");
                    1
                }
                (Err(error), Err(Error::Lost)) => {
                    assert!(matches!(error, Error::Io { .. }), "{what}: {error:?}");
                    reader = long();
                    2
                }
                (result, found) => panic!("{what}: {result:?}, {:?}", found.map(drop)),
            };
            count[kind] += 1;
            // `lseek` is not interrupted.
            if call != Call::Seek && matches!(wrong, Wrong::Fails(EINTR) | Wrong::Short) {
                assert_eq!(kind, 0, "{what}: {result:?}");
            }
        }
    }
    println!(
        "calls of a load that went wrong: loaded all the same {}, refused {}, lost {}",
        count[0], count[1], count[2]
    );
    assert!(count.iter().all(|&count| count > 0), "{count:?}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_power_fails_between_any_two_calls() {
    let folder = folder("power");
    let path = folder.join("s");
    let (mut states, mut cuts, mut moments) = (0, 0, 0);
    for there in [false, true] {
        lay(&folder, &Default::default());
        if there {
            model(1).optimizer.save(&path).unwrap();
        }
        fs::write(folder.join(leftover_name(&folder.join(".."))), "left").unwrap();
        let before = disk(&folder);
        let mut new = model(2);
        let (result, record) = watch(None, || new.optimizer.save(&path));
        result.unwrap();
        let done = record.changes.len();
        moments += done + 1;
        let (different, tried) = PowerCuts::new(&before, &record, 4096).each(|found, cut| {
            lay(&folder, found);
            let what = || format!("after {cut} of {done} changes: {:?}", names(&folder));
            match steps(&path) {
                Ok(step) => {
                    assert!(step == 2 || there && step == 1 && cut < done, "{}: step {step}", what());
                }
                Err(error) => {
                    let none = error.to_string().contains("No such file");
                    assert!(!there && none && cut < done, "{}: {error}", what());
                }
            }
            // And what the machine finds when it is up again, the next save clears away.
            new.optimizer.save(&path).unwrap();
            assert_eq!(names(&folder), ["s"], "after {cut}");
        });
        (states, cuts) = (states + different, cuts + tried);
    }
    println!("{moments} moments, {cuts} combinations of what is lost, {states} different disks");
    fs::remove_dir_all(folder).unwrap();
}

/// Thousands of small tensors are written and read as their bytes are, not one by one.
#[test]
fn small_tensors_take_few_calls() {
    let folder = folder("small");
    let path = folder.join("s");
    let mut optimizer = fadam::Optimizer::new(Adam { amsgrad: true, ..Adam::default() }).unwrap();
    for i in 0..2000 {
        optimizer.register(format!("p{i}"), i % 5).unwrap();
    }
    let (result, saved) = watch(None, || optimizer.save(&path));
    result.unwrap();
    let (result, loaded) = watch(None, || optimizer.load(&path));
    result.unwrap();
    println!("6000 tensors: {} calls to save, {} to load", saved.calls.len(), loaded.calls.len());
    assert!(saved.calls.len() < 50 && loaded.calls.len() < 20, "{:?}, {:?}", saved.calls, loaded.calls);
    fs::remove_dir_all(folder).unwrap();
}
