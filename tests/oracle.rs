//! The library against a naive f64 transcription of the algorithms, over random shapes, hyper-parameters and
//! trajectories.
//!
//! Each step of the reference starts from the library's own f32 parameters and moments, so that the rounding of one step
//! is all that separates the two; what holds for every step holds for the trajectory. Step counts are the reference's
//! own. How far one step may be off is computed, not tuned: see common/rounded.rs and common/bounds.rs. An element about
//! which that analysis says nothing (a denominator that may be 0 in f32) is not compared; the tests assert that these
//! are few.

#[path = "common/bounds.rs"]
mod bounds;
mod common;
#[path = "common/ema.rs"]
mod ema;
mod reference;
#[path = "common/rounded.rs"]
mod rounded;

use common::{Gradient, Model, bits, noise, random};
use fadam::{Adam, Algorithm, Decay, Dtype, Error, FAdam, FisherAdam, Group, Master, NonFinite, Optimizer};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngSeed, TestRunner};
use std::cell::Cell;

#[derive(Clone, Debug)]
struct Case {
    algorithm: Algorithm,
    /// The second group's own hyper-parameters; odd parameters are in it.
    group: Group,
    lengths: Vec<usize>,
    max_grad_norm: Option<f64>,
    grad_scale: f64,
    policy: NonFinite,
    norms: bool,
    /// Every second pair of parameters is bf16 with this master: θ is then the master, and as exact as an f32 one.
    master: Option<Master>,
    ema: Option<f64>,
    steps: u32,
    seed: u64,
}

fn lr() -> impl Strategy<Value = f64> {
    select(vec![0.0, 1e-5, 1e-3, 0.1, 1.0])
}

fn betas() -> impl Strategy<Value = (f64, f64)> {
    let beta1 = vec![0.0, 0.1, 0.4999, 0.5, 0.9, 0.9, 0.99];
    let beta2 = vec![0.0, 0.3, 0.4999, 0.5, 0.95, 0.999, 0.999, 0.9999];
    (select(beta1), select(beta2))
}

fn eps() -> impl Strategy<Value = f64> {
    select(vec![0.0, 1e-15, 1e-8, 1e-8, 1e-3, 10.0])
}

fn weight_decay() -> impl Strategy<Value = f64> {
    select(vec![0.0, 1e-4, 0.1, 2.0])
}

fn adam() -> impl Strategy<Value = Algorithm> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (lr(), betas(), eps(), weight_decay(), flags).prop_map(
        |(lr, betas, eps, weight_decay, (decoupled, amsgrad, maximize))| {
            let decay = if decoupled { Decay::Decoupled } else { Decay::L2 };
            Adam { lr, betas, eps, weight_decay, decay, amsgrad, maximize }.into()
        },
    )
}

/// κ in units of √N: below ½ the step takes two sweeps, from there on it is speculative (if β1² < β2).
fn fadam(elements: usize) -> impl Strategy<Value = Algorithm> {
    let kappa = select(vec![None, None, Some(1e-3), Some(0.1), Some(0.49), Some(0.5), Some(0.7), Some(3.0)]);
    let cap = select(vec![None, Some(1e-3), Some(0.5)]);
    let eps_decay = select(vec![0.0, 0.1, 3.0]);
    (lr(), betas(), eps(), eps_decay, kappa, weight_decay(), cap).prop_map(
        move |(lr, betas, eps0, eps_decay, kappa, weight_decay, decay_cap)| {
            let kappa = kappa.map(|kappa| kappa * (elements.max(1) as f64).sqrt());
            FAdam { lr, betas, eps0, eps_decay, kappa, weight_decay, decay_cap }.into()
        },
    )
}

fn fisher_adam() -> impl Strategy<Value = Algorithm> {
    let eps2 = select(vec![0.0, 0.01, 1.0]);
    let rho = select(vec![0.5, 0.5, 0.5, 0.25, 0.75, 1.0]);
    let clip = select(vec![1e-2, 1.0, 1.0, 10.0]);
    (lr(), betas(), eps(), eps2, rho, clip, weight_decay()).prop_map(
        |(lr, betas, eps, eps2, rho, clip, weight_decay)| {
            FisherAdam { lr, betas, eps, eps2, rho, clip, weight_decay }.into()
        },
    )
}

