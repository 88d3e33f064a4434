//! Every recorded trajectory of another library, replayed and compared with the recorded float64 answer, step by step.

use crate::bounded::Bounded;
use crate::definition::{Definition, Figures, State};
use crate::file::{File, Tensor};
use crate::narrow::rounded_master;
use crate::program::{gpus, replayed, replayed_on};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const RECORDINGS: usize = 79;

/// The recordings agree with a second implementation in float64 to 2e-13 of a tensor's largest value (tests/golden
/// README); that implementation (`check.py`) allows itself 1e-12.
const ORACLE: f64 = 1e-12;

/// Name and content, sorted.
pub(crate) fn recordings() -> Vec<(String, File)> {
    read_recordings("../../tests/golden", RECORDINGS)
}

/// Those of one folder, of which there must be so many.
pub(crate) fn read_recordings(folder: &str, count: usize) -> Vec<(String, File)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the recordings are there") {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            files.push((name, File::parse(&std::fs::read(&path).unwrap())));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(files.len(), count, "recordings in {}", folder.display());
    files
}

/// What `replay` takes: the recording without the answers.
pub(crate) fn input(recording: &File) -> File {
    let mut file = recording.clone();
    file.tensors.retain(|name, _| !name.starts_with("expect/"));
    file.metadata.retain(|key, _| key == "optimizer");
    file
}

/// The largest error seen, as a share of what was allowed, by kind of value.
#[derive(Default)]
struct Worst(BTreeMap<&'static str, (f64, String)>);

impl Worst {
    /// `got` must be within `error` of `want`.
    fn compare(&mut self, kind: &'static str, place: &str, got: f64, want: f64, error: f64) {
        let off = (got - want).abs();
        assert!(
            off <= error,
            "{place} {kind}: {got:e} instead of {want:e}, off by {off:e}, allowed {error:e}"
        );
        let share = if off == 0.0 { 0.0 } else { off / error };
        let worst = self.0.entry(kind).or_default();
        if share >= worst.0 {
            *worst = (share, place.to_string());
        }
    }

    fn tensor(&mut self, kind: &'static str, place: &str, got: &Tensor, want: &Tensor, bounds: &[Bounded]) {
        assert_eq!((got.dtype.as_str(), &got.shape), ("F32", &want.shape), "{place} {kind}");
        let (got, want) = (got.values(), want.values());
        assert_eq!(got.len(), bounds.len());
        let largest = want.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        for ((got, want), bound) in got.iter().zip(&want).zip(bounds) {
            // That the definition here is the one that was recorded.
            let off = (bound.value - want).abs();
            assert!(off <= ORACLE * largest, "{place} {kind}: defined {:e}, recorded {want:e}", bound.value);
            self.compare(kind, place, *got, *want, bound.error + ORACLE * largest);
        }
    }

    fn report(&mut self, place: &str, got: &Value, want: &Value, figures: Option<&Figures>) {
        assert_eq!(got.as_object().unwrap().len(), 5, "{place}: {got}");
        for key in ["step", "skipped"] {
            assert_eq!(got[key], want[key], "{place} {key}");
        }
        let bounds =
            figures.map(|figures| (figures.grad_norm, figures.clip_coefficient, figures.update_norm));
        let (norm, clip, update) = bounds.map_or((None, None, None), |(a, b, c)| (Some(a), Some(b), c));
        let keys = [("grad_norm", norm), ("clip_coefficient", clip), ("update_norm", update)];
        for (key, bound) in keys {
            match bound {
                None => assert_eq!((&got[key], &want[key]), (&Value::Null, &Value::Null), "{place} {key}"),
                Some(bound) => {
                    let (got, want) = (got[key].as_f64().unwrap(), want[key].as_f64().unwrap());
                    assert!((bound.value - want).abs() <= ORACLE * want, "{place} {key}: the definition");
                    self.compare(key, place, got, want, bound.error + ORACLE * want);
                }
            }
        }
    }
}

fn states<'a>(kind: &str, state: &'a State) -> &'a [Bounded] {
    match kind {
        "param" | "master" => &state.param,
        "exp_avg" => &state.exp_avg,
        "exp_avg_sq" => &state.exp_avg_sq,
        _ => &state.max_exp_avg_sq,
    }
}

