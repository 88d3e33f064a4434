//! The candle optimizers do what the library does, in place, and refuse what they cannot do.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use candle_nn::{Optimizer as _, VarMap};
use fadam::candle::Optimizer;
use fadam::{Adam, FAdam, FisherAdam, Update};
use half::bf16;

fn var(values: &[f32]) -> Var {
    Var::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

fn named(vars: &[Var]) -> Vec<(String, Var)> {
    vars.iter().enumerate().map(|(i, var)| (format!("v{i}"), var.clone())).collect()
}

/// A gradient store that holds `gradient` for `var`: that of Σ gradient·var.
fn gradients(pairs: &[(&Var, Tensor)]) -> candle_core::backprop::GradStore {
    let mut store = var(&[0.0]).sum_all().unwrap().backward().unwrap();
    for (var, gradient) in pairs {
        store.insert(var, gradient.clone());
    }
    store
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// In place, with the remainder of its bits in the optimizer; the gradient is of the variable's own type or f32.
#[test]
fn bf16_variables_move() {
    let start = [bf16::ONE, bf16::from_f32(-2.0)];
    for dtype in [DType::BF16, DType::F32] {
        let var = Var::from_slice(&start, 2, &Device::Cpu).unwrap();
        let mut candle = Optimizer::from_named(
            named(std::slice::from_ref(&var)),
            fadam::Optimizer::builder(Adam::default()),
        )
        .unwrap();
        let mut plain = fadam::Optimizer::new(Adam::default()).unwrap();
        let id = plain.register_bf16("v0", 2).unwrap();
        let mut expected = start;
        let gradient = Tensor::new(&[1.0_f32, -1.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        for _ in 0..100 {
            candle.step(&gradients(&[(&var, gradient.clone())])).unwrap();
            plain.step(&mut [Update::new(id, &mut expected, &[1.0_f32, -1.0])]).unwrap();
        }
        assert_eq!(var.to_vec1::<bf16>().unwrap(), expected);
        assert_eq!(expected[0], bf16::from_f32(0.9));
        let name = candle.inner_mut().parameter("v0").unwrap();
        assert_eq!(candle.inner_mut().state(name).unwrap(), plain.state(id).unwrap());
    }
}

#[test]
fn steps_as_the_library_does() {
    let start = [[0.5_f32, -1.0, 2.0, 0.0], [4.0, 3.0, -2.0, 1.0]];
    let grad = [[0.1_f32, 0.2, -0.3, 0.0], [1.0, -1.0, 0.5, 0.25]];
    let algorithms: [fadam::Algorithm; 3] =
        [Adam::adamw().into(), FAdam::default().into(), FisherAdam::default().into()];
    for algorithm in algorithms {
        let builder = || fadam::Optimizer::builder(algorithm).max_grad_norm(0.5);
        let mut plain = builder().build().unwrap();
        let ids = [0, 1].map(|i| plain.register(format!("v{i}"), 4).unwrap());
        let mut expected = start;
        let vars = start.map(|values| var(&values));
        let mut candle = Optimizer::from_named(named(&vars), builder()).unwrap();
        for _ in 0..3 {
            let [a, b] = &mut expected;
            plain.step(&mut [Update::new(ids[0], a, &grad[0]), Update::new(ids[1], b, &grad[1])]).unwrap();
            let loss: Tensor = vars
                .iter()
                .zip(&grad)
                .map(|(var, g)| (var.as_tensor() * Tensor::new(g, &Device::Cpu).unwrap()).unwrap())
                .reduce(|a, b| (a + b).unwrap())
                .unwrap();
            candle.backward_step(&loss.sum_all().unwrap()).unwrap();
        }
        for (var, expected) in vars.iter().zip(&expected) {
            assert_eq!(values(var), expected, "{algorithm:?}");
        }
        assert_eq!(candle.report().unwrap(), plain.report().unwrap());
    }
}

#[test]
fn updates_in_place() {
    let w = var(&[1.0; 8]);
    let view = w.narrow(0, 2, 3).unwrap(); // shares the storage
    let mut optimizer =
        fadam::candle::Adam::new(vec![w.clone()], Adam { lr: 0.5, ..Adam::default() }).unwrap();
    optimizer.backward_step(&w.sum_all().unwrap()).unwrap();
    assert_eq!(values(&view), [0.5; 3]);
}

#[test]
fn a_variable_without_gradient_stays() {
    let (a, b) = (var(&[1.0, 2.0]), var(&[3.0]));
    let mut optimizer =
        fadam::candle::FAdam::new(vec![a.clone(), b.clone()], FAdam { lr: 0.5, ..FAdam::default() }).unwrap();
    optimizer.backward_step(&a.sum_all().unwrap()).unwrap();
    assert_eq!(values(&a), [0.5, 1.5]);
    assert_eq!(values(&b), [3.0]);
}

#[test]
fn bf16_strided_and_shared_gradients() {
    let expected = [0.5_f32, 1.5, 2.5, 3.5, 4.5, 5.5];
    let start = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let a = Var::from_slice(&start, (2, 3), &Device::Cpu).unwrap();
    let b = Var::from_slice(&start, (2, 3), &Device::Cpu).unwrap();
    let strided = Tensor::ones((3, 2), DType::F32, &Device::Cpu).unwrap().t().unwrap();
    let adam = Adam { lr: 0.5, eps: 0.0, ..Adam::default() };
    let mut optimizer = fadam::candle::Adam::new(vec![a.clone(), b.clone()], adam).unwrap();
    let bf16 = Tensor::full(bf16::ONE, (2, 3), &Device::Cpu).unwrap();
    optimizer.step(&gradients(&[(&a, strided), (&b, bf16.clone())])).unwrap();
    assert_eq!(values(&a), expected);
    assert_eq!(values(&b), expected);
    // One storage behind two gradients, one of them a broadcast of a single element.
    let one = Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
    let shared = one.broadcast_as((2, 3)).unwrap();
    optimizer.step(&gradients(&[(&a, shared.clone()), (&b, shared)])).unwrap();
    assert!(values(&a).iter().zip(expected).all(|(a, e)| (a - (e - 0.5)).abs() < 1e-6));
}

#[test]
fn varmap_by_sorted_names() {
    let varmap = VarMap::new();
    for name in ["b", "c", "a"] {
        varmap.get(2, name, candle_nn::Init::Const(1.0), DType::F32, &Device::Cpu).unwrap();
    }
    let mut optimizer = Optimizer::from_varmap(&varmap, fadam::Optimizer::builder(FAdam::default())).unwrap();
    let order: Vec<_> = ["a", "b", "c"].map(|name| optimizer.inner_mut().parameter(name).unwrap()).into();
    assert_eq!(optimizer.vars().count(), 3);
    let names: Vec<String> =
        order.iter().map(|&id| optimizer.inner_mut().name(id).unwrap().to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let data = varmap.data().lock().unwrap();
    for (var, name) in optimizer.vars().zip(["a", "b", "c"]) {
        assert_eq!(var.id(), data[name].id());
    }
}

/// Whatever their number: the stack is what musl gives threads that C code starts.
#[test]
fn many_variables_fit_a_small_stack() {
    let run = || {
        let vars: Vec<Var> = (0..2000).map(|i| var(&[i as f32])).collect();
        let mut store = gradients(&[]);
        for var in &vars {
            store.insert(var, Tensor::ones(1, DType::F32, &Device::Cpu).unwrap());
        }
        let adam = Adam { lr: 0.5, eps: 0.0, ..Adam::default() };
        let mut optimizer = fadam::candle::Adam::new(vars.clone(), adam).unwrap();
        optimizer.step(&store).unwrap();
        for (i, var) in vars.iter().enumerate() {
            assert_eq!(values(var), [i as f32 - 0.5]);
        }
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}

/// What a safe in-place operation may make of a storage.
struct Replace(fn(usize) -> CpuStorage);

impl InplaceOp1 for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        *storage = self.0(layout.shape().elem_count());
        Ok(())
    }
}

const CHANGES: [fn(usize) -> CpuStorage; 5] = [
    |_| CpuStorage::F32(vec![]),
    |len| CpuStorage::F32(vec![1.0; len - 1]),
    |len| CpuStorage::BF16(vec![bf16::ONE; len]),
    |len| CpuStorage::F64(vec![1.0; len]),
    |len| CpuStorage::U8(vec![1; 4 * len]),
];

/// Nothing is read or written beyond what a storage holds now, and nothing changes at all.
#[test]
fn a_storage_that_has_changed_is_refused() {
    for change in CHANGES {
        for len in [2, 64, 70_000] {
            for of_gradient in [false, true] {
                let (good, bad) = (var(&vec![1.0; len]), var(&vec![1.0; len]));
                let ones = || Tensor::ones(len, DType::F32, &Device::Cpu).unwrap();
                let gradient = ones();
                let vars = vec![good.clone(), bad.clone()];
                let adam = Adam { lr: 0.5, ..Adam::default() };
                let mut optimizer = fadam::candle::Adam::new(vars, adam).unwrap();
                let store = gradients(&[(&good, ones()), (&bad, gradient.clone())]);
                let changed = if of_gradient { &gradient } else { bad.as_tensor() };
                changed.inplace_op1(&Replace(change)).unwrap();
                let error = optimizer.step(&store).unwrap_err().to_string();
                let role = if of_gradient { "gradient" } else { "parameter" };
                assert!(error.contains(&format!("{role} of `1`")) && error.contains("f32"), "{error}");
                assert!(values(&good).iter().all(|&w| w == 1.0));
                // It goes on where the storage is whole again.
                changed.inplace_op1(&Replace(|len| CpuStorage::F32(vec![1.0; len]))).unwrap();
                optimizer.step(&store).unwrap();
                assert!(values(&good).iter().chain(&values(&bad)).all(|&w| w == 0.5));
            }
        }
    }
}

/// A storage that has grown holds the tensor still.
#[test]
fn a_longer_storage_is_stepped() {
    let w = var(&[1.0; 4]);
    w.inplace_op1(&Replace(|len| CpuStorage::F32(vec![1.0; len + 3]))).unwrap();
    let mut optimizer =
        fadam::candle::Adam::new(vec![w.clone()], Adam { lr: 0.5, ..Adam::default() }).unwrap();
    optimizer.step(&gradients(&[(&w, Tensor::ones(4, DType::F32, &Device::Cpu).unwrap())])).unwrap();
    let (storage, _) = w.storage_and_layout();
    let candle_core::Storage::Cpu(CpuStorage::F32(values)) = &*storage else { panic!("it has changed") };
    assert_eq!(values[..], [0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]);
}

/// The rate that was set last holds, whichever object it was set on.
#[test]
fn there_is_one_learning_rate() {
    let w = var(&[1.0]);
    let store = gradients(&[(&w, Tensor::ones(1, DType::F32, &Device::Cpu).unwrap())]);
    let adam = Adam { lr: 0.25, eps: 0.0, ..Adam::default() };
    let mut optimizer = fadam::candle::Adam::new(vec![w.clone()], adam).unwrap();
    let moves = |optimizer: &mut fadam::candle::Adam, by: f32| {
        assert_eq!(optimizer.learning_rate(), f64::from(by));
        assert_eq!(optimizer.inner_mut().algorithm().learning_rate(), f64::from(by));
        let before = values(&w)[0];
        optimizer.step(&store).unwrap();
        assert!((before - values(&w)[0] - by).abs() < 1e-6);
    };
    moves(&mut optimizer, 0.25);
    optimizer.inner_mut().set_learning_rate(0.0).unwrap();
    moves(&mut optimizer, 0.0);
    optimizer.set_learning_rate(0.5);
    moves(&mut optimizer, 0.5);
    // A value that is refused is said to be set, and the next steps name it, until another is set on either.
    for on_inner in [false, true] {
        optimizer.set_learning_rate(-1.0);
        assert_eq!(optimizer.learning_rate(), -1.0);
        for _ in 0..2 {
            let error = optimizer.step(&store).unwrap_err().to_string();
            assert!(error.contains("lr is -1"), "{error}");
        }
        if on_inner {
            optimizer.inner_mut().set_learning_rate(0.5).unwrap(); // what it was
        } else {
            optimizer.set_learning_rate(0.5);
        }
        moves(&mut optimizer, 0.5);
    }
}

/// Names of variables that are places in a list say nothing in another run.
#[test]
fn state_is_not_matched_by_places() {
    let path = std::env::temp_dir().join(format!("fadam-candle-places-{}", std::process::id()));
    let w = var(&[1.0]);
    let mut named = Optimizer::from_named([("0".to_string(), w.clone())], Adam::adamw()).unwrap();
    named.inner_mut().save(&path).unwrap();
    let mut by_place = fadam::candle::Adam::new(vec![w], Adam::adamw()).unwrap();
    let inner = by_place.inner_mut();
    let refused = [
        inner.save(&path),
        inner.load(&path),
        inner.load_matching(&path).map(drop),
        inner.load_from(&mut std::fs::File::open(&path).unwrap()),
        inner.save_torch(&path, &["0"]),
        inner.load_torch(&path, &["0"]),
    ];
    for outcome in refused {
        let error = outcome.unwrap_err();
        assert!(matches!(error, fadam::Error::Unnamed), "{error:?}");
        assert!(error.to_string().contains("from_varmap"), "{error}");
    }
    named.inner_mut().load(&path).unwrap(); // the file is as it was
    std::fs::remove_file(path).unwrap();
}

#[test]
fn an_algorithm_does_for_a_builder() {
    let varmap = VarMap::new();
    varmap.get(2, "w", candle_nn::Init::Const(1.0), DType::F32, &Device::Cpu).unwrap();
    let optimizers = [
        Optimizer::from_varmap(&varmap, Adam::adamw()),
        Optimizer::from_varmap(&varmap, FAdam::default()),
        Optimizer::from_varmap(&varmap, FisherAdam::default()),
        Optimizer::from_varmap(&varmap, fadam::Algorithm::from(Adam::adamw())),
        Optimizer::from_varmap(&varmap, fadam::Optimizer::builder(Adam::adamw()).norms(true)),
    ];
    for optimizer in optimizers {
        assert_eq!(optimizer.unwrap().vars().count(), 1);
    }
}

#[test]
fn refusals_name_the_variable() {
    let w = var(&[1.0, 2.0]);
    let new = |vars: Vec<Var>| fadam::candle::Adam::new(vars, Adam::default());
    let refused = |result: candle_core::Result<fadam::candle::Adam>| result.unwrap_err().to_string();
    assert!(
        refused(new(vec![w.clone(), w.clone()])).contains("parameter `0` shares memory with parameter `1`")
    );
    let double = Var::new(&[1.0_f64], &Device::Cpu).unwrap();
    assert!(refused(new(vec![w.clone(), double])).contains("parameter of `1` is f64, expected f32"));
    let twice = [("w".to_string(), w.clone()), ("w".to_string(), var(&[1.0]))];
    let error = Optimizer::from_named(twice, fadam::Optimizer::builder(Adam::default())).unwrap_err();
    assert!(error.to_string().contains("`w` is registered already"));
    let integers = Var::new(&[1_u32], &Device::Cpu).unwrap();
    assert_eq!(new(vec![integers, w.clone()]).unwrap().vars().count(), 1);

    let mut optimizer = new(vec![w.clone()]).unwrap();
    let mut fails = |pairs: &[(&Var, Tensor)]| optimizer.step(&gradients(pairs)).unwrap_err().to_string();
    let shape = fails(&[(&w, Tensor::ones(3, DType::F32, &Device::Cpu).unwrap())]);
    assert!(shape.contains("gradient of `0`") && shape.contains("[3]") && shape.contains("[2]"), "{shape}");
    let dtype = fails(&[(&w, Tensor::ones(2, DType::F64, &Device::Cpu).unwrap())]);
    assert!(dtype.contains("gradient of `0` is f64, expected f32 or bf16"), "{dtype}");
    let itself = fails(&[(&w, w.as_tensor().clone())]);
    assert!(itself.contains("parameter `0` shares memory with the gradient of `0`"), "{itself}");
    assert_eq!(values(&w), [1.0, 2.0]);

    optimizer.set_learning_rate(f64::NAN);
    let lr = optimizer.step(&gradients(&[])).unwrap_err().to_string();
    assert!(lr.contains("lr is NaN"), "{lr}");
}
