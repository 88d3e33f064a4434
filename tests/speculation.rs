//! Which form FAdam's clipped step takes is a function of the configuration: speculative, Δ applied at once and the
//! surplus taken back, for κ ≥ ½√N (N registered elements) where Δ is bounded in every group (β1² < β2); else moments
//! first, then the clipped Δ. The two round differently, and that shows which one ran.

mod common;

use common::Model;
use fadam::{FAdam, Group, Optimizer};

const ELEMENTS: usize = 16;
/// So small that one form loses it on the way and the other keeps it.
const START: f32 = 2e-8;

/// One step with g = 1 and betas for which Δ is exactly 1, so ‖Δ‖ = 4: θ ← θ − κ/4, η = 1.
fn run(kappa: f64, mut prepare: impl FnMut(&mut Model), beta1: f64) -> f32 {
    let fadam = FAdam { lr: 1.0, betas: (beta1, 0.75), eps0: 0.0, kappa: Some(kappa), ..FAdam::default() };
    let mut model = Model::built(Optimizer::builder(fadam), &[&[START; ELEMENTS]]);
    prepare(&mut model);
    model.try_step(&[Some(vec![1.0_f32; ELEMENTS])]).unwrap();
    assert_eq!(model.report().update_norm, Some(4.0));
    let first = model.parameters[0][0];
    assert!(model.parameters[0].iter().all(|&p| p == first));
    first
}

/// θ ← (θ − 1) + (1 − κ/4)
fn speculative(kappa: f64) -> f32 {
    (START - 1.0) + (1.0 - kappa / 4.0) as f32
}

/// θ ← θ − κ/4
fn two_sweeps(kappa: f64) -> f32 {
    START - (kappa / 4.0) as f32
}

#[test]
fn kappa_decides_the_form() {
    let below = 2.0 - f64::EPSILON;
    for kappa in [2.0, 2.25, 3.0, 3.5] {
        assert_eq!(run(kappa, |_| {}, 0.0), speculative(kappa), "{kappa}");
    }
    for kappa in [below, 1.0, 0.5] {
        assert_eq!(run(kappa, |_| {}, 0.0), two_sweeps(kappa), "{kappa}");
    }
    assert_ne!(speculative(2.0), two_sweeps(2.0), "these values do not tell the forms apart");
}

#[test]
fn where_kappa_is_not_reached_both_forms_are_one_sweep() {
    assert_eq!(run(4.0, |_| {}, 0.0), START - 1.0);
    assert_eq!(run(5.0, |_| {}, 0.0), START - 1.0);
}

#[test]
fn elements_that_take_no_part_count() {
    let another = |m: &mut Model| {
        m.optimizer.register("another", 1).unwrap();
    };
    assert_eq!(run(2.0, another, 0.0), two_sweeps(2.0));
    let empty = |m: &mut Model| {
        m.optimizer.register("empty", 0).unwrap();
    };
    assert_eq!(run(2.0, empty, 0.0), speculative(2.0));
}

#[test]
fn a_group_whose_update_has_no_bound_forbids_speculation() {
    let group = |betas| {
        move |m: &mut Model| {
            m.optimizer.add_group(Group { betas: Some(betas), ..Group::default() }).unwrap();
        }
    };
    assert_eq!(run(2.0, group((0.9, 0.82)), 0.0), speculative(2.0)); // 0.81 < 0.82
    assert_eq!(run(2.0, group((0.9, 0.8)), 0.0), two_sweeps(2.0));
    assert_eq!(run(2.0, group((0.5, 0.25)), 0.0), two_sweeps(2.0)); // equality is no bound
}
