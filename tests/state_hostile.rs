//! One promise: a file that is damaged, cut off or made up is refused: no panic, no wrong state, nothing changed.
//!
//! `tests/state_corpus` keeps the made-up files, from which fuzzing starts, too (`fuzz/`). After a change of the format,
//! FADAM_RECORD_CORPUS=1 writes them anew.

mod common;
#[path = "common/craft.rs"]
mod craft;
#[path = "common/paths.rs"]
mod paths;

use common::{Model, Snapshot};
use craft::Craft;
use fadam::{Adam, Error};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

/// Three parameters, one of them empty, with a step behind them.
fn model() -> Model {
    let mut model = Model::new(Adam { amsgrad: true, ..Adam::default() }, &[&[1.0, -2.0], &[], &[0.5]]);
    model.step(&[&[0.25, -1.0], &[], &[3.0]]);
    model
}

/// The file of `model`.
fn good(model: &mut Model, name: &str) -> Vec<u8> {
    let path = paths::scratch(&format!("hostile-{name}.safetensors"));
    model.optimizer.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    bytes
}

/// A model that differs from what any of the files holds, so that a change shows.
struct Victim {
    model: Model,
    before: Snapshot,
}

impl Victim {
    fn new() -> Self {
        let mut model = model();
        model.step(&[&[7.0, 7.0], &[], &[7.0]]);
        let before = model.snapshot();
        Self { model, before }
    }

    /// Why the bytes are refused.
    #[track_caller]
    fn refuses(&mut self, bytes: &[u8], what: &str) -> String {
        let Err(error) = self.model.optimizer.load_from(&mut Cursor::new(bytes)) else {
            panic!("{what}: is taken");
        };
        assert!(matches!(error, Error::State { .. }), "{what}: {error:?}");
        assert!(self.model.snapshot() == self.before, "{what}: {error}: something has changed");
        assert_eq!(self.model.report().step, 2, "{what}");
        let message = error.to_string();
        assert!(!message.contains(char::is_control) && message.len() < 400, "{what}: {message}");
        message
    }
}

#[test]
fn cut_off_anywhere() {
    let bytes = good(&mut model(), "cut");
    let mut victim = Victim::new();
    for len in 0..bytes.len() {
        victim.refuses(&bytes[..len], &format!("the first {len} of {} bytes", bytes.len()));
    }
    victim.refuses(&[&bytes[..], &[0]].concat(), "a byte more");
}

#[test]
fn one_bit_flipped_anywhere() {
    let mut bytes = good(&mut model(), "flip");
    let mut victim = Victim::new();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        victim.refuses(&bytes, &format!("bit {bit}"));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    victim.model.optimizer.load_from(&mut Cursor::new(&bytes)).unwrap();
}

/// A tensor whose bytes have changed is named.
#[test]
fn a_damaged_tensor_is_named() {
    let mut bytes = good(&mut model(), "damaged");
    *bytes.last_mut().unwrap() ^= 1;
    let message = Victim::new().refuses(&bytes, "the last byte");
    assert!(message.contains("`max_exp_avg_sq/p2` is damaged"), "{message}");
}

// ---- made up ----

