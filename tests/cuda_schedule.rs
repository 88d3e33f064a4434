//! One promise: on a GPU schedule and loss scale go the CPU's way, bit for bit, without waiting, and under the replay of a
//! captured step as well.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use fadam::cuda::cudarc::driver::{CudaGraph, CudaSlice};
use fadam::{
    Adam, Algorithm, Builder, Error, FAdam, FisherAdam, Group, LossScale, NonFinite, Optimizer, ParameterId,
    Report, Schedule, Update,
};
use gpu::{Gpu, gpus};

const LEN: usize = 5000;

fn algorithms() -> [Algorithm; 4] {
    [
        Adam { weight_decay: 0.1, ..Adam::adamw() }.into(),
        FAdam { kappa: Some(60.0), ..FAdam::default() }.into(), // fires at first: √5000 = 71
        FAdam { kappa: Some(1.0), weight_decay: 0.1, decay_cap: Some(1e-4), ..FAdam::default() }.into(),
        FisherAdam::default().into(),
    ]
}

/// Backs off and grows within a few steps.
const LOSS_SCALE: LossScale =
    LossScale { init_scale: 1000.0, growth_factor: 1.5, backoff_factor: 0.3, growth_interval: 2 };

/// NaN where the step is to be skipped.
fn gradient(step: u64) -> f32 {
    match step {
        3 | 6 | 7 => f32::NAN,
        _ => 100.0 * (step + 1) as f32,
    }
}

/// The schedule that is set before a step, if it changes there.
fn change(step: u64, counts_skipped: bool) -> Option<Option<Schedule>> {
    match step {
        5 => Some(Some(Schedule::cosine(2, 300, 0.1).counting_skipped(counts_skipped))), // a longer table
        8 => Some(None),
        9 => Some(Some(Schedule::linear(0, 12, 0.0))), // a shorter one
        _ => None,
    }
}

const STEPS: u64 = 14;

fn builder(algorithm: Algorithm, counts_skipped: bool) -> Builder {
    let schedule = Schedule::linear(2, 8, 0.25).counting_skipped(counts_skipped);
    Optimizer::builder(algorithm).max_grad_norm(1e3).schedule(schedule).loss_scale(LOSS_SCALE)
}

/// What is to be had of a step: all of it as text, since a NaN equals no other.
fn figures(optimizer: &mut Optimizer) -> String {
    let report: Report = optimizer.report().unwrap();
    let (place, scale) = (optimizer.schedule_step().unwrap(), optimizer.loss_scale().unwrap());
    format!("{report:?}, {place}, {:016x}", scale.to_bits())
}

fn on_cpu(algorithm: Algorithm, counts_skipped: bool) -> (Vec<String>, Vec<f32>) {
    let mut optimizer = builder(algorithm, counts_skipped).build().unwrap();
    let id = optimizer.register("w", LEN).unwrap();
    optimizer.set_grad_scale(3.0).unwrap();
    let mut parameter = vec![1.0; LEN];
    let mut all = vec![figures(&mut optimizer)];
    for step in 0..STEPS {
        if let Some(schedule) = change(step, counts_skipped) {
            optimizer.set_schedule(schedule).unwrap();
        }
        optimizer.step(&mut [Update::new(id, &mut parameter, &vec![gradient(step); LEN])]).unwrap();
        all.push(figures(&mut optimizer));
    }
    (all, parameter)
}

/// A device whose tensors carry no events: waiting for what happened outside a capture is forbidden inside.
fn gpu() -> Option<Gpu> {
    gpus()?;
    let gpu = Gpu::new(0);
    // SAFETY: everything here happens on one stream.
    unsafe { gpu.context().disable_event_tracking() };
    Some(gpu)
}

struct Training {
    optimizer: Optimizer,
    id: ParameterId,
    parameter: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
}

impl Training {
    fn new(gpu: &Gpu, builder: Builder) -> Self {
        let mut optimizer = builder.stream(gpu.stream.clone()).build().unwrap();
        let id = optimizer.register("w", LEN).unwrap();
        Self { optimizer, id, parameter: gpu.upload(&[1.0; LEN]), gradient: gpu.upload(&[0.25; LEN]) }
    }

    fn step(&mut self) -> Result<(), Error> {
        self.optimizer.step(&mut [Update::new(self.id, &mut self.parameter, &self.gradient)])
    }

    fn capture(&mut self, gpu: &Gpu) -> CudaGraph {
        gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let result = self.step();
        let graph = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
        result.unwrap();
        graph.unwrap().unwrap()
    }
}

/// With and without a graph from the third step on; everything that can be asked for is asked for after each step.
#[test]
fn a_gpu_and_a_replay_go_the_way_of_the_cpu() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    for algorithm in algorithms() {
        for (counts_skipped, replays) in [(false, false), (false, true), (true, false), (true, true)] {
            let (expected, parameter) = on_cpu(algorithm, counts_skipped);
            let mut training = Training::new(&gpu, builder(algorithm, counts_skipped));
            training.optimizer.set_grad_scale(3.0).unwrap();
            assert_eq!(figures(&mut training.optimizer), expected[0]);
            let mut graph = None;
            for step in 0..STEPS {
                if let Some(schedule) = change(step, counts_skipped) {
                    training.optimizer.set_schedule(schedule).unwrap();
                }
                gpu.stream.memcpy_htod(&vec![gradient(step); LEN], &mut training.gradient).unwrap();
                if step < 2 || !replays {
                    training.step().unwrap();
                } else {
                    graph.get_or_insert_with(|| training.capture(&gpu)).launch().unwrap();
                }
                let what = format!("{algorithm:?}, {counts_skipped}, graph {replays}, step {step}");
                assert_eq!(figures(&mut training.optimizer), expected[step as usize + 1], "{what}");
            }
            assert!(gpu.download(&training.parameter) == parameter, "{algorithm:?}: other parameters");
        }
    }
}

