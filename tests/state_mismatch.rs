//! One promise: a state of another optimizer is refused by an error that names the first difference, and nothing has
//! changed; for fine-tuning, what both have is loaded, and the rest is named.

mod common;
#[path = "common/paths.rs"]
mod paths;

use common::{Model, device, noise};
use fadam::{Adam, Algorithm, Builder, Error, FAdam, FisherAdam, Group, Loaded, Optimizer, Report};
use std::fs;
use std::path::{Path, PathBuf};

/// A file that is gone when the test is over.
struct Saved(PathBuf);

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn saved(name: &str, model: &mut Model) -> Saved {
    let path = paths::scratch(&format!("mismatch-{name}.safetensors"));
    model.optimizer.save(&path).unwrap();
    Saved(path)
}

/// Parameters `names` of `lengths` elements with two steps behind them, the second one skipped.
fn built(builder: Builder, names: &[&str], lengths: &[usize], groups: &[Group]) -> Model {
    let builder = builder.norms(true).max_grad_norm(1.0).device(device());
    let mut optimizer = builder.build().unwrap();
    let groups: Vec<_> = groups.iter().map(|group| optimizer.add_group(*group).unwrap()).collect();
    let ids = names.iter().zip(lengths).enumerate().map(|(i, (name, len))| match groups.get(i) {
        Some(group) => optimizer.register_in(*group, *name, *len, fadam::Dtype::F32).unwrap(),
        None => optimizer.register(*name, *len).unwrap(),
    });
    let ids: Vec<_> = ids.collect();
    let parameters: Vec<_> = lengths.iter().zip(1..).map(|(len, seed)| noise(*len, seed)).collect();
    let mut gradients = parameters.clone();
    let mut model = Model { optimizer, ids, dtypes: vec![fadam::Dtype::F32; lengths.len()], parameters };
    let step = |model: &mut Model, gradients: &[Vec<f32>]| {
        model.step(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
    };
    step(&mut model, &gradients);
    gradients[0][0] = f32::INFINITY; // unlike NaN it equals itself in a report
    step(&mut model, &gradients);
    model
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const LENGTHS: [usize; 3] = [5, 7, 2];

fn model(algorithm: impl Into<Algorithm>) -> Model {
    built(Optimizer::builder(algorithm), &NAMES, &LENGTHS, &[])
}

/// The reason for which a file is refused. Nothing has changed.
#[track_caller]
fn refused<T: std::fmt::Debug>(
    model: &mut Model,
    path: &Path,
    load: impl FnOnce(&mut Optimizer) -> Result<T, Error>,
) -> String {
    let before = (model.snapshot(), model.report());
    let norms: Vec<_> = model.ids.iter().map(|&id| model.optimizer.norms_of(id).unwrap()).collect();
    let error = load(&mut model.optimizer).unwrap_err();
    assert_eq!((model.snapshot(), model.report()), before, "{error}");
    let after: Vec<_> = model.ids.iter().map(|&id| model.optimizer.norms_of(id).unwrap()).collect();
    assert_eq!(after, norms, "{error}");
    let Error::State { path: named, what } = &error else { panic!("{error:?}") };
    assert_eq!(named, path);
    assert!(error.to_string().contains(what) && !what.contains('\n'), "{error}");
    what.clone()
}

/// Both ways of loading refuse it, for the same reason.
#[track_caller]
fn both_refuse(name: &str, mut there: Model, mut here: Model, expected: &str) {
    let file = saved(name, &mut there);
    let strict = refused(&mut here, &file.0, |optimizer| optimizer.load(&file.0));
    assert_eq!(strict, expected);
    let matching = refused(&mut here, &file.0, |optimizer| optimizer.load_matching(&file.0));
    assert_eq!(matching, expected);
}

#[test]
fn another_algorithm() {
    let of =
        ["it is of `adam`, this optimizer is `fadam`", "it is of `fisher_adam`, this optimizer is `adam`"];
    both_refuse("fadam", model(Adam::default()), model(FAdam::default()), of[0]);
    both_refuse("adam", model(FisherAdam::default()), model(Adam::default()), of[1]);
}

#[test]
fn another_length() {
    let there = built(Optimizer::builder(Adam::default()), &NAMES, &[5, 6, 2], &[]);
    let file = saved("length", &mut { there });
    let mut here = model(Adam::default());
    let strict = refused(&mut here, &file.0, |optimizer| optimizer.load(&file.0));
    assert_eq!(strict, "the length of parameter `b` is 6 in the file, 7 here");
}

/// For fine-tuning it keeps what it has.
#[test]
fn a_resized_parameter_is_left_out() {
    let mut there = built(Optimizer::builder(FAdam::default()), &["c", "b", "a"], &[2, 6, 5], &[]);
    let gradients = there.parameters.clone();
    there.step(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let file = saved("resized", &mut there);
    let mut here = model(FAdam::default());
    let own = here.state(1);
    let loaded = here.optimizer.load_matching(&file.0).unwrap();
    assert_eq!(loaded.resized, ["b"]);
    assert!(loaded.missing.is_empty() && loaded.unexpected.is_empty(), "{loaded:?}");
    assert_eq!((here.state(0), here.state(1), here.state(2)), (there.state(2), own, there.state(0)));
}

#[test]
fn other_betas() {
    let there = || model(Adam { betas: (0.8, 0.99), ..Adam::default() });
    let expected = "beta1 of parameter `a` is 0.8 in the file, 0.9 here";
    both_refuse("beta1", there(), model(Adam { betas: (0.9, 0.99), ..Adam::default() }), expected);
    let expected = "beta2 of parameter `a` is 0.99 in the file, 0.999 here";
    both_refuse("beta2", there(), model(Adam { betas: (0.8, 0.999), ..Adam::default() }), expected);
    // The next f64 is another number.
    let near = Adam { betas: (0.8, 0.99_f64.next_up()), ..Adam::default() };
    let expected = "beta2 of parameter `a` is 0.99 in the file, 0.9900000000000001 here";
    both_refuse("near", there(), model(near), expected);
    // Of a group.
    let group = Group { betas: Some((0.8, 0.99)), ..Group::default() };
    let there = built(Optimizer::builder(Adam::default()), &NAMES, &LENGTHS, &[Group::default(), group]);
    let expected = "beta1 of parameter `b` is 0.8 in the file, 0.9 here";
    both_refuse("group", there, model(Adam::default()), expected);
}

#[test]
fn a_maximum_that_only_one_of_them_keeps() {
    let amsgrad = || model(Adam { amsgrad: true, ..Adam::default() });
    let expected = "it has `max_exp_avg_sq/a`, which this optimizer does not keep";
    both_refuse("amsgrad", amsgrad(), model(Adam::default()), expected);
    let expected = "it has no `max_exp_avg_sq/a`, which this optimizer keeps";
    both_refuse("no-amsgrad", model(Adam::default()), amsgrad(), expected);
}

/// What `load` alone refuses: other parameters, or the same in another order.
#[test]
fn other_parameters() {
    let cases: [(&str, &[&str], &str); 4] = [
        ("order", &["a", "c", "b"], "parameter 1 is `c` in the file, `b` here"),
        ("name", &["a", "b", "d"], "parameter 2 is `d` in the file, `c` here"),
        ("fewer", &["a", "b"], "it has no parameter `c`"),
        ("more", &["a", "b", "c", "d"], "it has a parameter `d`, this optimizer has not"),
    ];
    for (name, names, expected) in cases {
        let lengths = names.iter().map(|name| if *name == "c" { 2 } else { 5 }).collect::<Vec<_>>();
        let mut there = built(Optimizer::builder(Adam::default()), names, &lengths, &[]);
        let file = saved(name, &mut there);
        let mut here = model(Adam::default());
        assert_eq!(refused(&mut here, &file.0, |optimizer| optimizer.load(&file.0)), expected);
    }
}

/// Every other hyper-parameter is the running optimizer's.
#[test]
fn other_hyper_parameters_are_no_mismatch() {
    let mut there = model(Adam { lr: 0.1, eps: 1e-3, weight_decay: 0.5, maximize: true, ..Adam::adamw() });
    let file = saved("hyper", &mut there);
    let group = Group { lr: Some(0.25), ..Group::default() };
    let mut here = built(Optimizer::builder(Adam::default()), &NAMES, &LENGTHS, &[group]);
    here.optimizer.load(&file.0).unwrap();
    assert_eq!(*here.optimizer.algorithm(), Adam::default().into());
    for i in 0..3 {
        assert_eq!(here.state(i), there.state(i));
    }
}

/// After loading, the counts are the file's, and nothing else is known of the last step.
#[test]
fn the_report_begins_anew_with_the_counts_of_the_file() {
    let fadam = FAdam { kappa: Some(1e-3), ..FAdam::default() }; // fires
    let mut there = model(fadam);
    let file = saved("report", &mut there);
    let mut here = model(fadam);
    let gradients = here.parameters.clone();
    here.step(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(here.report().step, 3);
    here.optimizer.load(&file.0).unwrap();
    let report = here.report();
    let Report { step, skipped, skipped_steps, clipped_updates, .. } = report;
    assert_eq!((step, skipped, skipped_steps, clipped_updates), (2, false, 1, 1));
    let Report { grad_norm, clip_coefficient, update_norm, update_clip, .. } = report;
    assert_eq!([grad_norm, clip_coefficient, update_norm, update_clip], [None; 4]);
    assert_eq!(here.optimizer.norms_of(here.ids[0]).unwrap(), None);
    let report = here.step(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!((report.step, report.skipped_steps, report.clipped_updates), (3, 1, 2));
    assert!(report.grad_norm.is_some());
}

#[test]
fn fine_tuning_loads_what_both_have() {
    let mut there = built(Optimizer::builder(Adam::default()), &["c", "x", "a", "y"], &[2, 4, 5, 1], &[]);
    let file = saved("matching", &mut there);
    let mut here = model(Adam::default());
    let gradients = here.parameters.clone();
    here.step(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (own, report) = (here.state(1), here.report());
    let Loaded { missing, unexpected, .. } = here.optimizer.load_matching(&file.0).unwrap();
    assert_eq!((missing, unexpected), (vec!["b".to_string()], vec!["x".to_string(), "y".to_string()]));
    assert_eq!(here.state(0), there.state(2));
    assert_eq!(here.state(1), own);
    assert_eq!(here.state(2), there.state(0));
    assert_eq!(here.report().step, report.step);
}
