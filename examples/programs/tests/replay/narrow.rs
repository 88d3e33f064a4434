//! bf16 parameters and moments. `tests/golden/bf16` holds what they become to the bit, by a transcription of the numerics
//! into numpy (its record.py): every mode is replayed and compared with it, and no bit may differ.

use crate::file::{File, Tensor};
use crate::golden::{input, read_recordings};
use crate::program::{gpus, replayed, replayed_on};
use serde_json::{Value, json};

const RECORDINGS: usize = 17;

/// Name and content, sorted.
pub(crate) fn narrow_recordings() -> Vec<(String, File)> {
    read_recordings("../../tests/golden/bf16", RECORDINGS)
}

/// As OUT holds it: moments widened.
fn answer(kind: &str, recorded: &Tensor) -> Tensor {
    match kind {
        "param" => recorded.clone(),
        _ => recorded.widened(),
    }
}

#[test]
fn every_bit_is_the_recorded_one() {
    for (name, recording) in narrow_recordings() {
        let out = File::parse(&replayed(&input(&recording).bytes(), &[]));
        let mut compared = 0;
        for (tensor, recorded) in recording.under("expect/") {
            let kind = tensor.split('/').next().unwrap();
            let got = out.tensors.get(tensor).unwrap_or_else(|| panic!("{name}: OUT has no {tensor}"));
            let want = answer(kind, recorded);
            let differ = (0..want.bytes.len()).filter(|&i| got.bytes.get(i) != Some(&want.bytes[i])).count();
            assert!(*got == want, "{name}: {tensor} differs in {differ} bytes: {got:?}, recorded {want:?}");
            compared += 1;
        }
        assert_eq!(out.tensors.len(), compared, "{name}: tensors in OUT");
        // f64 figures, and these sums have an order of their own too.
        assert_eq!(out.report("report"), recording.report("expect_report"), "{name}");
    }
}

/// Rounded to nearest, ties to even, or away from zero: in f64, by distance, as no implementation does it.
pub(crate) fn rounded(x: f32, ties_away: bool) -> half::bf16 {
    let down = half::bf16::from_bits((x.to_bits() >> 16) as u16); // towards zero
    let up = half::bf16::from_bits(down.to_bits() + 1);
    // Beyond the largest bf16 comes what would be the next one, in a type that has it.
    let reach = |x: half::bf16| if x.is_infinite() { 2.0_f64.powi(128).copysign(x.into()) } else { x.into() };
    let (below, above) = ((f64::from(x) - reach(down)).abs(), (reach(up) - f64::from(x)).abs());
    let even = down.to_bits() & 1 == 0;
    if below < above || below == above && even && !ties_away { down } else { up }
}

/// The bf16 parameter that this master has.
pub(crate) fn rounded_master(master: &Tensor, ties_away: bool) -> Tensor {
    let values = master.values();
    let bytes = values.iter().flat_map(|&x| rounded(x as f32, ties_away).to_le_bytes()).collect();
    Tensor { dtype: "BF16".into(), bytes, ..master.clone() }
}

/// Every kind of optimizer and of sweep.
fn optimizers() -> Vec<Value> {
    vec![
        json!({"algorithm": "adam", "decay": "decoupled", "lr": 0.01}),
        json!({"algorithm": "adam", "weight_decay": 0.1, "max_grad_norm": 0.5, "amsgrad": true}),
        json!({"algorithm": "fadam", "kappa": 3.0, "weight_decay": 1e-3, "eps0": 1e-3}), // two sweeps
        json!({"algorithm": "fadam", "kappa": 8.0, "lr": 0.1}), // one sweep, corrected where κ fires
        json!({"algorithm": "fisher_adam", "lr": 0.01}),
    ]
}

/// Five steps of a parameter of each size and dtype, values of any bf16 magnitude among them.
fn steps(bf16: bool, optimizer: &Value) -> File {
    let mut file = File::default();
    file.set_optimizer(optimizer);
    let value =
        |i: usize| [0.5, -1.0, 3e-39, -0.0, 1e30, 0.01, -2.5, 1.0 / 3.0][i % 8] * (1.0 + (i / 8) as f32);
    let gradient = |t: usize, i: usize| ((i * 31 + t * 17) % 23) as f32 / 23.0 - 0.4;
    for (name, len) in [("a", 1), ("b.c", 33), ("d/e", 130)] {
        let values: Vec<f32> = (0..len).map(|i| half::bf16::from_f32(value(i)).into()).collect();
        let wide = Tensor::f32(&[len], &values);
        file.tensors.insert(format!("param/{name}"), if bf16 { wide.narrowed() } else { wide });
        for t in 1..=5 {
            let gradients: Vec<f32> = (0..len).map(|i| gradient(t, i)).collect();
            file.tensors.insert(format!("grad/{t}/{name}"), Tensor::f32(&[len], &gradients));
        }
    }
    file
}

fn with_master(optimizer: &Value, master: &str) -> Value {
    let mut optimizer = optimizer.clone();
    optimizer["master"] = master.into();
    optimizer
}

