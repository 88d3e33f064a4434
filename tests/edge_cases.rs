//! Where formulas end: each test is one row of the table of edge cases that every device keeps to.

mod common;

use common::{Model, algorithms, bits, noise};
use fadam::{
    Adam, Algorithm, Decay, Error, FAdam, FisherAdam, Group, NonFinite, Optimizer, Report, Simd, Tensor,
    TensorMut, Update,
};
use half::bf16;

fn one(algorithm: impl Into<Algorithm>, parameter: &[f32]) -> Model {
    Model::new(algorithm, &[parameter])
}

// d = 0

#[test]
fn every_quotient_by_a_zero_denominator_is_zero() {
    let parameter = [1.5, -0.0, 3e38, 1e-40];
    let zero: &[f32] = &[0.0; 4];
    let decays: [Algorithm; 4] = [
        Adam { eps: 0.0, ..Adam::default() }.into(),
        FAdam { eps0: 0.0, weight_decay: 0.1, ..FAdam::default() }.into(), // θ/d
        FAdam { eps0: 0.0, weight_decay: 0.1, decay_cap: Some(0.1), kappa: Some(1.0), ..FAdam::default() }
            .into(),
        FisherAdam { eps: 0.0, weight_decay: 0.1, ..FisherAdam::default() }.into(), // n and w
    ];
    for algorithm in decays {
        let mut model = one(algorithm, &parameter);
        for _ in 0..3 {
            model.step(&[zero]);
            assert_eq!(bits(&model.parameters[0]), bits(&parameter), "{algorithm:?}");
        }
    }
}

#[test]
fn a_square_that_underflows_is_a_zero_denominator() {
    // g² = 1e-60 is 0 in f32, and so is d with ε = 0; m is not.
    let algorithms: [Algorithm; 3] = [
        Adam { eps: 0.0, ..Adam::default() }.into(),
        FAdam { eps0: 0.0, ..FAdam::default() }.into(),
        FisherAdam { eps: 0.0, ..FisherAdam::default() }.into(),
    ];
    for algorithm in algorithms {
        let mut model = one(algorithm, &[1.0]);
        model.step(&[&[1e-30]]);
        assert_eq!(model.parameters[0], [1.0], "{algorithm:?}");
    }
}

// Gradients that are not finite

const BAD: [f32; 3] = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];

#[test]
fn a_skipped_step_changes_nothing_and_says_so() {
    for algorithm in algorithms() {
        let (p, q, good) = (noise(300, 1), noise(5, 2), noise(300, 3));
        let mut model = Model::new(algorithm, &[&p, &q]);
        let mut other = Model::new(algorithm, &[&p, &q]);
        model.step(&[&good, &q]);
        other.step(&[&good, &q]);
        let before = model.snapshot();
        for (i, bad) in BAD.into_iter().enumerate() {
            for place in [0, 128, 299] {
                let mut gradient = good.clone();
                gradient[place] = bad;
                let report = model.step(&[&gradient, &q]);
                assert_eq!(model.snapshot(), before, "{algorithm:?}: {bad} at {place}");
                assert!(report.skipped);
                assert!(!report.grad_norm.unwrap().is_finite());
                assert_eq!((report.clip_coefficient, report.update_norm), (None, None));
            }
            assert_eq!(model.report().skipped_steps, 3 * (i as u64 + 1));
        }
        assert_eq!(model.report().step, 10);
        // As if the bad steps had never been: the step count has not moved either.
        let report = model.step(&[&good, &q]);
        other.step(&[&good, &q]);
        assert_eq!(model.snapshot(), other.snapshot(), "{algorithm:?}");
        assert_eq!((report.skipped, report.skipped_steps, report.step), (false, 9, 11));
    }
}

