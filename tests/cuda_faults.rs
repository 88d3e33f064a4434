//! One promise: whichever driver call of a step fails, there is a typed error, the optimizer is untouched or says that it
//! is lost, and nothing leaks.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use emulator::Emulator;
use fadam::cuda::cudarc::driver::CudaSlice;
use fadam::{Adam, Algorithm, Error, FAdam, FisherAdam, Optimizer, ParameterId, Update};
use gpu::{Gpu, gpus};

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const LAUNCH_OUT_OF_RESOURCES: u32 = 701;

struct Model {
    optimizer: Optimizer,
    ids: Vec<ParameterId>,
    parameters: Vec<CudaSlice<f32>>,
    gradients: Vec<CudaSlice<f32>>,
}

impl Model {
    fn new(gpu: &Gpu, algorithm: Algorithm) -> Self {
        let builder = Optimizer::builder(algorithm).stream(gpu.stream.clone()).max_grad_norm(1.0).norms(true);
        let mut optimizer = builder.build().unwrap();
        let lengths = [5000, 3];
        Self {
            ids: lengths.iter().map(|len| optimizer.register(len.to_string(), *len).unwrap()).collect(),
            parameters: lengths.iter().map(|len| gpu.upload(&vec![0.5; *len])).collect(),
            gradients: lengths.iter().map(|len| gpu.upload(&vec![0.1; *len])).collect(),
            optimizer,
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        let parameters = self.parameters.iter_mut().zip(&self.gradients);
        let mut updates: Vec<_> =
            self.ids.iter().zip(parameters).map(|(&id, (p, g))| Update::new(id, p, g)).collect();
        self.optimizer.step(&mut updates)
    }

    /// Everything that a step may change.
    fn snapshot(&mut self, gpu: &Gpu) -> Result<Vec<Vec<u32>>, Error> {
        let mut all: Vec<Vec<f32>> = self.parameters.iter().map(|p| gpu.download(p)).collect();
        let mut steps = Vec::new();
        for &id in &self.ids {
            let state = self.optimizer.state(id)?;
            steps.push(state.step as u32);
            all.extend([state.exp_avg, state.exp_avg_sq]);
        }
        let mut all: Vec<Vec<u32>> = all.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect();
        all.push(steps);
        Ok(all)
    }
}

fn algorithms() -> Vec<Algorithm> {
    vec![
        Adam::adamw().into(),
        FAdam { kappa: Some(1e3), ..FAdam::default() }.into(),
        FAdam { kappa: Some(1.0), ..FAdam::default() }.into(),
        FisherAdam::default().into(),
    ]
}

/// Fails each driver call of what `act` does in turn, on a model with `warm` steps behind it.
fn fail_each(
    emulator: &Emulator,
    gpu: &Gpu,
    algorithm: Algorithm,
    warm: usize,
    act: impl Fn(&mut Model) -> Result<(), Error>,
) -> usize {
    let prepared = || {
        let mut model = Model::new(gpu, algorithm);
        for _ in 0..warm {
            model.step().unwrap();
        }
        gpu.stream.synchronize().unwrap();
        model
    };
    let mut model = prepared();
    let before = model.snapshot(gpu).unwrap();
    emulator.reset_counts();
    act(&mut model).unwrap();
    let calls = emulator.calls();
    let after = model.snapshot(gpu).unwrap();
    assert!(before != after || before.is_empty());
    drop(model);

    let mut tried = 0;
    for (name, count) in calls {
        let codes: &[u32] = match name.as_str() {
            "cuLaunchKernel" => &[LAUNCH_OUT_OF_RESOURCES, OUT_OF_MEMORY],
            _ => &[INVALID_VALUE],
        };
        for (nth, code) in (1..=count).flat_map(|nth| codes.iter().map(move |&code| (nth, code))) {
            let what = format!("{algorithm:?}, {warm} steps before, call {nth} of {name} fails with {code}");
            let mut model = prepared();
            emulator.fail(&name, nth, code);
            let error = act(&mut model).expect_err(&what);
            emulator.clear_failures();
            assert!(matches!(error, Error::Cuda { .. } | Error::OutOfMemory { .. }), "{what}: {error:?}");
            assert!(error.to_string().contains("failed") || error.to_string().contains("memory"), "{error}");
            match model.snapshot(gpu) {
                Ok(now) => {
                    assert_eq!(now, before, "{what}: neither untouched nor lost");
                    act(&mut model).unwrap_or_else(|error| panic!("{what}, then again: {error}"));
                    assert_eq!(model.snapshot(gpu).unwrap(), after, "{what}: another result the second time");
                }
                Err(Error::Lost) => {
                    assert!(matches!(model.step(), Err(Error::Lost)), "{what}");
                    assert!(matches!(model.optimizer.report(), Err(Error::Lost)), "{what}");
                    assert!(matches!(model.optimizer.synchronize(), Err(Error::Lost)), "{what}");
                }
                Err(error) => panic!("{what}: {error}"),
            }
            tried += 1;
        }
    }
    tried
}

#[test]
fn each_driver_call_of_a_step_may_fail() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver fails when it likes");
        return;
    };
    for algorithm in algorithms() {
        let gpu = Gpu::new(0);
        let first = fail_each(emulator, &gpu, algorithm, 0, Model::step);
        let later = fail_each(emulator, &gpu, algorithm, 2, Model::step);
        println!("{algorithm:?}: {first} calls of a first step and {later} of a third one");
        assert!(first > later && later >= 10, "{first}, {later}");
        emulator.reset_counts();
        drop(gpu);
        assert_eq!(emulator.leaks(), "");
    }
}

#[test]
fn each_driver_call_of_a_new_learning_rate_may_fail() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.only_emulated() else { return };
    let gpu = Gpu::new(0);
    let act = |model: &mut Model| {
        model.optimizer.set_learning_rate(0.25)?;
        assert_eq!(model.optimizer.algorithm().learning_rate(), 0.25);
        model.step()
    };
    fail_each(emulator, &gpu, Adam::adamw().into(), 1, act);
    let mut model = Model::new(&gpu, Adam::adamw().into());
    model.step().unwrap();
    emulator.fail("cuMemcpyHtoDAsync_v2", 1, INVALID_VALUE);
    model.optimizer.set_learning_rate(0.25).unwrap_err();
    assert_eq!(model.optimizer.algorithm().learning_rate(), 1e-3, "a refusal changes nothing");
}

#[test]
fn each_driver_call_of_construction_may_fail() {
    let driver = emulator::find();
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = driver.only_emulated() else { return };
    let build = |gpu: &Gpu| -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build()?;
        optimizer.register("w", 1000)?;
        Ok(optimizer)
    };
    let gpu = Gpu::new(0);
    emulator.reset_counts();
    let built = build(&gpu).unwrap();
    let calls = emulator.calls();
    drop((built, gpu));
    for (name, count) in calls {
        for nth in 1..=count {
            let gpu = Gpu::new(0);
            emulator.reset_counts();
            emulator.fail(&name, nth, OUT_OF_MEMORY);
            let error = build(&gpu).map(drop).expect_err(&format!("call {nth} of {name}"));
            emulator.clear_failures();
            assert!(
                matches!(error, Error::Cuda { .. } | Error::OutOfMemory { .. }),
                "{name} {nth}: {error:?}"
            );
            drop(gpu);
            assert_eq!(emulator.leaks(), "", "{name} {nth}");
        }
    }
}
