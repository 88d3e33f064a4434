//! One promise: a step can be captured into a CUDA graph, and a replay is a step: step counts advance, a new learning rate
//! is seen, a gradient that is not finite skips it, and what reports count is counted.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::cuda::cudarc::driver::result::{self, stream::StreamKind};
use fadam::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use fadam::cuda::cudarc::driver::{CudaGraph, CudaSlice};
use fadam::{
    Adam, Algorithm, Device, Dtype, Error, FAdam, FisherAdam, Group, LossScale, LossScaler, NonFinite,
    Optimizer, ParameterId, Report, Update, global_norm,
};
use gpu::{Gpu, gpus};

const LEN: usize = 5000;

/// A device whose tensors carry no events: waiting for what happened outside a capture is forbidden inside.
fn gpu() -> Option<Gpu> {
    gpus()?;
    let gpu = Gpu::new(0);
    // SAFETY: everything here happens on one stream.
    unsafe { gpu.context().disable_event_tracking() };
    Some(gpu)
}

fn capture(gpu: &Gpu, work: impl FnOnce() -> Result<(), Error>) -> Result<CudaGraph, Error> {
    gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let result = work();
    let graph = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
    result.map(|()| graph.unwrap().unwrap())
}

struct Training {
    optimizer: Optimizer,
    id: ParameterId,
    parameter: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
}

impl Training {
    fn new(gpu: &Gpu, algorithm: Algorithm, policy: NonFinite) -> Self {
        let builder = Optimizer::builder(algorithm).stream(gpu.stream.clone());
        let mut optimizer = builder.max_grad_norm(1.0).norms(true).non_finite(policy).build().unwrap();
        let id = optimizer.register("w", LEN).unwrap();
        Self { optimizer, id, parameter: gpu.upload(&[1.0; LEN]), gradient: gpu.upload(&[0.25; LEN]) }
    }

    fn step(&mut self) -> Result<(), Error> {
        self.optimizer.step(&mut [Update::new(self.id, &mut self.parameter, &self.gradient)])
    }
}

/// The same on the CPU: for each step its learning rate and its gradient. Reports, and the parameter at the end.
fn on_cpu(algorithm: Algorithm, steps: &[(f64, f32)]) -> (Vec<Report>, Vec<f32>) {
    let mut optimizer = Optimizer::builder(algorithm).max_grad_norm(1.0).norms(true).build().unwrap();
    let id = optimizer.register("w", LEN).unwrap();
    let mut parameter = vec![1.0; LEN];
    let reports = steps.iter().map(|&(lr, gradient)| {
        optimizer.set_learning_rate(lr).unwrap();
        optimizer.step(&mut [Update::new(id, &mut parameter, &vec![gradient; LEN])]).unwrap();
        optimizer.report().unwrap()
    });
    (reports.collect(), parameter)
}

#[test]
fn a_replay_is_a_step() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let algorithms: [Algorithm; 4] = [
        Adam::adamw().into(),
        FAdam { kappa: Some(60.0), eps_decay: 0.5, ..FAdam::default() }.into(), // fires at first: √5000 = 71
        FAdam { kappa: Some(1.0), ..FAdam::default() }.into(),
        FisherAdam::default().into(),
    ];
    for algorithm in algorithms {
        let steps: Vec<(f64, f32)> =
            (1..9).map(|i| (0.1 / f64::from(i), if i == 5 { f32::NAN } else { 0.25 * i as f32 })).collect();
        let (reports, parameter) = on_cpu(algorithm, &steps);
        let mut training = Training::new(&gpu, algorithm, NonFinite::Skip);
        let mut graph = None;
        for (i, (&(lr, gradient), expected)) in steps.iter().zip(&reports).enumerate() {
            gpu.stream.memcpy_htod(&vec![gradient; LEN], &mut training.gradient).unwrap();
            training.optimizer.set_learning_rate(lr).unwrap();
            match &graph {
                None if i < 2 => training.step().unwrap(), // as it comes
                None => {
                    let captured = capture(&gpu, || training.step()).unwrap();
                    captured.launch().unwrap();
                    graph = Some(captured);
                }
                Some(graph) => CudaGraph::launch(graph).unwrap(),
            }
            let report = training.optimizer.report().unwrap();
            // As text: a NaN equals no other.
            assert_eq!(format!("{report:?}"), format!("{expected:?}"), "{algorithm:?}, step {i}");
        }
        let clips = reports.last().is_some_and(|report| report.clipped_updates > 0);
        assert_eq!(
            clips,
            matches!(algorithm, Algorithm::FAdam(_)),
            "{algorithm:?}: κ does not fire, or none does"
        );
        assert!(gpu.download(&training.parameter) == parameter, "{algorithm:?}: other parameters");
        assert_eq!(training.optimizer.state(training.id).unwrap().step, 7);
        // And without a graph again.
        training.step().unwrap();
        assert_eq!(training.optimizer.report().unwrap().step, 9);
    }
}