#[test]
fn under_error_a_step_that_is_not_finite_changes_nothing_and_names_the_first() {
    for algorithm in algorithms() {
        for bad in BAD {
            let builder = Optimizer::builder(algorithm).non_finite(NonFinite::Error).max_grad_norm(1.0);
            let mut model = Model::built(builder, &[&[1.0], &[2.0], &[3.0]]);
            model.step(&[&[1.0], &[1.0], &[1.0]]);
            let before = model.snapshot();
            let error = model
                .try_step(&[Some([1.0]), Some([bad]), Some([bad])].map(|g| g.map(Vec::from)))
                .unwrap_err();
            assert!(matches!(&error, Error::NonFinite { name, step: 2 } if name == "p1"), "{error}");
            assert!(error.to_string().contains("`p1`") && error.to_string().contains("step 2"), "{error}");
            assert_eq!(model.snapshot(), before);
            let report = model.report();
            assert_eq!((report.step, report.skipped, report.skipped_steps), (2, true, 1));
            assert!(!model.step(&[&[1.0], &[1.0], &[1.0]]).skipped);
        }
    }
}

#[test]
fn under_propagate_nothing_is_checked_and_nothing_is_spread() {
    let elementwise: [Algorithm; 2] = [Adam::adamw().into(), FAdam::default().into()];
    for algorithm in elementwise {
        let builder = || Optimizer::builder(algorithm).non_finite(NonFinite::Propagate);
        let mut model = Model::built(builder(), &[&[1.0, 2.0, 3.0]]);
        let mut clean = Model::built(builder(), &[&[1.0, 2.0, 3.0]]);
        let report = model.step(&[&[1.0, f32::NAN, f32::INFINITY]]);
        clean.step(&[&[1.0, 1.0, 1.0]]);
        assert_eq!((report.skipped, report.skipped_steps, report.grad_norm), (false, 0, None));
        assert_eq!(model.parameters[0][0].to_bits(), clean.parameters[0][0].to_bits());
        assert!(model.parameters[0][1].is_nan());
        assert!(model.parameters[0][2].is_nan()); // ∞/∞
        let state = model.state(0);
        assert_eq!(state.step, 1);
        assert!(state.exp_avg[1].is_nan() && state.exp_avg_sq[1].is_nan());
        assert_eq!(state.exp_avg_sq[2], f32::INFINITY);
    }
}

#[test]
fn nan_payloads_do_not_matter() {
    let nans = [0x7fc0_0000_u32, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff, 0x7fa5_5a5a].map(f32::from_bits);
    for algorithm in algorithms() {
        for policy in [NonFinite::Skip, NonFinite::Propagate] {
            let runs = nans.map(|nan| {
                let builder = Optimizer::builder(algorithm).non_finite(policy);
                let mut model = Model::built(builder, &[&[1.0, 2.0, 3.0]]);
                let report = model.step(&[&[1.0, nan, 1.0]]);
                assert_eq!(report.skipped, policy == NonFinite::Skip);
                model.snapshot()
            });
            assert!(runs.iter().all(|run| *run == runs[0]), "{algorithm:?} {policy:?}");
        }
    }
}

#[test]
fn a_finite_gradient_whose_square_overflows_counts_as_not_finite() {
    let f32_max_root = 1.844_674_3e19_f32; // its square is the last that fits
    for algorithm in algorithms() {
        let skipped = |gradient: &[f32], grad_scale: f64| {
            let mut model = one(algorithm, &vec![1.0; gradient.len()]);
            model.optimizer.set_grad_scale(grad_scale).unwrap();
            let skipped = model.step(&[gradient]).skipped;
            let state = model.state(0);
            assert!(state.exp_avg_sq.iter().all(|v| v.is_finite()), "{algorithm:?}: frozen for ever");
            skipped
        };
        assert!(skipped(&[2e19], 1.0));
        assert!(skipped(&[-f32::MAX], 1.0));
        assert!(!skipped(&[f32_max_root], 1.0));
        // Each square fits, the sum over a chunk does not: within a lane, and between lanes.
        let mut pair = vec![0.0; 8192];
        for (first, second, expected) in [(0, 128, true), (0, 4095, true), (4095, 4096, false)] {
            pair.fill(0.0);
            (pair[first], pair[second]) = (1.5e19, 1.5e19);
            assert_eq!(skipped(&pair, 1.0), expected, "{algorithm:?}: at {first} and {second}");
        }
        // What is tested is the unscaled gradient.
        assert!(!skipped(&[2e19], 1024.0));
        assert!(!skipped(&[f32::MAX], 1e20));
        assert!(skipped(&[1.0], 1e-20));
    }
}

