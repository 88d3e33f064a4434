//! One promise: on a GPU state is saved and loaded in order with the steps and with replays of captured ones, not within a
//! capture; and whichever driver call of it fails, the optimizer is untouched or says that it is lost.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
mod trajectories;

use fadam::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use fadam::cuda::cudarc::driver::{CudaGraph, CudaSlice};
use fadam::{Adam, Error, NonFinite, Optimizer, ParameterId, State, Update};
use gpu::{Gpu, gpus};
use std::fs;
use std::path::{Path, PathBuf};

const LEN: usize = 5000;
const INVALID_VALUE: u32 = 1;

/// A device whose tensors carry no events: waiting for what happened outside a capture is forbidden inside.
fn gpu() -> Option<Gpu> {
    gpus()?;
    let gpu = Gpu::new(0);
    // SAFETY: everything here happens on one stream.
    unsafe { gpu.context().disable_event_tracking() };
    Some(gpu)
}

fn file(name: &str) -> PathBuf {
    paths::scratch(&format!("cuda-state-{name}.safetensors"))
}

struct Training {
    optimizer: Optimizer,
    id: ParameterId,
    parameter: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
}

impl Training {
    /// With so many steps behind it.
    fn new(gpu: &Gpu, policy: NonFinite, steps: usize) -> Self {
        let algorithm = Adam { amsgrad: true, ..Adam::default() };
        let builder = Optimizer::builder(algorithm).stream(gpu.stream.clone()).non_finite(policy);
        let mut optimizer = builder.build().unwrap();
        let id = optimizer.register("w", LEN).unwrap();
        let (parameter, gradient) = (gpu.upload(&[1.0; LEN]), gpu.upload(&[0.25; LEN]));
        let mut training = Self { optimizer, id, parameter, gradient };
        for _ in 0..steps {
            training.step().unwrap();
        }
        training
    }

    fn step(&mut self) -> Result<(), Error> {
        self.optimizer.step(&mut [Update::new(self.id, &mut self.parameter, &self.gradient)])
    }

    fn state(&mut self) -> State {
        self.optimizer.state(self.id).unwrap()
    }

    fn capture(&mut self, gpu: &Gpu, work: impl FnOnce(&mut Self)) -> CudaGraph {
        gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        work(self);
        gpu.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
    }
}

#[test]
fn a_capture_records_neither_and_a_replay_sees_what_was_loaded() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let path = file("capture");
    let mut whole = Training::new(&gpu, NonFinite::Skip, 1);
    whole.optimizer.save(&path).unwrap();

    let mut other = Training::new(&gpu, NonFinite::Skip, 3);
    let graph = other.capture(&gpu, |training| {
        training.step().unwrap();
        let elsewhere = file("within-a-capture");
        for refused in [training.optimizer.save(&elsewhere), training.optimizer.load(&path)] {
            assert!(matches!(refused, Err(Error::Capture { .. })), "{refused:?}");
        }
        assert!(!elsewhere.exists());
    });
    graph.launch().unwrap();
    assert_eq!(other.state().step, 4);
    other.optimizer.load(&path).unwrap();
    assert_eq!((other.state(), other.optimizer.report().unwrap().step), (whole.state(), 1));
    assert_eq!(other.optimizer.report().unwrap().grad_norm, None);
    graph.launch().unwrap();
    whole.step().unwrap();
    assert_eq!(other.state(), whole.state());
    assert_eq!(other.optimizer.report().unwrap(), whole.optimizer.report().unwrap());
    // And what the replay did is what is saved.
    other.optimizer.save(&path).unwrap();
    let mut resumed = Training::new(&gpu, NonFinite::Skip, 0);
    resumed.optimizer.load(&path).unwrap();
    assert_eq!(resumed.state(), whole.state());
    fs::remove_file(path).unwrap();
}

/// A failed step of which nobody has heard yet is none of the state that replaces it.
#[test]
fn an_unreported_failure_goes_with_the_state_that_had_it() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let path = file("failure");
    Training::new(&gpu, NonFinite::Error, 1).optimizer.save(&path).unwrap();
    let mut training = Training::new(&gpu, NonFinite::Error, 2);
    let poison = gpu.upload(&[f32::NAN; LEN]);
    let gradient = std::mem::replace(&mut training.gradient, poison);
    gpu.stream.synchronize().unwrap(); // so that the step copies what the next one looks at
    training.step().unwrap();
    let poison = std::mem::replace(&mut training.gradient, gradient);
    gpu.stream.synchronize().unwrap();
    training.optimizer.load(&path).unwrap();
    training.step().unwrap();
    training.step().unwrap();
    training.optimizer.synchronize().unwrap();
    assert_eq!((training.state().step, training.optimizer.report().unwrap().step), (3, 3));
    // A new one is told of, though its number is that of the old one.
    training.optimizer.load(&path).unwrap();
    training.step().unwrap();
    training.gradient = poison;
    training.step().unwrap();
    let error = training.optimizer.synchronize().unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 3, .. }), "{error:?}");
    // And so is one of a lower number than what was told of last.
    training.optimizer.load(&path).unwrap();
    training.step().unwrap();
    let error = training.optimizer.synchronize().unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 2, .. }), "{error:?}");
    fs::remove_file(path).unwrap();
}

#[test]
fn each_driver_call_may_fail() {
    let driver = emulator::find();
    let Some(gpu) = gpu() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver fails when it likes");
        return;
    };
    let (path, out) = (file("fail"), file("fail-out"));
    let mut source = Training::new(&gpu, NonFinite::Skip, 1);
    source.optimizer.save(&path).unwrap();
    let after = source.state();
    type Act = fn(&mut Optimizer, &Path, &Path) -> Result<(), Error>;
    let actions: [(&str, Act); 2] = [
        ("save", |optimizer, _, out| optimizer.save(out)),
        ("load", |optimizer, path, _| optimizer.load(path)),
    ];
    for (name, act) in actions {
        let prepared = || {
            let mut training = Training::new(&gpu, NonFinite::Skip, 2);
            let before = training.state();
            (training, before)
        };
        let (mut training, _) = prepared();
        emulator.reset_counts();
        act(&mut training.optimizer, &path, &out).unwrap();
        let (mut untouched, mut lost) = (0, 0);
        for (function, count) in emulator.calls() {
            for nth in 1..=count {
                let what = format!("{name}, call {nth} of {function}");
                let (mut training, before) = prepared();
                let _ = fs::remove_file(&out);
                emulator.fail(&function, nth, INVALID_VALUE);
                let error = act(&mut training.optimizer, &path, &out).expect_err(&what);
                emulator.clear_failures();
                assert!(matches!(error, Error::Cuda { .. }), "{what}: {error:?}");
                assert!(!out.exists(), "{what}");
                match training.optimizer.state(training.id) {
                    Ok(state) => {
                        assert_eq!(state, before, "{what}");
                        act(&mut training.optimizer, &path, &out).unwrap();
                        untouched += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Lost) && name == "load", "{what}: {error:?}");
                        lost += 1;
                    }
                }
            }
        }
        println!("{name}: {untouched} calls leave the optimizer untouched, {lost} lost");
        assert!(untouched > 0 && (lost > 0) == (name == "load"));
    }
    let mut training = Training::new(&gpu, NonFinite::Skip, 2);
    training.optimizer.load(&path).unwrap();
    assert_eq!(training.state(), after);
    fs::remove_file(path).unwrap();
}
