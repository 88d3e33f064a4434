//! One promise: a schedule's factors are those of Hugging Face's schedules under torch's `LambdaLR` (recorded), and a step
//! under a schedule is, bit for bit, a step with the learning rate that the factor makes; a skipped step is invisible to it.

mod common;

use common::{Model, algorithms, noise};
use fadam::{
    Adam, Algorithm, Dtype, Error, FAdam, FisherAdam, Group, NonFinite, Optimizer, Schedule, Update,
};
use serde_json::Value;

const RECORDED: &str = include_str!("golden/schedules.json");

/// A rounding each of the quotient, π × it, the cosine (libm's and theirs are within an ulp), two sums and two products,
/// each of a value of at most π: 2⁻⁵³ × (1 + 4 + 2 × 1 + 4).
const TOLERANCE: f64 = 12.0 / (1_u64 << 53) as f64;

#[test]
fn factors_are_the_recorded_ones() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let schedules = recorded["schedules"].as_array().unwrap();
    assert_eq!(schedules.len(), 10);
    for case in schedules {
        let step = |i: usize| case["arguments"][i].as_u64().unwrap();
        let floor = |i: usize| case["arguments"][i].as_f64().unwrap();
        let schedule = match case["kind"].as_str().unwrap() {
            "constant" => Schedule::constant(step(0)),
            "cosine" => Schedule::cosine(step(0), step(1), floor(2)),
            "linear" => Schedule::linear(step(0), step(1), floor(2)),
            "inverse_sqrt" => Schedule::inverse_sqrt(step(0), step(1)),
            "warmup_stable_decay" => Schedule::warmup_stable_decay(step(0), step(1), step(2), floor(3)),
            other => panic!("{other}"),
        };
        let factors = case["factors"].as_array().unwrap();
        assert_eq!(factors.len() as u64, schedule.steps() + 1, "{schedule:?}");
        for (step, factor) in (0..).zip(factors) {
            let (expected, found) = (factor.as_f64().unwrap(), schedule.factor(step));
            assert!((found - expected).abs() <= TOLERANCE, "{schedule:?}, step {step}: {found}, {expected}");
        }
    }
}

