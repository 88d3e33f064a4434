//! Whether a file fits an optimizer, all of it, before anything changes.

use super::fault::{Fault, shown, wrong};
use super::header::Header;
use super::manifest::{self, Manifest};
use super::read::{self, Plan};
use super::{Loaded, Slot, checksum, json, tensor_name};
use crate::Optimizer;
use std::collections::HashSet;
use std::io::{Read, Seek};

pub(super) fn load(
    optimizer: &mut Optimizer,
    source: &mut (impl Read + Seek),
    strict: bool,
) -> Result<Loaded, Fault> {
    optimizer.check_lost()?;
    let mut header = Header::read(source)?;
    let manifest = Manifest::read(&mut header)?;
    verify(source, &header, manifest.checksums)?;
    let here = manifest::algorithm_name(&optimizer.algorithm);
    if manifest.algorithm != here {
        return wrong(format!("it is of {}, this optimizer is `{here}`", shown(&manifest.algorithm)));
    }
    if strict {
        same_order(optimizer, &manifest.parameters)?;
    }
    let mut plan = Plan::default();
    let mut loaded = Loaded::default();
    let mut known = HashSet::new();
    for saved in manifest.parameters {
        let name = saved.name.clone();
        if !known.insert(name.clone()) {
            return wrong(format!("it has parameter {} twice", shown(&name)));
        }
        let Some(&index) = optimizer.by_name.get(&name) else {
            for slot in Slot::ALL {
                header.tensors.remove(&tensor_name(slot, &name));
            }
            loaded.unexpected.push(name);
            continue;
        };
        fits(optimizer, index, &saved)?;
        plan.parameter(optimizer, index, saved.progress, &mut header, &Slot::ALL, |slot| {
            tensor_name(slot, &name)
        })?;
    }
    if let Some(tensor) = header.tensors.keys().next() {
        return wrong(format!("it has {}, which this optimizer does not keep", shown(tensor)));
    }
    let names = optimizer.parameters.iter().map(|parameter| &parameter.name);
    loaded.missing = names.filter(|name| !known.contains(*name)).cloned().collect();
    plan.counters = strict.then_some(manifest.counters);
    plan.carry_out(optimizer, source)?;
    Ok(loaded)
}

/// All data against their checksums.
fn verify(
    source: &mut (impl Read + Seek),
    header: &Header,
    mut checksums: json::Fields,
) -> Result<(), Fault> {
    let mut row: Vec<_> = header.tensors.iter().collect();
    row.sort_unstable_by_key(|(_, tensor)| tensor.begin); // as the disk has them
    for (name, tensor) in row {
        if checksums.text(name)? != checksum::hex(read::sum(source, tensor)?) {
            return wrong(format!("{} is damaged: its checksum differs", shown(name)));
        }
    }
    checksums.finish()
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
    let name = shown(&here.name);
    let differs = |what: &str, there: &str, here: &str| {
        wrong(format!("{what} of parameter {name} is {there} in the file, {here} here"))
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
