//! Everything that is refused: exit 1, one plain line that says what and why, and no file left behind.

use crate::file::{File, Tensor, raw};
use crate::program::{Folder, Run, gpus, replay, replayed, run};
use serde_json::{Value, json};
use std::fs;

/// Two steps of one parameter.
fn small() -> File {
    let mut file = File::default();
    file.set_optimizer(&json!({"algorithm": "adam"}));
    for name in ["param/a/w.0", "grad/1/a/w.0", "grad/2/a/w.0"] {
        file.tensors.insert(name.into(), Tensor::f32(&[2], &[0.5, -2.0]));
    }
    file
}

/// The same with a bf16 parameter.
fn small_bf16() -> File {
    let mut file = small();
    let parameter = file.tensors["param/a/w.0"].narrowed();
    file.tensors.insert("param/a/w.0".into(), parameter);
    file
}

fn with_optimizer(text: &str) -> Vec<u8> {
    let mut file = small();
    file.metadata.insert("optimizer".into(), text.into());
    file.bytes()
}

fn replayed_with(file: &File, optimizer: &Value) -> Vec<u8> {
    let mut file = file.clone();
    file.set_optimizer(optimizer);
    replayed(&file.bytes(), &[])
}

fn with_tensor(name: &str, tensor: Tensor) -> Vec<u8> {
    let mut file = small();
    file.tensors.insert(name.into(), tensor);
    file.bytes()
}

fn f32s() -> Tensor {
    Tensor::f32(&[2], &[1.0, 2.0])
}

fn dtype(dtype: &str, size: usize) -> Tensor {
    Tensor { dtype: dtype.into(), shape: vec![2], bytes: vec![0; 2 * size] }
}

/// One line on stderr, nothing in the folder.
fn assert_plain(what: &str, run: &Run) {
    assert_eq!(run.code, Some(1), "{what}: exit code; stderr: {}", run.stderr);
    let lines: Vec<&str> = run.stderr.split_terminator('\n').collect();
    assert!(lines.len() == 1 && run.stderr.ends_with('\n'), "{what}: not one line: {:?}", run.stderr);
    assert!(
        lines[0].starts_with("error: ") && !lines[0].contains(|c: char| c.is_control()),
        "{what}: {lines:?}"
    );
    assert!(run.out.is_none(), "{what}: OUT was written");
    assert!(run.litter.is_empty(), "{what}: left behind {:?}", run.litter);
}

fn assert_refused(what: &str, input: &[u8], args: &[&str], words: &[&str]) {
    let run = replay(input, args);
    assert_plain(what, &run);
    for word in words {
        assert!(run.stderr.contains(word), "{what}: `{word}` is not in: {}", run.stderr);
    }
}

#[test]
fn what_is_refused_here_is_else_accepted() {
    let out = File::parse(&replayed(&small().bytes(), &[]));
    assert_eq!(out.report("report").len(), 2);
    let tensors = ["exp_avg/a/w.0", "exp_avg_sq/a/w.0", "param/a/w.0"];
    assert_eq!(out.tensors.keys().collect::<Vec<_>>(), tensors);
    let out = File::parse(&replayed(&small_bf16().bytes(), &[]));
    let with_master = ["exp_avg/a/w.0", "exp_avg_sq/a/w.0", "master/a/w.0", "param/a/w.0"];
    assert_eq!(out.tensors.keys().collect::<Vec<_>>(), with_master);
}

