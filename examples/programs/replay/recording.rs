//! IN: a recording of parameters and gradients, checked as a whole before anything runs.

use crate::config::Config;
use crate::gpu::Values;
use crate::json;
use anyhow::{Context, Result, bail, ensure};
use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// The report of every step is part of OUT's header, which the format limits to 100 MB: at 160 bytes a step and a
/// margin for the tensors' names, that many.
const MOST_STEPS: usize = 500_000;

pub(crate) struct Recording<'file> {
    pub(crate) config: Config,
    /// In byte order of their names.
    pub(crate) parameters: Vec<Parameter>,
    /// For every t, from 1 on, the gradients by the index of their parameter.
    pub(crate) steps: Vec<BTreeMap<usize, Gradient<'file>>>,
}

pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) value: Values,
}

/// A gradient as it lies in the file: little-endian, aligned to nothing.
pub(crate) struct Gradient<'file> {
    bytes: &'file [u8],
    dtype: fadam::Dtype,
}

impl Gradient<'_> {
    pub(crate) fn decode(&self) -> Values {
        decode(self.bytes, self.dtype)
    }
}

fn decode(bytes: &[u8], dtype: fadam::Dtype) -> Values {
    match dtype {
        fadam::Dtype::Bf16 => Values::Bf16(elements(bytes, bf16::from_le_bytes)),
        _ => Values::F32(elements(bytes, f32::from_le_bytes)),
    }
}

fn elements<T, const SIZE: usize>(bytes: &[u8], element: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks();
    elements.iter().map(|&bytes| element(bytes)).collect()
}

/// The two types that `replay` takes.
fn dtype(tensor: &str, view: &TensorView<'_>) -> Result<fadam::Dtype> {
    match view.dtype() {
        Dtype::F32 => Ok(fadam::Dtype::F32),
        Dtype::BF16 => Ok(fadam::Dtype::Bf16),
        other => bail!("tensor `{tensor}` is {other}, expected F32 or BF16"),
    }
}

impl<'file> Recording<'file> {
    pub(crate) fn read(file: &'file [u8]) -> Result<Self> {
        let (header_len, header) = SafeTensors::read_metadata(file).context("not a safetensors file")?;
        refuse_duplicates(&file[size_of::<u64>()..][..header_len])?;
        let optimizer = header.metadata().as_ref().and_then(|metadata| metadata.get("optimizer"));
        let optimizer = optimizer.context("metadata `optimizer` is missing, expected one JSON object")?;
        let config = Config::parse(optimizer).context("metadata `optimizer`")?;

        let safetensors = SafeTensors::deserialize(file).context("not a safetensors file")?;
        let mut tensors = Vec::new();
        for (name, view) in safetensors.iter() {
            tensors.push((name, view));
        }
        tensors.sort_unstable_by_key(|&(name, _)| name); // errors come in a fixed order
        let tensors: Vec<Named<'_, 'file>> =
            tensors.into_iter().map(|(name, view)| Named::new(name, view)).collect::<Result<_>>()?;
        let parameters = parameters(&tensors)?;
        let steps = steps(&tensors, &parameters)?;
        config.check(steps.len()).context("metadata `optimizer`")?;
        Ok(Self { config, parameters, steps })
    }
}

/// The safetensors crate lets the last of two tensors (or metadata entries) of one name win.
fn refuse_duplicates(header: &[u8]) -> Result<()> {
    let header = str::from_utf8(header).context("the safetensors header")?;
    json::parse(header).context("the safetensors header")?;
    Ok(())
}

/// A tensor whose name says what it is.
struct Named<'name, 'file> {
    tensor: &'name str,
    view: TensorView<'file>,
    /// t of `grad/<t>/<name>`; none in `param/<name>`.
    step: Option<usize>,
    name: &'name str,
}

impl<'name, 'file> Named<'name, 'file> {
    fn new(tensor: &'name str, view: TensorView<'file>) -> Result<Self> {
        let form = || {
            format!(
                "tensor `{tensor}` is of another form, expected a name `param/<name>` or `grad/<t>/<name>`"
            )
        };
        let nonempty = |name: &&str| !name.is_empty();
        if let Some(name) = tensor.strip_prefix("param/").filter(nonempty) {
            return Ok(Self { tensor, view, step: None, name });
        }
        let (t, name) =
            tensor.strip_prefix("grad/").and_then(|rest| rest.split_once('/')).with_context(form)?;
        ensure!(!name.is_empty(), form());
        Ok(Self { tensor, view, step: Some(step(tensor, t)?), name })
    }
}

/// One spelling a number: `01` and `+1` would name step 1 a second time.
fn step(tensor: &str, t: &str) -> Result<usize> {
    let number = !t.is_empty() && t.bytes().all(|byte| byte.is_ascii_digit()) && !t.starts_with('0');
    ensure!(number, "tensor `{tensor}` has `{t}` for a step, expected t = 1, 2, 3, …");
    match t.parse() {
        Ok(t) if t <= MOST_STEPS => Ok(t),
        _ => bail!("tensor `{tensor}` has {t} for a step, expected at most {MOST_STEPS}"),
    }
}

fn parameters(tensors: &[Named<'_, '_>]) -> Result<Vec<Parameter>> {
    let mut parameters = Vec::new();
    for Named { tensor, view, name, .. } in tensors.iter().filter(|named| named.step.is_none()) {
        let value = decode(view.data(), dtype(tensor, view)?);
        let (name, shape) = (name.to_string(), view.shape().to_vec());
        parameters.push(Parameter { name, shape, value });
    }
    ensure!(!parameters.is_empty(), "there is no parameter, expected a tensor `param/<name>` at least");
    Ok(parameters) // in byte order, as the tensors are
}

fn steps<'file>(
    tensors: &[Named<'_, 'file>],
    parameters: &[Parameter],
) -> Result<Vec<BTreeMap<usize, Gradient<'file>>>> {
    let mut steps: Vec<BTreeMap<usize, Gradient<'file>>> = Vec::new();
    for Named { tensor, view, step, name } in tensors {
        let Some(t) = *step else { continue };
        let dtype = dtype(tensor, view)?;
        let Ok(index) = parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name)) else {
            bail!(
                "tensor `{tensor}` is a gradient of an unknown parameter, expected a tensor `param/{name}` too"
            );
        };
        let (found, expected) = (view.shape(), &parameters[index].shape);
        ensure!(
            found == expected,
            "tensor `{tensor}` has shape {found:?}, expected {expected:?}, that of `param/{name}`"
        );
        if steps.len() < t {
            steps.resize_with(t, BTreeMap::new);
        }
        steps[t - 1].insert(index, Gradient { bytes: view.data(), dtype });
    }
    Ok(steps)
}