/// Name, file, and a part of the message.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = Craft::new(&good(&mut model(), "corpus"));
    let craft = || good.clone();
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let tensor = |key: &'static str, value: Value| {
        craft().edit(move |header| header["exp_avg/p0"][key] = value).finish()
    };
    let without = |key: &'static str| {
        let remove = |metadata: &mut Value| metadata.as_object_mut().unwrap().remove(key).map(drop).unwrap();
        craft().metadata(remove).finish()
    };
    let set = |key: &'static str, value: Value| craft().metadata(|metadata| metadata[key] = value).finish();
    let parameter = |key: &'static str, value: Value| craft().parameter(key, value).finish();
    let raw = |header: &[u8]| Craft { header: header.to_vec(), data: vec![] }.finish();
    let foreign = |metadata: Value| {
        let tensor = json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 4] });
        let header = json!({ "__metadata__": metadata, "weight": tensor }).to_string().into_bytes();
        Craft { header, data: vec![0; 4] }.finish()
    };
    let length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    vec![
        // Not safetensors.
        ("empty", vec![], "0 bytes, too few"),
        ("length_alone", 0_u64.to_le_bytes().to_vec(), "not JSON"),
        ("length_beyond_the_file", length(3), "cut off"),
        ("length_beyond_the_limit", length(100_000_001), "cut off"),
        ("length_largest", length(u64::MAX), "cut off"),
        ("no_json", raw(b"{\"a\""), "the header is not JSON"),
        ("no_object", raw(b"[]"), "the header is not a JSON object"),
        ("two_documents", raw(b"{}{}"), "the header is not JSON"),
        ("not_utf8", craft().replace("exp_avg/p0", b"exp_avg/\xff").finish(), "the header is not JSON"),
        ("nested", raw(&[b"{\"a\":", &nested(10_000)[..], b"}"].concat()), "tensor `a` is not a JSON object"),
        ("nothing_at_all", raw(b"{}"), "without metadata"),
        // Tensors.
        ("tensor_twice", craft().replace("exp_avg/p1", b"exp_avg/p0").finish(), "`exp_avg/p0` occurs twice"),
        ("tensor_no_object", craft().edit(|h| h["exp_avg/p0"] = json!(1)).finish(), "is not a JSON object"),
        ("tensor_unknown_key", tensor("more", json!(1)), "`more`, which is unknown"),
        ("dtype_missing", craft().replace("\"dtype\":\"F32\",", b"").finish(), "has no `dtype`"),
        ("dtype_unknown", tensor("dtype", json!("F33")), "unknown dtype `F33`"),
        ("dtype_number", tensor("dtype", json!(32)), "`dtype` of tensor `exp_avg/p0` is not a string"),
        ("dtype_other", tensor("dtype", json!("I32")), "`exp_avg/p0` is I32 in the file, F32 here"),
        ("shape_negative", tensor("shape", json!([-2])), "not a list of whole numbers"),
        ("shape_fraction", tensor("shape", json!([2.5])), "not a list of whole numbers"),
        ("shape_text", tensor("shape", json!("2")), "not a list of whole numbers"),
        ("shape_overflows", tensor("shape", json!([1_u64 << 53, 1_u64 << 53])), "cannot be"),
        ("shape_bytes_overflow", tensor("shape", json!([1_u64 << 53, 1_u64 << 10])), "cannot be"),
        ("shape_huge", tensor("shape", json!([1_u64 << 40])), "is to take"),
        ("shape_other", tensor("shape", json!([3])), "is to take 12 bytes, its offsets are 0 and 8"),
        ("offsets_of_one", tensor("data_offsets", json!([8])), "cannot be"),
        ("offsets_reversed", tensor("data_offsets", json!([8, 0])), "its offsets are 8 and 0"),
        ("offsets_huge", tensor("data_offsets", json!([u64::MAX - 8, u64::MAX])), "at most 2^53"),
        ("offsets_beyond", tensor("data_offsets", json!([1 << 20, (1 << 20) + 8])), "leaves a gap"),
        (
            "offsets_overlap",
            craft().edit(|h| h["exp_avg/p2"]["data_offsets"] = json!([0, 4])).finish(),
            "overlap",
        ),
        (
            "gap",
            craft()
                .edit(|h| {
                    h.as_object_mut().unwrap().remove("exp_avg_sq/p0");
                })
                .finish(),
            "leaves a gap",
        ),
        (
            "trailing",
            Craft { data: [&good.data[..], &[0; 4]].concat(), ..craft() }.finish(),
            "its tensors end at",
        ),
        (
            "tensor_unknown",
            craft()
                .replace("\"exp_avg/p1\":", b"\"ema/p1\":")
                .document("checksums", |sums| {
                    sums["ema/p1"] = sums.as_object_mut().unwrap().remove("exp_avg/p1").unwrap();
                })
                .finish(),
            "it has no `exp_avg/p1`",
        ),
        (
            "tensor_more",
            craft()
                .edit(|header| {
                    header["ema/p1"] = header["exp_avg/p1"].clone();
                })
                .document("checksums", |sums| sums["ema/p1"] = json!("00000000"))
                .finish(),
            "`ema/p1`, which this optimizer",
        ),
        // Metadata.
        ("foreign", foreign(json!({ "format": "pt" })), "no state of fadam: its format is `pt`"),
        ("foreign_without_format", foreign(json!({})), "no state of fadam"),
        ("metadata_number", foreign(json!(1)), "the metadata is not a JSON object"),
        ("metadata_not_text", set("version", json!(1)), "`version` of the metadata is not a string"),
        ("metadata_unknown", set("schedule", json!("{}")), "the metadata has `schedule`, which is unknown"),
        (
            "metadata_twice",
            craft().replace("\"groups\":", b"\"counters\":\"{}\",\"groups\":").finish(),
            "occurs twice",
        ),
        (
            "version_newer",
            set("version", json!("2")),
            "version `2`, written by a newer fadam; this one reads 1",
        ),
        ("version_unknown", set("version", json!("one")), "version `one`; this one reads 1"),
        ("version_missing", without("version"), "has no `version`"),
        ("optimizer_missing", without("optimizer"), "has no `optimizer`"),
        ("groups_missing", without("groups"), "has no `groups`"),
        ("parameters_missing", without("parameters"), "has no `parameters`"),
        ("counters_missing", without("counters"), "has no `counters`"),
        ("checksums_missing", without("checksums"), "has no `checksums`"),
        ("header_checksum_missing", without("header_checksum"), "has no `header_checksum`"),
        (
            "header_checksum_short",
            craft().metadata(|m| m["header_checksum"] = json!("")).finish(),
            "header is damaged",
        ),
        ("optimizer_list", set("optimizer", json!("[]")), "`optimizer` of the metadata is not a JSON object"),
        (
            "algorithm_unknown",
            craft().document("optimizer", |o| o["algorithm"] = json!("sgd\n")).finish(),
            "`sgd\\n`",
        ),
        (
            "algorithm_number",
            craft().document("optimizer", |o| o["algorithm"] = json!(1)).finish(),
            "is not a string",
        ),
        ("groups_no_list", set("groups", json!("{}")), "`groups` of the metadata is not a JSON list"),
        (
            "group_beta_text",
            craft().document("groups", |g| g[0]["beta1"] = json!("0.9")).finish(),
            "is not a number",
        ),
        (
            "group_beta_infinite",
            craft().replace("\\\"beta1\\\":0.9", b"\\\"beta1\\\":1e999").finish(),
            "`beta1` of a group is not a number",
        ),
        (
            "parameters_nested",
            set("parameters", String::from_utf8(nested(10_000)).unwrap().into()),
            "a parameter is not a JSON object",
        ),
        (
            "parameter_twice",
            craft().parameter("name", json!("p1")).parameter("len", json!(0)).finish(),
            "parameter 0 is `p1` in the file",
        ),
        ("parameter_unknown_key", parameter("schedule", json!(1)), "`schedule`, which is unknown"),
        (
            "parameter_key_twice",
            craft().replace("\\\"step\\\":1", b"\\\"step\\\":1,\\\"step\\\":2").finish(),
            "occurs twice",
        ),
        ("parameter_dtype", parameter("dtype", json!("f16")), "the dtype of parameter `p0` is `f16`"),
        ("parameter_group", parameter("group", json!(1)), "is in group 1"),
        ("parameter_group_huge", parameter("group", json!(u64::MAX)), "at most 2^53"),
        ("len_huge", parameter("len", json!(1_u64 << 53)), "the length of parameter `p0`"),
        ("len_negative", parameter("len", json!(-2)), "`len` of a parameter is not a whole number"),
        ("step_negative", parameter("step", json!(-1)), "`step` of a parameter is not a whole number"),
        ("step_fraction", parameter("step", json!(1.5)), "`step` of a parameter is not a whole number"),
        ("step_huge", parameter("step", json!(u64::MAX)), "at most 2^53"),
        ("step_none", parameter("step", json!(0)), "0 steps, which its powers of beta contradict"),
        (
            "power_of_no_step",
            parameter("beta1_power", json!("3ff0000000000000")),
            "which its powers of beta contradict",
        ),
        ("power_nan", parameter("beta1_power", json!("7ff8000000000000")), "expected the bits of a power"),
        (
            "power_negative",
            parameter("beta1_power", json!("bfe0000000000000")),
            "expected the bits of a power",
        ),
        (
            "power_above_one",
            parameter("beta2_power", json!("3ff8000000000000")),
            "expected the bits of a power",
        ),
        ("power_short", parameter("beta2_power", json!("3fe")), "expected the bits of a power"),
        (
            "power_capitals",
            parameter("beta1_power", json!("3FECCCCCCCCCCCCD")),
            "expected the bits of a power",
        ),
        ("power_number", parameter("beta1_power", json!(0.9)), "is not a string"),
        ("start_beyond", parameter("start", json!(2)), "1 steps, and a master that begins in step 2"),
        (
            "loss_scale_infinite",
            craft().document("counters", |c| c["loss_scale"] = json!("7ff0000000000000")).finish(),
            "expected the bits of a loss scale",
        ),
        (
            "loss_scale_negative_zero",
            craft().document("counters", |c| c["loss_scale"] = json!("8000000000000000")).finish(),
            "expected the bits of a loss scale",
        ),
        (
            "counters_unknown",
            craft().document("counters", |c| c["scale"] = json!(1)).finish(),
            "`scale`, which is unknown",
        ),
        (
            "counters_contradict",
            craft().document("counters", |c| c["skipped_steps"] = json!(2)).finish(),
            "more skipped steps",
        ),
        (
            "counters_contradict_kappa",
            craft().document("counters", |c| c["clipped_updates"] = json!(2)).finish(),
            "clipped updates than steps",
        ),
        (
            "checksum_other",
            craft().document("checksums", |c| c["exp_avg/p0"] = json!("00000000")).finish(),
            "`exp_avg/p0` is damaged",
        ),
        (
            "checksum_missing",
            craft()
                .document("checksums", |c| {
                    c.as_object_mut().unwrap().remove("exp_avg/p0");
                })
                .finish(),
            "has no `exp_avg/p0`",
        ),
        (
            "checksum_more",
            craft().document("checksums", |c| c["exp_avg/q"] = json!("00000000")).finish(),
            "`exp_avg/q`, which is unknown",
        ),
        (
            "name_of_controls",
            craft().document("checksums", |c| c["\n\u{7}\u{202e}"] = json!("")).finish(),
            "unknown",
        ),
        ("name_long", craft().document("checksums", |c| c["x".repeat(5000)] = json!("")).finish(), "…"),
    ]
}

