//! State of PyTorch's Adam and AdamW, by the names that their `state_dict()` has: `state.<i>.step`, `state.<i>.exp_avg`, …

use super::fault::{Fault, shown, wrong};
use super::header::{self, Header, PREFIX, Tensor};
use super::read::{Origin, Plan, Stream};
use super::save::check_path;
use super::write::{Content, Room, Tensors, write_to};
use super::{describe, file, values};
use crate::allocation::{filled, with_capacity};
use crate::args::Progress;
use crate::slot::{Slot, Stored};
use crate::{Algorithm, Optimizer};
use std::io::{Read, Seek};
use std::path::Path;

/// PyTorch counts steps in an f32, which is exact so far.
const MOST_STEPS: u64 = 1 << 24;
/// In other types than PyTorch's own, which others write.
const MOST_STEPS_OF_OTHERS: u64 = 1 << 32;

pub(super) fn save(optimizer: &mut Optimizer, path: &Path, names: &[&str]) -> Result<(), Fault> {
    check_path(path)?;
    let mut tensors = Tensors::default();
    for (i, index) in numbered(optimizer, names)?.into_iter().enumerate() {
        let step = optimizer.ask(|backend| backend.progress(index))?.step;
        if step > MOST_STEPS {
            let name = shown(names[i]);
            return wrong(format!("{name} has {step} steps, and PyTorch counts to {MOST_STEPS} alone"));
        }
        tensors.add(format!("state.{i}.step"), Stored::F32, None, Content::Number(step as f32))?;
        for slot in Slot::MOMENTS {
            if let Some(stored) = optimizer.backend.slot(index, slot) {
                let len = optimizer.parameters[index].len;
                tensors.add(name(i, slot), stored, Some(len), Content::Slot(index, slot))?;
            }
        }
    }
    let tensors = tensors.in_order()?;
    let header = describe::torch_header(&tensors)?;
    let mut room = Room::new(&tensors)?;
    file::replace(path, |file| write_to(file, &header, optimizer, &tensors, &mut room))
}

pub(super) fn load(
    optimizer: &mut Optimizer,
    source: &mut (impl Read + Seek),
    names: &[&str],
) -> Result<(), Fault> {
    let indices = numbered(optimizer, names)?;
    let (bytes, size) = header::read(source, optimizer)?;
    let mut header = Header::parse(&bytes, size)?;
    let mut plan = Plan::new(Origin::PyTorch);
    plan.seen(PREFIX as u64..(PREFIX + bytes.len()) as u64, crc32fast::hash(&bytes))?;
    let mut counts = filled(None, indices.len(), COUNTS)?;
    let mut steps = with_capacity(indices.len(), COUNTS)?;
    for i in 0..indices.len() {
        let step = format!("state.{i}.step");
        match header.tensors.remove(step.as_str()) {
            Some(tensor) => steps.push((i, tensor)),
            None if Slot::MOMENTS.iter().any(|&slot| header.tensors.contains_key(name(i, slot).as_str())) => {
                return wrong(format!("it has no `{step}`"));
            }
            None => {}
        }
    }
    steps.sort_unstable_by_key(|(_, tensor)| tensor.begin);
    let mut stream = Stream::scattered(source)?;
    for (i, tensor) in steps {
        let (count, sum) = count(&mut stream, i, &tensor)?;
        plan.seen(tensor.begin..tensor.end, sum)?;
        counts[i] = Some(count);
    }
    let progress = progress(optimizer, &indices, &counts)?;
    for (i, (&index, progress)) in indices.iter().zip(progress).enumerate() {
        match progress {
            None => plan.restart(optimizer, index)?,
            Some(progress) => {
                let name = |slot| name(i, slot);
                plan.parameter(optimizer, (index, progress), &mut header, &Slot::MOMENTS, name)?;
            }
        }
    }
    if let Some(tensor) = header.tensors.keys().next() {
        let of = names.len();
        if (0..of).any(|i| Slot::MOMENTS.iter().any(|&slot| name(i, slot) == *tensor)) {
            return wrong(format!("it has {}, which this optimizer does not keep", shown(tensor)));
        }
        return wrong(format!("it has {}, which is no state of the {of} parameters named", shown(tensor)));
    }
    plan.carry_out(optimizer, source)
}