// Underflow

#[test]
fn subnormals_are_kept() {
    let tiny = f32::from_bits(100);
    for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
        // The parameter: −η·Δ with Δ = 1e-30/(0 + 1) is far below it; and a zero gradient leaves it.
        let builder = Optimizer::builder(Adam { eps: 1.0, betas: (0.5, 0.5), ..Adam::default() }).simd(simd);
        let mut model = Model::built(builder, &[&[tiny, -tiny, 0.0, 0.0]]);
        model.step(&[&[0.0, 0.0, tiny, 1e-37]]);
        let state = model.state(0);
        assert_eq!(model.parameters[0][..2], [tiny, -tiny], "{simd}");
        assert_eq!(state.exp_avg[2], f32::from_bits(50), "{simd}"); // the moment is subnormal
        // Δ = m̂ = 1e-37, η = 1e-3: the step itself is subnormal.
        let step = -model.parameters[0][3];
        assert!(step > 0.99e-40 && step < 1.01e-40, "{simd}: {step:e}");
        // A subnormal second moment.
        let builder = Optimizer::builder(Adam { betas: (0.5, 0.5), eps: 0.0, ..Adam::default() }).simd(simd);
        let mut model = Model::built(builder, &[&[1.0]]);
        model.step(&[&[1e-20]]);
        assert!(model.state(0).exp_avg_sq[0] > 4.9e-41, "{simd}");
        assert!((model.parameters[0][0] - 0.999).abs() < 1e-6, "{simd}: Δ is 1");
        // A subnormal bf16 gradient.
        let builder = Optimizer::builder(Adam::default()).simd(simd);
        let mut model = Model::built(builder, &[&[1.0]]);
        model.try_step(&[Some(vec![bf16::from_bits(0x40)])]).unwrap();
        assert!(model.state(0).exp_avg[0] > 0.0, "{simd}");
    }
}

// β = 0, betas below ½

#[test]
fn with_both_betas_zero_the_update_is_the_sign() {
    let gradient = [3.0, -1e-10, 1e10, -0.0];
    let expected = [0.5, 1.5, 0.5, 1.0];
    let algorithms: [Algorithm; 3] = [
        Adam { lr: 0.5, betas: (0.0, 0.0), eps: 0.0, ..Adam::default() }.into(),
        FAdam { lr: 0.5, betas: (0.0, 0.0), eps0: 0.0, ..FAdam::default() }.into(),
        // RMS of (1, 1, 1, 0) is below 1: not clipped.
        FisherAdam { lr: 0.5, betas: (0.0, 0.0), eps: 0.0, weight_decay: 0.0, ..FisherAdam::default() }
            .into(),
    ];
    for algorithm in algorithms {
        let mut model = one(algorithm, &[1.0; 4]);
        for gradient in [[7.0, 7.0, 7.0, 0.0], gradient] {
            model.parameters[0] = vec![1.0; 4];
            model.step(&[&gradient]);
        }
        let close = |(p, e): (&f32, &f32)| (p - e).abs() <= 2.0 * f32::EPSILON;
        let p = &model.parameters[0];
        assert!(p.iter().zip(&expected).all(close), "{algorithm:?}: {p:?}");
    }
}

#[test]
fn below_one_half_a_moment_is_interpolated_about_the_new_value() {
    for betas in [(0.0, 0.0), (0.0, 0.999), (0.9, 0.0)] {
        let mut model = one(Adam { betas, ..Adam::default() }, &[1.0]);
        model.step(&[&[1.0]]);
        model.step(&[&[1e-10]]);
        let state = model.state(0);
        if betas.0 == 0.0 {
            assert_eq!(state.exp_avg, [1e-10]);
        }
        if betas.1 == 0.0 {
            assert_eq!(state.exp_avg_sq, [1e-10 * 1e-10]);
        }
    }
}

