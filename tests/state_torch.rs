//! One promise: state of PyTorch's Adam and AdamW is taken, and given back, and a run goes on from it: to the rounding of f32
//! the same in either direction.
//!
//! tests/torch/state.py records what PyTorch does (tests/golden/torch_state), and continues what we export; the latter where
//! FADAM_TORCH names a Python with torch (`bash .ci/test torch`).

mod common;
#[path = "common/paths.rs"]
mod paths;

use common::{Model, noise};
use fadam::{Adam, Decay, Error, FAdam, Master, Optimizer, State};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CASES: [&str; 4] = ["adam", "adam_l2_amsgrad", "adamw", "adamw_amsgrad"];
/// PyTorch's steps before the state is saved; `late` joins after them.
const BEFORE: u64 = 5;
const LAST: u64 = 12;

fn golden(name: &str) -> PathBuf {
    paths::repository("tests/golden/torch_state").join(format!("{name}.safetensors"))
}

fn file(name: &str) -> PathBuf {
    paths::scratch(&format!("torch-{name}.safetensors"))
}

type Tensors = HashMap<String, Vec<f32>>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let values = |tensor: TensorView<'_>| {
        assert_eq!(tensor.dtype(), Dtype::F32);
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, tensor)| (name, values(tensor))).collect()
}

fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A recorded run.
struct Case {
    name: &'static str,
    adam: Adam,
    /// In the order of PyTorch's numbers.
    names: Vec<String>,
    tensors: Tensors,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let path = golden(name);
        let bytes = fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let config: Value = serde_json::from_str(&metadata["optimizer"]).unwrap();
        let number = |key: &str| config[key].as_f64().unwrap();
        let adam = Adam {
            lr: number("lr"),
            betas: (number("beta1"), number("beta2")),
            eps: number("eps"),
            weight_decay: number("weight_decay"),
            decay: if config["decay"] == "decoupled" { Decay::Decoupled } else { Decay::L2 },
            amsgrad: config["amsgrad"].as_bool().unwrap(),
            maximize: false,
        };
        assert_eq!(metadata["last"], LAST.to_string());
        let names = serde_json::from_str(&metadata["names"]).unwrap();
        Self { name, adam, names, tensors: read(&path) }
    }

    /// A parameter of ours, which are registered in the opposite order, is `p<n>`.
    fn ours(&self, i: usize) -> usize {
        self.names.len() - 1 - i
    }

    fn our_names(&self) -> Vec<String> {
        (0..self.names.len()).map(|i| format!("p{}", self.ours(i))).collect()
    }

    fn values(&self, prefix: &str, i: usize) -> &[f32] {
        &self.tensors[&format!("{prefix}/{}", self.names[i])]
    }

    /// Ours, continuing PyTorch's.
    fn model(&self) -> Model {
        let parameters: Vec<&[f32]> = (0..self.names.len()).rev().map(|i| self.values("param", i)).collect();
        let mut model = Model::new(self.adam, &parameters);
        let names = self.our_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        model.optimizer.load_torch(golden(&format!("{}.state", self.name)), &names).unwrap();
        model
    }

    fn step(&self, model: &mut Model, t: u64) {
        let prefix = format!("grad/{t}");
        let gradients: Vec<&[f32]> = (0..self.names.len()).rev().map(|i| self.values(&prefix, i)).collect();
        model.step(&gradients);
    }

    fn walks(&self) -> Vec<Walk> {
        let state = read(&golden(&format!("{}.state", self.name)));
        let walk = |i: usize| {
            let theta = wide(self.values("param", i));
            let zeros = vec![0.0; theta.len()];
            let get = |key: &str| state.get(&format!("state.{i}.{key}")).map(|values| wide(values));
            Walk {
                adam: self.adam,
                step: get("step").map_or(0, |step| step[0] as i32),
                m: get("exp_avg").unwrap_or(zeros.clone()),
                v: get("exp_avg_sq").unwrap_or(zeros.clone()),
                largest: get("max_exp_avg_sq").unwrap_or(zeros.clone()),
                errors: vec![[0.0; 4]; theta.len()],
                theta,
            }
        };
        (0..self.names.len()).map(walk).collect()
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// One parameter in f64, and how far an f32 implementation may be from it.
///
/// Each step is bounded by its operations: u for a rounding of a result or of a scalar, times what is rounded. The
/// coefficients are generous counts that hold for PyTorch's order of operations (`lerp`, `addcmul`, `addcdiv`) and for ours.
struct Walk {
    adam: Adam,
    step: i32,
    theta: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    /// With amsgrad.
    largest: Vec<f64>,
    /// Of θ, m, v and the largest v.
    errors: Vec<[f64; 4]>,
}

impl Walk {
    fn step(&mut self, gradient: &[f32]) {
        const U: f64 = 1.0 / (1 << 24) as f64;
        let Adam { lr, betas: (beta1, beta2), eps, weight_decay, decay, amsgrad, .. } = self.adam;
        let (l2, decoupled) = if decay == Decay::L2 { (weight_decay, 0.0) } else { (0.0, weight_decay) };
        self.step += 1;
        let bias1 = 1.0 - beta1.powi(self.step);
        let bias2 = 1.0 - beta2.powi(self.step);
        for (i, &raw) in gradient.iter().enumerate() {
            let [e_theta, e_m, e_v, e_largest] = self.errors[i];
            let (theta, m, v) = (self.theta[i], self.m[i], self.v[i]);
            let raw = f64::from(raw);
            let g = raw + l2 * theta;
            let e_g = l2 * e_theta + 3.0 * U * (raw.abs() + l2 * theta.abs());
            let e_m = beta1 * e_m + (1.0 - beta1) * e_g + 4.0 * U * (m.abs() + g.abs());
            let m = m + (1.0 - beta1) * (g - m);
            let next = v + (1.0 - beta2) * (g * g - v);
            let e_v = beta2 * e_v + (1.0 - beta2) * (2.0 * g.abs() + e_g) * e_g + 5.0 * U * (v + next);
            let (largest, e_largest) = (self.largest[i].max(next), e_largest.max(e_v));
            let (used, e_used) = if amsgrad { (largest, e_largest) } else { (next, e_v) };
            let root = used.sqrt();
            let d = root / bias2.sqrt() + eps;
            let e_root = if root > 0.0 { e_used / root } else { e_used.sqrt() };
            let e_d = e_root / bias2.sqrt() + 4.0 * U * d;
            let delta = m / bias1 / d;
            let e_delta = (e_m / bias1 + delta.abs() * e_d) / (d - e_d) + 5.0 * U * delta.abs();
            let after = theta - lr * (delta + decoupled * theta);
            let e_theta = e_theta * (1.0 + lr * decoupled)
                + lr * (e_delta + 4.0 * U * (delta.abs() + decoupled * theta.abs()))
                + 3.0 * U * (theta.abs() + after.abs());
            (self.theta[i], self.m[i], self.v[i], self.largest[i]) = (after, m, next, largest);
            self.errors[i] = [e_theta, e_m, e_v, e_largest];
        }
    }

    /// Two implementations are each that far from exact arithmetic. The largest share of what they may be apart.
    fn share(&self, which: usize, ours: &[f32], theirs: &[f32]) -> f64 {
        assert_eq!((ours.len(), theirs.len()), (self.errors.len(), self.errors.len()));
        let apart = |i: usize| (f64::from(ours[i]) - f64::from(theirs[i])).abs();
        (0..ours.len()).map(|i| apart(i) / (2.0 * self.errors[i][which])).fold(0.0, f64::max)
    }
}

/// The shares of θ and of the moments, for all parameters.
fn shares(case: &Case, walks: &[Walk], model: &mut Model, theirs: &Tensors, parameter: &str) -> Vec<f64> {
    let mut shares = Vec::new();
    for (i, walk) in walks.iter().enumerate() {
        let ours = case.ours(i);
        let State { step, exp_avg, exp_avg_sq, max_exp_avg_sq, .. } = model.state(ours);
        shares.push(walk.share(
            0,
            &model.parameters[ours],
            &theirs[&format!("{parameter}{}", case.names[i])],
        ));
        let prefix = parameter.strip_suffix(&format!("{LAST}/")).unwrap_or(parameter);
        let get = |key: &str| theirs.get(&format!("{prefix}state.{i}.{key}"));
        assert_eq!(step as f32, get("step").unwrap()[0], "{}, {}", case.name, case.names[i]);
        shares.push(walk.share(1, &exp_avg, get("exp_avg").unwrap()));
        shares.push(walk.share(2, &exp_avg_sq, get("exp_avg_sq").unwrap()));
        assert_eq!(max_exp_avg_sq.is_some(), get("max_exp_avg_sq").is_some());
        if let (Some(ours), Some(theirs)) = (max_exp_avg_sq, get("max_exp_avg_sq")) {
            shares.push(walk.share(3, &ours, theirs));
        }
    }
    shares
}

#[test]
fn a_run_of_pytorch_continues_here() {
    for name in CASES {
        let case = Case::new(name);
        let (mut model, mut walks) = (case.model(), case.walks());
        for t in BEFORE + 1..=LAST {
            case.step(&mut model, t);
            for (i, walk) in walks.iter_mut().enumerate() {
                walk.step(case.values(&format!("grad/{t}"), i));
                let expected = case.values(&format!("expect/{t}"), i);
                let share = walk.share(0, &model.parameters[case.ours(i)], expected);
                assert!(share <= 1.0, "{name}, step {t}, {}: {share} of the tolerance", case.names[i]);
            }
        }
        let shares = shares(&case, &walks, &mut model, &case.tensors, &format!("expect/{LAST}/"));
        let largest = shares.iter().copied().fold(0.0, f64::max);
        println!("{name}: {largest:.2} of the tolerance");
        assert!(largest <= 1.0, "{name}: {shares:?}");
    }
}

/// After another step of ours, PyTorch takes over, while we go on.
#[test]
fn a_run_from_here_continues_in_pytorch() {
    let Some(python) = std::env::var_os("FADAM_TORCH") else {
        println!("skipped: FADAM_TORCH names no Python with torch");
        return;
    };
    for name in CASES {
        let case = Case::new(name);
        let (mut model, mut walks) = (case.model(), case.walks());
        let step = |model: &mut Model, walks: &mut Vec<Walk>, t: u64| {
            case.step(model, t);
            for (i, walk) in walks.iter_mut().enumerate() {
                walk.step(case.values(&format!("grad/{t}"), i));
            }
        };
        step(&mut model, &mut walks, BEFORE + 1);
        let [parameters, state, out] =
            ["parameters", "state", "out"].map(|what| file(&format!("{name}-{what}")));
        let ours: Vec<_> = (0..case.names.len()).map(|i| &model.parameters[case.ours(i)]).collect();
        let shapes: Vec<_> = ours.iter().map(|values| [values.len()]).collect();
        let tensors: Vec<_> = (0..ours.len())
            .map(|i| (case.names[i].as_str(), Dtype::F32, &shapes[i][..], bytes(ours[i])))
            .collect();
        write(&parameters, &tensors);
        let names = case.our_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        model.optimizer.save_torch(&state, &names).unwrap();
        let script = paths::repository("tests/torch/state.py");
        let output = Command::new(&python)
            .env_remove("LD_LIBRARY_PATH") // an emulated driver is nothing for torch
            .arg(script)
            .arg("continue")
            .args([&golden(name), &parameters, &state, &out])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for t in BEFORE + 2..=LAST {
            step(&mut model, &mut walks, t);
        }
        let shares = shares(&case, &walks, &mut model, &read(&out), "");
        let largest = shares.iter().copied().fold(0.0, f64::max);
        println!("{name}: {largest:.2} of the tolerance");
        assert!(largest <= 1.0, "{name}: {shares:?}");
        for path in [parameters, state, out] {
            fs::remove_file(path).unwrap();
        }
    }
}

// ---- the file ----

#[test]
fn what_is_written_is_what_was_read() {
    for name in CASES {
        let (case, path) = (Case::new(name), file(&format!("{name}-again")));
        let names = case.our_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        case.model().optimizer.save_torch(&path, &names).unwrap();
        let (mut ours, theirs) = (read(&path), read(&golden(&format!("{name}.state"))));
        // PyTorch has nothing of a parameter before its first step, where we have zeros.
        for (tensor, values) in &theirs {
            assert_eq!(ours.remove(tensor).as_ref(), Some(values), "{name}: {tensor}");
        }
        assert!(ours.len() >= 3);
        for (tensor, values) in ours {
            assert!(tensor.starts_with("state.0.") && values.iter().all(|value| *value == 0.0), "{tensor}");
        }
        fs::remove_file(path).unwrap();
    }
}

/// The powers of beta are not in PyTorch's file: as many multiplications as steps make the very bits.
#[test]
fn powers_of_beta_are_multiplied_out() {
    let adam = Adam { betas: (0.997, 0.9991), ..Adam::default() };
    let mut stepped = Model::new(adam, &[&[1.0, 2.0], &[3.0]]);
    for step in 0..1000 {
        let gradients = [Some(vec![0.5_f32, -0.5]), (step % 3 == 0).then(|| vec![0.25_f32])];
        stepped.try_step(&gradients).unwrap();
    }
    let mut read = Model::new(adam, &[&[1.0, 2.0], &[3.0]]);
    let (theirs, ours) = (file("powers-theirs"), file("powers-ours"));
    stepped.optimizer.save_torch(&theirs, &["p1", "p0"]).unwrap();
    read.optimizer.load_torch(&theirs, &["p1", "p0"]).unwrap();
    let progress = |model: &mut Model| {
        model.optimizer.save(&ours).unwrap();
        let bytes = fs::read(&ours).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        header.metadata().as_ref().unwrap()["parameters"].clone()
    };
    let (expected, found) = (progress(&mut stepped), progress(&mut read));
    assert!(expected.contains("\"step\":1000") && expected.contains("\"step\":334"), "{expected}");
    // Where a master would begin is not in PyTorch's file either.
    assert_eq!(expected.replace("\"start\":1", "\"start\":0"), found);
    assert_eq!((stepped.state(0), stepped.state(1)), (read.state(0), read.state(1)));
    for path in [theirs, ours] {
        fs::remove_file(path).unwrap();
    }
}

/// Refused by either direction, and nothing has changed.
#[track_caller]
fn refused(model: &mut Model, act: impl FnOnce(&mut Optimizer) -> Result<(), Error>, expected: &str) {
    let before = model.snapshot();
    let error = act(&mut model.optimizer).unwrap_err();
    assert!(matches!(error, Error::State { .. }), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}, expected {expected}");
    assert!(model.snapshot() == before, "{error}");
}

fn stepped(adam: Adam) -> Model {
    let mut model = Model::new(adam, &[&noise(6, 1), &noise(2, 2)]);
    model.step(&[&noise(6, 3), &noise(2, 4)]);
    model
}

#[test]
fn what_does_not_fit_is_refused() {
    let path = file("refused");
    let mut model = stepped(Adam::default());
    let step = |value: f32| ("state.0.step", Dtype::F32, &[][..], bytes(&[value]));
    let m = || ("state.0.exp_avg", Dtype::F32, &[2, 3][..], bytes(&[0.5; 6]));
    let v = || ("state.0.exp_avg_sq", Dtype::F32, &[3, 2, 1][..], bytes(&[0.5; 6]));
    let mut case = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)], expected: &str| {
        write(&path, tensors);
        refused(&mut model, |optimizer| optimizer.load_torch(&path, &["p0", "p1"]), expected);
    };
    let wide = ("state.0.exp_avg", Dtype::F64, &[6][..], vec![0; 48]);
    case(&[step(1.0), wide, v()], "`state.0.exp_avg` is F64 in the file, F32 here");
    let short = ("state.0.exp_avg", Dtype::F32, &[5][..], bytes(&[0.5; 5]));
    case(&[step(1.0), short, v()], "`state.0.exp_avg` has 5 elements in the file, 6 here");
    case(&[step(1.0), v()], "no `state.0.exp_avg`");
    case(&[step(1.0), m()], "no `state.0.exp_avg_sq`");
    case(&[m(), v()], "no `state.0.step`");
    for wrong in [-1.0, 0.5, f32::NAN, f32::INFINITY, 16_777_218.0] {
        case(&[step(wrong), m(), v()], &format!("`state.0.step` is {wrong}, expected a whole number"));
    }
    let long = ("state.0.step", Dtype::F32, &[2][..], bytes(&[1.0; 2]));
    case(&[long, m(), v()], "`state.0.step` is 2 of F32, expected one number");
    let none = ("state.0.step", Dtype::I64, &[0][..], vec![]);
    case(&[none, m(), v()], "`state.0.step` is 0 of I64, expected one number");
    let byte = ("state.0.step", Dtype::U8, &[][..], vec![1]);
    case(&[byte, m(), v()], "`state.0.step` is of U8, expected F32, F64, I32 or I64");
    let of = |dtype, bytes: &[u8]| ("state.0.step", dtype, &[][..], bytes.to_vec());
    for (wrong, found) in [
        (of(Dtype::I32, &(-1_i32).to_le_bytes()), "-1"),
        (of(Dtype::I64, &i64::MIN.to_le_bytes()), "-922337203685477"),
        (of(Dtype::I64, &((1_i64 << 32) + 1).to_le_bytes()), "4294967297"),
        (of(Dtype::F64, &0.5_f64.to_le_bytes()), "0.5"),
        (of(Dtype::F64, &f64::NAN.to_le_bytes()), "NaN"),
    ] {
        case(&[wrong, m(), v()], &format!("`state.0.step` is {found}"));
    }
    // What no Adam writes.
    let value = |name, x: f32| (name, Dtype::F32, &[6][..], bytes(&[0.5, 0.5, 0.5, x, 0.5, 0.5]));
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let expected = format!("is {x}, expected a finite number");
        case(
            &[step(1.0), value("state.0.exp_avg", x), v()],
            &format!("element 3 of `state.0.exp_avg` {expected}"),
        );
        case(
            &[step(1.0), m(), value("state.0.exp_avg_sq", x)],
            &format!("element 3 of `state.0.exp_avg_sq` {expected}"),
        );
    }
    let negative = value("state.0.exp_avg_sq", -f32::MIN_POSITIVE);
    case(&[step(1.0), m(), negative], "element 3 of `state.0.exp_avg_sq` is -0.0000");
    case(&[step(0.0), m(), v()], "element 0 of `state.0.exp_avg` is 0.5, expected 0 before the first step");
    let largest = ("state.0.max_exp_avg_sq", Dtype::F32, &[6][..], bytes(&[0.5; 6]));
    case(&[step(1.0), m(), v(), largest], "`state.0.max_exp_avg_sq`, which this optimizer does not keep");
    let other = ("state.2.step", Dtype::F32, &[][..], bytes(&[1.0]));
    case(&[step(1.0), m(), v(), other], "`state.2.step`, which is no state of the 2 parameters named");
    let foreign = ("fc1.weight", Dtype::F32, &[1][..], bytes(&[1.0]));
    case(&[step(1.0), m(), v(), foreign], "`fc1.weight`, which is no state");

    // One that fits, in any shape; what it has nothing of begins anew, what is not named stays.
    write(&path, &[step(16_777_216.0), m(), v()]);
    let own = model.state(1);
    model.optimizer.load_torch(&path, &["p0"]).unwrap();
    assert_eq!((model.state(0).step, model.state(0).exp_avg), (1 << 24, vec![0.5; 6]));
    assert_eq!(model.state(1), own);
    model.optimizer.load_torch(&path, &["p0", "p1"]).unwrap();
    assert_eq!((model.state(1).step, model.state(1).exp_avg), (0, vec![0.0; 2]));
    // One step more is more than PyTorch can count.
    model.step(&[&noise(6, 3), &noise(2, 4)]);
    refused(&mut model, |optimizer| optimizer.save_torch(&path, &["p0"]), "`p0` has 16777217 steps");

    model.optimizer.save(&path).unwrap();
    refused(&mut model, |optimizer| optimizer.load_torch(&path, &["p0", "p1"]), "which is no state of the 2");
    model.optimizer.save_torch(&path, &["p1"]).unwrap();
    refused(&mut model, |optimizer| optimizer.load(&path), "no state of fadam: its format is `pt`");
    let mut amsgrad = stepped(Adam { amsgrad: true, ..Adam::default() });
    let expected = "no `state.0.max_exp_avg_sq`, which this optimizer keeps";
    refused(&mut amsgrad, |optimizer| optimizer.load_torch(&path, &["p1"]), expected);
    fs::remove_file(path).unwrap();
}