/// FNV-1a over the bits of some factors, recorded on x86-64: every platform has the same.
#[test]
fn factors_have_the_recorded_bits() {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for schedule in [
        Schedule::cosine(10, 3000, 0.1),
        Schedule::linear(7, 1000, 0.3),
        Schedule::inverse_sqrt(9, 1000),
        Schedule::warmup_stable_decay(3, 50, 700, 0.01),
    ] {
        for byte in (0..=schedule.steps()).flat_map(|step| schedule.factor(step).to_bits().to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(format!("{hash:016x}"), "1c4559a0c4da9515");
}

fn schedules() -> Vec<Schedule> {
    vec![
        Schedule::constant(0),
        Schedule::constant(3),
        Schedule::cosine(2, 6, 0.25),
        Schedule::cosine(0, 1, 1.0),
        Schedule::linear(2, 5, 0.0),
        Schedule::linear(0, 7, 0.3),
        Schedule::inverse_sqrt(2, 5),
        Schedule::warmup_stable_decay(1, 2, 3, 0.1),
        Schedule::warmup_stable_decay(0, 0, 1, 0.0),
    ]
}

#[test]
fn a_schedule_ends_where_it_says_and_stays_there() {
    for schedule in schedules() {
        let last = schedule.factor(schedule.steps());
        for step in [schedule.steps() + 1, 1 << 24, u64::MAX] {
            assert_eq!(schedule.factor(step), last, "{schedule:?}");
        }
        assert!((0..20).all(|step| (0.0..=1.0).contains(&schedule.factor(step))), "{schedule:?}");
    }
    assert_eq!(Schedule::cosine(10, 100, 0.3).factor(100), 0.3);
    assert_eq!(Schedule::linear(10, 100, 0.3).factor(100), 0.3);
    assert_eq!(Schedule::warmup_stable_decay(10, 50, 40, 0.3).factor(100), 0.3);
    assert_eq!(Schedule::inverse_sqrt(4, 100).factor(1000), 0.2);
}

/// A floor raises what comes after the warm-up, linearly.
#[test]
fn a_floor_is_approached_linearly() {
    for step in 5..=50 {
        for [bare, floored] in [
            [Schedule::cosine(5, 50, 0.0), Schedule::cosine(5, 50, 0.25)],
            [Schedule::linear(5, 50, 0.0), Schedule::linear(5, 50, 0.25)],
            [Schedule::warmup_stable_decay(5, 9, 30, 0.0), Schedule::warmup_stable_decay(5, 9, 30, 0.25)],
        ] {
            let expected = 0.25 + 0.75 * bare.factor(step);
            assert!((floored.factor(step) - expected).abs() <= TOLERANCE, "{floored:?}, step {step}");
        }
    }
}

/// All that a learning rate is used for: decay and its cap, κ that fires in either form.
fn all_algorithms() -> Vec<Algorithm> {
    let mut all = algorithms();
    all.push(
        FAdam { kappa: Some(16.0), weight_decay: 0.01, decay_cap: Some(1e-3), ..FAdam::default() }.into(),
    );
    all.push(Adam { lr: 0.1, weight_decay: 0.1, ..Adam::adamw() }.into());
    all
}

#[test]
fn a_scheduled_step_is_a_step_with_that_learning_rate() {
    let (p, q) = (noise(700, 1), noise(5, 2));
    for algorithm in all_algorithms() {
        for schedule in schedules() {
            let mut scheduled = Model::built(Optimizer::builder(algorithm).schedule(schedule), &[&p, &q]);
            let mut by_hand = Model::built(Optimizer::builder(algorithm), &[&p, &q]);
            for step in 0..9 {
                let factor = schedule.factor(step);
                assert_eq!(scheduled.optimizer.schedule_step().unwrap(), step);
                by_hand.optimizer.set_learning_rate(algorithm.learning_rate() * factor).unwrap();
                let gradients = [noise(700, 3 + step), noise(5, 30 + step)];
                let report = scheduled.step(&[&gradients[0], &gradients[1]]);
                by_hand.step(&[&gradients[0], &gradients[1]]);
                assert_eq!(scheduled.snapshot(), by_hand.snapshot(), "{algorithm:?}, {schedule:?}, {step}");
                assert_eq!(report.learning_rate_factor, Some(factor));
                assert_eq!(by_hand.report().learning_rate_factor, Some(1.0));
            }
            assert_eq!(scheduled.optimizer.algorithm().learning_rate(), algorithm.learning_rate());
        }
    }
}

/// The speculative form's κ has fired in these cases, or the test above is worth less than it seems.
#[test]
fn kappa_has_fired() {
    let FAdam { kappa, .. } = FAdam { kappa: Some(16.0), ..FAdam::default() };
    let p = noise(705, 1);
    let mut model = Model::new(FAdam { kappa, ..FAdam::default() }, &[&p]);
    assert!(model.step(&[&p]).update_norm.unwrap() > 16.0 && 16.0 > 0.5 * 705_f64.sqrt());
}

#[test]
fn every_group_is_scheduled() {
    let schedule = Schedule::linear(0, 4, 0.0);
    let run = |scheduled: bool| {
        let mut optimizer = Optimizer::new(Adam { lr: 0.5, ..Adam::adamw() }).unwrap();
        let group = optimizer.add_group(Group { lr: Some(0.125), ..Group::default() }).unwrap();
        let ids = [optimizer.register("a", 3), optimizer.register_in(group, "b", 3, Dtype::F32)]
            .map(Result::unwrap);
        let (mut a, mut b) = (noise(3, 1), noise(3, 2));
        if scheduled {
            optimizer.set_schedule(Some(schedule)).unwrap();
        }
        for step in 0..6 {
            if !scheduled {
                optimizer.set_learning_rate(0.5 * schedule.factor(step)).unwrap();
                optimizer.set_group_learning_rate(group, 0.125 * schedule.factor(step)).unwrap();
            }
            let g = noise(3, 5 + step);
            optimizer.step(&mut [Update::new(ids[0], &mut a, &g), Update::new(ids[1], &mut b, &g)]).unwrap();
        }
        [a, b]
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_skipped_step_does_not_advance_it_unless_it_counts_them() {
    let gradients = [1.0, f32::NAN, 1.0, f32::INFINITY, f32::INFINITY, 1.0];
    for counts in [false, true] {
        let schedule = Schedule::linear(0, 10, 0.0).counting_skipped(counts);
        let mut model = Model::built(Optimizer::builder(Adam::default()).schedule(schedule), &[&[1.0]]);
        let mut place = 0;
        for g in gradients {
            let report = model.step(&[&[g]]);
            assert_eq!(report.skipped, !g.is_finite());
            let factor = (!report.skipped).then_some(schedule.factor(place));
            assert_eq!(report.learning_rate_factor, factor, "counts skipped: {counts}");
            place += u64::from(counts || !report.skipped);
            assert_eq!(model.optimizer.schedule_step().unwrap(), place);
        }
    }
}

#[test]
fn a_new_schedule_goes_on_where_the_old_one_was() {
    let mut model = Model::built(Optimizer::builder(Adam::default()), &[&[1.0]]);
    assert_eq!(model.optimizer.schedule(), None);
    for (step, schedule) in [
        (0, None),
        (1, Some(Schedule::linear(0, 4, 0.0))),
        (2, Some(Schedule::linear(0, 4, 0.0).counting_skipped(true))),
        (3, Some(Schedule::cosine(0, 1000, 0.5))), // a longer one
        (4, None),
        (5, Some(Schedule::constant(10))), // a shorter one
    ] {
        model.optimizer.set_schedule(schedule).unwrap();
        assert_eq!(model.optimizer.schedule().copied(), schedule);
        let factor = schedule.map_or(1.0, |schedule| schedule.factor(step));
        assert_eq!(model.step(&[&[1.0]]).learning_rate_factor, Some(factor), "step {step}");
    }
}

#[test]
fn schedules_outside_their_domain_are_refused_and_change_nothing() {
    let bad: [(Schedule, &str); 12] = [
        (Schedule::cosine(0, 10, -0.1), "schedule.floor"),
        (Schedule::cosine(0, 10, f64::NAN), "schedule.floor"),
        (Schedule::linear(0, 10, 1.1), "schedule.floor"),
        (Schedule::warmup_stable_decay(1, 1, 1, f64::INFINITY), "schedule.floor"),
        (Schedule::cosine(10, 10, 0.0), "schedule.steps"),
        (Schedule::linear(11, 10, 0.0), "schedule.steps"),
        (Schedule::warmup_stable_decay(5, 5, 0, 0.0), "schedule.steps"),
        (Schedule::inverse_sqrt(10, 10), "schedule.steps"),
        (Schedule::inverse_sqrt(0, 10), "schedule.warmup_steps"),
        (Schedule::constant((1 << 24) + 1), "schedule.steps"),
        (Schedule::cosine(0, u64::MAX, 0.0), "schedule.steps"),
        (Schedule::warmup_stable_decay(u64::MAX, u64::MAX, u64::MAX, 0.0), "schedule.steps"),
    ];
    let mut model =
        Model::built(Optimizer::builder(Adam::default()).schedule(Schedule::constant(4)), &[&[1.0]]);
    for (schedule, expected) in bad {
        let refused = |error: Error| match error {
            Error::Hyperparameter { name, .. } => assert_eq!(name, expected, "{schedule:?}"),
            other => panic!("{schedule:?}: {other:?}"),
        };
        refused(Optimizer::builder(Adam::default()).schedule(schedule).build().unwrap_err());
        refused(model.optimizer.set_schedule(Some(schedule)).unwrap_err());
        assert_eq!(model.optimizer.schedule(), Some(&Schedule::constant(4)));
        let _ = [0, 1, u64::MAX].map(|step| schedule.factor(step)); // nothing sensible, and no panic
    }
    assert_eq!(model.step(&[&[1.0]]).learning_rate_factor, Some(0.0));
    // The longest is legal.
    Optimizer::builder(FisherAdam::default()).schedule(Schedule::constant(1 << 24)).build().unwrap();
}

/// Under `Error` a step that did not take place does not count either.
#[test]
fn an_error_does_not_advance_it() {
    let builder = Optimizer::builder(Adam::default()).non_finite(NonFinite::Error);
    let mut model = Model::built(builder.schedule(Schedule::constant(4)), &[&[1.0]]);
    model.try_step(&[Some(vec![f32::NAN])]).unwrap_err();
    assert_eq!(model.optimizer.schedule_step().unwrap(), 0);
    assert_eq!(model.report().learning_rate_factor, None);
}