/// Replays the first 1, 2, … T steps (the last alone where no step between was recorded). Returns how many of the
/// recorded answers were compared.
fn check(name: &str, recording: &File, worst: &mut Worst) -> usize {
    let input = input(recording);
    let params = input.under("param/").map(|(name, tensor)| (name.to_string(), tensor.values()));
    let mut definition = Definition::new(&input.optimizer(), params);
    let mut figures = Vec::new();
    let mut compared = 0;
    for t in 1..=input.steps() {
        let gradients = format!("grad/{t}/");
        let gradients = input.under(&gradients).map(|(name, tensor)| (name.to_string(), tensor.values()));
        figures.push(definition.step(t, &gradients.collect()));
        if recording.under(&format!("expect/{t}/")).next().is_none() {
            continue;
        }
        let out = File::parse(&replayed(&input.first_steps(t).bytes(), &[]));
        for kind in ["param", "master"] {
            for (parameter, want) in recording.under(&format!("expect/{t}/{kind}/")) {
                let bounds = &definition.states[parameter].param;
                let got = &out.tensors[&format!("{kind}/{parameter}")];
                worst.tensor(kind, &format!("{name}, step {t}, {parameter}"), got, want, bounds);
                compared += 1;
            }
        }
        check_roundings(name, &input, &out);
    }
    // On a GPU, what is the same file as the CPU's (same_bits.rs) is not looked at again; ρ ≠ ½ is not.
    let on_gpu = definition.needs_pow().then(gpus).unwrap_or_default();
    for device in &on_gpu {
        check_end(device, name, recording, &definition, &figures, worst);
    }
    compared + check_end("cpu", name, recording, &definition, &figures, worst)
}

/// A bf16 parameter is its master, rounded: what the libraries, which step the master, do not say. How many there are.
fn check_roundings(name: &str, input: &File, out: &File) -> usize {
    let ties_away = input.optimizer()["master"] == "remainder";
    let masters = out.under("master/");
    masters
        .map(|(parameter, master)| {
            let got = &out.tensors[&format!("param/{parameter}")];
            assert_eq!(*got, rounded_master(master, ties_away), "{name}, {parameter}");
        })
        .count()
}

/// What is known of the last step alone: the moments, the whole report, and that OUT holds nothing else.
fn check_end(
    device: &str,
    name: &str,
    recording: &File,
    definition: &Definition,
    figures: &[Option<Figures>],
    worst: &mut Worst,
) -> usize {
    let out = File::parse(&replayed_on(device, &input(recording).bytes(), &[]));
    let mut compared = 0;
    for kind in ["param", "master", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"] {
        for (parameter, want) in recording.under(&format!("expect/{kind}/")) {
            let bounds = states(kind, &definition.states[parameter]);
            let got = &out.tensors[&format!("{kind}/{parameter}")];
            worst.tensor(kind, &format!("{name}, {parameter}"), got, want, bounds);
            compared += 1;
        }
    }
    let narrow = check_roundings(name, recording, &out);
    assert_eq!(out.tensors.len(), compared + narrow, "{name}: tensors in OUT");
    assert_eq!(out.metadata.keys().collect::<Vec<_>>(), ["report"], "{name}: metadata of OUT");
    let (got, want) = (out.report("report"), recording.report("expect_report"));
    assert_eq!((got.len(), want.len()), (figures.len(), figures.len()), "{name}: steps in the report");
    for (t, figures) in figures.iter().enumerate() {
        worst.report(&format!("{name}, step {}", t + 1), &got[t], &want[t], figures.as_ref());
    }
    compared
}

#[test]
fn other_libraries_trajectories_are_reproduced() {
    let mut worst = Worst::default();
    for (name, recording) in recordings() {
        let compared = check(&name, &recording, &mut worst);
        assert_eq!(compared, recording.under("expect/").count(), "{name}: answers that were not compared");
    }
    for (kind, (share, place)) in &worst.0 {
        println!("{kind:16} at most {share:.3} of its bound ({place})");
        // A bound that nothing comes near would let mistakes through.
        assert!(*share > 0.05, "{kind}: the bound is slack");
    }
    assert_eq!(worst.0.len(), 8, "kinds of values that were compared");
}