// Hyper-parameters

/// Outside their domain; `finite_below` is a finite value that is too small.
fn bad_values(finite_below: f64) -> [f64; 4] {
    [finite_below, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str, value: f64) {
    let error = result.unwrap_err();
    let message = error.to_string();
    match error {
        Error::Hyperparameter { name, found, .. } => {
            assert_eq!(name, expected);
            assert!(found == value || found.is_nan() && value.is_nan());
        }
        other => panic!("{expected} = {value}: {other:?}"),
    }
    assert!(message.contains(expected) && message.contains(&value.to_string()), "{message}");
}

#[test]
fn every_bad_hyper_parameter_is_refused_by_name() {
    let tests = |name: &'static str, finite_below: f64, make: &dyn Fn(f64) -> Algorithm| {
        for value in bad_values(finite_below) {
            assert_refused(Optimizer::new(make(value)), name, value);
        }
    };
    let below = -f64::MIN_POSITIVE;
    let (adam, fadam, fisher) = (Adam::default(), FAdam::default(), FisherAdam::default());
    tests("lr", below, &|lr| Adam { lr, ..adam }.into());
    tests("eps", below, &|eps| Adam { eps, ..adam }.into());
    tests("weight_decay", below, &|weight_decay| Adam { weight_decay, ..adam }.into());
    tests("weight_decay", below, &|weight_decay| Adam { weight_decay, ..Adam::adamw() }.into());
    tests("lr", below, &|lr| FAdam { lr, ..fadam }.into());
    tests("eps0", below, &|eps0| FAdam { eps0, ..fadam }.into());
    tests("eps_decay", below, &|eps_decay| FAdam { eps_decay, ..fadam }.into());
    tests("weight_decay", below, &|weight_decay| FAdam { weight_decay, ..fadam }.into());
    tests("kappa", 0.0, &|kappa| FAdam { kappa: Some(kappa), ..fadam }.into());
    tests("kappa", below, &|kappa| FAdam { kappa: Some(kappa), ..fadam }.into());
    tests("decay_cap", 0.0, &|cap| FAdam { decay_cap: Some(cap), ..fadam }.into());
    tests("lr", below, &|lr| FisherAdam { lr, ..fisher }.into());
    tests("eps", below, &|eps| FisherAdam { eps, ..fisher }.into());
    tests("eps2", below, &|eps2| FisherAdam { eps2, ..fisher }.into());
    tests("rho", 0.0, &|rho| FisherAdam { rho, ..fisher }.into());
    tests("clip", 0.0, &|clip| FisherAdam { clip, ..fisher }.into());
    tests("weight_decay", below, &|weight_decay| FisherAdam { weight_decay, ..fisher }.into());
    for beta in [below, 1.0, 1.5, f64::NAN, f64::INFINITY] {
        for (name, betas) in [("betas.0", (beta, 0.9)), ("betas.1", (0.9, beta))] {
            assert_refused(Optimizer::new(Adam { betas, ..adam }), name, beta);
            assert_refused(Optimizer::new(FAdam { betas, ..fadam }), name, beta);
            assert_refused(Optimizer::new(FisherAdam { betas, ..fisher }), name, beta);
        }
    }
    for value in bad_values(0.0) {
        assert_refused(Optimizer::builder(adam).max_grad_norm(value).build(), "max_grad_norm", value);
        assert_refused(Optimizer::new(adam).unwrap().set_grad_scale(value), "grad_scale", value);
    }
}

