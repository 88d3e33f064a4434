//! What a file says besides tensors: of which optimizer it is, and how far that has come.

use super::fault::{Fault, shown, wrong};
use super::header::Header;
use super::json::Fields;
use super::{FORMAT, VERSION, checksum};
use crate::algorithm::Hyper;
use crate::args::Progress;
use crate::backend::Counters;
use crate::{Algorithm, Decay, Error, LossScale, NonFinite, Optimizer};
use serde_json::{Map, Value, json};

pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) dtype: String,
    pub(super) betas: (f64, f64),
    pub(super) progress: Progress,
}

pub(super) struct Manifest {
    pub(super) algorithm: String,
    /// In the order of registration.
    pub(super) parameters: Vec<Parameter>,
    pub(super) counters: Counters,
    /// By tensor.
    pub(super) checksums: Fields,
}

// ---- writing ----

/// The metadata of an optimizer's file, but for checksums.
pub(super) fn describe(optimizer: &mut Optimizer) -> Result<Map<String, Value>, Error> {
    let counters = optimizer.counters()?;
    let mut parameters = Vec::with_capacity(optimizer.parameters.len());
    for index in 0..optimizer.parameters.len() {
        let progress = optimizer.ask(|backend| backend.progress(index))?;
        let parameter = &optimizer.parameters[index];
        parameters.push(json!({
            "name": parameter.name,
            "len": parameter.len,
            "dtype": parameter.dtype.name(),
            "group": parameter.group,
            "step": progress.step,
            "start": progress.start,
            "beta1_power": bits(progress.beta1_power),
            "beta2_power": bits(progress.beta2_power),
        }));
    }
    let groups: Vec<Value> = optimizer.groups.iter().map(|(_, hyper)| group(hyper)).collect();
    let counters = json!({
        "step": counters.step,
        "skipped_steps": counters.skipped_steps,
        "clipped_updates": counters.clipped_updates,
        "schedule_step": counters.schedule_step,
        "loss_scale": bits(counters.loss_scale),
        "good_steps": counters.good_steps,
    });
    let mut metadata = Map::new();
    let mut put = |key: &str, value: String| metadata.insert(key.into(), value.into());
    put("format", FORMAT.into());
    put("version", VERSION.to_string());
    put("optimizer", configuration(optimizer).to_string());
    put("groups", Value::from(groups).to_string());
    put("parameters", Value::from(parameters).to_string());
    put("counters", counters.to_string());
    Ok(metadata)
}

/// An f64 exactly, for every reader.
fn bits(number: f64) -> String {
    format!("{:016x}", number.to_bits())
}

pub(super) fn algorithm_name(algorithm: &Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Adam(_) => "adam",
        Algorithm::FAdam(_) => "fadam",
        Algorithm::FisherAdam(_) => "fisher_adam",
    }
}

/// The object that `replay` takes.
fn configuration(optimizer: &Optimizer) -> Value {
    let Optimizer { algorithm, policy, storage, .. } = optimizer;
    let mut object = match *algorithm {
        Algorithm::Adam(a) => json!({
            "lr": a.lr, "beta1": a.betas.0, "beta2": a.betas.1, "eps": a.eps, "weight_decay": a.weight_decay,
            "decay": match a.decay { Decay::L2 => "l2", Decay::Decoupled => "decoupled" },
            "amsgrad": a.amsgrad, "maximize": a.maximize,
        }),
        Algorithm::FAdam(a) => json!({
            "lr": a.lr, "beta1": a.betas.0, "beta2": a.betas.1, "eps0": a.eps0, "eps_decay": a.eps_decay,
            "kappa": a.kappa, "weight_decay": a.weight_decay, "decay_cap": a.decay_cap,
        }),
        Algorithm::FisherAdam(a) => json!({
            "lr": a.lr, "beta1": a.betas.0, "beta2": a.betas.1, "eps": a.eps, "eps2": a.eps2, "rho": a.rho,
            "clip": a.clip, "weight_decay": a.weight_decay,
        }),
    };
    object["algorithm"] = algorithm_name(algorithm).into();
    object["max_grad_norm"] = policy.max_grad_norm.into();
    object["grad_scale"] = policy.grad_scale.into();
    object["non_finite"] = match policy.non_finite {
        NonFinite::Skip => "skip",
        NonFinite::Error => "error",
        NonFinite::Propagate => "propagate",
    }
    .into();
    object["master"] = storage.master.to_string().into();
    object["moments"] = storage.moments.name().into();
    object["seed"] = storage.seed.into();
    if storage.rounds() {
        object["rounding"] = storage.rounding.to_string().into();
    }
    object
}

