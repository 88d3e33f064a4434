//! What a file says besides tensors: of which optimizer it is, and how far that has come.

use super::fault::{Fault, shown, wrong};
use super::header::Header;
use super::json::{Fields, elements, entries, quoted};
use super::{FORMAT, VERSION, checksum};
use crate::LossScale;
use crate::allocation::push;
use crate::args::Progress;
use crate::job::Counters;

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
}

impl Manifest {
    /// Tells the header's tensors their checksums.
    pub(super) fn read(header: &mut Header<'_>) -> Result<Self, Fault> {
        let Some(metadata) = header.metadata.take() else {
            return wrong("it is a safetensors file without metadata, and no state of fadam");
        };
        let mut metadata = Fields::of(&"the metadata", metadata.get())?;
        let format = if metadata.has("format") { metadata.text("format")? } else { String::new() };
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
        check_seal(header.text, metadata.plain(checksum::FIELD)?)?;
        let algorithm = metadata.document("optimizer")?.fields()?.text("algorithm")?;
        let mut groups = Vec::new();
        let list = metadata.document("groups")?;
        elements(&list.what, &list.text, |group| {
            let mut group = Fields::of(&"a group", group.get())?;
            let betas = (group.number("beta1")?, group.number("beta2")?);
            Ok(push(&mut groups, betas, "the header's groups")?)
        })?;
        let mut parameters = Vec::new();
        let list = metadata.document("parameters")?;
        elements(&list.what, &list.text, |value| {
            Ok(push(&mut parameters, parameter(value.get(), &groups)?, "the header's parameters")?)
        })?;
        let counters = counters(metadata.document("counters")?.fields()?)?;
        let sums = metadata.document("checksums")?;
        metadata.finish()?;
        entries(&sums.what, &sums.text, |name, sum| {
            let Some(tensor) = header.tensors.get_mut(name.as_ref()) else {
                return wrong(format!("`checksums` has {}, which is unknown", shown(&name)));
            };
            let crc = quoted(sum.get()).and_then(checksum::read);
            match (crc, tensor.sum) {
                (Some(_), None) => tensor.sum = crc,
                (None, _) => return wrong(format!("the checksum of {} is none", shown(&name))),
                (_, Some(_)) => return wrong(format!("the checksum of {} occurs twice", shown(&name))),
            }
            Ok(())
        })?;
        match header.tensors.iter().find(|(_, tensor)| tensor.sum.is_none()) {
            Some((name, _)) => wrong(format!("`checksums` has no {}", shown(name))),
            None => Ok(Self { algorithm, parameters, counters }),
        }
    }
}

/// Whether the header is as it was when its checksum was filled in: `digits`, a part of it.
fn check_seal(header: &str, digits: &str) -> Result<(), Fault> {
    let at = digits.as_ptr().addr() - header.as_ptr().addr();
    let same = digits.len() == checksum::BLANK.len()
        && digits == checksum::hex(checksum::of_header(header.as_bytes(), at));
    if same { Ok(()) } else { wrong("its header is damaged: the checksum differs") }
}

fn parameter(value: &str, groups: &[(f64, f64)]) -> Result<Parameter, Fault> {
    let mut fields = Fields::of(&"a parameter", value)?;
    let name = fields.text("name")?;
    let group = fields.whole("group")?;
    let betas = usize::try_from(group).ok().and_then(|group| groups.get(group));
    let Some(&betas) = betas else {
        return wrong(format!("parameter {} is in group {group}, which it does not have", shown(&name)));
    };
    let (step, beta1_power, beta2_power) =
        (fields.whole("step")?, power(&mut fields, "beta1_power")?, power(&mut fields, "beta2_power")?);
    if [beta1_power == 1.0, beta2_power == 1.0] != [step == 0; 2] {
        let name = shown(&name);
        return wrong(format!("parameter {name} has {step} steps, which its powers of beta contradict"));
    }
    let start = fields.whole("start")?;
    if start > step {
        return wrong(format!(
            "parameter {} has {step} steps, and a master that begins in step {start}",
            shown(&name)
        ));
    }
    let progress = Progress { step, start, beta1_power, beta2_power };
    let (len, dtype) = (fields.whole("len")?, fields.text("dtype")?);
    fields.finish()?;
    Ok(Parameter { name, len, dtype, betas, progress })
}

/// A number by its bits, `expected` in words and `allowed` by value.
fn float(
    fields: &mut Fields<'_, '_>,
    key: &str,
    expected: &str,
    allowed: impl Fn(f64) -> bool,
) -> Result<f64, Fault> {
    let text = fields.plain(key)?;
    let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let number = if digits { u64::from_str_radix(text, 16).map(f64::from_bits).ok() } else { None };
    match number.filter(|number| allowed(*number)) {
        Some(number) => Ok(number),
        None => wrong(format!("`{key}` is {}, expected the bits of {expected}", shown(text))),
    }
}

/// β^t: a number from 0 to 1.
fn power(fields: &mut Fields<'_, '_>, key: &str) -> Result<f64, Fault> {
    float(fields, key, "a power", |power| (0.0..=1.0).contains(&power))
}

/// 0 stands for none.
fn loss_scale(fields: &mut Fields<'_, '_>) -> Result<f64, Fault> {
    let allowed = |scale: f64| scale.to_bits() == 0 || LossScale::RANGE.contains(&scale);
    float(fields, "loss_scale", "a loss scale", allowed)
}

fn counters(mut fields: Fields<'_, '_>) -> Result<Counters, Fault> {
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
