//! The header of an optimizer's own file, as JSON. Its text is written once, with blanks in the place of checksums, and in no
//! other form first.

use super::fault::{Fault, wrong};
use super::header::LARGEST;
use super::write::Tensor;
use super::{FORMAT, VERSION, checksum};
use crate::algorithm::Hyper;
use crate::allocation::{collected, filled, reserve};
use crate::{Algorithm, Decay, Error, NonFinite, Optimizer};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Text in the making: the longest things of a file but for its tensors.
#[derive(Default)]
pub(super) struct Text(Vec<u8>);

const HEADER: &str = "the header of a state file";

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_reserve(bytes.len())?;
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written through it becomes a part of a JSON string. It must be JSON itself: of what strings escape, that has quotes
/// and backslashes alone.
struct Inside<'a>(&'a mut Text);

impl Write for Inside<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'"' | b'\\')) {
            match part.split_last() {
                Some((last @ (b'"' | b'\\'), before)) => {
                    self.0.write_all(before)?;
                    self.0.write_all(&[b'\\', *last])?;
                }
                _ => self.0.write_all(part)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of writing to a `Text`, which fails for one reason.
fn no_memory<E>(_: E) -> Fault {
    Error::OutOfMemory { name: HEADER.into(), bytes: 0 }.into()
}

/// JSON of any value.
fn put(to: &mut impl Write, value: &(impl Serialize + ?Sized)) -> Result<(), Fault> {
    serde_json::to_writer(to, value).map_err(no_memory)
}

/// A header in which checksums are blank.
pub(super) struct Header {
    pub(super) bytes: Vec<u8>,
    /// Where each tensor's belongs.
    sums: Vec<usize>,
    own: usize,
}

impl Header {
    /// Fills in the checksums of the tensors, and its own.
    pub(super) fn seal(&mut self, sums: &[u32]) {
        let mut fill = |at: usize, crc: u32| {
            self.bytes[at..at + checksum::BLANK.len()].copy_from_slice(checksum::hex(crc).as_bytes());
        };
        for (&at, &sum) in self.sums.iter().zip(sums) {
            fill(at, sum);
        }
        let own = checksum::of_header(&self.bytes, self.own);
        self.bytes[self.own..self.own + checksum::BLANK.len()].copy_from_slice(checksum::hex(own).as_bytes());
    }
}

/// Of an optimizer's own file. Keys are sorted.
pub(super) fn header(optimizer: &mut Optimizer, tensors: &[Tensor]) -> Result<Header, Fault> {
    let order = by_name(tensors)?;
    let mut sums = filled(0, tensors.len(), HEADER)?;
    let mut text = Text::default();
    text.write_all(b"{\"__metadata__\":{\"checksums\":\"{").map_err(no_memory)?;
    for (i, &tensor) in order.iter().enumerate() {
        let mut inside = Inside(&mut text);
        inside.write_all(if i == 0 { b"" } else { b"," }).map_err(no_memory)?;
        put(&mut inside, &tensors[tensor].name)?;
        inside.write_all(b":\"").map_err(no_memory)?;
        sums[tensor] = text.0.len();
        write!(Inside(&mut text), "{}\"", checksum::BLANK).map_err(no_memory)?;
    }
    text.write_all(b"}\",\"counters\":\"").map_err(no_memory)?;
    let counters = optimizer.counters()?;
    write!(
        Inside(&mut text),
        "{{\"clipped_updates\":{},\"good_steps\":{},\"loss_scale\":\"{}\",\"schedule_step\":{},\"skipped_steps\":{},\"step\":{}}}",
        counters.clipped_updates,
        counters.good_steps,
        bits(counters.loss_scale),
        counters.schedule_step,
        counters.skipped_steps,
        counters.step,
    )
    .map_err(no_memory)?;
    write!(text, "\",\"format\":\"{FORMAT}\",\"groups\":\"[").map_err(no_memory)?;
    for (i, (_, hyper)) in optimizer.groups.iter().enumerate() {
        text.write_all(if i == 0 { b"" } else { b"," }).map_err(no_memory)?;
        put(&mut Inside(&mut text), &group(hyper))?;
    }
    write!(text, "]\",\"{}\":\"", checksum::FIELD).map_err(no_memory)?;
    let own = text.0.len();
    write!(text, "{}\",\"optimizer\":\"", checksum::BLANK).map_err(no_memory)?;
    put(&mut Inside(&mut text), &configuration(optimizer))?;
    text.write_all(b"\",\"parameters\":\"[").map_err(no_memory)?;
    for index in 0..optimizer.parameters.len() {
        text.write_all(if index == 0 { b"" } else { b"," }).map_err(no_memory)?;
        parameter(&mut Inside(&mut text), optimizer, index)?;
    }
    write!(text, "]\",\"version\":\"{VERSION}\"}}").map_err(no_memory)?;
    Ok(Header { bytes: with_tensors(text, tensors, &order)?, sums, own })
}

/// As safetensors' own writer for PyTorch has it.
pub(super) fn torch_header(tensors: &[Tensor]) -> Result<Vec<u8>, Fault> {
    let mut text = Text::default();
    text.write_all(b"{\"__metadata__\":{\"format\":\"pt\"}").map_err(no_memory)?;
    with_tensors(text, tensors, &by_name(tensors)?)
}

fn by_name(tensors: &[Tensor]) -> Result<Vec<usize>, Error> {
    let mut order = collected(0..tensors.len(), HEADER)?;
    order.sort_unstable_by_key(|&tensor| &tensors[tensor].name);
    Ok(order)
}

/// The rest of a header, padded so that the data begin at a multiple of eight.
fn with_tensors(mut text: Text, tensors: &[Tensor], order: &[usize]) -> Result<Vec<u8>, Fault> {
    for &tensor in order {
        let Tensor { name, stored, len, begin, .. } = &tensors[tensor];
        text.write_all(b",").map_err(no_memory)?;
        put(&mut text, name)?;
        let end = begin + tensors[tensor].bytes() as u64;
        let (dtype, shape) = (stored.dtype, len.map(|len| len.to_string()).unwrap_or_default());
        write!(text, ":{{\"data_offsets\":[{begin},{end}],\"dtype\":\"{dtype}\",\"shape\":[{shape}]}}")
            .map_err(no_memory)?;
    }
    text.write_all(b"}").map_err(no_memory)?;
    let Text(mut bytes) = text;
    let whole = bytes.len().next_multiple_of(8);
    if whole as u64 > LARGEST {
        return wrong(format!(
            "its header would take {whole} bytes, more than safetensors allows: {LARGEST}"
        ));
    }
    reserve(&mut bytes, 8, HEADER)?;
    bytes.resize(whole, b' ');
    Ok(bytes)
}

fn parameter(to: &mut Inside<'_>, optimizer: &mut Optimizer, index: usize) -> Result<(), Fault> {
    let progress = optimizer.ask(|backend| backend.progress(index))?;
    let parameter = &optimizer.parameters[index];
    let (beta1_power, beta2_power) = (bits(progress.beta1_power), bits(progress.beta2_power));
    let (dtype, group, len) = (parameter.dtype.name(), parameter.group, parameter.len);
    write!(
        to,
        "{{\"beta1_power\":\"{beta1_power}\",\"beta2_power\":\"{beta2_power}\",\"dtype\":\"{dtype}\",\"group\":{group},\"len\":{len},\"name\":"
    )
    .map_err(no_memory)?;
    put(to, &parameter.name)?;
    write!(to, ",\"start\":{},\"step\":{}}}", progress.start, progress.step).map_err(no_memory)
}

/// An f64 exactly, for every reader.
pub(super) fn bits(number: f64) -> String {
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