#[test]
fn a_bad_override_is_refused_by_name_and_changes_nothing() {
    for (algorithm, eps_name) in [
        (Adam::default().into(), "eps"),
        (Algorithm::FAdam(FAdam::default()), "eps0"),
        (FisherAdam::default().into(), "eps"),
    ] {
        let mut model = one(algorithm, &[1.0]);
        let mut untouched = one(algorithm, &[1.0]);
        let optimizer = &mut model.optimizer;
        let good = optimizer.add_group(Group::default()).unwrap();
        for value in bad_values(-1.0) {
            let lr = Group { lr: Some(value), ..Group::default() };
            assert_refused(optimizer.add_group(lr), "lr", value);
            let eps = Group { eps: Some(value), ..Group::default() };
            assert_refused(optimizer.add_group(eps), eps_name, value);
            let decay = Group { weight_decay: Some(value), ..Group::default() };
            assert_refused(optimizer.add_group(decay), "weight_decay", value);
            let beta1 = Group { betas: Some((value, 0.9)), ..Group::default() };
            assert_refused(optimizer.add_group(beta1), "betas.0", value);
            let beta2 = Group { betas: Some((0.9, value)), ..Group::default() };
            assert_refused(optimizer.add_group(beta2), "betas.1", value);
            assert_refused(optimizer.set_learning_rate(value), "lr", value);
            assert_refused(optimizer.set_group_learning_rate(good, value), "lr", value);
            assert_refused(
                optimizer.set_grad_scale(if value == -1.0 { 0.0 } else { value }),
                "grad_scale",
                if value == -1.0 { 0.0 } else { value },
            );
        }
        assert_eq!(optimizer.algorithm(), &algorithm);
        model.step(&[&[1.0]]);
        untouched.step(&[&[1.0]]);
        assert_eq!(model.snapshot(), untouched.snapshot());
    }
}

#[test]
fn legal_extremes_are_taken() {
    let zeros = Adam { lr: 0.0, betas: (0.0, 0.0), eps: 0.0, weight_decay: 0.0, ..Adam::default() };
    assert!(Optimizer::new(zeros).is_ok());
    let almost = 1.0 - f64::EPSILON / 2.0;
    assert!(Optimizer::new(FAdam { betas: (almost, almost), ..FAdam::default() }).is_ok());
    assert!(Optimizer::new(FAdam { kappa: Some(f64::MIN_POSITIVE), ..FAdam::default() }).is_ok());
}

#[test]
fn an_infinite_kappa_takes_no_norm() {
    let report = one(FAdam::default(), &[1.0]).step(&[&[1.0]]);
    assert_eq!(report.update_norm, None);
    let report = one(FAdam { kappa: Some(1e30), ..FAdam::default() }, &[1.0]).step(&[&[1.0]]);
    assert!((report.update_norm.unwrap() - 1.0).abs() < 1e-6);
}

#[test]
fn a_learning_rate_of_zero_moves_moments_alone() {
    for algorithm in algorithms() {
        let parameter = noise(200, 5);
        let mut model = one(algorithm, &parameter);
        model.optimizer.set_learning_rate(0.0).unwrap();
        model.step(&[&noise(200, 6)]);
        assert_eq!(model.parameters[0], parameter, "{algorithm:?}");
        let state = model.state(0);
        assert!(state.step == 1 && state.exp_avg.iter().all(|&m| m != 0.0), "{algorithm:?}");
    }
}

// Step counts

#[test]
fn each_parameter_counts_its_own_steps() {
    for algorithm in algorithms() {
        let mut model = Model::new(algorithm, &[&[1.0], &[1.0]]);
        let g = || Some(vec![0.5_f32]);
        for gradients in [[g(), None], [g(), g()], [None, None], [g(), None]] {
            let before = model.snapshot();
            model.try_step(&gradients).unwrap();
            if gradients.iter().all(Option::is_none) {
                assert_eq!(model.snapshot(), before);
            }
        }
        assert_eq!((model.state(0).step, model.state(1).step), (3, 1), "{algorithm:?}");
        assert_eq!(model.report().step, 4);
        // One step old, p1 is where p0 was after its first: unless a norm over both was in between.
        if !matches!(algorithm, Algorithm::FAdam(FAdam { kappa: Some(_), .. })) {
            let mut first = one(algorithm, &[1.0]);
            first.step(&[&[0.5]]);
            assert_eq!(bits(&first.parameters[0]), bits(&model.parameters[1]), "{algorithm:?}");
        }
    }
}

