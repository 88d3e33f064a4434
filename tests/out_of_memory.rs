//! One promise: the system may refuse any large allocation. The answer is `Error::OutOfMemory`, nothing has changed, and the next
//! try does what the first would have done.
//!
//! Each operation is tried with its first large allocation failing, then anew with its second, until none is left to fail.

#[cfg(feature = "cuda")]
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
#[path = "common/thorough.rs"]
mod thorough;
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
    /// Whether this thread is in a call of the library.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Its large allocations until one fails, that one among them; 0: none does.
    static UNTIL_ONE_FAILS: Cell<usize> = const { Cell::new(0) };
}

struct Failing;

fn fails(size: usize) -> bool {
    let left = UNTIL_ONE_FAILS.get();
    if size < LARGE || left == 0 || !INSIDE.get() {
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

/// A call of the library, in which allocations may fail.
fn inside<T>(call: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let answer = call();
    INSIDE.set(false);
    answer
}

/// Lets one large allocation after the other fail, each in a subject of its own, which is then as it was (what `look` sees of
/// it), and after another call as one in which nothing has failed. There are at least so many, or the test would not look
/// where it is meant to.
#[track_caller]
fn refused<S, T: PartialEq, L: PartialEq>(
    what: &str,
    at_least: usize,
    make: impl Fn() -> S,
    call: impl Fn(&mut S) -> Result<T, Error>,
    look: impl Fn(&mut S) -> L,
) {
    let mut twin = make();
    let before = look(&mut twin);
    let answer = call(&mut twin).unwrap();
    let after = look(&mut twin);
    // The first ones are the most different; then every fourth, if all take too long.
    let some = |failed: &usize| thorough::thorough() || *failed < 4 || failed.is_multiple_of(4);
    for failed in (0..).filter(some) {
        let mut subject = make();
        UNTIL_ONE_FAILS.set(failed + 1);
        let result = call(&mut subject);
        let left = UNTIL_ONE_FAILS.replace(0);
        match result {
            Ok(value) => {
                assert_ne!(left, 0, "{what}: an allocation has failed, and nobody has missed it");
                assert!((value, look(&mut subject)) == (answer, after), "{what}");
                println!(
                    "{what}: of at most {failed} allocations {} have failed",
                    (0..failed).filter(some).count()
                );
                assert!(failed >= at_least, "{what}: {failed} allocations, expected were {at_least}");
                return;
            }
            Err(error @ Error::OutOfMemory { .. }) => {
                assert_eq!(left, 0, "{what}: no allocation has failed, and yet {error}");
                assert!(error.to_string().starts_with("no memory for `"), "{error}");
                assert!(look(&mut subject) == before, "{what}: something has changed, {error}");
                assert!(call(&mut subject).unwrap() == answer, "{what}: another answer, after {error}");
                assert!(look(&mut subject) == after, "{what}: another outcome, after {error}");
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

#[test]
fn the_allocator_fails_what_it_is_told_to() {
    let failed = Cell::new(0);
    let call = |_: &mut ()| {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [LARGE - 1, LARGE, 10 * LARGE] {
            inside(|| bytes.try_reserve_exact(size)).map_err(|_| {
                failed.set(failed.get() + 1);
                Error::OutOfMemory { name: "a test".into(), bytes: size }
            })?;
        }
        Ok(bytes.capacity())
    };
    refused("a vector", 2, || (), call, |_| ());
    assert_eq!(failed.get(), 2);
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

impl<'a, H: Home> Run<'a, H> {
    fn new(home: &'a H, builder: &Builder) -> Self {
        let optimizer = home.builder(builder.clone()).build().unwrap();
        Self { home, optimizer, parameters: Vec::new() }
    }

    /// Allocations may fail.
    fn register(&mut self, len: usize, dtype: Dtype) -> Result<(), Error> {
        let (index, optimizer) = (self.parameters.len(), &mut self.optimizer);
        let name = format!("p{index}");
        assert_eq!(optimizer.parameter(&name), None);
        let id = inside(|| register(optimizer, &name, len, dtype))?;
        let values = values(len, index);
        let memory = match dtype {
            Dtype::Bf16 => Memory::Bf16(self.home.bf16(&high_halves(&values), 0)),
            _ => Memory::F32(self.home.f32(&values, 0)),
        };
        self.parameters.push(Parameter { id, len, memory });
        Ok(())
    }

    /// Allocations may fail.
    fn step(&mut self) -> Result<(), Error> {
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
        inside(|| optimizer.step(&mut updates))?;
        optimizer.synchronize() // before the gradients go
    }

    fn kept(&mut self) -> Kept {
        let Self { optimizer, parameters, .. } = self;
        let some = parameters.iter().step_by(parameters.len() / 20 + 1).chain(parameters.last());
        let states =
            some.map(|p| (optimizer.state(p.id).unwrap(), optimizer.norms_of(p.id).unwrap())).collect();
        let report = format!("{:?}", optimizer.report().unwrap());
        (states, report, optimizer.schedule_step().unwrap(), optimizer.algorithm().learning_rate())
    }

    /// That, and the bits of all parameters.
    fn look(&mut self) -> (Kept, Vec<u32>) {
        let mut bits = Vec::new();
        for Parameter { memory, .. } in &self.parameters {
            match memory {
                Memory::F32(memory) => bits.extend(self.home.read(memory, 0).into_iter().map(f32::to_bits)),
                Memory::Bf16(memory) => {
                    bits.extend(self.home.read_bf16(memory, 0).into_iter().map(|x| u32::from(x.to_bits())));
                }
            }
        }
        (self.kept(), bits)
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
        let with = |lengths: &[usize]| {
            let mut run = Run::new(home, &builder);
            lengths.iter().for_each(|&len| run.register(len, dtype).unwrap());
            run
        };
        with(&[5 * LEN]).step().unwrap(); // threads, and the kernels of a device, are there from here on
        let small = || with(&[3]);
        let arrays_here = if device { 0 } else { arrays };
        refused(&format!("register, {kind}"), arrays_here, small, |run| run.register(LEN, dtype), Run::look);
        let large = || with(&[3, LEN]);
        refused(&format!("step, {kind}"), 0, large, Run::step, Run::look);
        let stepped = || {
            let mut run = large();
            run.step().unwrap();
            run
        };
        let state = |run: &mut Run<'_, H>| inside(|| run.optimizer.state(run.parameters[1].id));
        refused(&format!("state, {kind}"), arrays, stepped, state, Run::look);
    }
}

/// `tables`: what a step reads has to be copied to a device.
fn thousands_of_parameters_and_groups<H: Home>(home: &H, tables: bool) {
    let builder = Optimizer::builder(Adam::adamw())
        .schedule(Schedule::cosine(1, LARGE as u64, 0.1))
        .max_grad_norm(1.0)
        .norms(true);
    let small = || {
        let mut run = Run::new(home, &builder);
        run.register(5 * LEN, Dtype::F32).unwrap();
        run
    };
    small().step().unwrap(); // threads, and the kernels of a device, are there from here on
    if !tables {
        refused("build", 0, || (), |_| inside(|| builder.clone().build()).map(drop), |_| ());
    }
    // Goes on behind the one that was refused; the lengths would tell if one side kept it.
    let registered = Cell::new(0);
    let register = |run: &mut Run<'_, H>| {
        let result = (run.parameters.len()..COUNT).try_for_each(|i| run.register(1 + i % 7, Dtype::F32));
        registered.set(run.parameters.len());
        result
    };
    let complete = |run: &mut Run<'_, H>| (run.parameters.len() == COUNT).then(|| run.look());
    let so_many = if tables { 10 } else { 40 };
    refused("register, thousands", so_many, || Run::new(home, &builder), register, complete);
    assert_eq!(registered.get(), COUNT);

    let many = || {
        let mut run = Run::new(home, &builder);
        (0..COUNT).for_each(|i| run.register(1 + i % 7, Dtype::F32).unwrap());
        run
    };
    refused("step, thousands", if tables { 5 } else { 0 }, many, Run::step, Run::look);
    let group = |i: usize| Group { weight_decay: Some(i as f64 * 1e-6), ..Group::default() };
    let groups = |run: &mut Run<'_, H>, count| {
        (0..count).try_for_each(|i| inside(|| run.optimizer.add_group(group(i))).map(drop))
    };
    refused("add_group, thousands", 3, small, |run| groups(run, COUNT), Run::look);
    let grouped = || {
        let mut run = many();
        groups(&mut run, COUNT).unwrap();
        run
    };
    let set = |run: &mut Run<'_, H>| inside(|| run.optimizer.set_learning_rate(0.1));
    refused("set_learning_rate, thousands of groups", if tables { 3 } else { 1 }, grouped, set, Run::look);
    // With the settings of so many groups on their way.
    refused("step, thousands of groups", if tables { 5 } else { 0 }, grouped, Run::step, Run::look);
    let schedule = Some(Schedule::constant(LARGE as u64));
    let set = |run: &mut Run<'_, H>| inside(|| run.optimizer.set_schedule(schedule));
    refused("set_schedule", if tables { 2 } else { 0 }, grouped, set, Run::look);
    let stepped = || {
        let mut run = many();
        run.step().unwrap();
        run
    };
    refused("step, thousands, again", if tables { 1 } else { 0 }, stepped, Run::step, Run::look);
    let report = |run: &mut Run<'_, H>| inside(|| run.optimizer.report()).map(|report| format!("{report:?}"));
    refused("report, thousands", 0, stepped, report, Run::look);
    let norms = |run: &mut Run<'_, H>| inside(|| run.optimizer.norms_of(run.parameters[7].id));
    refused("norms_of, thousands", 0, stepped, norms, Run::look);
}

/// Those that need no optimizer, with large tensors and with many. Of nothing at first: a device has their kernels then.
fn functions<H: Home>(home: &H, device: Device) {
    let on_device = device != Device::Cpu;
    for len in [1 << 50, usize::MAX / 8, usize::MAX] {
        let error = EmpiricalFisher::new(device, len).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{len}: {error:?}");
    }
    let len = 5 * LEN;
    let sample = values(len, 1);
    let gradient = home.f32(&sample, 0);
    home.read(&gradient, 0); // there, on whichever stream
    let new = |_: &mut ()| inside(|| EmpiricalFisher::new(device, len)).map(|fisher| fisher.samples());
    refused("EmpiricalFisher::new", if on_device { 0 } else { 1 }, || (), new, |_| ());
    let fisher = || {
        let mut fisher = EmpiricalFisher::new(device, len).unwrap();
        fisher.add(home.f32_gradient(&gradient, 0)).unwrap();
        fisher
    };
    let look = |fisher: &mut EmpiricalFisher| (fisher.samples(), fisher.diagonal().unwrap());
    let add = |fisher: &mut EmpiricalFisher| inside(|| fisher.add(home.f32_gradient(&gradient, 0)));
    refused("EmpiricalFisher::add", 0, fisher, add, look);
    let diagonal = |fisher: &mut EmpiricalFisher| inside(|| fisher.diagonal());
    refused("EmpiricalFisher::diagonal", if on_device { 2 } else { 1 }, fisher, diagonal, look);

    let starts: Vec<_> = (0..COUNT).map(|i| values(1 + i % 7, i)).collect();
    let gradients: Vec<_> = (0..COUNT).map(|i| values(1 + i % 7, 7000 + i)).collect();
    let memory: Vec<_> = gradients.iter().map(|values| home.f32(values, 0)).collect();
    home.read(&memory[COUNT - 1], 0);
    let tensors: Vec<Tensor<'_>> = memory.iter().map(|memory| home.f32_gradient(memory, 0)).collect();
    let on_host: Vec<Tensor<'_>> = gradients.iter().map(Tensor::from).collect();
    let expected = global_norm(Device::Cpu, &on_host).unwrap();
    assert_eq!(global_norm(device, &tensors).unwrap(), expected);
    refused("global_norm", 2, || (), |_| inside(|| global_norm(device, &tensors)), |_| ());

    accumulate(device, &mut [], false).unwrap();
    let sums = || {
        let sums: Vec<_> = starts.iter().map(|values| home.f32(values, 0)).collect();
        home.read(&sums[COUNT - 1], 0);
        sums
    };
    let add = |sums: &mut Vec<H::F32>| {
        let mut pairs: Vec<(TensorMut<'_>, Tensor<'_>)> =
            sums.iter_mut().zip(&tensors).map(|(sum, g)| (home.parameter(sum, 0), *g)).collect();
        inside(|| accumulate(device, &mut pairs, false))?;
        global_norm(device, &[]).map(drop) // waits for it
    };
    let look =
        |sums: &mut Vec<H::F32>| -> Vec<Vec<f32>> { sums.iter().map(|sum| home.read(sum, 0)).collect() };
    refused("accumulate", 3, sums, add, look);

    let fisher = home.f32(&values(len, 2).iter().map(|x| x * x).collect::<Vec<_>>(), 0);
    let theta = || {
        let theta = home.f32(&sample, 0);
        home.read(&theta, 0);
        theta
    };
    let step = |theta: &mut H::F32| {
        let (theta, gradient) = (home.parameter(theta, 0), home.f32_gradient(&gradient, 0));
        let fisher = home.f32_gradient(&fisher, 0);
        inside(|| natural_gradient_step(device, theta, gradient, fisher, 0.1, FisherPower::Half, 0.0))?;
        global_norm(device, &[]).map(drop)
    };
    refused("natural_gradient_step", 0, theta, step, |theta| home.read(theta, 0));
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
    type Own = (VarMap, Option<fadam::candle::Optimizer>);
    let over = |own: &mut Own| {
        own.1 = Some(inside(|| fadam::candle::Optimizer::from_varmap(&own.0, Adam::adamw()))?);
        Ok(())
    };
    let look = |(varmap, optimizer): &mut Own| {
        let steps = optimizer.as_mut().map(|optimizer| optimizer.report().unwrap().step);
        (read(varmap), steps)
    };
    refused("from_varmap", 40, || (variables(), None), over, look);
    let with = || {
        let mut own = (variables(), None);
        over(&mut own).unwrap();
        own
    };
    let step = |(varmap, optimizer): &mut Own| {
        let (gradients, optimizer) = (gradients(varmap), optimizer.as_mut().unwrap());
        inside(|| optimizer.step(&gradients)).map_err(own)
    };
    refused("candle's step", 8, with, step, look);
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
        run.register(if i == 5 { 5 * LEN } else { 1 + i % 7 }, Dtype::F32).unwrap();
    }
    for _ in 0..steps {
        run.step().unwrap();
    }
    run
}

type Exchange<'a> = &'a dyn Fn(&mut Optimizer, &Path) -> Result<(), Error>;

/// Saves, over a file that is there, and loads into a run that is elsewhere.
fn saved_and_loaded(what: &str, save: Exchange<'_>, load: Exchange<'_>) {
    let folder = folder(what);
    let path = folder.join("state");
    let later = || {
        save(&mut trained(1).optimizer, &path).unwrap();
        trained(2)
    };
    let save_it = |run: &mut Run<'_, Host>| inside(|| save(&mut run.optimizer, &path));
    refused(&format!("{what}, saved"), 1, later, save_it, |run| (files(&folder), run.kept()));
    let expected = files(&folder);

    let load_it = |run: &mut Run<'_, Host>| inside(|| load(&mut run.optimizer, &path));
    refused(&format!("{what}, loaded"), 1, || trained(3), load_it, |run| (files(&folder), run.kept()));
    // What was loaded is what was saved: all of it, if it is saved again.
    let mut loaded = trained(3);
    load(&mut loaded.optimizer, &path).unwrap();
    assert_eq!(loaded.kept().0, trained(2).kept().0);
    if what != "load_matching" {
        save(&mut loaded.optimizer, &path).unwrap();
        assert!(files(&folder) == expected, "{what}");
    }
}

#[test]
fn of_save_and_load() {
    saved_and_loaded("load", &|o, path| o.save(path), &|o, path| o.load(path));
}

#[test]
fn of_save_and_load_matching() {
    if !thorough::thorough() {
        return; // as `load`, but for what is left out
    }
    saved_and_loaded("load_matching", &|o, path| o.save(path), &|o, path| o.load_matching(path).map(drop));
}

#[test]
fn of_save_and_load_torch() {
    let names: Vec<String> = (0..2 * COUNT).map(|i| format!("p{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    saved_and_loaded("torch", &|o, path| o.save_torch(path, &names), &|o, path| o.load_torch(path, &names));
}
