//! One promise: the loss scale goes the way of torch's `GradScaler` (recorded), within bounds, and gradients of a scaled loss
//! step as those of the loss itself.

mod common;

use common::{Model, algorithms, noise};
use fadam::{Adam, Error, LossScale, NonFinite, Optimizer};
use serde_json::Value;

const RECORDED: &str = include_str!("golden/schedules.json");

fn scaled(loss_scale: LossScale) -> Model {
    Model::built(Optimizer::builder(Adam::default()).loss_scale(loss_scale), &[&[1.0]])
}

#[test]
fn scales_are_the_recorded_ones() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let scalers = recorded["scalers"].as_array().unwrap();
    assert_eq!(scalers.len(), 5);
    for case in scalers {
        let argument = |i: usize| case["arguments"][i].as_f64().unwrap();
        let loss_scale = LossScale {
            init_scale: argument(0),
            growth_factor: argument(1),
            backoff_factor: argument(2),
            growth_interval: argument(3) as u64,
        };
        let infinite: Vec<u64> =
            case["infinite"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).collect();
        let mut model = scaled(loss_scale);
        let mut before = loss_scale.init_scale;
        for (step, expected) in (0..).zip(case["scales"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap();
            let gradient = if infinite.contains(&step) { f32::INFINITY } else { 1.0 };
            let report = model.step(&[&[gradient]]);
            assert_eq!((report.skipped, report.loss_scale), (!gradient.is_finite(), Some(before)));
            before = model.optimizer.loss_scale().unwrap();
            // Theirs is an f32, and goes up to 2^127.
            let expected = expected.min(2_f64.powi(126));
            let tolerance = if loss_scale.growth_factor == 2.0 { 0.0 } else { expected * 2_f64.powi(-18) };
            assert!((before - expected).abs() <= tolerance, "{loss_scale:?}, {step}: {before}, {expected}");
        }
    }
}

#[test]
fn defaults_are_those_of_torch() {
    let LossScale { init_scale, growth_factor, backoff_factor, growth_interval } = LossScale::default();
    assert_eq!((init_scale, growth_factor, backoff_factor, growth_interval), (65536.0, 2.0, 0.5, 2000));
}

/// Powers of two are exact: the same bits as without any scale, whatever share of it `grad_scale` has.
#[test]
fn a_scaled_loss_steps_as_the_loss_itself() {
    let p = noise(300, 1);
    for algorithm in algorithms() {
        for clip in [1e3, 0.1] {
            let builder = || Optimizer::builder(algorithm).max_grad_norm(clip);
            let dynamic = LossScale { init_scale: 1024.0, growth_interval: 2, ..LossScale::default() };
            let mut plain = Model::built(builder(), &[&p]);
            let mut scaled = Model::built(builder().loss_scale(dynamic), &[&p]);
            scaled.optimizer.set_grad_scale(4.0).unwrap();
            for step in 0..6 {
                let scale = 4.0 * scaled.optimizer.loss_scale().unwrap() as f32;
                assert_eq!(scale, 4096.0 * [1.0, 1.0, 2.0, 2.0, 4.0, 4.0][step]);
                let g = noise(300, 2 + step as u64);
                let large: Vec<f32> = g.iter().map(|g| g * scale).collect();
                let (a, b) = (plain.step(&[&g]), scaled.step(&[&large]));
                assert_eq!(scaled.snapshot(), plain.snapshot(), "{algorithm:?}, step {step}");
                let figures = |report: fadam::Report| (report.grad_norm, report.clip_coefficient);
                assert_eq!(figures(a), figures(b));
                assert_eq!((a.loss_scale, b.loss_scale), (None, Some(f64::from(scale / 4.0))));
            }
        }
    }
}

