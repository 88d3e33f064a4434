//! One promise: the format of state files is what is documented, other people's safetensors reads it, and a file that was
//! written once can be read for ever.

mod common;
#[path = "common/paths.rs"]
mod paths;

use common::Model;
use fadam::{Adam, Algorithm, Builder, FAdam, FisherAdam, Group, NonFinite, Optimizer};
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

fn file(name: &str) -> PathBuf {
    paths::scratch(&format!("format-{name}.safetensors"))
}

/// Three parameters in two groups, one of them empty; two steps, the second skipped.
fn model(builder: Builder) -> Model {
    let mut optimizer = builder.build().unwrap();
    let group = Group { lr: Some(0.25), betas: Some((0.5, 0.75)), eps: Some(1e-6), weight_decay: None };
    let group = optimizer.add_group(group).unwrap();
    let ids = vec![
        optimizer.register("layers.0/w", 3).unwrap(),
        optimizer.register_in(group, "é\"\n", 1, fadam::Dtype::F32).unwrap(),
        optimizer.register("empty", 0).unwrap(),
    ];
    let mut model = Model {
        optimizer,
        ids,
        dtypes: vec![fadam::Dtype::F32; 3],
        parameters: vec![vec![1.0, -2.0, 0.5], vec![4.0], vec![]],
    };
    let gradients = [Some(vec![0.5_f32, 0.25, -1.0]), None, Some(vec![])];
    model.try_step(&gradients).unwrap();
    let gradients = [None, Some(vec![f32::NAN]), None];
    model.try_step(&gradients).unwrap();
    model
}

fn adam() -> Builder {
    Optimizer::builder(Adam { amsgrad: true, ..Adam::adamw() })
}

fn saved(name: &str, model: &mut Model) -> Vec<u8> {
    let path = file(name);
    model.optimizer.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

fn metadata(bytes: &[u8]) -> HashMap<String, String> {
    SafeTensors::read_metadata(bytes).unwrap().1.metadata().clone().unwrap()
}

fn document(metadata: &HashMap<String, String>, key: &str) -> Value {
    serde_json::from_str(&metadata[key]).unwrap()
}

#[test]
fn the_tensors_are_those_of_the_optimizer() {
    let mut model = model(adam());
    let bytes = saved("tensors", &mut model);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 9);
    let metadata = metadata(&bytes);
    let checksums = document(&metadata, "checksums");
    assert_eq!(checksums.as_object().unwrap().len(), 9);
    for (i, name) in ["layers.0/w", "é\"\n", "empty"].into_iter().enumerate() {
        let state = model.state(i);
        let slots = [
            ("exp_avg", state.exp_avg),
            ("exp_avg_sq", state.exp_avg_sq),
            ("max_exp_avg_sq", state.max_exp_avg_sq.unwrap()),
        ];
        for (slot, values) in slots {
            let name = format!("{slot}/{name}");
            let tensor = tensors.tensor(&name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[values.len()][..]));
            let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(tensor.data(), expected, "{name}");
            assert_eq!(checksums[&name], format!("{:08x}", crc32fast::hash(&expected)), "{name}");
        }
    }
}

#[test]
fn the_metadata_are_those_of_the_optimizer() {
    let bytes = saved("metadata", &mut model(adam()));
    let metadata = metadata(&bytes);
    let mut keys: Vec<_> = metadata.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "checksums",
        "counters",
        "format",
        "groups",
        "header_checksum",
        "optimizer",
        "parameters",
        "version",
    ];
    assert_eq!(keys, expected);
    assert_eq!((metadata["format"].as_str(), metadata["version"].as_str()), ("fadam-state", "1"));
    let groups = json!([
        { "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01 },
        { "lr": 0.25, "beta1": 0.5, "beta2": 0.75, "eps": 1e-6, "weight_decay": 0.01 },
    ]);
    assert_eq!(document(&metadata, "groups"), groups);
    assert_eq!(
        document(&metadata, "counters"),
        json!({
            "step": 2, "skipped_steps": 1, "clipped_updates": 0, "schedule_step": 1, "loss_scale": "0000000000000000", "good_steps": 0,
        })
    );
    let power = |power: f64| format!("{:016x}", power.to_bits());
    let parameter = |name: &str, len: usize, group: usize, step: u64, powers: [f64; 2]| {
        json!({
            "name": name, "len": len, "dtype": "f32", "group": group, "step": step, "start": step,
            "beta1_power": power(powers[0]), "beta2_power": power(powers[1]),
        })
    };
    let parameters = json!([
        parameter("layers.0/w", 3, 0, 1, [0.9, 0.999]),
        parameter("é\"\n", 1, 1, 0, [1.0, 1.0]),
        parameter("empty", 0, 0, 1, [0.9, 0.999]),
    ]);
    assert_eq!(document(&metadata, "parameters"), parameters);
    // The header's checksum is that of the header with zeros in its place; the data begin at a multiple of eight.
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let sum = &metadata["header_checksum"];
    let field = |sum: &str| format!("\"header_checksum\":\"{sum}\"");
    let blank = header.replacen(&field(sum), &field("00000000"), 1);
    assert_eq!(*sum, format!("{:08x}", crc32fast::hash(blank.as_bytes())));
    assert!(length.is_multiple_of(8));
}