// Empty

#[test]
fn no_tensors_and_empty_tensors_are_legal() {
    for algorithm in algorithms() {
        for norms in [false, true] {
            let builder = || Optimizer::builder(algorithm).norms(norms).max_grad_norm(1.0);
            let report = Model::built(builder(), &[]).step(&[]);
            assert_eq!((report.step, report.skipped, report.grad_norm), (1, false, Some(0.0)));
            let mut model = Model::built(builder(), &[&[]]);
            let report = model.step(&[&[]]);
            assert_eq!((report.grad_norm, report.clip_coefficient), (Some(0.0), Some(1.0)));
            assert_eq!(model.state(0).step, 1);
            if let Some(update) = report.update_norm {
                assert_eq!(update, 0.0);
            }
            let norms_of = model.optimizer.norms_of(model.ids[0]).unwrap();
            assert_eq!(norms_of.map(|n| (n.grad, n.update, n.parameter)), norms.then_some((0.0, 0.0, 0.0)));
        }
    }
    assert_eq!(fadam::global_norm(fadam::Device::Cpu, &[]).unwrap(), 0.0);
    assert_eq!(fadam::global_norm(fadam::Device::Cpu, &[(&[] as &[f32]).into()]).unwrap(), 0.0);
}

#[test]
fn an_empty_tensor_between_neighbours_leaves_them_alone() {
    let (p, q, g, h) = (noise(130, 1), noise(4097, 2), noise(130, 3), noise(4097, 4));
    for algorithm in algorithms() {
        let builder = || Optimizer::builder(algorithm).norms(true).max_grad_norm(0.5);
        let mut with = Model::built(builder(), &[&[], &p, &[], &[], &q, &[]]);
        let mut without = Model::built(builder(), &[&p, &q]);
        for _ in 0..2 {
            let report = with.step(&[&[], &g, &[], &[], &h, &[]]);
            assert_eq!(report, without.step(&[&g, &h]), "{algorithm:?}");
        }
        assert_eq!(bits(&with.parameters[1]), bits(&without.parameters[0]), "{algorithm:?}");
        assert_eq!(bits(&with.parameters[4]), bits(&without.parameters[1]), "{algorithm:?}");
    }
}

// The clip coefficient

#[test]
fn a_nan_clip_coefficient_stays_nan() {
    let propagate = |gradient: &[f32]| {
        let builder = Optimizer::builder(Adam::default()).max_grad_norm(1.0).non_finite(NonFinite::Propagate);
        let mut model = Model::built(builder, &[&[1.0, 1.0], &[1.0]]);
        let report = model.step(&[gradient, &[1.0]]);
        assert!(!report.skipped);
        (report.clip_coefficient.unwrap(), model.parameters)
    };
    let (clip, parameters) = propagate(&[1.0, f32::NAN]);
    assert!(clip.is_nan());
    assert!(parameters.iter().flatten().all(|p| p.is_nan()));
    let (clip, parameters) = propagate(&[1.0, f32::INFINITY]);
    assert_eq!(clip, 0.0); // max / ∞
    assert!(parameters[0][1].is_nan()); // ∞ · 0
    assert_eq!((parameters[0][0], parameters[1][0]), (1.0, 1.0));
}

#[test]
fn clipping_never_scales_up() {
    let clip = |max: f64, gradient: f32| {
        let mut model = Model::built(Optimizer::builder(Adam::default()).max_grad_norm(max), &[&[1.0]]);
        model.step(&[&[gradient]]).clip_coefficient.unwrap()
    };
    assert_eq!(clip(1e6, 1.0), 1.0);
    assert_eq!(clip(1.0, 0.0), 1.0);
    assert_eq!(clip(1.0, 1.0), 1.0 / (1.0 + 1e-6)); // PyTorch's 1e-6
    assert_eq!(clip(1e-3, 2.0), 1e-3 / (2.0 + 1e-6));
}

// FisherAdam's sums