/// It is sent alone, whatever the number of groups.
#[test]
fn a_rate_of_a_group_reaches_a_replay() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut on_gpu = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    let mut on_cpu = Optimizer::new(Adam::adamw()).unwrap();
    let groups = [0.1, 0.2, 0.3].map(|lr| {
        let group = Group { lr: Some(lr), ..Group::default() };
        [&mut on_gpu, &mut on_cpu].map(|optimizer| optimizer.add_group(group).unwrap())
    });
    let ids = [0, 1, 2].map(|i| {
        let [there, here] = groups[i];
        let name = i.to_string();
        let there = on_gpu.register_in(there, &name, 3, Dtype::F32).unwrap();
        [there, on_cpu.register_in(here, &name, 3, Dtype::F32).unwrap()]
    });
    let mut there = ids.map(|_| gpu.upload(&[1.0_f32; 3]));
    let mut here = ids.map(|_| [1.0_f32; 3]);
    let gradient = gpu.upload(&[0.5_f32; 3]);
    let mut updates: Vec<_> =
        there.iter_mut().zip(ids).map(|(w, id)| Update::new(id[0], w, &gradient)).collect();
    let mut step_here = |optimizer: &mut Optimizer| {
        let updates = here.iter_mut().zip(ids).map(|(w, id)| Update::new(id[1], w, &[0.5_f32; 3]));
        optimizer.step(&mut updates.collect::<Vec<_>>()).unwrap();
    };
    on_gpu.step(&mut updates).unwrap();
    step_here(&mut on_cpu);
    let graph = capture(&gpu, || on_gpu.step(&mut updates)).unwrap();
    for (i, lr) in [(1, 0.5), (2, 0.0), (0, 0.25), (1, 0.125)] {
        on_gpu.set_group_learning_rate(groups[i][0], lr).unwrap();
        on_cpu.set_group_learning_rate(groups[i][1], lr).unwrap();
        graph.launch().unwrap();
        step_here(&mut on_cpu);
    }
    on_gpu.synchronize().unwrap();
    drop(updates);
    for (there, here) in there.iter().zip(&here) {
        assert_eq!(gpu.download(there), here);
    }
}

/// Others wait for the outcome of its steps.
#[test]
fn a_shared_loss_scale_is_not_captured() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let scaler = LossScaler::new(LossScale::default()).unwrap();
    let builder = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).loss_scaler(&scaler);
    let mut optimizer = builder.build().unwrap();
    let id = optimizer.register("w", 3).unwrap();
    let (mut w, gradient) = (gpu.upload(&[1.0_f32; 3]), gpu.upload(&[0.5_f32; 3]));
    let mut step = || optimizer.step(&mut [Update::new(id, &mut w, &gradient)]);
    step().unwrap();
    let error = capture(&gpu, &mut step).map(drop).unwrap_err();
    assert!(matches!(error, Error::Capture { .. }), "{error:?}");
    step().unwrap();
    assert_eq!(optimizer.report().unwrap().step, 2);
}

#[test]
fn a_capture_without_a_step_before_is_refused() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Adam::adamw().into(), NonFinite::Skip);
    let refused = |error: Error| {
        assert!(matches!(error, Error::Capture { .. }), "{error:?}");
        assert!(error.to_string().contains("call `step` once"), "{error}");
    };
    refused(capture(&gpu, || training.step()).map(drop).unwrap_err());
    training.step().unwrap();
    // Other tensors than before, another learning rate, another parameter: the device does not know them yet.
    let other = gpu.upload(&[0.25; LEN]);
    let Training { optimizer, id, parameter, .. } = &mut training;
    let result = capture(&gpu, || optimizer.step(&mut [Update::new(*id, &mut *parameter, &other)]));
    refused(result.map(drop).unwrap_err());
    refused(capture(&gpu, || training.optimizer.set_learning_rate(0.5)).map(drop).unwrap_err());
    assert_eq!(training.optimizer.algorithm().learning_rate(), 1e-3);
    training.optimizer.register("late", 3).unwrap();
    refused(capture(&gpu, || training.step()).map(drop).unwrap_err());
    // What would leave a graph with memory of the host that is gone.
    let id = training.id;
    let gradient = gpu.upload(&[0.25; LEN]);
    let captured_alone = |work: &mut dyn FnMut() -> Result<(), Error>| {
        let error = capture(&gpu, work).map(drop).unwrap_err();
        assert!(matches!(error, Error::Capture { .. }), "{error:?}");
    };
    let optimizer = &mut training.optimizer;
    captured_alone(&mut || optimizer.register("later", 3).map(drop));
    captured_alone(&mut || optimizer.state(id).map(drop));
    captured_alone(&mut || optimizer.norms_of(id).map(drop));
    captured_alone(&mut || optimizer.report().map(drop));
    captured_alone(&mut || optimizer.synchronize());
    captured_alone(&mut || global_norm(Device::Cuda(0), &[(&gradient).into()]).map(drop));
    captured_alone(&mut || Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().map(drop));
    // Nothing of that has happened.
    assert_eq!(training.optimizer.report().unwrap().step, 1);
    training.step().unwrap();
    capture(&gpu, || training.step()).unwrap().launch().unwrap();
    assert_eq!(training.optimizer.report().unwrap().step, 3);
}