#[test]
fn every_key_is_checked() {
    const AT_LEAST_0: &str = "expected a finite number of at least 0";
    const ABOVE_0: &str = "expected a finite number greater than 0";
    const BETA: &str = "expected a number in [0, 1)";
    let domains = [
        ("adam", vec!["lr", "eps", "weight_decay"], AT_LEAST_0),
        ("fadam", vec!["lr", "eps0", "eps_decay", "weight_decay"], AT_LEAST_0),
        ("fisher_adam", vec!["lr", "eps", "eps2", "weight_decay"], AT_LEAST_0),
        ("adam", vec!["grad_scale", "max_grad_norm"], ABOVE_0),
        ("fadam", vec!["grad_scale", "max_grad_norm", "kappa", "decay_cap"], ABOVE_0),
        ("fisher_adam", vec!["grad_scale", "max_grad_norm", "rho", "clip"], ABOVE_0),
        ("adam", vec!["beta1", "beta2"], BETA),
        ("fadam", vec!["beta1", "beta2"], BETA),
        ("fisher_adam", vec!["beta1", "beta2"], BETA),
    ];
    for (algorithm, keys, expected) in domains {
        for key in keys {
            let mut wrong = vec!["-1e-300", "\"0.5\"", "true", "{}", "[[0.5]]", "[\"0.5\", 1]"];
            match expected {
                BETA => wrong.extend(["1", "1.0", "2"]),
                ABOVE_0 => wrong.extend(["0", "0.0", "-0.0"]),
                _ => {}
            }
            if !["max_grad_norm", "kappa", "decay_cap"].contains(&key) {
                wrong.push("null");
            }
            if key != "lr" {
                wrong.push("[0.5, 0.5]");
            }
            for value in wrong {
                let optimizer = format!("{{\"algorithm\": \"{algorithm}\", \"{key}\": {value}}}");
                let named =
                    if key == "lr" && value.starts_with('[') { "`lr[0]`" } else { &format!("`{key}`") };
                assert_refused(&optimizer, &with_optimizer(&optimizer), &[], &["key", named, expected]);
            }
            for value in ["NaN", "Infinity", "1e999"] {
                let optimizer = format!("{{\"algorithm\": \"{algorithm}\", \"{key}\": {value}}}");
                assert_refused(
                    &optimizer,
                    &with_optimizer(&optimizer),
                    &[],
                    &[&format!("key `{key}`"), "column"],
                );
            }
        }
    }
}

#[test]
fn every_word_is_checked() {
    let words = [
        ("algorithm", "expected \"adam\" or \"fadam\" or \"fisher_adam\""),
        ("non_finite", "expected \"skip\" or \"error\" or \"propagate\""),
        ("master", "expected \"f32\" or \"remainder\" or \"none\""),
        ("rounding", "expected \"nearest\" or \"stochastic\""),
        ("moments", "expected \"f32\" or \"bf16\""),
        ("decay", "expected \"l2\" or \"decoupled\""),
        ("amsgrad", "expected true or false"),
        ("maximize", "expected true or false"),
        ("seed", "expected a whole number from 0 to 18446744073709551615"),
    ];
    for (key, expected) in words {
        let others = ["other", "Adam", "F32", "BF16", "Nearest", "remainder ", "1", ""].map(Value::from);
        let no_words = [json!(null), json!(-1), json!(0.5), json!(1.0), json!(1e300), json!([]), json!({})];
        for value in others.into_iter().chain(no_words) {
            let mut optimizer = json!({"algorithm": "adam"});
            optimizer[key] = value;
            let bytes = with_optimizer(&optimizer.to_string());
            assert_refused(&optimizer.to_string(), &bytes, &[], &[&format!("key `{key}`"), expected]);
        }
    }
}

#[test]
fn keys_of_no_algorithm_and_of_another() {
    let own = [
        ("adam", ["eps0", "eps_decay", "kappa", "decay_cap", "eps2", "rho", "clip"].as_slice()),
        ("fadam", &["eps", "decay", "amsgrad", "maximize", "eps2", "rho", "clip"]),
        ("fisher_adam", &["eps0", "eps_decay", "kappa", "decay_cap", "decay", "amsgrad", "maximize"]),
    ];
    for (algorithm, others) in own {
        for key in others {
            let optimizer = format!("{{\"algorithm\": \"{algorithm}\", \"{key}\": 1}}");
            let words = [&format!("key `{key}` belongs to "), algorithm, "expected"];
            assert_refused(&optimizer, &with_optimizer(&optimizer), &[], &words);
        }
        for key in ["betas", "LR", "lr ", "", "learning_rate", "a\\nb"] {
            let optimizer = format!("{{\"algorithm\": \"{algorithm}\", \"{key}\": 1}}");
            let words = [&format!("key `{key}` is unknown; expected"), algorithm, "max_grad_norm"];
            assert_refused(&optimizer, &with_optimizer(&optimizer), &[], &words);
        }
    }
}