/// What holds in one group, the default one's own included.
fn group(hyper: &Hyper) -> Value {
    let (beta1, beta2) = hyper.betas();
    let (lr, eps, weight_decay) = match hyper {
        Hyper::Adam(h) => (h.lr, h.eps, h.weight_decay),
        Hyper::FAdam(h) => (h.lr, h.eps0, h.weight_decay),
        Hyper::FisherAdam(h) => (h.lr, h.eps, h.weight_decay),
    };
    json!({ "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay })
}

// ---- reading ----

impl Manifest {
    pub(super) fn read(header: &mut Header) -> Result<Self, Fault> {
        let Some(metadata) = header.metadata.take() else {
            return wrong("it is a safetensors file without metadata, and no state of fadam");
        };
        let mut metadata = Fields::of("the metadata", metadata)?;
        let format = metadata.text("format").unwrap_or_default();
        if format != FORMAT {
            let format = shown(&format);
            return wrong(format!("it is no state of fadam: its format is {format}, expected `{FORMAT}`"));
        }
        let version = metadata.text("version")?;
        if version != VERSION.to_string() {
            let newer = version.parse::<u32>().is_ok_and(|version| version > VERSION);
            let by = if newer { ", written by a newer fadam" } else { "" };
            return wrong(format!("it has format version {}{by}; this one reads {VERSION}", shown(&version)));
        }
        metadata.text(checksum::FIELD)?;
        if !checksum::is_sealed(&header.bytes) {
            return wrong("its header is damaged: the checksum differs");
        }
        let algorithm = Fields::of("`optimizer`", metadata.document("optimizer")?)?.text("algorithm")?;
        let mut groups = Vec::new();
        for group in metadata.list("groups")? {
            let mut group = Fields::of("a group", group)?;
            groups.push((group.number("beta1")?, group.number("beta2")?));
        }
        let mut parameters = Vec::new();
        for value in metadata.list("parameters")? {
            parameters.push(parameter(value, &groups)?);
        }
        let counters = counters(metadata.document("counters")?)?;
        let checksums = Fields::of("`checksums`", metadata.document("checksums")?)?;
        metadata.finish()?;
        Ok(Self { algorithm, parameters, counters, checksums })
    }
}

fn parameter(value: Value, groups: &[(f64, f64)]) -> Result<Parameter, Fault> {
    let mut fields = Fields::of("a parameter", value)?;
    let name = fields.text("name")?;
    let shown = shown(&name);
    let group = fields.whole("group")?;
    let betas = usize::try_from(group).ok().and_then(|group| groups.get(group));
    let Some(&betas) = betas else {
        return wrong(format!("parameter {shown} is in group {group}, which it does not have"));
    };
    let (step, beta1_power, beta2_power) =
        (fields.whole("step")?, power(&mut fields, "beta1_power")?, power(&mut fields, "beta2_power")?);
    if [beta1_power == 1.0, beta2_power == 1.0] != [step == 0; 2] {
        return wrong(format!("parameter {shown} has {step} steps, which its powers of beta contradict"));
    }
    let start = fields.whole("start")?;
    if start > step {
        return wrong(format!(
            "parameter {shown} has {step} steps, and a master that begins in step {start}"
        ));
    }
    let progress = Progress { step, start, beta1_power, beta2_power };
    let (len, dtype) = (fields.whole("len")?, fields.text("dtype")?);
    fields.finish()?;
    Ok(Parameter { name, len, dtype, betas, progress })
}

/// A number by its bits, `expected` in words and `allowed` by value.
fn float(
    fields: &mut Fields,
    key: &str,
    expected: &str,
    allowed: impl Fn(f64) -> bool,
) -> Result<f64, Fault> {
    let text = fields.text(key)?;
    let number = u64::from_str_radix(&text, 16).map(f64::from_bits).unwrap_or(f64::NAN);
    if bits(number) == text && allowed(number) {
        return Ok(number);
    }
    wrong(format!("`{key}` is {}, expected the bits of {expected}", shown(&text)))
}

/// β^t: a number from 0 to 1.
fn power(fields: &mut Fields, key: &str) -> Result<f64, Fault> {
    float(fields, key, "a power", |power| (0.0..=1.0).contains(&power))
}

/// 0 stands for none.
fn loss_scale(fields: &mut Fields) -> Result<f64, Fault> {
    let allowed = |scale: f64| scale.to_bits() == 0 || LossScale::RANGE.contains(&scale);
    float(fields, "loss_scale", "a loss scale", allowed)
}

fn counters(value: Value) -> Result<Counters, Fault> {
    let mut fields = Fields::of("`counters`", value)?;
    let counters = Counters {
        step: fields.whole("step")?,
        skipped_steps: fields.whole("skipped_steps")?,
        clipped_updates: fields.whole_or_zero("clipped_updates")?,
        schedule_step: fields.whole("schedule_step")?,
        loss_scale: loss_scale(&mut fields)?,
        good_steps: fields.whole("good_steps")?,
    };
    fields.finish()?;
    if counters.skipped_steps + counters.clipped_updates > counters.step {
        return wrong("it counts more skipped steps and clipped updates than steps");
    }
    Ok(counters)
}
