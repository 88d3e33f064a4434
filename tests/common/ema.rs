//! The exponential moving average of a parameter after one step, in f64, and how far the library's may be off.

use crate::reference::{Algorithm, Parameter};

/// Half the distance from 1 to the next f32, and half the smallest subnormal; both with room for the terms of second order.
const UNIT: f64 = 1.001 / (1 << 24) as f64;
const TINY: f64 = f32::MIN_POSITIVE as f64 / (1_u64 << 24) as f64;

/// ema ← decay · ema + (1 − decay) θ, or θ in the parameter's first step. `average` and `theta` are the library's own,
/// before and after the step; `after` tells t and moments.
pub(crate) fn after(
    decay: f64,
    before: &Parameter,
    average: &[f32],
    theta: &[f32],
    after: &Parameter,
) -> (Vec<f64>, Vec<f64>) {
    if average.is_empty() {
        return (theta.iter().map(|&theta| theta.into()).collect(), vec![0.0; theta.len()]);
    }
    let weight = 1.0 - decay;
    let one = |(i, (&ema, &theta)): (usize, (&f32, &f32))| {
        let (ema, theta) = (f64::from(ema), f64::from(theta));
        // In the worst case θ was moved twice, to `middle` and back, and the average with it: each time a difference is
        // rounded, then multiplied with a weight that was rounded, and the sum is rounded. With M the largest of the
        // numbers, a difference is at most 2M, so that each time loses at most 2M · weight · 2 units, and the sum M.
        let middle = theta.abs() + largest_move(after, i);
        let largest = before.theta[i].abs().max(ema.abs()).max(middle);
        let error = 2.0 * (4.0 * weight + 1.0) * largest * UNIT + 4.0 * TINY;
        let expected = decay * ema + weight * theta;
        (expected, if largest.is_finite() { error } else { f64::INFINITY })
    };
    average.iter().zip(theta).enumerate().map(one).unzip()
}

/// |ηΔ|, which a speculative step of FAdam moves θ by before it takes some back; other steps move once.
fn largest_move(after: &Parameter, i: usize) -> f64 {
    let Algorithm::FAdam(fadam) = after.algorithm else { return 0.0 };
    let (beta1, beta2) = fadam.betas;
    let m = after.m[i] / (1.0 - beta1.powi(after.t));
    let s = after.v[i] / (1.0 - beta2.powi(after.t));
    let d = s.sqrt() + fadam.eps0 / (1.0 + fadam.eps_decay * f64::from(after.t));
    // By less than 1 % the library's own Δ, but where d is tiny: then nothing is said.
    let delta = if m == 0.0 { 0.0 } else { m.abs() / d };
    if d < 1e-18 && delta > 0.0 { f64::INFINITY } else { 1.01 * fadam.lr * delta }
}