fn group() -> impl Strategy<Value = Group> {
    use proptest::option::of;
    (of(lr()), of(betas()), of(eps()), of(weight_decay())).prop_map(|(lr, betas, eps, weight_decay)| Group {
        lr,
        betas,
        eps,
        weight_decay,
    })
}

/// Around a row of lanes and around a chunk.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..40_usize,
        2 => select(vec![0, 1, 127, 128, 129, 255, 256, 257]),
        1 => select(vec![4095, 4096, 4097]),
    ]
}

fn case(
    lengths: impl Strategy<Value = Vec<usize>>,
    algorithm: impl Fn(usize) -> BoxedStrategy<Algorithm>,
) -> impl Strategy<Value = Case> {
    let max_grad_norm = select(vec![None, None, Some(1e-6), Some(1.0), Some(1e4)]);
    let grad_scale = select(vec![1.0, 1.0, 0.3, 1024.0]);
    let policy = select(vec![NonFinite::Skip, NonFinite::Error, NonFinite::Propagate]);
    lengths.prop_flat_map(move |lengths| {
        let rest = (
            max_grad_norm.clone(),
            grad_scale.clone(),
            policy.clone(),
            any::<bool>(),
            select(vec![None, None, Some(Master::F32), Some(Master::Remainder)]),
            select(vec![None, None, Some(0.5), Some(0.9), Some(0.9999)]),
            (1..5_u32, any::<u64>()),
        );
        (algorithm(lengths.iter().sum()), group(), Just(lengths), rest).prop_map(
            |(
                algorithm,
                group,
                lengths,
                (max_grad_norm, grad_scale, policy, norms, master, ema, (steps, seed)),
            )| Case {
                algorithm,
                group,
                lengths,
                max_grad_norm,
                grad_scale,
                policy,
                norms,
                master,
                ema,
                steps,
                seed,
            },
        )
    })
}

/// The same hyper-parameters for the reference.
fn transcribed(algorithm: &Algorithm, group: &Group) -> reference::Algorithm {
    match *algorithm {
        Algorithm::Adam(a) => reference::Algorithm::Adam(reference::Adam {
            lr: group.lr.unwrap_or(a.lr),
            betas: group.betas.unwrap_or(a.betas),
            eps: group.eps.unwrap_or(a.eps),
            weight_decay: group.weight_decay.unwrap_or(a.weight_decay),
            decoupled: a.decay == Decay::Decoupled,
            amsgrad: a.amsgrad,
            maximize: a.maximize,
        }),
        Algorithm::FAdam(a) => reference::Algorithm::FAdam(reference::FAdam {
            lr: group.lr.unwrap_or(a.lr),
            betas: group.betas.unwrap_or(a.betas),
            eps0: group.eps.unwrap_or(a.eps0),
            eps_decay: a.eps_decay,
            kappa: a.kappa.unwrap_or(f64::INFINITY),
            weight_decay: group.weight_decay.unwrap_or(a.weight_decay),
            decay_cap: a.decay_cap.unwrap_or(f64::INFINITY),
        }),
        Algorithm::FisherAdam(a) => reference::Algorithm::FisherAdam(reference::FisherAdam {
            lr: group.lr.unwrap_or(a.lr),
            betas: group.betas.unwrap_or(a.betas),
            eps: group.eps.unwrap_or(a.eps),
            eps2: a.eps2,
            rho: a.rho,
            clip: a.clip,
            weight_decay: group.weight_decay.unwrap_or(a.weight_decay),
        }),
        _ => unreachable!(),
    }
}