#[test]
fn under_error_a_replay_that_was_skipped_is_found() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Adam::adamw().into(), NonFinite::Error);
    training.step().unwrap();
    let graph = capture(&gpu, || training.step()).unwrap();
    graph.launch().unwrap();
    training.optimizer.synchronize().unwrap();
    gpu.stream.memcpy_htod(&[f32::INFINITY; LEN], &mut training.gradient).unwrap();
    graph.launch().unwrap();
    graph.launch().unwrap();
    let error = training.optimizer.synchronize().unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 4, .. }), "{error:?}");
    let report = training.optimizer.report().unwrap();
    assert_eq!((report.step, report.skipped_steps), (4, 2));
}

/// Tables that a graph uses stay where they are when the optimizer grows.
/// The default stream waits for blocking streams: it refuses work while one of them captures, and neither the optimizer nor
/// the capture is the worse for it.
#[test]
fn the_default_stream_is_refused_while_a_blocking_one_captures() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let context = gpu.context();
    context.bind_to_thread().unwrap();
    let raw = result::stream::create(StreamKind::Default).unwrap();
    // SAFETY: a stream of this context, destroyed below, after its last use.
    let blocking = unsafe { context.wrap_borrowed_stream(raw) };
    let mut optimizer = Optimizer::builder(Adam::adamw()).device(Device::Cuda(0)).build().unwrap();
    let id = optimizer.register("w", LEN).unwrap();
    let (mut parameter, gradient) = (gpu.upload(&[1.0; LEN]), gpu.upload(&[0.25; LEN]));
    gpu.stream.synchronize().unwrap();
    let mut on_its_own = Training::new(&gpu, Adam::adamw().into(), NonFinite::Skip);
    let mut step = || optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]);
    step().unwrap();
    blocking.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    let error = step().unwrap_err();
    assert!(matches!(error, Error::Cuda { error, .. } if error.0 as u32 == 906), "{error:?}");
    on_its_own.step().unwrap();
    blocking.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    step().unwrap();
    assert_eq!(optimizer.report().unwrap().step, 2, "neither lost nor counted");
    assert_eq!(on_its_own.optimizer.report().unwrap().step, 1);
    drop(blocking);
    // SAFETY: created above, and nothing uses it any more.
    unsafe { result::stream::destroy(raw) }.unwrap();
}

#[test]
fn an_old_graph_survives_new_parameters() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Adam::adamw().into(), NonFinite::Skip);
    training.step().unwrap();
    let graph = capture(&gpu, || training.step()).unwrap();
    for i in 0..3 {
        training.optimizer.register(i.to_string(), 100_000).unwrap();
    }
    training.step().unwrap();
    graph.launch().unwrap();
    let (_, parameter) = on_cpu(Adam::adamw().into(), &[(1e-3, 0.25); 3]);
    assert!(gpu.download(&training.parameter) == parameter, "other parameters");
}

/// And its table of tensors stays what it was when other tensors are stepped meanwhile.
#[test]
fn a_graph_keeps_its_tensors() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Adam::adamw().into(), NonFinite::Skip);
    training.step().unwrap();
    let graph = capture(&gpu, || training.step()).unwrap();
    let mut elsewhere = gpu.upload(&[1.0; LEN]);
    let Training { optimizer, id, gradient, .. } = &mut training;
    optimizer.step(&mut [Update::new(*id, &mut elsewhere, &*gradient)]).unwrap();
    graph.launch().unwrap();
    // The moments went three steps; the graph's parameter took the first and the third of them.
    let moved =
        |steps| on_cpu(Adam::adamw().into(), &[(1e-3, 0.25), (1e-3, 0.25), (1e-3, 0.25)][..steps]).1[0];
    let (parameter, elsewhere) = (gpu.download(&training.parameter), gpu.download(&elsewhere));
    assert_ne!(parameter[0], moved(1), "the replay did not step the graph's parameter");
    assert_eq!(elsewhere[0], moved(1), "the replay stepped another tensor");
    assert_eq!(training.optimizer.report().unwrap().step, 3);
}

/// Tensors that were made on another stream, before the capture.
#[test]
fn tensors_of_another_stream_may_be_captured() {
    let _alone = emulator::find();
    let Some(gpu) = gpu() else { return };
    let mut training = Training::new(&gpu, Adam::adamw().into(), NonFinite::Skip);
    let elsewhere = gpu.context().default_stream();
    training.parameter = elsewhere.clone_htod(&[1.0; LEN]).unwrap();
    training.gradient = elsewhere.clone_htod(&[0.25; LEN]).unwrap();
    training.step().unwrap();
    capture(&gpu, || training.step()).unwrap().launch().unwrap();
    assert_eq!(training.optimizer.report().unwrap().step, 2);
    gpu.stream.synchronize().unwrap();
}
