//! One promise: a step beside other threads that use the same tensors ends, whatever safe candle code they run, and so do they;
//! no value is ever half-written. Each test is a kind of neighbour.
//!
//! FADAM_STRESS_SECONDS: how long each takes. Default 0.5.

use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, Layout, Shape, Tensor, Var};
use candle_nn::Optimizer as _;
use fadam::Adam;
use fadam::candle::Contention;
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stretch of time in which nothing at all goes on: a step takes a ten-thousandth of it.
const HANGS: Duration = Duration::from_secs(60);

fn seconds() -> Duration {
    let seconds = std::env::var("FADAM_STRESS_SECONDS").ok();
    Duration::from_secs_f64(seconds.map_or(0.5, |seconds| seconds.parse().expect("a number of seconds")))
}

struct Neighbours {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
}

impl Neighbours {
    /// Ends the process where one of the two counts stands still: a hanging thread cannot be ended alone.
    fn watch(&self, what: &'static str, steps: &Arc<AtomicU64>) {
        let (stop, rounds, steps) = (Arc::clone(&self.stop), Arc::clone(&self.rounds), Arc::clone(steps));
        std::thread::spawn(move || {
            let count = || [rounds.load(Ordering::Relaxed), steps.load(Ordering::Relaxed)];
            let (mut last, mut since) = (count(), [Instant::now(); 2]);
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                for (i, now) in count().into_iter().enumerate() {
                    if now != last[i] {
                        (last[i], since[i]) = (now, Instant::now());
                    }
                    if since[i].elapsed() > HANGS {
                        let who = ["the neighbours hang", "the step hangs"][i];
                        eprintln!("{what}: {who} after {last:?} rounds and steps");
                        std::process::exit(101);
                    }
                }
            }
        });
    }
}

