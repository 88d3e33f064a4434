//! One promise: whatever becomes of the program and of the machine, a run goes on from one whole checkpoint, or is told that
//! there is none.

use super::{Checkpoints, Index, Progressed, Set, bytes, checksum, require_any};
use crate::corpus::Corpus;
use crate::files::in_memory;
use crate::folder::Folder;
use crate::model::Model;
use crate::optimizer::{Choice, Weights};
use crate::stepper::Stepper;
use crate::train::{Point, Setup, Time};
use crate::weights::generator;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use fadam::Optimizer;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STEPS: usize = 4;
const INDEX: &str = "fadam.checkpoint.json";

/// A small model, and what it is after each step.
struct Bench {
    path: PathBuf,
    folder: Folder,
    corpus: Corpus,
    /// Weights and state after so many steps.
    expected: Vec<(Vec<u8>, Vec<u8>)>,
    reader: RefCell<Run>,
}

/// A run that has made some steps.
struct Run {
    model: Model,
    optimizer: Stepper,
    step: usize,
}

impl Run {
    fn new() -> Self {
        let model = Model::new(2, &mut generator(0, 0), DType::F32, &Device::Cpu).unwrap();
        let builder = Optimizer::builder(Choice::FAdam.algorithm(0.1));
        let optimizer = Stepper::new(&model, builder, fadam::Device::Cpu).unwrap();
        Self { model, optimizer, step: 0 }
    }

    fn after(steps: usize) -> Self {
        let mut run = Self::new();
        (0..steps).for_each(|_| run.step());
        run
    }

    fn step(&mut self) {
        self.optimizer.step(&self.gradients().unwrap()).unwrap();
        self.step += 1;
    }

    fn gradients(&self) -> Result<GradStore> {
        let squares = self.model.weights.all_vars().into_iter().map(|var| var.sqr()?.sum_all());
        let sum = squares.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::stack(&sum, 0)?.sum_all()?.backward()?)
    }
}

/// The points of a run after some steps.
fn points(steps: usize) -> Vec<Point> {
    let point = |step: usize| Point {
        step,
        training: (step > 0).then_some(1.0 / step as f64),
        held_out: (step == 0).then_some(0.7),
    };
    (0..=steps).map(point).collect()
}

fn text(points: &[Point]) -> String {
    serde_json::to_string(points).unwrap()
}

