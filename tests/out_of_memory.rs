//! One promise: the system may refuse any large allocation. The answer is `Error::OutOfMemory`, nothing has changed, and the next
//! try does what the first would have done.
//!
//! Each operation is tried with its first large allocation failing, then with its second, until none is left to fail.

#[cfg(feature = "cuda")]
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
mod trajectories;

use fadam::{
    Adam, Builder, Device, Dtype, EmpiricalFisher, Error, FisherPower, Group, Master, Norms, Optimizer,
    ParameterId, Rounding, Schedule, Simd, State, Tensor, TensorMut, Update, accumulate, global_norm,
    natural_gradient_step,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use trajectories::{Home, Host, high_halves};

/// From here on an allocation is large, in bytes. No message, name, task for a thread or node of a tree is; what grows is, long
/// before it could be refused in earnest, with some thousand parameters.
const LARGE: usize = 4096;

thread_local! {
    /// Large allocations of this thread until one fails, that one among them; 0: none does.
    static UNTIL_ONE_FAILS: Cell<usize> = const { Cell::new(0) };
}

struct Failing;

fn fails(size: usize) -> bool {
    let left = UNTIL_ONE_FAILS.get();
    if size < LARGE || left == 0 {
        return false;
    }
    UNTIL_ONE_FAILS.set(left - 1);
    left == 1
}

// SAFETY: every call is forwarded to the system's allocator, or answered as one that has no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        if fails(layout.size()) { null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        if fails(layout.size()) { null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        if fails(new_size) { null_mut() } else { unsafe { System.realloc(ptr, layout, new_size) } }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// What the call returns in the end, and how many allocations have failed before.
#[track_caller]
fn refused<S, T>(
    what: &str,
    subject: &mut S,
    mut call: impl FnMut(&mut S) -> Result<T, Error>,
    mut unchanged: impl FnMut(&mut S),
) -> (T, usize) {
    for failed in 0.. {
        UNTIL_ONE_FAILS.set(failed + 1);
        let result = call(subject);
        let left = UNTIL_ONE_FAILS.replace(0);
        match result {
            Ok(value) => {
                assert_ne!(left, 0, "{what}: an allocation has failed, and nobody has missed it");
                return (value, failed);
            }
            Err(error @ Error::OutOfMemory { .. }) => {
                assert_eq!(left, 0, "{what}: no allocation has failed, and yet {error}");
                assert!(error.to_string().starts_with("no memory for `"), "{error}");
                unchanged(subject);
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
    unreachable!("without an allocation that fails, a call succeeds")
}

/// Fewer, and the test would not look where it is meant to.
#[track_caller]
fn told(what: &str, failed: usize, at_least: usize) {
    println!("{what}: {failed} allocations have failed");
    assert!(failed >= at_least, "{what}: {failed} allocations, at least {at_least} were expected");
}

#[test]
fn the_allocator_fails_what_it_is_told_to() {
    let call = |_: &mut ()| {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [LARGE - 1, LARGE, 10 * LARGE] {
            let refused = |_| Error::OutOfMemory { name: "a test".into(), bytes: size };
            bytes.try_reserve_exact(size).map_err(refused)?;
        }
        Ok(bytes.capacity())
    };
    assert_eq!(refused("a vector", &mut (), call, |_| ()), (10 * LARGE, 2));
}

/// Elements of a tensor whose arrays are large, of bf16 too.
const LEN: usize = 20_000;
/// Tensors whose tables are large.
const COUNT: usize = 1100;

/// Values in (−1, 1).
fn values(len: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

enum Memory<H: Home> {
    F32(H::F32),
    Bf16(H::Bf16),
}

struct Parameter<H: Home> {
    id: ParameterId,
    len: usize,
    memory: Memory<H>,
}

/// An optimizer, and the parameters that it steps.
struct Run<'a, H: Home> {
    home: &'a H,
    optimizer: Optimizer,
    parameters: Vec<Parameter<H>>,
}

fn register(optimizer: &mut Optimizer, name: &str, len: usize, dtype: Dtype) -> Result<ParameterId, Error> {
    match dtype {
        Dtype::Bf16 => optimizer.register_bf16(name, len),
        _ => optimizer.register(name, len),
    }
}

/// What an optimizer says of itself, and of some parameters if there are many.
type Kept = (Vec<(State, Option<Norms>)>, String, u64, f64);

fn kept(optimizer: &mut Optimizer, ids: &[ParameterId]) -> Kept {
    let some = ids.iter().step_by(ids.len() / 20 + 1).chain(ids.last());
    let states = some.map(|&id| (optimizer.state(id).unwrap(), optimizer.norms_of(id).unwrap())).collect();
    let report = format!("{:?}", optimizer.report().unwrap());
    (states, report, optimizer.schedule_step().unwrap(), optimizer.algorithm().learning_rate())
}

impl<'a, H: Home> Run<'a, H> {
    fn new(home: &'a H, builder: &Builder) -> Self {
        let optimizer = home.builder(builder.clone()).build().unwrap();
        Self { home, optimizer, parameters: Vec::new() }
    }

    fn ids(&self) -> Vec<ParameterId> {
        self.parameters.iter().map(|parameter| parameter.id).collect()
    }

    fn kept(&mut self) -> Kept {
        let ids = self.ids();
        kept(&mut self.optimizer, &ids)
    }

    fn place(&mut self, id: ParameterId, len: usize, dtype: Dtype) {
        let values = values(len, self.parameters.len());
        let memory = match dtype {
            Dtype::Bf16 => Memory::Bf16(self.home.bf16(&high_halves(&values), 0)),
            _ => Memory::F32(self.home.f32(&values, 0)),
        };
        self.parameters.push(Parameter { id, len, memory });
    }

    /// How many allocations have failed, if they are to.
    fn step(&mut self, failures: bool) -> usize {
        let ids = self.ids();
        let Self { home, optimizer, parameters } = self;
        let gradients: Vec<H::F32> = (parameters.iter().zip(1000..))
            .map(|(parameter, seed)| home.f32(&values(parameter.len, seed), 0))
            .collect();
        let mut updates: Vec<Update<'_>> = (parameters.iter_mut().zip(&gradients))
            .map(|(Parameter { id, memory, .. }, gradient)| {
                let parameter = match memory {
                    Memory::F32(memory) => home.parameter(memory, 0),
                    Memory::Bf16(memory) => home.bf16_parameter(memory, 0),
                };
                Update::new(*id, parameter, home.f32_gradient(gradient, 0))
            })
            .collect();
        let before = kept(optimizer, &ids);
        let mut step = |optimizer: &mut Optimizer| optimizer.step(&mut updates);
        let failed = match failures {
            false => step(optimizer).map(|()| 0).unwrap(),
            true => refused("step", optimizer, step, |optimizer| assert_eq!(kept(optimizer, &ids), before)).1,
        };
        optimizer.synchronize().unwrap(); // before the gradients go
        failed
    }

    /// The bits of all parameters.
    fn read(&self) -> Vec<u32> {
        let mut bits = Vec::new();
        for Parameter { memory, .. } in &self.parameters {
            match memory {
                Memory::F32(memory) => bits.extend(self.home.read(memory, 0).into_iter().map(f32::to_bits)),
                Memory::Bf16(memory) => {
                    bits.extend(self.home.read_bf16(memory, 0).into_iter().map(|x| u32::from(x.to_bits())));
                }
            }
        }
        bits
    }
}

/// A run where allocations fail, and one where none does.
struct Twins<'a, H: Home> {
    tried: Run<'a, H>,
    twin: Run<'a, H>,
}

impl<'a, H: Home> Twins<'a, H> {
    /// With a small parameter each, and after another one: threads, and the kernels of a device, are there.
    fn new(home: &'a H, builder: &Builder, dtype: Dtype) -> Self {
        let mut first = Run::new(home, builder);
        let len = 5 * LEN;
        let id = register(&mut first.optimizer, "large", len, dtype).unwrap();
        first.place(id, len, dtype);
        first.step(false);
        let mut twins = Self { tried: Run::new(home, builder), twin: Run::new(home, builder) };
        for run in [&mut twins.tried, &mut twins.twin] {
            let id = register(&mut run.optimizer, "p0", 3, dtype).unwrap();
            run.place(id, 3, dtype);
        }
        twins
    }

    fn assert_equal(&mut self, what: &str) {
        assert_eq!(self.tried.kept(), self.twin.kept(), "{what}");
    }

    /// Calls it for both: how many allocations have failed, and what each has answered.
    fn both<T>(&mut self, what: &str, call: impl Fn(&mut Optimizer) -> Result<T, Error>) -> (usize, [T; 2]) {
        let tried = |twins: &mut Self| call(&mut twins.tried.optimizer);
        let (answer, failed) = refused(what, self, tried, |twins| twins.assert_equal(what));
        (failed, [answer, call(&mut self.twin.optimizer).unwrap()])
    }

    /// How many allocations have failed.
    fn register(&mut self, len: usize, dtype: Dtype) -> usize {
        let name = format!("p{}", self.tried.parameters.len());
        let (failed, ids) = self.both(&name, |optimizer| {
            assert_eq!(optimizer.parameter(&name), None);
            register(optimizer, &name, len, dtype)
        });
        for (run, id) in [&mut self.tried, &mut self.twin].into_iter().zip(ids) {
            run.place(id, len, dtype);
        }
        failed
    }

    /// How many allocations have failed.
    fn step(&mut self) -> usize {
        let failed = self.tried.step(true);
        self.twin.step(false);
        assert_eq!(self.tried.read(), self.twin.read());
        self.assert_equal("step");
        failed
    }
}

/// What an optimizer may keep of a parameter, and how many arrays that are.
fn kinds() -> Vec<(&'static str, Builder, Dtype, usize)> {
    let adam = || Optimizer::builder(Adam::adamw());
    let amsgrad = || Optimizer::builder(Adam { amsgrad: true, ..Adam::adamw() });
    let rounded = || adam().master(Master::None).moments(Dtype::Bf16).rounding(Rounding::Nearest);
    vec![
        ("f32", adam(), Dtype::F32, 2),
        ("amsgrad", amsgrad(), Dtype::F32, 3),
        ("average", adam().ema(0.9), Dtype::F32, 3),
        ("remainder", adam(), Dtype::Bf16, 3),
        ("rounded", rounded(), Dtype::Bf16, 2),
        ("everything", amsgrad().master(Master::F32).ema(0.9), Dtype::Bf16, 5),
    ]
}

/// `device`: the optimizer's arrays lie on one, and this process has but copies of them.
fn every_kind_of_parameter<H: Home>(home: &H, device: bool) {
    for (kind, builder, dtype, arrays) in kinds() {
        let mut twins = Twins::new(home, &builder, dtype);
        let failed = twins.register(LEN, dtype);
        told(&format!("register, {kind}"), failed, if device { 0 } else { arrays });
        twins.step();
        told(&format!("step, {kind}"), twins.step(), 0);
        let (failed, [state, expected]) = twins.both("state", |optimizer| {
            let id = optimizer.parameter("p1").ok_or(Error::Unnamed)?;
            optimizer.state(id)
        });
        assert_eq!(state, expected);
        told(&format!("state, {kind}"), failed, arrays);
    }
}

/// `tables`: what a step reads has to be copied to a device.
fn thousands_of_parameters_and_groups<H: Home>(home: &H, tables: bool) {
    let builder = Optimizer::builder(Adam::adamw())
        .schedule(Schedule::cosine(1, LARGE as u64, 0.1))
        .max_grad_norm(1.0)
        .norms(true);
    if !tables {
        let (_, failed) = refused("build", &mut (), |_| home.builder(builder.clone()).build(), |_| ());
        told("build", failed, 0);
    }
    let mut twins = Twins::new(home, &builder, Dtype::F32);
    let failed = (0..COUNT).map(|i| twins.register(1 + i % 7, Dtype::F32)).sum();
    // Of the optimizer, of its names, of the backend; on the CPU its scratch, too. The lengths would tell if one kept a parameter
    // that another refused.
    told("register, thousands", failed, 8);
    told("step, thousands", twins.step(), if tables { 5 } else { 0 });
    let group = |i: usize| Group { weight_decay: Some(i as f64 * 1e-6), ..Group::default() };
    let failed = (0..COUNT).map(|i| twins.both("add_group", |o| o.add_group(group(i))).0).sum();
    told("add_group, thousands", failed, 3);
    let (failed, _) = twins.both("set_learning_rate", |o| o.set_learning_rate(0.1));
    told("set_learning_rate, thousands of groups", failed, if tables { 3 } else { 1 });
    let (failed, _) = twins.both("set_schedule", |o| o.set_schedule(Some(Schedule::constant(LARGE as u64))));
    told("set_schedule", failed, if tables { 2 } else { 0 });
    told("step, thousands, again", twins.step(), if tables { 1 } else { 0 });
    let (failed, [report, expected]) = twins.both("report", Optimizer::report);
    assert_eq!(format!("{report:?}"), format!("{expected:?}"));
    told("report, thousands", failed, 0);
    let (failed, norms) = twins.both("norms_of", |optimizer| {
        let id = optimizer.parameter("p7").ok_or(Error::Unnamed)?;
        optimizer.norms_of(id)
    });
    assert_eq!(norms[0], norms[1]);
    told("norms_of", failed, 0);
}

/// Those that need no optimizer, with large tensors and with many. Of nothing at first: a device has their kernels then.
fn functions<H: Home>(home: &H, device: Device) {
    let on_device = device != Device::Cpu;
    for len in [1 << 50, usize::MAX / 8, usize::MAX] {
        let error = EmpiricalFisher::new(device, len).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{len}: {error:?}");
    }
    let (mut fisher, failed) = refused("Fisher", &mut (), |_| EmpiricalFisher::new(device, 5 * LEN), |_| ());
    told("EmpiricalFisher::new", failed, if on_device { 0 } else { 1 });
    let sample = values(5 * LEN, 1);
    let gradient = home.f32(&sample, 0);
    home.read(&gradient, 0); // there, on whichever stream
    fisher.add(home.f32_gradient(&gradient, 0)).unwrap();
    let add = |fisher: &mut EmpiricalFisher| fisher.add(home.f32_gradient(&gradient, 0));
    let ((), failed) = refused("add", &mut fisher, add, |fisher| assert_eq!(fisher.samples(), 1));
    told("EmpiricalFisher::add", failed, 0);
    let (diagonal, failed) = refused("diagonal", &mut fisher, |fisher| fisher.diagonal(), |_| ());
    told("EmpiricalFisher::diagonal", failed, if on_device { 2 } else { 1 });
    let squares: Vec<f32> = sample.iter().map(|&g| (f64::from(g) * f64::from(g)) as f32).collect();
    assert_eq!(diagonal, squares);

    let starts: Vec<_> = (0..COUNT).map(|i| values(1 + i % 3, i)).collect();
    let gradients: Vec<_> = (0..COUNT).map(|i| values(1 + i % 3, 7000 + i)).collect();
    let mut sums: Vec<_> = starts.iter().map(|values| home.f32(values, 0)).collect();
    let memory: Vec<_> = gradients.iter().map(|values| home.f32(values, 0)).collect();
    home.read(&memory[COUNT - 1], 0);
    let tensors: Vec<Tensor<'_>> = memory.iter().map(|memory| home.f32_gradient(memory, 0)).collect();
    let on_host: Vec<Tensor<'_>> = gradients.iter().map(Tensor::from).collect();
    global_norm(device, &[]).unwrap();
    let (norm, failed) = refused("norm", &mut (), |_| global_norm(device, &tensors), |_| ());
    assert_eq!(norm, global_norm(Device::Cpu, &on_host).unwrap());
    told("global_norm", failed, 2);

    let mut pairs: Vec<(TensorMut<'_>, Tensor<'_>)> =
        sums.iter_mut().zip(&tensors).map(|(sum, g)| (home.parameter(sum, 0), *g)).collect();
    accumulate(device, &mut [], false).unwrap();
    let ((), failed) = refused("accumulate", &mut (), |_| accumulate(device, &mut pairs, false), |_| ());
    told("accumulate", failed, 3);
    global_norm(device, &tensors).unwrap(); // waits for it
    for (i, sum) in sums.iter().enumerate() {
        let expected: Vec<f32> = starts[i].iter().zip(&gradients[i]).map(|(a, b)| a + b).collect();
        assert_eq!(home.read(sum, 0), expected, "{i}");
    }

    let mut theta = home.f32(&sample, 0);
    let fisher = home.f32(&squares, 0);
    home.read(&fisher, 0);
    let step = |theta: &mut H::F32| {
        let (theta, gradient) = (home.parameter(theta, 0), home.f32_gradient(&gradient, 0));
        let fisher = home.f32_gradient(&fisher, 0);
        natural_gradient_step(device, theta, gradient, fisher, 0.1, FisherPower::Half, 0.0)
    };
    let ((), failed) = refused("natural", &mut theta, step, |theta| assert_eq!(home.read(theta, 0), sample));
    told("natural_gradient_step", failed, 0);
}

const HOST: fn() -> Host = || Host { simd: Simd::best() };

#[test]
fn of_every_kind_of_parameter() {
    every_kind_of_parameter(&HOST(), false);
}

#[test]
fn of_thousands_of_parameters_and_groups() {
    thousands_of_parameters_and_groups(&HOST(), false);
}

#[test]
fn of_functions() {
    functions(&HOST(), Device::Cpu);
}

/// The driver's allocations are its own: what fails is this crate's.
#[cfg(feature = "cuda")]
#[test]
fn on_a_gpu() {
    let Some(gpus) = gpu::gpus() else { return };
    let gpu = gpu::middle(&gpus);
    every_kind_of_parameter(gpu, true);
    thousands_of_parameters_and_groups(gpu, true);
    functions(gpu, Device::Cuda(gpu.ordinal));
}

/// What candle allocates for itself is not large here.
#[cfg(feature = "candle")]
#[test]
fn of_thousands_of_variables() {
    use candle_core::{Device, Tensor, Var};
    use candle_nn::{Optimizer as _, VarMap};

    let variables = || {
        let varmap = VarMap::new();
        let var = |i| Var::from_vec(values(3, i), 3, &Device::Cpu).unwrap();
        varmap.data().lock().unwrap().extend((0..COUNT).map(|i| (format!("v{i}"), var(i))));
        varmap
    };
    let read = |varmap: &VarMap| -> Vec<Vec<f32>> {
        let data = varmap.data().lock().unwrap();
        (0..COUNT).map(|i| data[&format!("v{i}")].to_vec1().unwrap()).collect()
    };
    let gradients = |varmap: &VarMap| {
        let data = varmap.data().lock().unwrap();
        let all: Vec<&Tensor> = (0..COUNT).map(|i| data[&format!("v{i}")].as_tensor()).collect();
        Tensor::cat(&all, 0).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap()
    };
    let own = |error: candle_core::Error| match error.to_string() {
        text if text.starts_with("no memory for `") => Error::OutOfMemory { name: text, bytes: 0 },
        _ => Error::Candle(error),
    };
    let (varmap, twins) = (variables(), variables());
    let over = |varmap: &VarMap| fadam::candle::Optimizer::from_varmap(varmap, Adam::adamw());
    let mut twin = over(&twins).unwrap();
    let (mut optimizer, failed) = refused("from_varmap", &mut (), |_| over(&varmap), |_| ());
    told("from_varmap", failed, 20);
    for _ in 0..2 {
        let (before, gradient) = (read(&varmap), gradients(&varmap));
        let step = |optimizer: &mut fadam::candle::Optimizer| optimizer.step(&gradient).map_err(own);
        let ((), failed) = refused("candle's step", &mut optimizer, step, |optimizer| {
            assert_eq!(read(&varmap), before);
            assert_eq!(optimizer.report().unwrap().step, twin.report().unwrap().step);
        });
        told("candle's step", failed, 8);
        twin.step(&gradients(&twins)).unwrap();
        assert_eq!(read(&varmap), read(&twins));
    }
}

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = paths::scratch(&format!("out-of-memory-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// All files of a folder, with what is in them.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// A run with thousands of parameters, one of them large, after as many steps.
fn trained(steps: usize) -> Run<'static, Host> {
    static HOME: std::sync::OnceLock<Host> = std::sync::OnceLock::new();
    let mut run = Run::new(HOME.get_or_init(HOST), &Optimizer::builder(Adam::adamw()));
    for i in 0..2 * COUNT {
        let len = if i == 5 { 5 * LEN } else { 1 + i % 3 };
        let id = run.optimizer.register(format!("p{i}"), len).unwrap();
        run.place(id, len, Dtype::F32);
    }
    for _ in 0..steps {
        run.step(false);
    }
    run
}

type Save<'a> = &'a dyn Fn(&mut Optimizer, &Path) -> Result<(), Error>;

/// Saves, over a file that is there, and loads into a run that is elsewhere.
fn saved_and_loaded(what: &str, save: Save<'_>, load: Save<'_>) {
    let folder = folder(what);
    let path = folder.join("state");
    let mut saved = trained(2);
    let expected = {
        save(&mut saved.optimizer, &path).unwrap();
        let expected = files(&folder);
        save(&mut trained(1).optimizer, &path).unwrap();
        expected
    };
    let (there, kept) = (files(&folder), saved.kept());
    assert_ne!(there, expected);
    let ((), failed) = refused(
        what,
        &mut saved,
        |run| save(&mut run.optimizer, &path),
        |run| {
            assert_eq!(files(&folder), there);
            assert_eq!(run.kept(), kept);
        },
    );
    told(&format!("{what}, saved"), failed, 1);
    assert_eq!(files(&folder), expected);

    let mut loaded = trained(3);
    let before = loaded.kept();
    let ((), failed) = refused(
        what,
        &mut loaded,
        |run| load(&mut run.optimizer, &path),
        |run| {
            assert_eq!(run.kept(), before);
        },
    );
    told(&format!("{what}, loaded"), failed, 1);
    // What was loaded is what was saved: all of it, if it is saved again.
    save(&mut loaded.optimizer, &path).unwrap();
    if what != "load_matching" {
        assert_eq!(files(&folder), expected);
    }
    assert_eq!(loaded.kept().0, kept.0);
}

#[test]
#[ignore = "src/state allocates as the standard library does"]
fn of_save_and_load() {
    saved_and_loaded("load", &|o, path| o.save(path), &|o, path| o.load(path));
}

#[test]
#[ignore = "src/state allocates as the standard library does"]
fn of_save_and_load_matching() {
    saved_and_loaded("load_matching", &|o, path| o.save(path), &|o, path| o.load_matching(path).map(drop));
}

#[test]
#[ignore = "src/state allocates as the standard library does"]
fn of_save_and_load_torch() {
    let names: Vec<String> = (0..2 * COUNT).map(|i| format!("p{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    saved_and_loaded("torch", &|o, path| o.save_torch(path, &names), &|o, path| o.load_torch(path, &names));
}
