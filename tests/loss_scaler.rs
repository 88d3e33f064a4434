//! One promise: optimizers that share a loss scale divide by one scale, and an overflow in any of them is seen by all.
//!
//! On the CPU, and on a GPU where there is one.

use fadam::{Adam, Device, Error, LossScale, LossScaler, NonFinite, Optimizer, Report};

mod common;

use common::Model;

const SETTINGS: LossScale =
    LossScale { init_scale: 1024.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 3 };

fn sharing(scaler: &LossScaler) -> Model {
    Model::built(Optimizer::builder(Adam::adamw()).loss_scaler(scaler), &[&[1.0]])
}

/// One iteration: which of two optimizers overflow, and what they say.
fn iterate(scaler: &LossScaler, models: &mut [Model; 2], overflow: [bool; 2]) -> [Report; 2] {
    let scale = scaler.scale() as f32;
    let mut reports = [Report::default(); 2];
    for ((model, overflow), report) in models.iter_mut().zip(overflow).zip(&mut reports) {
        let gradient = if overflow { f32::INFINITY } else { 0.5 * scale };
        *report = model.step(&[&[gradient]]);
        assert_eq!(report.loss_scale, Some(f64::from(scale)));
        assert_eq!(report.skipped, overflow);
        assert_eq!(report.grad_norm.filter(|_| !overflow), (!overflow).then_some(0.5));
    }
    scaler.update();
    reports
}

#[test]
fn an_overflow_in_either_is_seen_by_both() {
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let mut models = [sharing(&scaler), sharing(&scaler)];
    let rows = [
        ([true, false], 512.0),
        ([false, true], 256.0),
        ([false, false], 256.0),
        ([true, true], 128.0), // once an iteration, not once an optimizer
        ([false, false], 128.0),
        ([false, false], 128.0),
        ([false, false], 256.0),
        ([false, false], 256.0),
    ];
    for (overflow, scale) in rows {
        iterate(&scaler, &mut models, overflow);
        assert_eq!(scaler.scale(), scale, "{overflow:?}");
        assert!(models.iter_mut().all(|model| model.optimizer.loss_scale().unwrap() == scale));
    }
}

#[test]
fn it_goes_the_way_of_a_scale_of_its_own() {
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let mut shared = sharing(&scaler);
    let mut own = Model::built(Optimizer::builder(Adam::adamw()).loss_scale(SETTINGS), &[&[1.0]]);
    for step in 0..20 {
        let scale = own.optimizer.loss_scale().unwrap();
        assert_eq!(scaler.scale(), scale);
        let gradient = if step % 7 == 4 { f32::INFINITY } else { 0.3 * scale as f32 };
        let (a, b) = (shared.step(&[&[gradient]]), own.step(&[&[gradient]]));
        assert_eq!(a, b);
        assert_eq!(shared.snapshot(), own.snapshot());
        scaler.update();
        scaler.update(); // nothing has stepped in between
    }
}

#[test]
fn grad_scale_goes_with_it() {
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let mut model = sharing(&scaler);
    model.optimizer.set_grad_scale(4.0).unwrap();
    assert_eq!(model.step(&[&[2.0 * 1024.0]]).grad_norm, Some(0.5));
}

#[test]
fn it_is_saved_and_loaded_with_each_optimizer() {
    let folder = std::env::temp_dir();
    let paths = [0, 1].map(|i| folder.join(format!("fadam-loss-scaler-{}-{i}", std::process::id())));
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let mut models = [sharing(&scaler), sharing(&scaler)];
    let overflows = [[true, false], [false, false], [false, false]];
    for overflow in overflows {
        iterate(&scaler, &mut models, overflow);
    }
    for (model, path) in models.iter_mut().zip(&paths) {
        model.optimizer.save(path).unwrap();
    }
    let resumed_scaler = LossScaler::new(SETTINGS).unwrap();
    let mut resumed = [sharing(&resumed_scaler), sharing(&resumed_scaler)];
    for (model, path) in resumed.iter_mut().zip(&paths) {
        model.optimizer.load(path).unwrap();
        std::fs::remove_file(path).unwrap();
    }
    for _ in 0..4 {
        assert_eq!(resumed_scaler.scale(), scaler.scale());
        iterate(&scaler, &mut models, [false, false]);
        iterate(&resumed_scaler, &mut resumed, [false, false]);
    }
    assert_eq!(scaler.scale(), 2048.0); // the third good step, and three more
}

#[test]
fn what_excludes_it_is_refused() {
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let builder = || Optimizer::builder(Adam::adamw()).loss_scaler(&scaler);
    let both = builder().loss_scale(SETTINGS).build().unwrap_err();
    assert!(matches!(both, Error::Options { reason } if reason.contains("one scale")), "{both}");
    let unchecked = builder().non_finite(NonFinite::Propagate).build().unwrap_err();
    assert!(matches!(unchecked, Error::Options { reason } if reason.contains("finite check")), "{unchecked}");
    let bad = LossScaler::new(LossScale { growth_factor: 0.5, ..SETTINGS }).unwrap_err();
    assert!(matches!(bad, Error::Hyperparameter { name: "growth_factor", .. }), "{bad}");
}

#[test]
fn an_error_policy_tells_the_others_too() {
    let scaler = LossScaler::new(SETTINGS).unwrap();
    let builder = Optimizer::builder(Adam::adamw()).loss_scaler(&scaler).non_finite(NonFinite::Error);
    let mut optimizer = builder.device(Device::Cpu).build().unwrap();
    let id = optimizer.register("w", 1).unwrap();
    let error = optimizer.step(&mut [fadam::Update::new(id, &mut [1.0_f32], &[f32::NAN])]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    scaler.update();
    assert_eq!(scaler.scale(), 512.0);
}