/// Which form FAdam takes: a function of the configuration, by the documentation of `fadam::FAdam`.
fn speculates(case: &Case) -> bool {
    let bounded = |(beta1, beta2): (f64, f64)| beta1 * beta1 < beta2;
    match case.algorithm {
        Algorithm::FAdam(a) => {
            let elements: usize = case.lengths.iter().sum();
            a.kappa.is_some_and(|kappa| kappa >= 0.5 * (elements as f64).sqrt())
                && bounded(a.betas)
                && bounded(case.group.betas.unwrap_or(a.betas))
        }
        _ => false,
    }
}

/// A gradient of either type: magnitudes from 1e-6 to 1e3 from tensor to tensor, some elements exactly 0, a few tiny.
fn gradient(len: usize, rng: &mut u64) -> Gradient {
    let scale = 10_f32.powi((random(rng) % 10) as i32 - 6);
    let mut g = noise(len, random(rng));
    for g in &mut g {
        *g *= match random(rng) % 16 {
            0 => 0.0,
            1 => 1e-9,
            _ => scale,
        };
    }
    if random(rng).is_multiple_of(2) {
        Gradient::F32(g)
    } else {
        Gradient::Bf16(g.iter().map(|&g| bf16::from_f32(g)).collect())
    }
}

/// To nearest: ties to even beside a whole master, away from zero where its low half is kept.
fn rounded_to_bf16(x: f32, master: Master) -> f32 {
    match master {
        Master::Remainder if !x.is_nan() => f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000),
        _ => bf16::from_f32(x).to_f32(),
    }
}

/// How many elements were compared, and about how many nothing could be said.
#[derive(Default)]
struct Tally {
    compared: Cell<u64>,
    unknown: Cell<u64>,
}

impl Tally {
    fn compare(&self, what: &str, found: f64, expected: f64, bound: f64) -> Result<(), TestCaseError> {
        if bound == f64::INFINITY {
            self.unknown.set(self.unknown.get() + 1);
            return Ok(());
        }
        self.compared.set(self.compared.get() + 1);
        let difference = (found - expected).abs();
        // The reference rounds too.
        let bound = bound + 1e-12 * expected.abs();
        prop_assert!(
            difference <= bound,
            "{what}: {found:e}, expected {expected:e} ± {bound:e}, off by {difference:e}"
        );
        Ok(())
    }

    fn compare_all(
        &self,
        what: &str,
        found: &[f32],
        expected: &[f64],
        bound: &[f64],
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.len(), bound.len());
        for (i, ((&found, &expected), &bound)) in found.iter().zip(expected).zip(bound).enumerate() {
            self.compare(&format!("{what}[{i}]"), found.into(), expected, bound)?;
        }
        Ok(())
    }
}