impl Bench {
    fn new(name: &str) -> Self {
        let path = in_memory().join(format!("fadam-checkpoint-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let folder = Folder::open(&path, &[]).unwrap();
        let text = path.with_extension("txt");
        fs::write(&text, "a corpus").unwrap();
        let corpus = Corpus::load(Some(&text)).unwrap();
        fs::remove_file(text).unwrap();
        let expected = |steps| {
            let mut run = Run::after(steps);
            let state = path.join("expected");
            run.optimizer.save(&state).unwrap();
            (bytes(&run.model.weights).unwrap(), fs::read(&state).unwrap())
        };
        let expected = (0..=STEPS).map(expected).collect();
        fs::remove_file(path.join("expected")).unwrap();
        Self { path, folder, corpus, expected, reader: Run::new().into() }
    }

    fn of_seed<T>(&self, seed: u64, work: impl FnOnce(&Checkpoints<'_>) -> T) -> T {
        let setup = Setup {
            corpus: &self.corpus,
            steps: STEPS,
            seed,
            lr: 0.1,
            device: &Device::Cpu,
            optimizer_device: fadam::Device::Cpu,
            weights: Weights::F32,
        };
        work(&Checkpoints::new(&self.folder, Choice::FAdam, &setup))
    }

    fn save(&self, run: &mut Run) -> Result<()> {
        let time = Time { steps: Duration::from_millis(300), optimizer: Duration::from_millis(100) };
        self.of_seed(0, |checkpoints| {
            checkpoints.save(&run.model, &mut run.optimizer, &points(run.step), &time)
        })
    }

    /// Loads the last checkpoint, if there is one: its points, and the set that it is in.
    fn load(&self) -> Result<Option<(Vec<Point>, Set)>> {
        let run = &mut *self.reader.borrow_mut();
        self.of_seed(0, |checkpoints| {
            let Some(Progressed { set, points, .. }) = checkpoints.load(&run.model)? else { return Ok(None) };
            checkpoints.load_state(&mut run.optimizer, set)?;
            Ok(Some((points, set)))
        })
    }

    /// And checks it. Of which step it is.
    fn resume(&self) -> Result<Option<usize>> {
        let Some((found, set)) = self.load()? else { return Ok(None) };
        let step = found.len() - 1;
        assert_eq!(text(&found), text(&points(step)));
        let [_, state] = self.of_seed(0, |checkpoints| checkpoints.paths(set));
        let run = &mut *self.reader.borrow_mut();
        run.step = step;
        let found = (bytes(&run.model.weights)?, fs::read(state)?);
        assert!(found == self.expected[step], "of another step than {step}");
        Ok(Some(step))
    }

    fn refusal(&self) -> String {
        let error = self.resume().expect_err("it is accepted");
        let text = format!("{error:#}");
        assert!(text.contains("fadam.checkpoint"), "{text}");
        text
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn a_run_goes_on_from_its_last_checkpoint() {
    let bench = Bench::new("resumed");
    assert_eq!(bench.resume().unwrap(), None);
    let none = require_any(&bench.path, &[Choice::FAdam, Choice::AdamW]).unwrap_err().to_string();
    assert!(none.contains("no checkpoint") && none.contains(bench.path.to_str().unwrap()), "{none}");
    for steps in 1..STEPS {
        bench.save(&mut Run::after(steps)).unwrap();
        assert_eq!(bench.resume().unwrap(), Some(steps));
        let mut run = bench.reader.borrow_mut();
        run.step();
        assert!(bytes(&run.model.weights).unwrap() == bench.expected[steps + 1].0);
    }
    require_any(&bench.path, &[Choice::AdamW, Choice::FAdam]).unwrap();
    require_any(&bench.path, &[Choice::AdamW]).unwrap_err();
    let files = ["a.state", "a.weights", "b.state", "b.weights"];
    let mut expected = files.map(|file| format!("fadam.checkpoint-{file}.safetensors")).to_vec();
    expected.extend([".lock".into(), INDEX.into()]);
    expected.sort();
    assert_eq!(bench.names(), expected);
}

/// It stays until the other run has one.
#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let bench = Bench::new("another");
    bench.save(&mut Run::after(1)).unwrap();
    let index = fs::read(bench.path(INDEX)).unwrap();
    bench.of_seed(1, |checkpoints| {
        let mut run = Run::after(2);
        let error = checkpoints.load(&run.model).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("seed 0, this one has 1"), "{error}");
        checkpoints.save(&run.model, &mut run.optimizer, &points(2), &Time::default()).unwrap();
    });
    assert!(bench.refusal().contains("seed 1, this one has 0"));
    fs::write(bench.path(INDEX), index).unwrap();
    assert_eq!(bench.resume().unwrap(), Some(1));
}

#[test]
fn one_program_at_a_time() {
    let bench = Bench::new("locked");
    let error = Folder::open(&bench.path, &[]).err().unwrap().to_string();
    assert!(error.contains("another program is writing to"), "{error}");
}

/// Each of its bytes: cut off there, and with each of its bits turned around.
#[test]
fn damaged_files_are_refused() {
    let bench = Bench::new("damaged");
    bench.save(&mut Run::after(1)).unwrap();
    let mut count = 0;
    for name in [INDEX, "fadam.checkpoint-a.weights.safetensors", "fadam.checkpoint-a.state.safetensors"] {
        let whole = fs::read(bench.path(name)).unwrap();
        let step = if name == INDEX { 1 } else { 997 };
        for at in (0..whole.len()).step_by(step) {
            fs::write(bench.path(name), &whole[..at]).unwrap();
            bench.refusal();
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(bench.path(name), bytes).unwrap();
                bench.refusal();
                count += 1;
            }
        }
        fs::remove_file(bench.path(name)).unwrap();
        if name != INDEX {
            assert!(bench.refusal().contains("No such file"));
        }
        fs::write(bench.path(name), &whole).unwrap();
        assert_eq!(bench.resume().unwrap(), Some(1));
    }
    println!("{count} damaged files");
}

/// Files whose checksums are right.
#[test]
fn hostile_files_are_refused() {
    let bench = Bench::new("hostile");
    bench.save(&mut Run::after(2)).unwrap();
    let whole = fs::read(bench.path(INDEX)).unwrap();
    let weights_path = bench.path("fadam.checkpoint-a.weights.safetensors");
    let with = |change: &dyn Fn(&mut Index)| {
        let mut index: Index = serde_json::from_slice(&whole).unwrap();
        change(&mut index);
        index.index = index.checksum().unwrap();
        fs::write(bench.path(INDEX), serde_json::to_vec(&index).unwrap()).unwrap();
        bench.refusal()
    };
    let points_of_none = "not those of a run";
    assert!(with(&|index| index.points.clear()).contains(points_of_none));
    assert!(with(&|index| index.points.truncate(1)).contains(points_of_none));
    assert!(with(&|index| index.points[1].step = usize::MAX).contains(points_of_none));
    assert!(with(&|index| index.points[2].training = None).contains(points_of_none));
    assert!(with(&|index| index.points = points(STEPS + 1)).contains("5 steps of 4"));
    for seconds in [-1.0, 1e19, 1e300] {
        assert!(with(&|index| index.step_seconds = seconds).contains("a time of"));
        assert!(with(&|index| index.optimizer_seconds = seconds).contains("a time of"));
    }
    assert!(with(&|index| index.settings = serde_json::json!([1])).contains("of a run with"));

    let other = |weights: Vec<u8>| {
        fs::write(&weights_path, &weights).unwrap();
        with(&|index| index.weights = checksum(&weights))
    };
    let weights_of = |width: usize, dtype: DType| {
        let model = Model::new(width, &mut generator(0, 0), dtype, &Device::Cpu).unwrap();
        bytes(&model.weights).unwrap()
    };
    assert!(other(weights_of(4, DType::F32)).contains(", not "));
    assert!(other(weights_of(2, DType::BF16)).contains(", not "));
    assert!(other(bytes(&candle_nn::VarMap::new()).unwrap()).contains("there is no "));
    let more = candle_nn::VarMap::new();
    for (name, var) in Run::new().model.weights.data().lock().unwrap().iter() {
        more.data().lock().unwrap().insert(name.clone(), var.clone());
    }
    let var = candle_core::Var::zeros(3, DType::F32, &Device::Cpu).unwrap();
    more.data().lock().unwrap().insert("more".into(), var);
    assert!(other(bytes(&more).unwrap()).contains("there is more"));
    other(vec![0xff; 100]);
    other(Vec::new());
    fs::write(bench.path(INDEX), "[".repeat(1 << 20)).unwrap();
    bench.refusal();
}

#[cfg(unix)]
#[test]
fn pipes_and_giants_are_refused() {
    let bench = Bench::new("pipe");
    bench.save(&mut Run::after(1)).unwrap();
    let pipe =
        |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    for name in ["fadam.checkpoint-a.state.safetensors", "fadam.checkpoint-a.weights.safetensors", INDEX] {
        let whole = fs::read(bench.path(name)).unwrap();
        fs::remove_file(bench.path(name)).unwrap();
        pipe(&bench.path(name));
        assert!(bench.refusal().contains("not a regular file"));
        fs::remove_file(bench.path(name)).unwrap();
        fs::File::create(bench.path(name)).unwrap().set_len(1 << 42).unwrap();
        assert!(bench.refusal().contains("longer than any"));
        fs::write(bench.path(name), whole).unwrap();
    }
    pipe(&bench.path("loss.csv"));
    drop(bench.folder.write("loss.csv", b"").unwrap_err());
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod faults {
    use super::{Bench, Run};
    use crate::calls::{Call, Disk, PowerCuts, Wrong, disk, lay, thorough, watch, ways};

    /// Nothing; a checkpoint of one step; checkpoints of one step and two.
    fn beginnings(bench: &Bench) -> Vec<(usize, Disk)> {
        let mut found = vec![(0, Disk::new())];
        for steps in [1, 2] {
            bench.save(&mut Run::after(steps)).unwrap();
            found.push((steps, disk(&bench.path)));
        }
        found
    }

    fn steps(old: usize) -> Option<usize> {
        (old > 0).then_some(old)
    }

    #[test]
    fn every_call_of_a_save_fails_once() {
        let bench = Bench::new("save");
        let mut run = Run::after(3);
        let (mut failed, mut refused) = (0, 0);
        for (old, before) in beginnings(&bench) {
            lay(&bench.path, &before);
            let (result, record) = watch(None, || bench.save(&mut run));
            result.unwrap();
            for (nth, &call) in record.calls.iter().enumerate() {
                for wrong in ways(call) {
                    lay(&bench.path, &before);
                    let what = format!("{call:?}, the {nth}th call, {wrong:?}, {old} steps there");
                    let (result, _) = watch(Some((nth, wrong)), || bench.save(&mut run));
                    failed += 1;
                    let found = bench.resume().unwrap_or_else(|error| panic!("{what}: {error:#}"));
                    match result {
                        Ok(()) => assert_eq!(found, Some(3), "{what}"),
                        Err(error) => {
                            refused += 1;
                            assert_eq!(found, steps(old), "{what}: {error:#}");
                            assert!(format!("{error:#}").contains("fadam.checkpoint"), "{what}: {error:#}");
                        }
                    }
                    for _set in 0..2 {
                        bench.save(&mut run).unwrap();
                    }
                    let left = bench.names().into_iter().find(|name| name.ends_with(".tmp"));
                    assert_eq!(left, None, "{what}");
                }
            }
        }
        println!("{failed} calls of a save failed, of which {refused} refused it");
        assert!(failed > 1000 && refused > 300);
    }

    #[test]
    fn every_call_of_a_load_fails_once() {
        let bench = Bench::new("load");
        bench.save(&mut Run::after(2)).unwrap();
        let (result, record) = watch(None, || bench.load());
        assert!(result.unwrap().is_some());
        let (mut failed, mut refused) = (0, 0);
        for (nth, &call) in record.calls.iter().enumerate() {
            for wrong in ways(call) {
                let what = format!("{call:?}, the {nth}th call, {wrong:?}");
                let (result, _) = watch(Some((nth, wrong)), || bench.load());
                failed += 1;
                match result {
                    Ok(None) => assert_eq!(wrong, Wrong::Fails(libc::ENOENT), "{what}"),
                    Ok(Some((points, _))) => assert_eq!(points.len(), 3, "{what}"),
                    Err(error) => {
                        refused += 1;
                        assert!(format!("{error:#}").contains("fadam.checkpoint"), "{what}: {error:#}");
                    }
                }
                assert_eq!(bench.resume().unwrap(), Some(2), "{what}");
            }
        }
        println!("{failed} calls of a load failed, of which {refused} refused it");
        assert!(failed > 200 && refused > 100);
    }

    /// Of two saves in a row; and with that any of the syncs may have failed that do not end a save.
    #[test]
    fn the_power_fails_between_any_two_calls() {
        let bench = Bench::new("power");
        let mut runs = [2, 3].map(Run::after);
        let mut again = Run::after(3);
        let (mut disks, mut orders, mut records) = (0, 0, 0);
        for (old, before) in beginnings(&bench) {
            lay(&bench.path, &before);
            let mut save = || runs.iter_mut().try_for_each(|run| bench.save(run));
            let (result, record) = watch(None, &mut save);
            result.unwrap();
            let syncs = record.calls.iter().enumerate().filter(|(_, call)| **call == Call::Sync);
            let failing = syncs.map(|(nth, _)| Some((nth, Wrong::Fails(libc::EIO))));
            for plan in [None].into_iter().chain(failing) {
                lay(&bench.path, &before);
                let (result, record) = watch(plan, &mut save);
                if result.is_err() && !thorough() {
                    continue;
                }
                records += 1;
                let done = record.changes.len();
                let most = if thorough() { 512 } else { 8 };
                let (different, tried) = PowerCuts::new(&before, &record, most).each(|found, cut| {
                    lay(&bench.path, found);
                    let what = format!("{plan:?}, cut {cut} of {done}");
                    let found = bench.resume().unwrap_or_else(|error| panic!("{what}: {error:#}"));
                    assert!(found.unwrap_or(0) >= old.min(2), "{what}: {found:?}");
                    if plan.is_none() && result.is_ok() && cut == done {
                        assert_eq!(found, Some(3), "{what}");
                    }
                    if plan.is_none() {
                        bench.save(&mut again).unwrap();
                        assert_eq!(bench.resume().unwrap(), Some(3), "{what}");
                    }
                });
                (disks, orders) = (disks + different, orders + tried);
            }
        }
        println!("{records} records, {orders} orders of power cuts, {disks} different disks");
    }
}