/// A master is the f32 parameter that the same gradients give, to the bit; the bf16 value is it, rounded.
#[test]
fn a_master_is_the_f32_parameter() {
    for optimizer in optimizers() {
        let wide = File::parse(&replayed(&steps(false, &optimizer).bytes(), &[]));
        for (master, ties_away) in [("f32", false), ("remainder", true)] {
            let optimizer = with_master(&optimizer, master);
            let out = File::parse(&replayed(&steps(true, &optimizer).bytes(), &[]));
            assert_eq!(out.tensors.len(), wide.tensors.len() + 3, "{optimizer}");
            assert_eq!(out.report("report"), wide.report("report"), "{optimizer}");
            for (tensor, want) in &wide.tensors {
                match tensor.strip_prefix("param/") {
                    None => assert_eq!(out.tensors[tensor], *want, "{optimizer}: {tensor}"),
                    Some(name) => {
                        let got = &out.tensors[&format!("master/{name}")];
                        assert_eq!(got, want, "{optimizer}: {name}");
                        assert_eq!(
                            out.tensors[tensor],
                            rounded_master(want, ties_away),
                            "{optimizer}: {name}"
                        );
                    }
                }
            }
        }
    }
}

/// An f32 tie between two bf16: down to the even one with an f32 master, away from zero with a remainder. And a master
/// that bf16 has no room for.
#[test]
fn ties_and_overflow() {
    // betas 0 and eps 0: Δ = ±1, so the step is θ ∓ lr.
    let optimizer = json!({"algorithm": "adam", "beta1": 0, "beta2": 0, "eps": 0, "lr": 2.0_f32.powi(-8)});
    let huge = f32::from_bits(0x7f7f_0000);
    let room = 2.0_f32.powi(120) - 2.0_f32.powi(104); // to the largest f32
    for (start, lr, f32s, remainder) in [
        (1.0, 2.0_f64.powi(-8), 0x3f80, 0x3f81),  // 1 + half a unit
        (-1.0, 2.0_f64.powi(-8), 0xbf7f, 0xbf7f), // exact: units are half as large below 1
        (huge, room.into(), 0x7f80, 0x7f80),
    ] {
        for (master, want) in [("f32", f32s), ("remainder", remainder)] {
            let mut optimizer = with_master(&optimizer, master);
            optimizer["lr"] = lr.into();
            let mut file = File::default();
            file.set_optimizer(&optimizer);
            file.tensors.insert("param/w".into(), Tensor::f32(&[1], &[start]).narrowed());
            file.tensors.insert("grad/1/w".into(), Tensor::f32(&[1], &[-1.0]));
            let out = File::parse(&replayed(&file.bytes(), &[]));
            assert_eq!(out.tensors["param/w"].bytes, u16::to_le_bytes(want), "{optimizer}");
            assert_eq!(out.tensors["master/w"].values(), [f64::from(start) + lr], "{optimizer}");
        }
    }
}

/// Of what never stepped, the master is the value; without a master there is none.
#[test]
fn a_parameter_that_never_steps() {
    for device in gpus().iter().map(String::as_str).chain(["cpu"]) {
        for (master, kept) in [("f32", true), ("remainder", true), ("none", false)] {
            let mut file = steps(true, &with_master(&json!({"algorithm": "adam"}), master));
            file.tensors.retain(|name, _| !name.starts_with("grad/") || name.ends_with("/a"));
            let out = File::parse(&replayed_on(device, &file.bytes(), &[]));
            for name in ["b.c", "d/e"] {
                let value = &file.tensors[&format!("param/{name}")];
                assert_eq!(out.tensors[&format!("param/{name}")], *value, "{device}, {master}");
                let got = out.tensors.get(&format!("master/{name}"));
                assert_eq!(got, kept.then(|| value.widened()).as_ref(), "{device}, {master}");
            }
            assert_eq!(out.tensors.contains_key("master/a"), kept);
            assert_ne!(out.tensors["param/a"], file.tensors["param/a"]);
        }
    }
}

/// Without a master an update below half a step of bf16 is lost to nearest, and by chance is not.
#[test]
fn chance_is_right_on_average() {
    let optimizer = json!({"algorithm": "adam", "master": "none", "lr": 1e-3});
    let moved = |rounding: &str, seed: u64| {
        let mut optimizer = optimizer.clone();
        (optimizer["rounding"], optimizer["seed"]) = (rounding.into(), seed.into());
        let mut file = File::default();
        file.set_optimizer(&optimizer);
        const LEN: usize = 4000;
        file.tensors.insert("param/w".into(), Tensor::f32(&[LEN], &[1.0; LEN]).narrowed());
        for t in 1..=4 {
            file.tensors.insert(format!("grad/{t}/w"), Tensor::f32(&[LEN], &[-1.0; LEN]));
        }
        let out = File::parse(&replayed(&file.bytes(), &[])).tensors["param/w"].clone();
        (out.values().iter().sum::<f64>() / LEN as f64 - 1.0, out)
    };
    let (nearest, _) = moved("nearest", 0);
    assert_eq!(nearest, 0.0);
    let (by_chance, zero) = moved("stochastic", 0);
    // One step goes up by 2⁻⁷ with a probability of 0.128: over 4000 elements and 4 steps a standard deviation of 4.1e-5.
    assert!((by_chance - 4e-3).abs() < 5.0 * 4.1e-5, "{by_chance}");
    let low = 0x1_0000_0000_u64;
    for seed in [1, low, 1 << 63] {
        assert_ne!(moved("stochastic", seed).1, zero, "seed {seed}");
    }
    assert_eq!(moved("stochastic", 0).1, zero);
}