/// That `replay` takes it is in examples/programs/tests/replay/state.rs.
#[test]
fn the_configuration_is_that_of_the_optimizer() {
    let cases: [(Algorithm, Value); 4] = [
        (
            Adam {
                lr: 0.1,
                betas: (0.8, 0.9),
                eps: 1e-6,
                weight_decay: 0.5,
                maximize: true,
                ..Adam::default()
            }
            .into(),
            json!({
                "algorithm": "adam", "lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.5,
                "decay": "l2", "amsgrad": false, "maximize": true,
            }),
        ),
        (
            Adam { amsgrad: true, ..Adam::adamw() }.into(),
            json!({
                "algorithm": "adam", "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01,
                "decay": "decoupled", "amsgrad": true, "maximize": false,
            }),
        ),
        (
            FAdam { kappa: Some(2.0), eps_decay: 0.125, eps0: 1e-7, weight_decay: 0.5, ..FAdam::default() }
                .into(),
            json!({
                "algorithm": "fadam", "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps0": 1e-7, "eps_decay": 0.125,
                "weight_decay": 0.5, "kappa": 2.0, "decay_cap": null,
            }),
        ),
        (
            FisherAdam { rho: 0.25, clip: 3.0, eps2: 0.5, ..FisherAdam::default() }.into(),
            json!({
                "algorithm": "fisher_adam", "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps2": 0.5,
                "rho": 0.25, "clip": 3.0, "weight_decay": 0.1,
            }),
        ),
    ];
    for (i, (algorithm, mut expected)) in cases.into_iter().enumerate() {
        let (policy, word) = [(NonFinite::Skip, "skip"), (NonFinite::Propagate, "propagate")][i % 2];
        let mut optimizer =
            Optimizer::builder(algorithm).max_grad_norm(1.5).non_finite(policy).build().unwrap();
        optimizer.set_grad_scale(1024.0).unwrap();
        expected["max_grad_norm"] = json!(1.5);
        expected["grad_scale"] = json!(1024.0);
        expected["non_finite"] = json!(word);
        expected["master"] = json!("remainder");
        expected["moments"] = json!("f32");
        expected["seed"] = json!(0);
        let path = file(&format!("configuration-{i}"));
        optimizer.save(&path).unwrap();
        let metadata = metadata(&fs::read(&path).unwrap());
        assert_eq!(document(&metadata, "optimizer"), expected);
        fs::remove_file(path).unwrap();
    }
}

/// After a change of the format that is meant, FADAM_RECORD_STATE=1 writes the file anew; one of the old version stays, for
/// `load` to read.
#[test]
fn a_file_of_long_ago_is_read() {
    let path = paths::repository("tests/golden/state/v1.safetensors");
    let mut model = model(adam());
    let bytes = saved("golden", &mut model);
    if std::env::var_os("FADAM_RECORD_STATE").is_some() {
        fs::write(&path, &bytes).unwrap();
    }
    let before = model.snapshot();
    let mut other = self::model(adam());
    other.try_step(&[Some(vec![1.0_f32; 3]), Some(vec![1.0]), None]).unwrap();
    assert!(other.snapshot() != before);
    other.parameters.clone_from(&model.parameters);
    other.optimizer.load(&path).unwrap();
    assert!(other.snapshot() == before);
    assert!(fs::read(&path).unwrap() == bytes, "the format has changed: see above");
}

/// Without any parameter.
#[test]
fn an_optimizer_of_nothing() {
    let path = file("nothing");
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    optimizer.step(&mut []).unwrap();
    optimizer.save(&path).unwrap();
    let mut other = Optimizer::new(Adam::default()).unwrap();
    other.load(&path).unwrap();
    assert_eq!(other.report().unwrap().step, 1);
    assert_eq!(SafeTensors::deserialize(&fs::read(&path).unwrap()).unwrap().len(), 0);
    fs::remove_file(path).unwrap();
}
