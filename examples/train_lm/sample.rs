//! A little text that a trained model makes up.

use crate::model::{CONTEXT, LAGS, Model};
use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

const LENGTH: usize = 160;
/// Below 1: likely bytes become likelier.
const TEMPERATURE: f32 = 0.5;

/// `prompt` and what the model goes on with, from the beginning of a line.
pub(crate) fn sample(model: &Model, prompt: &str, rng: &mut ChaCha8Rng) -> Result<String> {
    let mut text = vec![b'\n'; LAGS];
    text.extend_from_slice(prompt.as_bytes());
    for _ in 0..LENGTH {
        let window = &text[text.len().saturating_sub(CONTEXT + LAGS - 1)..];
        let logits = model.forward(&[window])?;
        let logits = logits.get(logits.dim(0)? - 1)?.to_vec1::<f32>()?;
        text.push(draw(&logits, rng));
    }
    let text = String::from_utf8_lossy(&text[LAGS..]).into_owned();
    // Nothing that a terminal would obey.
    Ok(text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}"))
}

/// A byte, by its probability.
fn draw(logits: &[f32], rng: &mut ChaCha8Rng) -> u8 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| ((logit - max) / TEMPERATURE).exp()).collect();
    let mut left = weights.iter().sum::<f32>() * (rng.next_u32() as f32 / u32::MAX as f32);
    for (byte, weight) in (0..=u8::MAX).zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return byte;
        }
    }
    b' ' // rounding left a rest
}
