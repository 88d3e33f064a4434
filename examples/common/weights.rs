//! Random numbers that are the same everywhere, and weights made of them. candle cannot seed its CPU generator.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarMap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::sync::PoisonError;

/// A generator for one purpose: every run draws the same weights and the same batches from it.
pub(crate) fn generator(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}

/// One of 0..`count`.
pub(crate) fn index(rng: &mut ChaCha8Rng, count: usize) -> usize {
    ((u128::from(rng.next_u64()) * count as u128) >> 64) as usize
}

/// Adds a matrix of independent uniform numbers with mean 0 to the weights. Uniform because that takes no function whose
/// last bit depends on the platform.
pub(crate) fn weight(
    weights: &VarMap,
    name: &str,
    (rows, columns): (usize, usize),
    std: f64,
    rng: &mut ChaCha8Rng,
    (dtype, device): (DType, &Device),
) -> Result<Tensor> {
    let limit = std * 3f64.sqrt();
    let sample = || {
        let unit = f64::from(rng.next_u32()) / 2f64.powi(32); // in [0, 1)
        ((2.0 * unit - 1.0) * limit) as f32
    };
    let values: Vec<f32> = std::iter::repeat_with(sample).take(rows * columns).collect();
    let var = Var::from_tensor(&Tensor::from_vec(values, (rows, columns), device)?.to_dtype(dtype)?)?;
    let weight = var.as_tensor().clone();
    weights.data().lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), var);
    Ok(weight)
}

/// How many numbers the weights are.
pub(crate) fn elements(weights: &VarMap) -> usize {
    weights.all_vars().iter().map(|var| var.elem_count()).sum()
}

/// The standard deviation that keeps the scale of a sum of `n` products with inputs.
pub(crate) fn fan_in(n: usize) -> f64 {
    (1.0 / n as f64).sqrt()
}