/// At either end of the range of the loss scale.
#[test]
fn the_scale_stays_within_its_bounds() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    for (power, last, gradients) in [(-124, -126, [f32::NAN; 4]), (124, 126, [1.0; 4])] {
        let loss_scale =
            LossScale { init_scale: 2_f64.powi(power), growth_interval: 1, ..LossScale::default() };
        let mut training = Training::new(&gpu, Optimizer::builder(Adam::adamw()).loss_scale(loss_scale));
        for gradient in gradients {
            gpu.stream.memcpy_htod(&[gradient; LEN], &mut training.gradient).unwrap();
            training.step().unwrap();
        }
        assert_eq!(training.optimizer.loss_scale().unwrap(), 2_f64.powi(last));
    }
}

/// Twelve steps back to back: nothing is asked in between, so nothing waits, and no launch is added.
#[test]
fn nothing_waits_for_the_device() {
    let driver = emulator::find();
    let Some(gpu) = gpu() else { return };
    let Some(emulator) = driver.only_emulated() else { return };
    let mut training = Training::new(&gpu, builder(Adam::adamw().into(), false));
    training.step().unwrap();
    gpu.stream.synchronize().unwrap();
    emulator.reset_counts();
    for i in 0..12 {
        training.optimizer.set_schedule(Some(Schedule::linear(0, 20 + i, 0.0))).unwrap();
        training.step().unwrap();
    }
    assert_eq!(emulator.syncs(), 0);
    gpu.stream.synchronize().unwrap();
    assert_eq!(emulator.launches().iter().map(|(_, counts)| counts.launches).sum::<u64>(), 3 * 12);
    let factor = training.optimizer.report().unwrap().learning_rate_factor;
    assert_eq!(factor, Some(Schedule::linear(0, 31, 0.0).factor(12)));
}

/// A replayed graph reads the schedule that its own settings point to, however often it has changed since.
#[test]
fn an_old_graph_survives_new_groups_and_schedules() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let schedule = Schedule::linear(0, 10, 0.0);
    let mut training = Training::new(&gpu, Optimizer::builder(Adam::adamw()).schedule(schedule));
    training.step().unwrap();
    let graph = training.capture(&gpu);
    for i in 0..3 {
        training.optimizer.add_group(Group::default()).unwrap(); // other settings, which the graph does not have
        training.optimizer.set_schedule(Some(Schedule::constant(1000 << i))).unwrap();
    }
    training.step().unwrap();
    graph.launch().unwrap();
    let factor = training.optimizer.report().unwrap().learning_rate_factor;
    assert_eq!(factor, Some(schedule.factor(2)));
}

#[test]
fn a_schedule_that_is_not_on_the_device_is_not_captured() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Optimizer::builder(Adam::adamw()));
    training.step().unwrap();
    gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let set = training.optimizer.set_schedule(Some(Schedule::constant(3)));
    let asked = [training.optimizer.schedule_step().map(drop), training.optimizer.loss_scale().map(drop)];
    let _ = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
    assert!(matches!(set, Err(Error::Capture { .. })), "{set:?}");
    assert!(matches!(asked, [Err(Error::Capture { .. }), Ok(())]), "{asked:?}"); // there is no scale to ask for
    assert_eq!(training.optimizer.schedule(), None);
    training.step().unwrap();
    assert_eq!(training.optimizer.report().unwrap().learning_rate_factor, Some(1.0));
}

/// A failed upload leaves the old schedule in force, in whichever order its parts are sent.
#[test]
fn a_schedule_that_could_not_be_sent_changes_nothing() {
    const OUT_OF_MEMORY: u32 = 2;
    let driver = emulator::find();
    let Some(gpu) = gpu() else { return };
    let Some(emulator) = driver.only_emulated() else { return };
    for (function, nth) in [("cuMemcpyHtoDAsync_v2", 1), ("cuMemcpyHtoDAsync_v2", 2), ("cuMemAllocAsync", 1)]
    {
        let schedule = Schedule::linear(0, 10, 0.0);
        let mut training = Training::new(&gpu, Optimizer::builder(Adam::adamw()).schedule(schedule));
        training.step().unwrap();
        emulator.fail(function, nth, OUT_OF_MEMORY);
        let error = training.optimizer.set_schedule(Some(Schedule::constant(100))).unwrap_err();
        assert!(matches!(error, Error::Cuda { .. } | Error::OutOfMemory { .. }), "{error:?}");
        emulator.clear_failures();
        assert_eq!(training.optimizer.schedule(), Some(&schedule));
        training.step().unwrap();
        let factor = training.optimizer.report().unwrap().learning_rate_factor;
        assert_eq!(factor, Some(schedule.factor(1)), "{function} {nth}");
    }
}

/// Under `Error` an earlier step's failure is told once, and the schedule has not moved by it.
#[test]
fn an_error_is_told_and_not_counted() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let builder = builder(Adam::adamw().into(), false).non_finite(NonFinite::Error);
    let mut training = Training::new(&gpu, builder);
    training.gradient = gpu.upload(&[f32::NAN; LEN]);
    training.step().unwrap();
    assert_eq!(training.optimizer.loss_scale().unwrap(), 300.0);
    assert_eq!(training.optimizer.schedule_step().unwrap(), 0);
    assert!(matches!(training.optimizer.synchronize(), Err(Error::NonFinite { step: 1, .. })));
}