#[test]
fn a_fisher_adam_sum_that_overflows_drops_its_term() {
    // ρ = 2, ε = 0, t = 1: d = g⁴, so n = g⁻³ = 1e27 and w = θ/d = 1e36, both of which have squares beyond f32.
    let steep = FisherAdam { rho: 2.0, eps: 0.0, ..FisherAdam::default() };
    let mut model = Model::new(steep, &[&[1.0, 2.0], &[1.0]]);
    let mut alone = Model::new(steep, &[&[1.0]]);
    model.step(&[&[1e-9, 1e-9], &[1.0]]);
    alone.step(&[&[1.0]]);
    assert_eq!(model.parameters[0], [1.0, 2.0]);
    assert_eq!(model.state(0).exp_avg, [0.0, 0.0]);
    // Per tensor: the neighbour has its terms.
    assert_eq!(bits(&model.parameters[1]), bits(&alone.parameters[0]));
    assert_ne!(alone.parameters[0], [1.0]);
    // Only w overflows: n = 1e12, clipped to RMS 1, moves θ as with λ = 0.
    let mut only_w = Model::new(steep, &[&[1e10]]);
    let mut no_decay = Model::new(FisherAdam { weight_decay: 0.0, ..steep }, &[&[1e10]]);
    only_w.step(&[&[1e-4]]);
    no_decay.step(&[&[1e-4]]);
    assert_eq!(only_w.snapshot(), no_decay.snapshot());
    assert!(only_w.state(0).exp_avg[0] > 0.09);
    // Only n overflows: θ decays as with a zero momentum.
    let mut only_n = Model::new(FisherAdam { betas: (0.0, 0.0), ..steep }, &[&[1e-20]]);
    only_n.step(&[&[1e-9]]);
    assert_eq!(only_n.state(0).exp_avg, [0.0]);
    assert!(only_n.parameters[0][0] < 0.0); // w is clipped to 1, η λ w = 1e-4
    // n and w themselves overflow: d = 1e-44, and ∞ · 0 must not be formed.
    let mut steeper = Model::new(FisherAdam { rho: 4.4, ..steep }, &[&[1.0, 2.0]]);
    steeper.step(&[&[1e-5, 1e-5]]);
    assert_eq!(steeper.parameters[0], [1.0, 2.0]);
    assert_eq!(steeper.state(0).exp_avg, [0.0, 0.0]);
    // The same in a tensor that is streamed.
    let (parameter, gradient) = (vec![1.0; 40_000], vec![1e-9; 40_000]);
    let mut large = one(steep, &parameter);
    large.step(&[&gradient]);
    assert_eq!(large.parameters[0], parameter);
}

#[test]
fn an_rms_of_zero_means_the_full_epsilon() {
    // With ε̂ = ε, w = 1/ε is clipped to RMS 1 and θ shrinks by ηλ; with ε̂ = 0, w and the decay were 0.
    for (gradient, policy) in [(0.0, NonFinite::Skip), (1e-30, NonFinite::Skip), (0.0, NonFinite::Propagate)]
    {
        for len in [3, 40_000] {
            let builder = Optimizer::builder(FisherAdam::default()).non_finite(policy);
            let mut model = Model::built(builder, &[&vec![1.0; len]]);
            model.step(&[&vec![gradient; len]]);
            let close = |p: &f32| (p - (1.0 - 1e-3 * 0.1)).abs() < 1e-7;
            assert!(model.parameters[0].iter().all(close), "{gradient}: {}", model.parameters[0][0]);
        }
    }
}

// Views