#[test]
fn the_scale_stays_within_its_bounds() {
    let fast = LossScale { growth_interval: 1, ..LossScale::default() };
    let (floor, ceiling) = (2_f64.powi(-126), 2_f64.powi(126));
    let mut model = scaled(LossScale { init_scale: ceiling / 3.0, ..fast });
    let mut scales = |g: f32, count: usize| -> Vec<f64> {
        let mut next = || {
            model.step(&[&[g]]);
            model.optimizer.loss_scale().unwrap()
        };
        (0..count).map(|_| next()).collect()
    };
    assert_eq!(scales(1.0, 3), [ceiling / 3.0 * 2.0; 3]); // 4/3 of the ceiling would be beyond
    let down = scales(f32::NAN, 300);
    assert_eq!(down[0], ceiling / 3.0);
    assert_eq!(down[290..], [floor; 10]);
    assert_eq!(scales(0.0, 2), [2.0 * floor, 4.0 * floor]);
    // And it is used: 2⁻¹²⁶ is what f32 can still invert.
    let mut model = scaled(LossScale { init_scale: ceiling, ..fast });
    let report = model.step(&[&[f32::MAX]]);
    let norm = f64::from(f32::MAX) / ceiling; // its square is rounded to f32
    assert!((report.grad_norm.unwrap() / norm - 1.0).abs() < 2_f64.powi(-24));
    assert_eq!(model.optimizer.loss_scale().unwrap(), ceiling);
}

#[test]
fn what_is_judged_is_the_unscaled_gradient() {
    // Its square overflows f32 as it comes, and not once it is divided.
    let mut model = scaled(LossScale::default());
    assert!(!model.step(&[&[1e23]]).skipped);
    assert!(model.step(&[&[1e25]]).skipped);
    assert_eq!(model.optimizer.loss_scale().unwrap(), 32768.0);
}

#[test]
fn under_error_it_backs_off_as_well() {
    let builder = Optimizer::builder(Adam::default()).non_finite(NonFinite::Error);
    let mut model = Model::built(builder.loss_scale(LossScale::default()), &[&[1.0]]);
    let error = model.try_step(&[Some(vec![f32::NAN])]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 1, .. }), "{error:?}");
    assert_eq!(model.optimizer.loss_scale().unwrap(), 32768.0);
    assert_eq!(model.report().loss_scale, Some(65536.0));
}

#[test]
fn without_one_there_is_nothing_to_multiply_with() {
    let mut model = Model::new(Adam::default(), &[&[1.0]]);
    assert_eq!(model.optimizer.loss_scale().unwrap(), 1.0);
    assert_eq!(model.step(&[&[1.0]]).loss_scale, None);
    assert_eq!(model.optimizer.loss_scale().unwrap(), 1.0);
    assert_eq!(scaled(LossScale::default()).report().loss_scale, None); // before the first step
}

#[test]
fn loss_scales_outside_their_domain_are_refused() {
    let default = LossScale::default();
    let mut bad = vec![(LossScale { growth_interval: 0, ..default }, "growth_interval")];
    for init_scale in [0.0, -1.0, 1e-40, 1e38, f64::INFINITY, f64::NAN] {
        bad.push((LossScale { init_scale, ..default }, "init_scale"));
    }
    for growth_factor in [1.0, 0.5, -2.0, f64::INFINITY, f64::NAN] {
        bad.push((LossScale { growth_factor, ..default }, "growth_factor"));
    }
    for backoff_factor in [0.0, 1.0, -0.5, f64::NAN] {
        bad.push((LossScale { backoff_factor, ..default }, "backoff_factor"));
    }
    let refused = |builder: fadam::Builder, expected: &str| match builder.build().unwrap_err() {
        Error::Hyperparameter { name, .. } => assert_eq!(name, expected),
        other => panic!("{other:?}"),
    };
    for (loss_scale, name) in bad {
        refused(Optimizer::builder(Adam::default()).loss_scale(loss_scale), name);
    }
    // Nobody would notice the gradients that it is to react to.
    let unchecked = Optimizer::builder(Adam::default()).non_finite(NonFinite::Propagate).max_grad_norm(1.0);
    refused(unchecked.loss_scale(default), "loss_scale");
}