const COUNTS: &str = "step counts";

fn name(i: usize, slot: Slot) -> String {
    format!("state.{i}.{}", slot.name())
}

/// The parameter behind each of PyTorch's numbers.
fn numbered(optimizer: &Optimizer, names: &[&str]) -> Result<Vec<usize>, Fault> {
    if !matches!(optimizer.algorithm, Algorithm::Adam(_)) {
        let algorithm = describe::algorithm_name(&optimizer.algorithm);
        return wrong(format!("PyTorch has state of `adam` alone, this optimizer is `{algorithm}`"));
    }
    let mut seen = filled(false, optimizer.parameters.len(), "the parameters named")?;
    let mut indices = with_capacity(names.len(), "the parameters named")?;
    for &name in names {
        match optimizer.by_name.get(name) {
            None => return wrong(format!("no parameter {} is registered", shown(name))),
            Some(&index) if seen[index] => {
                return wrong(format!("parameter {} is named twice", shown(name)));
            }
            Some(&index) => {
                seen[index] = true;
                indices.push(index);
            }
        }
    }
    Ok(indices)
}

/// A step count: one number, which is whole. And its checksum.
fn count(stream: &mut Stream<'_, impl Read + Seek>, i: usize, tensor: &Tensor) -> Result<(u64, u32), Fault> {
    let Tensor { dtype, elements, .. } = tensor;
    if *elements != 1 {
        return wrong(format!("`state.{i}.step` is {elements} of {dtype}, expected one number"));
    }
    let mut count = None;
    let sum = stream.read(tensor, |bytes| {
        count = values::scalar(dtype, bytes);
        Ok(())
    })?;
    let Some(count) = count else {
        return wrong(format!("`state.{i}.step` is of {dtype}, expected F32, F64, I32 or I64"));
    };
    let most = if *dtype == Stored::F32.dtype { MOST_STEPS } else { MOST_STEPS_OF_OTHERS };
    if !(0.0..=most as f64).contains(&count) || count.fract() != 0.0 {
        return wrong(format!("`state.{i}.step` is {count}, expected a whole number from 0 to {most}"));
    }
    Ok((count as u64, sum))
}

/// How far each parameter has come. Master and average, which PyTorch has not, begin with the parameter's value.
///
/// The powers of beta are as many multiplications as steps, so that the bits are those of an optimizer that has made the steps.
/// All parameters of the same betas are reached on one way, in the order of their counts.
fn progress(
    optimizer: &Optimizer,
    indices: &[usize],
    counts: &[Option<u64>],
) -> Result<Vec<Option<Progress>>, Fault> {
    let betas = |i: usize| optimizer.groups[optimizer.parameters[indices[i]].group].1.betas();
    let key = |i: usize| {
        let (beta1, beta2) = betas(i);
        (beta1.to_bits(), beta2.to_bits(), counts[i])
    };
    let mut order = with_capacity(indices.len(), COUNTS)?;
    order.extend((0..indices.len()).filter(|&i| counts[i].is_some()));
    order.sort_unstable_by_key(|&i| key(i));
    let mut all = filled(None, indices.len(), COUNTS)?;
    let (mut way, mut last) = (Progress::START, None);
    for i in order {
        if last != Some(betas(i)) {
            (way, last) = (Progress::START, Some(betas(i)));
        }
        way = further(way, counts[i].unwrap_or_default(), betas(i));
        all[i] = Some(way);
    }
    Ok(all)
}

/// On to this step.
fn further(
    Progress { step: from, beta1_power, beta2_power, .. }: Progress,
    step: u64,
    betas: (f64, f64),
) -> Progress {
    let (beta1_power, beta2_power) =
        (power(beta1_power, step - from, betas.0), power(beta2_power, step - from, betas.1));
    Progress { step, start: 0, beta1_power, beta2_power }
}

/// So many multiplications, or until they change nothing: the power is 0 by then, or stays at a subnormal number.
fn power(mut power: f64, times: u64, beta: f64) -> f64 {
    for _ in 0..times {
        let next = power * beta;
        if next == power {
            break;
        }
        power = next;
    }
    power
}
