//! The header of an optimizer's own file, as JSON. Its text is written once, with blanks in the place of checksums, and in no
//! other form first.

use super::fault::{Fault, wrong};
use super::header::LARGEST;
use super::write::Tensor;
use super::{FORMAT, VERSION, checksum};
use crate::algorithm::Hyper;
use crate::allocation::{collected, filled};
use crate::args::Progress;
use crate::job::Counters;
use crate::optimizer::Parameter;
use crate::{Algorithm, Decay, Error, NonFinite, Optimizer};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};

/// A string builder that reports when there is no memory. Headers are the largest part of a file besides its tensors.
#[derive(Default)]
struct Text(Vec<u8>);

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

impl Text {
    /// The text, and nothing but what was asked for may have failed.
    fn finished(self, written: io::Result<()>) -> Result<Vec<u8>, Error> {
        let Self(text) = self;
        let bytes = text.len();
        written.map(|()| text).map_err(|_| Error::OutOfMemory { name: HEADER.into(), bytes })
    }
}

/// JSON of any value.
fn put(to: impl Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    Ok(serde_json::to_writer(to, value)?)
}

/// Between the elements of a list.
fn comma(to: &mut impl Write, place: usize) -> io::Result<()> {
    to.write_all(if place == 0 { b"" } else { b"," })
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
        let fill = |bytes: &mut [u8], at: usize, crc: u32| {
            bytes[at..at + checksum::BLANK.len()].copy_from_slice(checksum::hex(crc).as_bytes());
        };
        for (&at, &sum) in self.sums.iter().zip(sums) {
            fill(&mut self.bytes, at, sum);
        }
        let own = checksum::of_header(&self.bytes, self.own);
        fill(&mut self.bytes, self.own, own);
    }
}

/// Of an optimizer's own file. Keys are sorted.
pub(super) fn header(optimizer: &mut Optimizer, tensors: &[Tensor]) -> Result<Header, Fault> {
    let order = by_name(tensors)?;
    let counters = optimizer.counters()?;
    let mut progress = filled(Progress::START, optimizer.parameters.len(), HEADER)?;
    for (index, progress) in progress.iter_mut().enumerate() {
        *progress = optimizer.ask(|backend| backend.progress(index))?;
    }
    let (mut text, mut sums, mut own) = (Text::default(), filled(0, tensors.len(), HEADER)?, 0);
    let mut write = || {
        text.write_all(b"{\"__metadata__\":{\"checksums\":\"{")?;
        for (i, &tensor) in order.iter().enumerate() {
            comma(&mut text, i)?;
            put(Inside(&mut text), &tensors[tensor].name)?;
            Inside(&mut text).write_all(b":\"")?;
            sums[tensor] = text.0.len();
            write!(Inside(&mut text), "{}\"", checksum::BLANK)?;
        }
        text.write_all(b"}\",\"counters\":\"")?;
        write_counters(&mut Inside(&mut text), &counters)?;
        write!(text, "\",\"format\":\"{FORMAT}\",\"groups\":\"[")?;
        for (i, (_, hyper)) in optimizer.groups.iter().enumerate() {
            comma(&mut text, i)?;
            put(Inside(&mut text), &group(hyper))?;
        }
        write!(text, "]\",\"{}\":\"", checksum::FIELD)?;
        own = text.0.len();
        write!(text, "{}\",\"optimizer\":\"", checksum::BLANK)?;
        put(Inside(&mut text), &configuration(optimizer))?;
        text.write_all(b"\",\"parameters\":\"[")?;
        for (i, (parameter, progress)) in optimizer.parameters.iter().zip(&progress).enumerate() {
            comma(&mut text, i)?;
            write_parameter(&mut Inside(&mut text), parameter, progress)?;
        }
        write!(text, "]\",\"version\":\"{VERSION}\"}}")?;
        write_tensors(&mut text, tensors, &order)
    };
    let written = write();
    Ok(Header { bytes: checked(text.finished(written)?)?, sums, own })
}

/// As safetensors' own writer for PyTorch has it.
pub(super) fn torch_header(tensors: &[Tensor]) -> Result<Vec<u8>, Fault> {
    let order = by_name(tensors)?;
    let mut text = Text::default();
    let mut write = || {
        text.write_all(b"{\"__metadata__\":{\"format\":\"pt\"}")?;
        write_tensors(&mut text, tensors, &order)
    };
    let written = write();
    checked(text.finished(written)?)
}

fn by_name(tensors: &[Tensor]) -> Result<Vec<usize>, Error> {
    let mut order = collected(0..tensors.len(), HEADER)?;
    order.sort_unstable_by_key(|&tensor| &tensors[tensor].name);
    Ok(order)
}

/// The rest of a header, padded so that the data begin at a multiple of eight.
fn write_tensors(text: &mut Text, tensors: &[Tensor], order: &[usize]) -> io::Result<()> {
    for &tensor in order {
        let Tensor { name, stored, len, begin, .. } = &tensors[tensor];
        let end = begin + tensors[tensor].bytes() as u64;
        let (dtype, shape) = (stored.dtype, len.map(|len| len.to_string()).unwrap_or_default());
        text.write_all(b",")?;
        put(&mut *text, name)?;
        write!(text, ":{{\"data_offsets\":[{begin},{end}],\"dtype\":\"{dtype}\",\"shape\":[{shape}]}}")?;
    }
    text.write_all(b"}")?;
    text.write_all(&b"       "[..text.0.len().next_multiple_of(8) - text.0.len()])
}

fn checked(header: Vec<u8>) -> Result<Vec<u8>, Fault> {
    match header.len() as u64 {
        ..=LARGEST => Ok(header),
        bytes => {
            wrong(format!("its header would take {bytes} bytes, more than safetensors allows: {LARGEST}"))
        }
    }
}

fn write_counters(to: &mut impl Write, counters: &Counters) -> io::Result<()> {
    let Counters { step, skipped_steps, clipped_updates, schedule_step, loss_scale, good_steps } = counters;
    let loss_scale = bits(*loss_scale);
    write!(
        to,
        "{{\"clipped_updates\":{clipped_updates},\"good_steps\":{good_steps},\"loss_scale\":\"{loss_scale}\","
    )?;
    write!(to, "\"schedule_step\":{schedule_step},\"skipped_steps\":{skipped_steps},\"step\":{step}}}")
}

fn write_parameter(to: &mut impl Write, parameter: &Parameter, progress: &Progress) -> io::Result<()> {
    let Parameter { name, dtype, len, group } = parameter;
    let Progress { step, start, beta1_power, beta2_power } = progress;
    let [beta1, beta2] = [beta1_power, beta2_power].map(|power| bits(*power));
    write!(to, "{{\"beta1_power\":\"{beta1}\",\"beta2_power\":\"{beta2}\",\"dtype\":\"{dtype}\",")?;
    write!(to, "\"group\":{group},\"len\":{len},\"name\":")?;
    put(&mut *to, name)?;
    write!(to, ",\"start\":{start},\"step\":{step}}}")
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