/// What others write than PyTorch of today: a count as an integer or a double, moments of 16 bits, which are widened exactly.
/// Two pieces and more of each.
#[test]
fn other_types_are_taken() {
    const LEN: usize = 3_000_000;
    let path = file("types");
    let m: Vec<f32> = noise(LEN, 1).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    let v: Vec<f32> = m.iter().map(|x| half::f16::from_f32(x * x).to_f32()).collect();
    let narrow = m.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    let half = v.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let five: [(Dtype, &[u8]); 4] = [
        (Dtype::F32, &5_f32.to_le_bytes()),
        (Dtype::F64, &5_f64.to_le_bytes()),
        (Dtype::I32, &5_i32.to_le_bytes()),
        (Dtype::I64, &5_i64.to_le_bytes()),
    ];
    let moments = [
        ("state.0.exp_avg", Dtype::BF16, &[LEN][..], narrow),
        ("state.0.exp_avg_sq", Dtype::F16, &[LEN][..], half),
    ];
    let mut steps = Vec::new();
    for (dtype, count) in five {
        let step = ("state.0.step", dtype, &[][..], count.to_vec());
        write(&path, &[&[step][..], &moments].concat());
        let mut optimizer = Optimizer::new(Adam::default()).unwrap();
        let id = optimizer.register("w", LEN).unwrap();
        optimizer.load_torch(&path, &["w"]).unwrap();
        let state = optimizer.state(id).unwrap();
        assert!(state.exp_avg == m && state.exp_avg_sq == v, "{dtype:?}");
        steps.push(state.step);
        // Where moments are kept in 16 bits, wider ones would have to be rounded.
        if dtype == Dtype::F32 {
            let mut narrow = Optimizer::builder(Adam::default()).moments(fadam::Dtype::Bf16).build().unwrap();
            narrow.register("w", LEN).unwrap();
            let error = narrow.load_torch(&path, &["w"]).unwrap_err().to_string();
            assert!(error.contains("`state.0.exp_avg_sq` is F16 in the file, BF16 here"), "{error}");
        }
    }
    assert_eq!(steps, [5; 4]);
    fs::remove_file(path).unwrap();
}

