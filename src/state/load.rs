//! Whether a file fits an optimizer, all of it, before anything changes.

use super::fault::{Fault, shown, wrong};
use super::header::{self, Header};
use super::manifest::{self, Manifest};
use super::read::{Origin, Plan};
use super::{Loaded, Slot, describe, tensor_name};
use crate::Optimizer;
use crate::allocation::{filled, push};
use std::collections::BTreeSet;
use std::io::{Read, Seek};

/// All parameters, or with `matching` those that both have.
pub(super) fn load(
    optimizer: &mut Optimizer,
    source: &mut (impl Read + Seek),
    matching: bool,
) -> Result<Loaded, Fault> {
    optimizer.check_lost()?;
    let (bytes, size) = header::read(source, optimizer)?;
    let mut header = Header::parse(&bytes, size)?;
    let manifest = Manifest::read(&mut header)?;
    let here = describe::algorithm_name(&optimizer.algorithm);
    if manifest.algorithm != here {
        return wrong(format!("it is of {}, this optimizer is `{here}`", shown(&manifest.algorithm)));
    }
    if !matching {
        same_order(optimizer, &manifest.parameters)?;
    }
    let mut plan = Plan::new(Origin::Fadam);
    let mut loaded = Loaded::default();
    let mut seen = filled(false, optimizer.parameters.len(), "what is to be loaded")?;
    let mut unexpected = BTreeSet::new();
    for saved in manifest.parameters {
        let name = &saved.name;
        let twice = || wrong(format!("it has parameter {} twice", shown(name)));
        let Some(&index) = optimizer.by_name.get(name) else {
            if !unexpected.insert(name.clone()) {
                return twice();
            }
            header.leave_out(name, saved.len)?;
            list(&mut loaded.unexpected, name)?;
            continue;
        };
        if std::mem::replace(&mut seen[index], true) {
            return twice();
        }
        if matching && saved.len != optimizer.parameters[index].len as u64 {
            header.leave_out(name, saved.len)?;
            list(&mut loaded.resized, name)?;
            continue;
        }
        fits(optimizer, index, &saved)?;
        let progress = (index, saved.progress);
        plan.parameter(optimizer, progress, &mut header, &Slot::ALL, |slot| tensor_name(slot, name))?;
    }
    if let Some(tensor) = header.tensors.keys().next() {
        return wrong(format!("it has {}, which this optimizer does not keep", shown(tensor)));
    }
    for (parameter, _) in optimizer.parameters.iter().zip(seen).filter(|(_, seen)| !seen) {
        list(&mut loaded.missing, &parameter.name)?;
    }
    plan.counters = (!matching).then_some(manifest.counters);
    plan.carry_out(optimizer, source)?;
    Ok(loaded)
}

fn list(names: &mut Vec<String>, name: &str) -> Result<(), Fault> {
    Ok(push(names, name.to_string(), "the names that were left out")?)
}

/// The same names in the same order.
fn same_order(optimizer: &Optimizer, saved: &[manifest::Parameter]) -> Result<(), Fault> {
    for (i, (here, there)) in optimizer.parameters.iter().zip(saved).enumerate() {
        if here.name != there.name {
            let (here, there) = (shown(&here.name), shown(&there.name));
            return wrong(format!("parameter {i} is {there} in the file, {here} here"));
        }
    }
    if let Some(more) = optimizer.parameters.get(saved.len()) {
        return wrong(format!("it has no parameter {}", shown(&more.name)));
    }
    match saved.get(optimizer.parameters.len()) {
        Some(more) => wrong(format!("it has a parameter {}, this optimizer has not", shown(&more.name))),
        None => Ok(()),
    }
}

fn fits(optimizer: &Optimizer, index: usize, saved: &manifest::Parameter) -> Result<(), Fault> {
    let here = &optimizer.parameters[index];
    let differs = |what: &str, there: &str, is: &str| {
        wrong(format!("{what} of parameter {} is {there} in the file, {is} here", shown(&here.name)))
    };
    if saved.len != here.len as u64 {
        return differs("the length", &saved.len.to_string(), &here.len.to_string());
    }
    if saved.dtype != here.dtype.name() {
        return differs("the dtype", &shown(&saved.dtype), here.dtype.name());
    }
    let betas = optimizer.groups[here.group].1.betas();
    for (what, there, here) in [("beta1", saved.betas.0, betas.0), ("beta2", saved.betas.1, betas.1)] {
        if there != here {
            return differs(what, &there.to_string(), &here.to_string());
        }
    }
    Ok(())
}