fn corpus() -> PathBuf {
    paths::repository("tests/state_corpus")
}

#[test]
fn made_up() {
    let cases = cases();
    let record = std::env::var_os("FADAM_RECORD_CORPUS").is_some();
    if record {
        let _ = fs::remove_dir_all(corpus());
        fs::create_dir_all(corpus()).unwrap();
    }
    let mut victim = Victim::new();
    let mut wrong = Vec::new();
    for (name, bytes, expected) in &cases {
        let path = corpus().join(name);
        if record {
            fs::write(&path, bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == *bytes, "{name}: the kept file is another one; see above");
        let message = victim.refuses(bytes, name);
        if !message.contains(expected) {
            wrong.push(format!("{name}: {message}, expected {expected}"));
        }
        let error = victim.model.optimizer.load_matching(&path).unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{name}: {error:?}");
        assert!(victim.model.snapshot() == victim.before, "{name}: {error}: something has changed");
        assert_eq!(*name == "parameter_twice", error.to_string().ends_with("it has parameter `p1` twice"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fs::read_dir(corpus()).unwrap().count(), cases.len(), "a file of no case");
}

/// What `cases` starts from is good.
#[test]
fn what_is_made_up_anew_without_a_change_is_taken() {
    let bytes = good(&mut model(), "unchanged");
    let mut victim = Victim::new();
    victim.model.optimizer.load_from(&mut Cursor::new(Craft::new(&bytes).finish())).unwrap();
    // And what was written before κ was counted.
    let older = Craft::new(&bytes).document("counters", |counters| {
        counters.as_object_mut().unwrap().remove("clipped_updates").unwrap();
    });
    victim.model.optimizer.load_from(&mut Cursor::new(older.finish())).unwrap();
}

// ---- at random ----

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        Just(json!("F32")),
        Just(json!([0, 8])),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_/]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Puts `new` in the place of the `nth` value, counted through the tree and through texts that are JSON.
fn plant(value: &mut Value, nth: &mut usize, new: &Value) {
    if *nth == 0 {
        *value = new.clone();
        *nth = usize::MAX;
        return;
    }
    *nth -= 1;
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| plant(value, nth, new)),
        Value::Object(map) => map.values_mut().for_each(|value| plant(value, nth, new)),
        Value::String(text) => {
            if let Ok(mut document @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text) {
                plant(&mut document, nth, new);
                *text = document.to_string();
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let framed = [&(bytes.len() as u64).to_le_bytes(), &bytes[..]].concat();
        let mut victim = Victim::new();
        victim.refuses(&bytes, "random bytes");
        victim.refuses(&framed, "a random header");
    }

    /// One value of a good file is another one, and the header's checksum is right: taken where it does not matter (a
    /// learning rate), else refused.
    #[test]
    fn a_random_value(nth in 0_usize..200, new in json_value()) {
        let bytes = good(&mut model(), &format!("random-{:?}", std::thread::current().id()));
        let mut left = nth;
        let crafted = Craft::new(&bytes).edit(|header| plant(header, &mut left, &new)).finish();
        let mut victim = Victim::new();
        if victim.model.optimizer.load_from(&mut Cursor::new(&crafted)).is_ok() {
            victim.before = victim.model.snapshot();
            let mut source = model();
            prop_assert!(source.state(0).exp_avg == victim.model.state(0).exp_avg);
        } else {
            prop_assert!(victim.model.snapshot() == victim.before);
        }
    }
}