/// The powers of beta are those of an optimizer that has made the steps, in whatever order the counts stand in the file, and
/// also where they change no more.
#[test]
fn powers_of_different_counts() {
    let (path, ours) = (file("counts"), file("counts-ours"));
    let counts = [2_000_000_u32, 7, 7, 1, 900_000, 3, 0, 2_000_000];
    let names: Vec<String> = (0..counts.len()).map(|i| format!("p{i}")).collect();
    let scalars: Vec<_> = (0..counts.len())
        .flat_map(|i| ["step", "exp_avg", "exp_avg_sq"].map(|key| (i, key, format!("state.{i}.{key}"))))
        .collect();
    let tensors: Vec<(&str, Dtype, &[usize], Vec<u8>)> = scalars
        .iter()
        .map(|(i, key, name)| {
            let value = if *key == "step" { counts[*i] as f32 } else { 0.0 };
            (name.as_str(), Dtype::F32, &[1][..], bytes(&[value]))
        })
        .collect();
    write(&path, &tensors);
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let betas = |i: usize| if i % 3 == 2 { (0.5, 0.75) } else { (0.9, 0.999) };
    let group = fadam::Group { betas: Some(betas(2)), ..fadam::Group::default() };
    let other = optimizer.add_group(group).unwrap();
    for (i, name) in names.iter().enumerate() {
        match i % 3 {
            2 => optimizer.register_in(other, name.clone(), 1, fadam::Dtype::F32),
            _ => optimizer.register(name.clone(), 1),
        }
        .unwrap();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    optimizer.load_torch(&path, &names).unwrap();
    optimizer.save(&ours).unwrap();
    let (_, header) = SafeTensors::read_metadata(&fs::read(&ours).unwrap()).unwrap();
    let found: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["parameters"]).unwrap();
    for (i, &count) in counts.iter().enumerate() {
        let power = |beta: f64| (0..count).fold(1.0, |power, _| power * beta);
        let bits = |power: f64| format!("{:016x}", power.to_bits());
        assert_eq!(found[i]["step"], count);
        assert_eq!(found[i]["beta1_power"], bits(power(betas(i).0)), "{count}");
        assert_eq!(found[i]["beta2_power"], bits(power(betas(i).1)), "{count}");
    }
    for path in [path, ours] {
        fs::remove_file(path).unwrap();
    }
}

