//! The candle optimizers do what the library does, in place, and refuse what they cannot do.

use candle_core::{DType, Device, Tensor, Var};
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

#[test]
fn many_variables_fit_the_stack() {
    // Each lock is a stack frame, and a test thread has 2 MiB of them.
    let vars: Vec<Var> = (0..2000).map(|i| var(&[i as f32])).collect();
    let pairs: Vec<_> =
        vars.iter().map(|var| (var, Tensor::ones(1, DType::F32, &Device::Cpu).unwrap())).collect();
    let mut optimizer =
        fadam::candle::Adam::new(vars.clone(), Adam { lr: 0.5, eps: 0.0, ..Adam::default() }).unwrap();
    optimizer.step(&gradients(&pairs)).unwrap();
    for (i, var) in vars.iter().enumerate() {
        assert_eq!(values(var), [i as f32 - 0.5]);
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