/// Steps over `variables` variables of `len` elements, two of which share their gradient, while `threads` threads run `round`
/// over variables and gradients. Every value is a power of two times one and the same number of steps at any time.
fn beside(
    what: &'static str,
    (variables, len): (usize, usize),
    threads: usize,
    round: impl Fn(usize, &[Tensor], &[Tensor]) + Send + Sync + 'static,
) {
    let ones = || Tensor::ones((len, 4), DType::F32, &Device::Cpu).unwrap();
    let vars: Vec<Var> = (0..variables).map(|_| Var::from_tensor(&ones()).unwrap()).collect();
    let mut gradients: Vec<Tensor> = (0..variables).map(|_| ones()).collect();
    gradients[1] = gradients[0].clone();
    let mut store = vars[0].sum_all().unwrap().backward().unwrap();
    for (var, gradient) in vars.iter().zip(&gradients) {
        store.insert(var, gradient.clone());
    }
    let neighbours =
        Neighbours { stop: Arc::new(AtomicBool::new(false)), rounds: Arc::new(AtomicU64::new(0)) };
    let steps = Arc::new(AtomicU64::new(0));
    neighbours.watch(what, &steps);
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let round = Arc::new(round);
    let others: Vec<_> = (0..threads)
        .map(|i| {
            let (stop, rounds) = (Arc::clone(&neighbours.stop), Arc::clone(&neighbours.rounds));
            let (round, tensors, gradients) = (Arc::clone(&round), tensors.clone(), gradients.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    round(i, &tensors, &gradients);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Without moments and ε each step moves each element by the rate.
    let adam = Adam { lr: 2_f64.powi(-30), eps: 0.0, betas: (0.0, 0.0), ..Adam::default() };
    let mut optimizer = fadam::candle::Adam::new(vars.clone(), adam).unwrap();
    let start = Instant::now();
    while start.elapsed() < seconds() {
        optimizer.step(&store).unwrap();
        steps.fetch_add(1, Ordering::Relaxed);
    }
    neighbours.stop.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    let Contention { retries, copies, .. } = optimizer.contention();
    let (steps, rounds) = (steps.load(Ordering::Relaxed), neighbours.rounds.load(Ordering::Relaxed));
    println!("{what}: {steps} steps beside {rounds} rounds, {retries} retries, {copies} on copies");
    assert!(steps > 0 && rounds > 0);
    for var in &vars {
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        assert!(values.iter().all(|&value| value == values[0] && value.is_finite()), "{what}: half a step");
    }
}

/// Small tensors stay on the calling thread, large ones are shared with the pool that the neighbours use.
const SMALL: (usize, usize) = (8, 64);
const LARGE: (usize, usize) = (3, 1 << 15);

fn both(what: &'static str, round: impl Fn(usize, &[Tensor], &[Tensor]) + Send + Sync + Copy + 'static) {
    for size in [SMALL, LARGE] {
        beside(what, size, 2, round);
    }
}

#[test]
fn binary_operations_in_both_orders() {
    both("binary operations", |i, vars, gradients| {
        let (a, b) = if i == 0 { (&vars[0], &vars[1]) } else { (&vars[1], &vars[0]) };
        drop((a + b).unwrap());
        drop((b * a).unwrap());
        drop((&gradients[2] - a).unwrap());
        drop(Tensor::cat(&[&vars[2], b, a], 0).unwrap());
        drop(a.le(b).unwrap().where_cond(b, a).unwrap());
    });
}

#[test]
fn a_model_is_evaluated() {
    both("evaluation", |_, vars, _| {
        let (alpha, beta) = (vars[0].get(0).unwrap(), vars[1].get(0).unwrap());
        drop(candle_nn::ops::layer_norm(&vars[2], &alpha, &beta, 1e-5).unwrap());
        drop(candle_nn::ops::rms_norm(&vars[2], &alpha, 1e-5).unwrap());
        drop(candle_nn::ops::softmax_last_dim(&vars[1]).unwrap());
        drop(vars[0].matmul(&vars[1].t().unwrap().narrow(1, 0, 4).unwrap()).unwrap());
    });
}

/// In the pool that the step's helpers belong to: its threads are busy with what waits for the step's locks.
#[test]
fn the_pool_evaluates() {
    both("the pool", |_, vars, _| {
        (0..16).into_par_iter().for_each(|i| {
            let (a, b) = (&vars[i % 3], &vars[(i + 1) % 3]);
            drop((a + b).unwrap());
            drop(candle_nn::ops::softmax_last_dim(a).unwrap());
        });
    });
}

/// Keeps a tensor's read lock while its pool works.
struct Parallel;

impl CustomOp1 for Parallel {
    fn name(&self) -> &'static str {
        "parallel"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let sum: f32 = storage.as_slice::<f32>()?.par_iter().sum();
        std::hint::black_box(sum);
        Ok((storage.clone(), layout.shape().clone()))
    }
}

#[test]
fn a_lock_is_held_while_the_pool_works() {
    both("parallel under a lock", |_, vars, gradients| {
        (0..4).into_par_iter().for_each(|i| {
            drop(vars[i % 3].apply_op1_no_bwd(&Parallel).unwrap());
            drop(gradients[i % 3].apply_op1_no_bwd(&Parallel).unwrap());
        });
    });
}

/// Guards of several tensors at a time, for a while.
#[test]
fn guards_are_held() {
    both("guards", |i, vars, gradients| {
        let (first, second) = if i == 0 { (0, 2) } else { (2, 0) };
        let held = vars[first].storage_and_layout();
        std::thread::yield_now();
        let more = gradients[second].storage_and_layout();
        std::thread::yield_now();
        drop((held, more));
    });
}

/// Writes what is there already: the optimizer reads no other gradient, and the steps remain what they are.
struct Rewrite;

impl InplaceOp1 for Rewrite {
    fn name(&self) -> &'static str {
        "rewrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        if let CpuStorage::F32(values) = storage {
            values.iter_mut().for_each(|value| *value = std::hint::black_box(1.0));
        }
        Ok(())
    }
}

#[test]
fn gradients_are_written() {
    both("writers of gradients", |_, _, gradients| {
        gradients.iter().for_each(|gradient| gradient.inplace_op1(&Rewrite).unwrap());
    });
}

/// As many readers that there is hardly ever a moment without one: steps work on copies.
#[test]
fn a_crowd_of_readers() {
    for size in [SMALL, LARGE] {
        beside("a crowd", size, 8, |i, vars, _| {
            drop((&vars[i % 3] + &vars[(i + 1) % 3]).unwrap());
            drop(vars[(i + 2) % 3].sqr().unwrap());
        });
    }
}