#[test]
fn any_element_offset_gives_the_same_bits() {
    for algorithm in algorithms() {
        for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
            for len in [1, 129, 4097] {
                let (parameter, gradient) = (noise(len, 1), noise(len, 2));
                let short: Vec<bf16> = gradient.iter().map(|&g| bf16::from_f32(g)).collect();
                let run = |parameter_offset: usize, gradient_offset: usize, f32_gradient: bool| {
                    let mut optimizer = Optimizer::builder(algorithm).simd(simd).build().unwrap();
                    let id = optimizer.register("p", len).unwrap();
                    let mut memory = vec![9.0; parameter_offset];
                    memory.extend(&parameter);
                    memory.push(9.0);
                    let (mut wide, mut narrow) =
                        (vec![f32::NAN; gradient_offset], vec![bf16::NAN; gradient_offset]);
                    wide.extend(&gradient);
                    narrow.extend(&short);
                    for _ in 0..2 {
                        let view = TensorMut::from(&mut memory[parameter_offset..][..len]);
                        let gradient: Tensor<'_> = match f32_gradient {
                            true => wide[gradient_offset..].into(),
                            false => narrow[gradient_offset..].into(),
                        };
                        optimizer.step(&mut [Update::new(id, view, gradient)]).unwrap();
                    }
                    assert!(memory[..parameter_offset].iter().all(|&x| x == 9.0));
                    assert_eq!(memory[parameter_offset + len], 9.0);
                    bits(&memory[parameter_offset..][..len])
                };
                for f32_gradient in [true, false] {
                    let aligned = run(0, 0, f32_gradient);
                    for (p, g) in [(1, 0), (0, 1), (1, 1), (3, 5), (7, 2)] {
                        assert_eq!(run(p, g, f32_gradient), aligned, "{algorithm:?} {simd} {len}: {p}, {g}");
                    }
                }
            }
        }
    }
}

// Around the step

#[test]
fn before_the_first_step_the_report_is_blank() {
    let mut model = Model::built(Optimizer::builder(Adam::default()).norms(true), &[&[1.0]]);
    assert_eq!(model.report(), Report::default());
    assert_eq!(model.optimizer.norms_of(model.ids[0]).unwrap(), None);
    let state = model.state(0);
    assert_eq!(
        (state.step, state.exp_avg, state.exp_avg_sq, state.max_exp_avg_sq),
        (0, vec![0.0], vec![0.0], None)
    );
}

#[test]
fn gradients_are_read_alone() {
    for algorithm in algorithms() {
        let builder = Optimizer::builder(algorithm).max_grad_norm(0.1);
        let mut optimizer = builder.build().unwrap();
        optimizer.set_grad_scale(8.0).unwrap();
        let id = optimizer.register("p", 200).unwrap();
        let (mut parameter, gradient) = (noise(200, 1), noise(200, 2));
        optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        assert_eq!(bits(&gradient), bits(&noise(200, 2)));
    }
}

#[test]
fn l2_decay_goes_through_the_moments_and_decoupled_decay_past_them() {
    let run = |decay| {
        let mut model = one(Adam { weight_decay: 0.5, decay, ..Adam::default() }, &[2.0]);
        model.step(&[&[0.0]]);
        (model.parameters[0][0], model.state(0).exp_avg[0])
    };
    let (l2, l2_moment) = run(Decay::L2);
    assert!((l2 - (2.0 - 1e-3)).abs() < 1e-6 && (l2_moment - 0.1).abs() < 1e-7);
    let (decoupled, moment) = run(Decay::Decoupled);
    assert!((decoupled - 2.0 * (1.0 - 5e-4)).abs() < 1e-6 && moment == 0.0);
}

#[test]
fn what_a_kernel_takes_must_fit_f32() {
    // As f32 these are infinite, and infinity times a zero gradient is NaN.
    let beyond = 1e39;
    let (adam, fadam, fisher) = (Adam::default(), FAdam::default(), FisherAdam::default());
    assert_refused(Optimizer::new(Adam { lr: beyond, ..adam }), "lr", beyond);
    assert_refused(Optimizer::new(Adam { weight_decay: beyond, ..adam }), "weight_decay", beyond);
    assert_refused(Optimizer::new(FAdam { eps0: beyond, ..fadam }), "eps0", beyond);
    assert_refused(Optimizer::new(FisherAdam { rho: beyond, ..fisher }), "rho", beyond);
    let inverse_beyond = 1.0 / beyond;
    assert_refused(
        Optimizer::new(adam).unwrap().set_grad_scale(inverse_beyond),
        "grad_scale",
        inverse_beyond,
    );
}
