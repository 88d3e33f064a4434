//! OUT is the same file at every instruction set and thread count, and on every GPU.

use crate::file::{File, Tensor};
use crate::golden::{input, recordings};
use crate::narrow::narrow_recordings;
use crate::program::{gpus, replayed, replayed_on};
use crate::thorough::{some, thorough};
use fadam::Simd;
use serde_json::{Value, json};

const THREADS: [&str; 3] = ["1", "2", "3"];

fn same_bits(name: &str, input: &[u8], gpus: &[String]) {
    let expected = replayed(input, &[]);
    let levels: Vec<Simd> = Simd::ALL.into_iter().filter(|simd| simd.is_available()).collect();
    assert!(levels.contains(&Simd::Scalar));
    let threads = if thorough() { &THREADS[..] } else { &THREADS[1..2] };
    for simd in levels {
        if !thorough() && ![Simd::Scalar, Simd::best()].contains(&simd) {
            continue;
        }
        for threads in threads {
            let out = replayed(input, &["--simd", &simd.to_string(), "--threads", threads]);
            assert!(out == expected, "{name}: other bits with {simd}, {threads} threads");
        }
    }
    for gpu in gpus {
        assert!(replayed_on(gpu, input, &[]) == expected, "{name}: other bits on {gpu}");
    }
}

/// ρ ≠ ½ takes a power, which a GPU may round otherwise.
fn needs_pow(optimizer: &Value) -> bool {
    optimizer["algorithm"] == "fisher_adam" && optimizer["rho"].as_f64().is_some_and(|rho| rho != 0.5)
}

#[test]
fn recordings_give_the_same_bits_everywhere() {
    let gpus = gpus();
    let first = &gpus[..gpus.len().min(1)]; // one is enough for these: each run compiles its kernels
    for (name, recording) in some(recordings().into_iter().chain(narrow_recordings()).collect()) {
        let input = input(&recording);
        same_bits(&name, &input.bytes(), if needs_pow(&input.optimizer()) { &[] } else { first });
    }
}

/// Reproducible numbers of either sign between 2⁻²⁰ and 1, so that sums depend on the order of their terms.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); // Knuth's MMIX
        let bits = (self.0 >> 33) as u32;
        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
        sign * (1.0 + (bits >> 8) as f32 / (1 << 23) as f32) / 2.0_f32.powi(1 + (bits >> 1 & 15) as i32)
    }

    fn tensor(&mut self, len: usize, bf16: bool) -> Tensor {
        let values: Vec<f32> = (0..len).map(|_| self.next()).collect();
        let tensor = Tensor::f32(&[len], &values);
        if bf16 { tensor.narrowed() } else { tensor }
    }
}

/// More elements than a step gives to one thread (65 536), in tensors that fill many chunks and none. Some are bf16.
fn large(optimizer: &Value, bf16: &[&str]) -> File {
    let mut numbers = Numbers(1);
    let mut file = File::default();
    file.set_optimizer(optimizer);
    for (name, len) in [("a", 3), ("b", 70_001), ("c/0", 0), ("c.1", 4096), ("d", 33_000)] {
        file.tensors.insert(format!("param/{name}"), numbers.tensor(len, bf16.contains(&name)));
        for t in 1..=2 {
            file.tensors.insert(format!("grad/{t}/{name}"), numbers.tensor(len, t == 2));
        }
    }
    file
}

#[test]
fn steps_of_many_threads_give_the_same_bits() {
    let optimizers = [
        json!({"algorithm": "adam", "amsgrad": true, "decay": "decoupled", "max_grad_norm": 0.5}),
        json!({"algorithm": "adam", "non_finite": "propagate", "grad_scale": 3}), // the norm comes from the step itself
        json!({"algorithm": "fadam", "kappa": 20.0, "weight_decay": 1e-4}),       // two sweeps
        json!({"algorithm": "fadam", "kappa": 200.0}), // one sweep and a correction
        json!({"algorithm": "fadam", "kappa": 200.0, "non_finite": "propagate"}),
        json!({"algorithm": "fisher_adam"}),
        json!({"algorithm": "fisher_adam", "rho": 0.3, "eps": 0.1, "eps2": 0.5, "non_finite": "propagate"}),
    ];
    let gpus = gpus();
    for optimizer in optimizers {
        let gpus = if needs_pow(&optimizer) { &[] } else { &gpus[..] };
        same_bits(&optimizer.to_string(), &large(&optimizer, &[]).bytes(), gpus);
    }
}

#[test]
fn bf16_gives_the_same_bits() {
    let optimizers = [
        json!({"algorithm": "adam", "amsgrad": true, "decay": "decoupled", "master": "f32", "moments": "bf16", "seed": u64::MAX}),
        json!({"algorithm": "adam", "master": "none", "moments": "bf16", "seed": 3, "max_grad_norm": 0.5}),
        json!({"algorithm": "adam", "master": "none", "rounding": "nearest", "non_finite": "propagate", "grad_scale": 3}),
        json!({"algorithm": "fadam", "kappa": 200.0, "master": "remainder", "weight_decay": 1e-4}), // one sweep, corrected
        json!({"algorithm": "fadam", "kappa": 200.0, "master": "none", "moments": "bf16"}), // κ alike, two sweeps
        json!({"algorithm": "fisher_adam", "master": "none", "moments": "bf16", "rounding": "stochastic"}),
    ];
    let gpus = gpus();
    for optimizer in optimizers {
        same_bits(&optimizer.to_string(), &large(&optimizer, &["b", "c/0", "d"]).bytes(), &gpus);
    }
}
