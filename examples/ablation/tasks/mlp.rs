//! Layers of a perceptron.

use crate::weights::{fan_in, weight};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarMap;
use rand_chacha::ChaCha8Rng;

/// Fully connected layers with SiLU between them.
pub(crate) struct Mlp {
    layers: Vec<(Tensor, Tensor)>,
}

impl Mlp {
    /// Of these widths, the input's first; adds its weights to `weights`, their names after `name`.
    pub(crate) fn new(weights: &VarMap, name: &str, widths: &[usize], rng: &mut ChaCha8Rng) -> Result<Self> {
        let place = (DType::F32, &Device::Cpu);
        let layer = |(i, pair): (usize, &[usize])| {
            let matrix = format!("{name}.{i}.weight");
            let matrix = weight(weights, &matrix, (pair[0], pair[1]), fan_in(pair[0]), rng, place)?;
            let bias = weight(weights, &format!("{name}.{i}.bias"), (1, pair[1]), 0.0, rng, place)?;
            Ok((matrix, bias))
        };
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }

    /// Of a row an example.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (matrix, bias)) in self.layers.iter().enumerate() {
            if i > 0 {
                x = x.silu()?;
            }
            x = x.matmul(matrix)?.broadcast_add(bias)?;
        }
        Ok(x)
    }
}

/// A matrix on the CPU.
pub(crate) fn matrix(values: Vec<f32>, columns: usize) -> Result<Tensor> {
    let rows = values.len() / columns;
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

/// A number, in f64.
pub(crate) fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(f64::from(tensor.to_scalar::<f32>()?))
}
