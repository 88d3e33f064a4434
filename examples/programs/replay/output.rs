//! What is in OUT.

use crate::gpu::Values;
use crate::recording::{Parameter, Recording};
use crate::steps::Replayed;
use anyhow::Result;
use fadam::{Master, State, join};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;

struct OutTensor<'a> {
    shape: &'a [usize],
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl<'a> OutTensor<'a> {
    fn f32(shape: &'a [usize], values: &[f32]) -> Self {
        Self { shape, dtype: Dtype::F32, bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    fn of(shape: &'a [usize], values: &Values) -> Self {
        match values {
            Values::F32(values) => Self::f32(shape, values),
            Values::Bf16(values) => {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                Self { shape, dtype: Dtype::BF16, bytes }
            }
        }
    }
}

impl View for OutTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The file's bytes: the same for the same results, since tensors are sorted by name and there is one metadata entry.
pub(crate) fn serialize(recording: &Recording<'_>, replayed: &Replayed) -> Result<Vec<u8>> {
    let kept = recording.config.storage.master.unwrap_or_default();
    let mut tensors = Vec::new();
    for (Parameter { name, shape, value }, state) in recording.parameters.iter().zip(&replayed.states) {
        let mut add = |kind: &str, tensor| tensors.push((format!("{kind}/{name}"), tensor));
        add("param", OutTensor::of(shape, value));
        add("exp_avg", OutTensor::f32(shape, &state.exp_avg));
        add("exp_avg_sq", OutTensor::f32(shape, &state.exp_avg_sq));
        if let Some(max_exp_avg_sq) = &state.max_exp_avg_sq {
            add("max_exp_avg_sq", OutTensor::f32(shape, max_exp_avg_sq));
        }
        if let Some(master) = master(value, state, kept) {
            add("master", OutTensor::f32(shape, &master));
        }
    }
    let report = serde_json::to_string(&replayed.report)?;
    Ok(safetensors::serialize(tensors, Some(HashMap::from([("report".to_string(), report)])))?)
}

/// A parameter's master, where it has one. Before its first step that is its value.
fn master(value: &Values, state: &State, kept: Master) -> Option<Vec<f32>> {
    let Values::Bf16(value) = value else { return None };
    match (kept, &state.master, &state.remainder) {
        (Master::None, ..) => None,
        (_, Some(master), _) => Some(master.clone()),
        (.., Some(remainder)) => Some(value.iter().zip(remainder).map(|(&x, &r)| join(x, r)).collect()),
        _ => Some(value.iter().map(|x| x.to_f32()).collect()),
    }
}