fn check(case: &Case, tally: &Tally) -> Result<(), TestCaseError> {
    let mut rng = case.seed;
    let mut builder = Optimizer::builder(case.algorithm).non_finite(case.policy).norms(case.norms);
    if let Some(max) = case.max_grad_norm {
        builder = builder.max_grad_norm(max);
    }
    if let Some(master) = case.master {
        builder = builder.master(master);
    }
    if let Some(decay) = case.ema {
        builder = builder.ema(decay);
    }
    let mut model = Model::built(builder, &[]);
    model.optimizer.set_grad_scale(case.grad_scale).unwrap();
    let group = model.optimizer.add_group(case.group).unwrap();
    let mut parameters = Vec::new();
    for (i, &len) in case.lengths.iter().enumerate() {
        let name = format!("p{i}");
        let bf16 = case.master.is_some() && i / 2 % 2 == 0;
        let dtype = if bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let (id, hyper) = match (i % 2, dtype) {
            (0, Dtype::F32) => (model.optimizer.register(name, len), &Group::default()),
            (0, _) => (model.optimizer.register_bf16(name, len), &Group::default()),
            _ => (model.optimizer.register_in(group, name, len, dtype), &case.group),
        };
        let scale = [1.0, 1e-2, 100.0][(random(&mut rng) % 3) as usize];
        let value = |p: f32| if bf16 { bf16::from_f32(p).to_f32() } else { p };
        let values = noise(len, random(&mut rng)).iter().map(|p| value(p * scale)).collect();
        model.add(id.unwrap(), dtype, values);
        parameters.push(reference::Parameter::new(transcribed(&case.algorithm, hyper), vec![0.0; len]));
    }
    let policy = reference::Policy {
        max_grad_norm: case.max_grad_norm,
        grad_scale: case.grad_scale,
        check: case.policy != NonFinite::Propagate,
    };
    let mut skipped_steps = 0;
    for step in 1..=case.steps {
        let mut gradients: Vec<Option<Gradient>> = case
            .lengths
            .iter()
            .map(|&len| (!random(&mut rng).is_multiple_of(4)).then(|| gradient(len, &mut rng)))
            .collect();
        let poison = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -2e22][(random(&mut rng) % 4) as usize];
        let poisoned = policy.check && random(&mut rng).is_multiple_of(8);
        let victim = gradients.iter_mut().flatten().find(|g| g.len() > 0);
        if let Some(g) = victim.filter(|_| poisoned) {
            g.set(random(&mut rng) as usize % g.len(), poison);
        }
        for (i, p) in parameters.iter_mut().enumerate() {
            let state = model.state(i);
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            p.theta = wide(&model.theta(i));
            p.m = wide(&state.exp_avg);
            p.v = wide(&state.exp_avg_sq);
            p.v_max = state.max_exp_avg_sq.map_or_else(|| vec![0.0; p.theta.len()], |x| wide(&x));
            prop_assert_eq!(state.step, p.t as u64);
            if step == 1 {
                prop_assert!(p.m.iter().chain(&p.v).chain(&p.v_max).all(|&x| x == 0.0));
            }
            let diverged = |x: &[f64]| x.iter().any(|x| !x.is_finite());
            if diverged(&p.theta) || diverged(&p.m) || diverged(&p.v) {
                return Ok(()); // out of the range of f32: nothing left to compare
            }
        }
        let before = parameters.clone();
        let averages: Vec<Vec<f32>> =
            (0..parameters.len()).map(|i| model.state(i).ema.unwrap_or_default()).collect();
        let untouched = model.snapshot();
        let wide: Vec<Option<Vec<f64>>> =
            gradients.iter().map(|g| g.as_ref().map(Gradient::to_f64)).collect();
        let outcome = reference::step(&mut parameters, &wide, &policy);
        let result = model.try_step(&gradients);
        let report = model.report();
        prop_assert_eq!(report.step, u64::from(step));
        prop_assert_eq!(report.skipped, outcome.skipped);
        skipped_steps += u64::from(outcome.skipped);
        prop_assert_eq!(report.skipped_steps, skipped_steps);
        if outcome.skipped {
            prop_assert_eq!(matches!(result, Err(Error::NonFinite { .. })), case.policy == NonFinite::Error);
            prop_assert_eq!(model.snapshot(), untouched);
            prop_assert_eq!(report.clip_coefficient, None);
            prop_assert_eq!(report.update_norm, None);
            continue;
        }
        prop_assert!(result.is_ok());
        let bounds = bounds::step(&before, &wide, &policy, speculates(case));
        let clip = report.clip_coefficient.unwrap();
        tally.compare("clip coefficient", clip, outcome.clip_coefficient, bounds.clip_coefficient)?;
        prop_assert_eq!(
            report.grad_norm.is_some(),
            policy.check || policy.max_grad_norm.is_some() || case.norms
        );
        if let Some(norm) = report.grad_norm {
            tally.compare("gradient norm", norm, outcome.grad_norm, bounds.grad_norm)?;
        }
        let kappa = matches!(case.algorithm, Algorithm::FAdam(FAdam { kappa: Some(_), .. }));
        prop_assert_eq!(report.update_norm.is_some(), kappa || case.norms);
        if let Some(norm) = report.update_norm {
            tally.compare("update norm", norm, outcome.update_norm, bounds.update_norm)?;
        }
        for (i, (p, bound)) in parameters.iter().zip(&bounds.parameters).enumerate() {
            let state = model.state(i);
            let theta = model.theta(i);
            let Some(bound) = bound else {
                let same = |found: &[f32], p: &[f64]| found.iter().zip(p).all(|(&f, &p)| f64::from(f) == p);
                prop_assert!(same(&theta, &p.theta), "took no part, but moved");
                prop_assert!(same(&state.exp_avg, &p.m) && same(&state.exp_avg_sq, &p.v));
                prop_assert_eq!(bits(&state.ema.unwrap_or_default()), bits(&averages[i]));
                continue;
            };
            tally.compare_all(&format!("p{i} exp_avg"), &state.exp_avg, &p.m, &bound.m)?;
            tally.compare_all(&format!("p{i} exp_avg_sq"), &state.exp_avg_sq, &p.v, &bound.v)?;
            if let Some(v_max) = &state.max_exp_avg_sq {
                tally.compare_all(&format!("p{i} max_exp_avg_sq"), v_max, &p.v_max, &bound.v_max)?;
            }
            tally.compare_all(&format!("p{i}"), &theta, &p.theta, &bound.theta)?;
            if model.dtypes[i] == Dtype::Bf16 {
                let rounded = theta.iter().map(|&theta| rounded_to_bf16(theta, case.master.unwrap()));
                prop_assert_eq!(bits(&model.parameters[i]), bits(&rounded.collect::<Vec<_>>()));
            }
            if let Some(decay) = case.ema {
                let (expected, error) = ema::after(decay, &before[i], &averages[i], &theta, p);
                tally.compare_all(&format!("p{i} ema"), &state.ema.unwrap(), &expected, &error)?;
            }
            let norms = model.optimizer.norms_of(model.ids[i]).unwrap();
            prop_assert_eq!(norms.is_some(), case.norms);
            if let (Some(norms), Some(expected)) = (norms, outcome.norms[i]) {
                for (k, found) in [norms.grad, norms.update, norms.parameter].into_iter().enumerate() {
                    tally.compare(&format!("p{i} norm {k}"), found, expected[k], bound.norms[k])?;
                }
            }
        }
    }
    Ok(())
}