#[test]
fn the_optimizer_as_a_whole() {
    let cases: [(&str, &[&str]); 11] = [
        ("", &["metadata `optimizer`"]),
        ("{", &["metadata `optimizer`"]),
        ("null", &["metadata `optimizer`", "expected one JSON object"]),
        ("[]", &["metadata `optimizer`", "expected one JSON object"]),
        ("{}", &["key `algorithm` is missing", "fisher_adam"]),
        (r#"{"algorithm": "adam"} {}"#, &["metadata `optimizer`", "trailing"]),
        (r#"{"algorithm": "adam", "lr": 1, "lr": 1}"#, &["key `lr` occurs twice"]),
        (r#"{"algorithm": "adam", "lr": []}"#, &["key `lr`", "0 numbers", "expected 2"]),
        (r#"{"algorithm": "adam", "lr": [1]}"#, &["key `lr`", "1 numbers", "expected 2"]),
        (r#"{"algorithm": "fadam", "lr": [1, 1, 1]}"#, &["key `lr`", "3 numbers", "expected 2"]),
        (r#"{"algorithm": "fadam", "lr": [1, null]}"#, &["key `lr[1]` is null", "at least 0"]),
    ];
    for (optimizer, words) in cases {
        assert_refused(optimizer, &with_optimizer(optimizer), &[], words);
    }
    let mut file = small();
    file.metadata = [("Optimizer".to_string(), "{}".to_string())].into();
    assert_refused("no optimizer", &file.bytes(), &[], &["metadata `optimizer` is missing"]);
}

/// It acts on parameters without a master and on bf16 moments. Whether one is in the file makes no difference.
#[test]
fn rounding_where_nothing_is_rounded() {
    let keys = [
        (json!({}), false),
        (json!({"moments": "f32"}), false),
        (json!({"master": "f32"}), false),
        (json!({"master": "remainder", "moments": "f32"}), false),
        (json!({"master": "none"}), true),
        (json!({"master": "none", "moments": "f32"}), true),
        (json!({"moments": "bf16"}), true),
        (json!({"master": "f32", "moments": "bf16"}), true),
        (json!({"master": "none", "moments": "bf16"}), true),
    ];
    for (keys, acts) in keys {
        for (algorithm, rounding) in
            [("adam", "nearest"), ("fadam", "stochastic"), ("fisher_adam", "nearest")]
        {
            let mut optimizer = json!({"algorithm": algorithm, "rounding": rounding});
            optimizer.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            for mut file in [small(), small_bf16()] {
                file.set_optimizer(&optimizer);
                if acts {
                    replayed(&file.bytes(), &[]);
                } else {
                    let words = [
                        "metadata `optimizer`",
                        "key `rounding`",
                        "nothing is rounded",
                        "expected no such key",
                    ];
                    assert_refused(&optimizer.to_string(), &file.bytes(), &[], &words);
                }
            }
        }
    }
}

#[test]
fn tensors() {
    let matrix = Tensor::f32(&[1, 2], &[1.0, 2.0]);
    const FORM: &str = "of another form, expected a name `param/<name>` or `grad/<t>/<name>`";
    let cases: Vec<(&str, Tensor, &[&str])> = vec![
        ("w", f32s(), &["`w`", FORM]),
        ("", f32s(), &["``", FORM]),
        ("param", f32s(), &["`param`", FORM]),
        ("param/", f32s(), &["`param/`", FORM]),
        ("params/w", f32s(), &["`params/w`", FORM]),
        ("expect/param/w", f32s(), &["`expect/param/w`", FORM]),
        ("exp_avg/a/w.0", f32s(), &["`exp_avg/a/w.0`", FORM]),
        ("grad/1", f32s(), &["`grad/1`", FORM]),
        ("grad/1/", f32s(), &["`grad/1/`", FORM]),
        ("Grad/1/a/w.0", f32s(), &["`Grad/1/a/w.0`", FORM]),
        ("evil\u{1b}[2J\nname", f32s(), &[r"`evil\u{1b}[2J\nname`", FORM]),
        ("grad/0/a/w.0", f32s(), &["`grad/0/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad//a/w.0", f32s(), &["`grad//a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/-1/a/w.0", f32s(), &["`grad/-1/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/+1/a/w.0", f32s(), &["`grad/+1/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/01/a/w.0", f32s(), &["`grad/01/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/1.0/a/w.0", f32s(), &["`grad/1.0/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/a/w.0", f32s(), &["`grad/a/w.0`", "expected t = 1, 2, 3"]),
        ("grad/500001/a/w.0", f32s(), &["`grad/500001/a/w.0`", "expected at most 500000"]),
        ("grad/99999999999999999999/a/w.0", f32s(), &["expected at most 500000"]),
        ("grad/1/v", f32s(), &["`grad/1/v`", "unknown parameter", "`param/v`"]),
        ("grad/1/a", f32s(), &["`grad/1/a`", "unknown parameter"]),
        ("grad/3/a/w.0", matrix, &["`grad/3/a/w.0`", "shape [1, 2], expected [2]"]),
        ("grad/3/a/w.0", Tensor::f32(&[3], &[0.0; 3]), &["`grad/3/a/w.0`", "shape [3], expected [2]"]),
        ("grad/3/a/w.0", Tensor::f32(&[], &[0.0]), &["`grad/3/a/w.0`", "shape [], expected [2]"]),
        ("param/b", dtype("F16", 2), &["`param/b` is F16, expected F32 or BF16"]),
        ("param/b", dtype("I16", 2), &["`param/b` is I16, expected F32 or BF16"]),
        ("param/b", dtype("U16", 2), &["`param/b` is U16, expected F32 or BF16"]),
        ("param/b", dtype("F8_E4M3", 1), &["`param/b` is F8_E4M3, expected F32 or BF16"]),
        ("param/b", dtype("I64", 8), &["`param/b` is I64, expected F32 or BF16"]),
        ("param/b", dtype("I32", 4), &["`param/b` is I32, expected F32 or BF16"]),
        ("param/b", dtype("F64", 8), &["`param/b` is F64, expected F32 or BF16"]),
        ("param/b", dtype("BOOL", 1), &["`param/b` is BOOL, expected F32 or BF16"]),
        ("grad/1/a/w.0", dtype("U8", 1), &["`grad/1/a/w.0` is U8, expected F32 or BF16"]),
        ("grad/1/a/w.0", dtype("I64", 8), &["`grad/1/a/w.0` is I64, expected F32 or BF16"]),
        ("grad/1/a/w.0", dtype("F16", 2), &["`grad/1/a/w.0` is F16, expected F32 or BF16"]),
    ];
    for (name, tensor, words) in cases {
        assert_refused(name, &with_tensor(name, tensor), &[], words);
    }
    // As large as an F32 gradient of half as many elements, and as one of its own.
    let mut file = small_bf16();
    for shape in [&[1][..], &[4], &[2, 1], &[], &[0]] {
        let len = shape.iter().product();
        for gradient in [Tensor::f32(shape, &vec![1.0; len]), Tensor::f32(shape, &vec![1.0; len]).narrowed()]
        {
            file.tensors.insert("grad/2/a/w.0".into(), gradient);
            let words = format!("`grad/2/a/w.0` has shape {shape:?}, expected [2], that of `param/a/w.0`");
            assert_refused(&words, &file.bytes(), &[], &[&words]);
        }
    }
    let mut file = small_bf16();
    file.tensors.get_mut("param/a/w.0").unwrap().bytes.extend([0; 4]); // as if it were F32
    assert_refused("bytes of F32", &file.bytes(), &[], &["not a safetensors file"]);

    let mut file = small();
    file.tensors.clear();
    assert_refused("no tensor at all", &file.bytes(), &[], &["there is no parameter"]);
    file.tensors.insert("grad/1/w".into(), f32s());
    assert_refused("no parameter", &file.bytes(), &[], &["there is no parameter"]);
}

#[test]
fn a_gradient_that_is_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2e19] {
        let mut file = small();
        file.set_optimizer(&json!({"algorithm": "fisher_adam", "non_finite": "error"}));
        file.tensors.insert("grad/7/a/w.0".into(), Tensor::f32(&[2], &[1.0, bad]));
        assert_refused(&bad.to_string(), &file.bytes(), &[], &["step 7", "`grad/7/a/w.0`", "not finite"]);

        let skipped = json!({"step": 7, "grad_norm": null, "clip_coefficient": null, "update_norm": null, "skipped": true});
        let skip = json!({"algorithm": "adam", "non_finite": "skip", "max_grad_norm": 1});
        for optimizer in
            [skip, json!({"algorithm": "fadam", "kappa": 1}), json!({"algorithm": "fisher_adam"})]
        {
            file.set_optimizer(&optimizer);
            let report = File::parse(&replayed(&file.bytes(), &[])).report("report");
            assert_eq!(report[6], skipped, "{bad}: {optimizer}");
        }

        file.set_optimizer(&json!({"algorithm": "adam", "non_finite": "propagate"}));
        let report = File::parse(&replayed(&file.bytes(), &[])).report("report");
        let propagated = json!({"step": 7, "grad_norm": null, "clip_coefficient": 1.0, "update_norm": null, "skipped": false});
        assert_eq!(report[6], propagated, "{bad}");
        assert_eq!(
            (&report[1]["grad_norm"], &report[3]["grad_norm"]),
            (&json!(4.25_f64.sqrt()), &json!(0.0))
        );
    }
}

/// A step without gradients is in the report and changes nothing; shapes may be empty; names may hold anything.
#[test]
fn what_is_unusual_but_legal() {
    let mut file = small();
    file.set_optimizer(&json!({"algorithm": "fadam", "kappa": 1e9, "lr": [1, 2, 3, 4, 5], "master": "none", "seed": u64::MAX, "moments": "f32"}));
    let gap = file.clone();
    for (name, tensor) in [
        ("param/scalar", Tensor::f32(&[], &[1.0])),
        ("grad/5/scalar", Tensor { dtype: "BF16".into(), shape: vec![], bytes: vec![0x80, 0x3f] }),
        ("param/empty/3x0", Tensor::f32(&[3, 0], &[])),
        ("grad/2/empty/3x0", Tensor::f32(&[3, 0], &[])),
        ("param/1/2", Tensor::f32(&[1], &[1.0])),
        ("grad/2/1/2", Tensor::f32(&[1], &[1.0])),
        ("param/é\n\"", Tensor::f32(&[1], &[-0.0])),
    ] {
        file.tensors.insert(name.into(), tensor);
    }
    let out = File::parse(&replayed(&file.bytes(), &[]));
    assert_eq!(out.tensors.len(), 3 * 5);
    assert_eq!(out.tensors["exp_avg/empty/3x0"], file.tensors["param/empty/3x0"]);
    assert_eq!(out.tensors["param/é\n\""], file.tensors["param/é\n\""]);
    assert!(out.tensors["param/scalar"].values()[0] < -3.0); // lr of step 5, not of the parameter's first
    let report = out.report("report");
    let steps: Vec<&Value> = report.iter().map(|line| &line["step"]).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    let nothing =
        json!({"step": 3, "grad_norm": 0.0, "clip_coefficient": 1.0, "update_norm": 0.0, "skipped": false});
    assert_eq!(report[2], nothing);

    let mut two = gap.clone();
    two.set_optimizer(&json!({"algorithm": "fadam", "kappa": 1e9, "lr": [1, 2]}));
    let two = File::parse(&replayed(&two.bytes(), &[]));
    assert_eq!(two.tensors["param/a/w.0"], out.tensors["param/a/w.0"]);

    let mut none = small();
    none.tensors.retain(|name, _| name.starts_with("param/"));
    let out = File::parse(&replayed(&none.bytes(), &[]));
    assert_eq!((out.report("report").len(), &out.tensors["param/a/w.0"]), (0, &none.tensors["param/a/w.0"]));
}

/// The same of bf16 parameters, and tensors that no file has alone: without elements, without dimensions.
#[test]
fn bf16_parameters_of_any_shape() {
    for master in ["f32", "remainder", "none"] {
        for moments in ["f32", "bf16"] {
            let mut file = File::default();
            file.set_optimizer(&json!({"algorithm": "adam", "master": master, "moments": moments}));
            for (name, shape) in
                [("a", &[][..]), ("b", &[0]), ("c", &[3, 0, 2]), ("d", &[1, 3, 1]), ("e\n/\"", &[5])]
            {
                let ones = Tensor::f32(shape, &vec![1.0; shape.iter().product()]);
                file.tensors.insert(format!("param/{name}"), ones.narrowed());
                file.tensors.insert(format!("grad/1/{name}"), ones.clone());
                file.tensors.insert(format!("grad/2/{name}"), ones.narrowed());
            }
            let out = File::parse(&replayed(&file.bytes(), &[]));
            let kinds = if master == "none" { 3 } else { 4 };
            assert_eq!(out.tensors.len(), 5 * kinds, "{master}, {moments}");
            for (name, parameter) in file.under("param/") {
                for kind in ["param", "exp_avg", "exp_avg_sq", "master"].iter().take(kinds) {
                    let tensor = &out.tensors[&format!("{kind}/{name}")];
                    let dtype = if *kind == "param" { "BF16" } else { "F32" };
                    assert_eq!((tensor.dtype.as_str(), &tensor.shape), (dtype, &parameter.shape), "{kind}");
                }
            }
        }
    }
}

/// Any key left out is the same as its default written out.
#[test]
fn defaults() {
    let common = json!({"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "max_grad_norm": null, "grad_scale": 1, "non_finite": "skip",
        "master": "remainder", "moments": "f32", "seed": 0});
    let own = [
        (
            json!({"algorithm": "adam"}),
            json!({"eps": 1e-8, "decay": "l2", "amsgrad": false, "maximize": false, "weight_decay": 0}),
        ),
        (json!({"algorithm": "adam", "decay": "decoupled"}), json!({"eps": 1e-8, "weight_decay": 0.01})),
        (
            json!({"algorithm": "fadam"}),
            json!({"eps0": 1e-8, "eps_decay": 0, "kappa": null, "decay_cap": null, "weight_decay": 0}),
        ),
        (
            json!({"algorithm": "fisher_adam"}),
            json!({"eps": 1e-8, "eps2": 0.01, "rho": 0.5, "clip": 1, "weight_decay": 0.1}),
        ),
    ];
    for (short, own) in own {
        let mut long = short.clone();
        for keys in [&common, &own] {
            long.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        }
        for file in [small(), small_bf16()] {
            let [short, long] = [&short, &long].map(|optimizer| replayed_with(&file, optimizer));
            assert!(short == long, "{own}");
        }
    }
    // `rounding` may not be given there, and has a default where it may.
    for keys in
        [json!({"master": "none"}), json!({"moments": "bf16"}), json!({"master": "none", "moments": "bf16"})]
    {
        let mut short = json!({"algorithm": "adam", "lr": 0.01});
        short.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let mut long = short.clone();
        long.as_object_mut()
            .unwrap()
            .extend(json!({"rounding": "stochastic", "seed": 0}).as_object().unwrap().clone());
        let mut nearest = short.clone();
        nearest["rounding"] = "nearest".into();
        let [short, long, nearest] =
            [short, long, nearest].map(|optimizer| replayed_with(&small_bf16(), &optimizer));
        assert!(short == long && short != nearest, "{keys}");
    }
}

#[test]
fn files_that_are_no_safetensors() {
    let whole = small().bytes();
    for len in 0..whole.len() {
        assert_refused(&format!("cut to {len} bytes"), &whole[..len], &[], &["not a safetensors file"]);
    }
    assert_refused("a byte too many", &[&whole[..], &[0]].concat(), &[], &["not a safetensors file"]);

    let tensor = |name: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[{from},{to}]}}"#, (to - from) / 4)
    };
    let optimizer = r#""__metadata__":{"optimizer":"{\"algorithm\":\"adam\"}"}"#;
    let header = |tensors: &[String]| format!("{{{optimizer},{}}}", tensors.join(","));
    let (a, b) = (tensor("param/a", 0, 8), tensor("param/b", 8, 16));
    replayed(&raw(&header(&[a.clone(), b]), &[0; 16]), &[]);
    let (w, huge) = (tensor("param/w", 0, 8), 1_u64 << 62);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("overlap", raw(&header(&[a.clone(), tensor("param/b", 4, 12)]), &[0; 12]), "param/b"),
        (
            "the same bytes",
            raw(&header(&[a.clone(), tensor("param/b", 0, 8)]), &[0; 8]),
            "not a safetensors file",
        ),
        ("a gap", raw(&header(&[a.clone(), tensor("param/b", 12, 20)]), &[0; 20]), "param/b"),
        (
            "beyond the end",
            raw(&header(&[a.clone(), tensor("param/b", 8, 4096)]), &[0; 16]),
            "not a safetensors file",
        ),
        ("a name twice", raw(&header(&[w.clone(), w.clone()]), &[0; 8]), "`param/w` occurs twice"),
        ("metadata twice", raw(&format!("{{{optimizer},{optimizer},{w}}}"), &[0; 8]), "__metadata__"),
        (
            "the optimizer twice",
            raw(
                &format!(
                    r#"{{"__metadata__":{{"optimizer":"1","optimizer":"{{\"algorithm\":\"adam\"}}"}},{w}}}"#
                ),
                &[0; 8],
            ),
            "key `optimizer` occurs twice",
        ),
        (
            "a shape that overflows",
            raw(
                &header(&[format!(
                    r#""param/w":{{"dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,8]}}"#
                )]),
                &[0; 8],
            ),
            "overflow",
        ),
        (
            "a shape of other size",
            raw(&header(&[r#""param/w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#.into()]), &[0; 8]),
            "not a safetensors file",
        ),
        (
            "backwards",
            raw(&header(&[r#""param/w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#.into()]), &[0; 8]),
            "param/w",
        ),
        ("a huge header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "header too large"),
        ("nested", raw(&"[".repeat(100_000), &[]), "not a safetensors file"),
        ("not UTF-8", [&3_u64.to_le_bytes()[..], b"{\xff}"].concat(), "UTF-8"),
        ("an empty header", raw("{}", &[]), "metadata `optimizer` is missing"),
    ];
    for (what, bytes, words) in cases {
        assert_refused(what, &bytes, &[], &[words]);
    }
}

/// Some flips are harmless (in another digit, say); none may do worse than a plain refusal.
#[test]
fn every_bit_of_the_header_flipped() {
    let whole = small().bytes();
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for bit in 0..8 * end {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let run = replay(&bytes, &["--device", "cpu"]);
        if run.code != Some(0) {
            assert_plain(&format!("bit {bit}"), &run);
            refused += 1;
        }
    }
    assert!(refused > 8 * end / 2, "{refused} of {} flips refused", 8 * end);
}

#[test]
fn paths() {
    let folder = Folder::new();
    fs::write(folder.0.join("in"), small().bytes()).unwrap();
    fs::create_dir(folder.0.join("folder")).unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["absent", "out"], "cannot read `absent`"),
        (&["folder", "out"], "cannot read `folder`"),
        (&["in", "absent/out"], "cannot write `absent/out`"),
        (&["in", "folder"], "cannot write `folder`"),
        (&["in", "in/out"], "cannot write `in/out`"),
        (&["in", ".."], "cannot write `..`"),
    ];
    for (args, words) in cases {
        let run = run(&folder, args);
        assert_eq!(run.litter, ["folder"], "{args:?}");
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
        assert_plain(words, &Run { litter: Vec::new(), ..run });
    }
    // A rename as root would replace the device itself: only ever tried through a link that may be lost.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/null", folder.0.join("device")).unwrap();
        let run = run(&folder, &["in", "device"]);
        assert_eq!(run.litter, ["device", "folder"]);
        assert!(run.code == Some(1) && run.stderr.contains("not a regular file"), "{}", run.stderr);
        assert!(fs::symlink_metadata(folder.0.join("device")).unwrap().is_symlink());
    }
    // What is there is replaced as a whole, or stays; IN itself may be OUT.
    fs::write(folder.0.join("out"), "old").unwrap();
    let failed = run(&folder, &["absent", "out"]);
    assert_eq!((failed.code, failed.out.as_deref()), (Some(1), Some(&b"old"[..])));
    let new = run(&folder, &["in", "out"]);
    assert_eq!((new.code, new.out.as_deref()), (Some(0), Some(&replayed(&small().bytes(), &[])[..])));
    assert_eq!(run(&folder, &["in", "in"]).code, Some(0));
    assert!(fs::read(folder.0.join("in")).unwrap() == new.out.unwrap());
}

#[test]
fn the_command_line() {
    let bytes = small().bytes();
    for args in [
        &["--threads", "0"][..],
        &["--threads", "two"],
        &["--threads"],
        &["--simd", "sse2"],
        &["--simd", ""],
        &["--device", "gpu"],
        &["--device", "cuda:"],
        &["--device", "cuda:x"],
        &["--verbose"],
        &["third"],
    ] {
        let run = replay(&bytes, args);
        assert_eq!((run.code, run.out), (Some(2), None), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains("--help"), "{args:?}: {}", run.stderr);
    }
    let folder = Folder::new();
    assert_eq!(run(&folder, &["in"]).code, Some(2));
    let help = run(&folder, &["--help"]);
    assert_eq!(help.code, Some(0));
    for word in [
        "--device",
        "--threads",
        "--simd",
        "param/<name>",
        "grad/<t>/<name>",
        "metadata `report`",
        "decay_cap",
        "master/<name>",
        "F32|BF16",
    ] {
        assert!(help.stdout.contains(word), "{word} is not in --help");
    }
}

#[test]
fn what_the_machine_lacks() {
    let bytes = small().bytes();
    let what = if gpus().is_empty() { "NVIDIA driver" } else { "cuda:1717" };
    assert_refused("device", &bytes, &["--device", "cuda:1717"], &[what, "is not available: "]);
    let absent: Vec<_> = fadam::Simd::ALL.into_iter().filter(|simd| !simd.is_available()).collect();
    assert!(!absent.is_empty(), "no machine has both AVX2 and NEON");
    for simd in absent {
        let best = fadam::Simd::best().to_string();
        assert_refused("simd", &bytes, &["--simd", &simd.to_string()], &[&simd.to_string(), &best]);
    }
}

#[test]
fn the_device_is_named() {
    let best = if gpus().is_empty() { "device: cpu (" } else { "device: cuda:0, " };
    let cases = [
        (&[][..], best),
        (&["--device", "best"], best),
        (&["--device", "cpu"], "device: cpu ("),
        (&["--device", "cpu", "--simd", "scalar", "--threads", "3"], "device: cpu (scalar, 3 threads)"),
    ];
    for (args, device) in cases {
        let run = replay(&small().bytes(), args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(run.stdout.starts_with(device), "{args:?}: {}", run.stdout);
    }
}