/// PyTorch has no masters and no averages: they begin with the parameter's value in the next step, whatever was there.
#[test]
fn masters_and_averages_begin_with_the_value() {
    let path = file("masters");
    stepped(Adam::default()).optimizer.save_torch(&path, &["p0", "p1"]).unwrap();
    for master in [Master::F32, Master::Remainder, Master::None] {
        let built = || {
            let builder = Optimizer::builder(Adam { lr: 1e-6, ..Adam::default() }).master(master).ema(0.9);
            Model::bf16(builder, &[&[1.0; 6], &[1.0; 2]])
        };
        let (mut fresh, mut used) = (built(), built());
        used.step(&[&noise(6, 5), &noise(2, 6)]);
        for model in [&mut fresh, &mut used] {
            model.parameters = vec![vec![2.0; 6], vec![-2.0; 2]];
            model.optimizer.load_torch(&path, &["p0", "p1"]).unwrap();
            assert_eq!(model.state(0).ema, None, "{master:?}");
            model.step(&[&noise(6, 7), &noise(2, 8)]);
            for (i, value) in [(0, 2.0_f32), (1, -2.0)] {
                let state = model.state(i);
                // One step of at most 1e-6 · 7.3.
                let near = |x: &f32| (x - value).abs() < 1e-5;
                assert!(state.ema.unwrap().iter().all(near), "{master:?}");
                assert!(state.master.is_none_or(|master| master.iter().all(near)), "{master:?}");
                assert!(model.parameters[i].iter().all(|x| (x - value).abs() <= 1.0 / 64.0), "{master:?}");
            }
        }
        assert!(fresh.snapshot() == used.snapshot(), "{master:?}");
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn names_and_algorithms_that_are_refused() {
    let path = golden("adam.state");
    let nowhere = file("nowhere");
    let mut fadam = Model::new(FAdam::default(), &[&[1.0]]);
    let mut adam = stepped(Adam::default());
    let cases: [(&mut Model, &[&str], &str); 3] = [
        (&mut fadam, &["p0"], "PyTorch has state of `adam` alone, this optimizer is `fadam`"),
        (&mut stepped(Adam::default()), &["p0", "q"], "no parameter `q` is registered"),
        (&mut adam, &["p0", "p0"], "parameter `p0` is named twice"),
    ];
    for (model, names, expected) in cases {
        refused(model, |optimizer| optimizer.load_torch(&path, names), expected);
        refused(model, |optimizer| optimizer.save_torch(&nowhere, names), expected);
        assert!(!nowhere.exists());
    }
}