/// Fixed seed: a failure is the same everywhere. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` look further.
fn run(cases: u32, strategy: impl Strategy<Value = Case>) {
    let default = ProptestConfig::default();
    let config = ProptestConfig {
        cases: if default.cases == 256 { cases } else { default.cases },
        rng_seed: if default.rng_seed == RngSeed::Random { RngSeed::Fixed(1) } else { default.rng_seed },
        failure_persistence: None,
        max_shrink_iters: default.max_shrink_iters.min(200),
        ..default
    };
    let tally = Tally::default();
    if let Err(error) = TestRunner::new(config).run(&strategy, |case| check(&case, &tally)) {
        panic!("{error}");
    }
    let (compared, unknown) = (tally.compared.get(), tally.unknown.get());
    println!("{compared} values compared, about {unknown} nothing can be said");
    assert!(unknown < compared / 5, "too few values are compared: {compared}, and {unknown} are not");
}

fn small() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(length(), 1..5)
}

/// Tensors that FisherAdam does not keep in cache, and steps that several threads share.
fn large() -> impl Strategy<Value = Vec<usize>> {
    select(vec![vec![32_769], vec![3, 65_537], vec![40_000, 0, 30_000]])
}

#[test]
fn adam_is_as_written() {
    run(600, case(small(), |_| adam().boxed()));
}

#[test]
fn fadam_is_as_written() {
    run(900, case(small(), |elements| fadam(elements).boxed()));
}

#[test]
fn fisher_adam_is_as_written() {
    run(600, case(small(), |_| fisher_adam().boxed()));
}

#[test]
fn large_tensors_are_as_written() {
    run(4, case(large(), |_| adam().boxed()));
    run(8, case(large(), |elements| fadam(elements).boxed()));
    run(12, case(large(), |_| fisher_adam().boxed()));
}
