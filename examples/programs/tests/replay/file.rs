//! Safetensors files by hand: read and written here without the crate that the program uses, hostile ones included.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

impl Tensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: "F32".into(), shape: shape.to_vec(), bytes }
    }

    /// The same values in F32, of F32 or BF16.
    pub(crate) fn widened(&self) -> Self {
        let values: Vec<f32> = self.values().iter().map(|&x| x as f32).collect();
        Self::f32(&self.shape, &values)
    }

    /// In BF16, of F32 that it can hold or not.
    pub(crate) fn narrowed(&self) -> Self {
        let narrow = |&x: &f64| half::bf16::from_f32(x as f32).to_le_bytes();
        let bytes = self.values().iter().flat_map(narrow).collect();
        Self { dtype: "BF16".into(), bytes, shape: self.shape.clone() }
    }

    /// The elements, exact.
    pub(crate) fn values(&self) -> Vec<f64> {
        match self.dtype.as_str() {
            "F64" => self.bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
            "F32" => self.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes).into()).collect(),
            "BF16" => self
                .bytes
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| half::bf16::from_le_bytes(bytes).into())
                .collect(),
            other => panic!("dtype {other}"),
        }
    }
}

impl File {
    pub(crate) fn parse(file: &[u8]) -> Self {
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (header, data) = file[8..].split_at(header_len);
        let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let metadata = header.remove("__metadata__").unwrap_or_else(|| json!({}));
        let tensor = |entry: Value| {
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let offsets = &entry["data_offsets"];
            Tensor {
                dtype: entry["dtype"].as_str().unwrap().into(),
                shape: entry["shape"].as_array().unwrap().iter().map(number).collect(),
                bytes: data[number(&offsets[0])..number(&offsets[1])].to_vec(),
            }
        };
        Self {
            metadata: serde_json::from_value(metadata).unwrap(),
            tensors: header.into_iter().map(|(name, entry)| (name, tensor(entry))).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!(self.metadata))]);
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            let offsets = [data.len(), data.len() + tensor.bytes.len()];
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets});
            header.insert(name.clone(), entry);
            data.extend(&tensor.bytes);
        }
        raw(&Value::Object(header).to_string(), &data)
    }

    pub(crate) fn optimizer(&self) -> Value {
        serde_json::from_str(&self.metadata["optimizer"]).unwrap()
    }

    pub(crate) fn set_optimizer(&mut self, optimizer: &Value) {
        self.metadata.insert("optimizer".into(), optimizer.to_string());
    }

    pub(crate) fn report(&self, key: &str) -> Vec<Value> {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    /// Tensors whose names begin so, without it.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors.iter().filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
    }

    /// The recording's first steps alone.
    pub(crate) fn first_steps(&self, steps: usize) -> Self {
        let mut file = self.clone();
        file.tensors.retain(|name, _| step_of(name).is_none_or(|t| t <= steps));
        let mut optimizer = self.optimizer();
        if let Some(list) = optimizer["lr"].as_array_mut() {
            list.truncate(file.steps()); // fewer where the last steps have no gradients
        }
        file.set_optimizer(&optimizer);
        file
    }

    pub(crate) fn steps(&self) -> usize {
        self.tensors.keys().filter_map(|name| step_of(name)).max().unwrap_or(0)
    }
}

/// t of `grad/<t>/<name>`.
fn step_of(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("grad/")?.split_once('/')?.0.parse().ok()
}

/// A file of this header and this data.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
