//! The algorithms in f64, written down as plainly as in their definitions: plain loops, nothing shared with the library.
//!
//! Read it side by side with the formulas in the documentation of `fadam::Adam`, `fadam::FAdam` and
//! `fadam::FisherAdam`. β^t is `powi` here, quotients are quotients, moments are in the textbook form: where the library
//! does something cleverer, the two must still agree.
#![allow(clippy::needless_range_loop)] // the formulas have an index, too

/// Adam (Kingma & Ba 2015), and with `decoupled` AdamW (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    pub(crate) lr: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    pub(crate) decoupled: bool,
    pub(crate) amsgrad: bool,
    pub(crate) maximize: bool,
}

/// Momentum, then preconditioning; adaptive ε, natural-gradient clipping, Riemannian decay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FAdam {
    pub(crate) lr: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) eps0: f64,
    pub(crate) eps_decay: f64,
    /// ∞ where there is none.
    pub(crate) kappa: f64,
    pub(crate) weight_decay: f64,
    /// ∞ where there is none.
    pub(crate) decay_cap: f64,
}

/// Algorithm 1 of Hwang 2024: preconditioning, then clipping, then momentum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FisherAdam {
    pub(crate) lr: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) eps: f64,
    pub(crate) eps2: f64,
    pub(crate) rho: f64,
    pub(crate) clip: f64,
    pub(crate) weight_decay: f64,
}

/// The algorithm of one parameter: its group's hyper-parameters are in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Algorithm {
    Adam(Adam),
    FAdam(FAdam),
    FisherAdam(FisherAdam),
}

/// One parameter and its optimizer state.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) algorithm: Algorithm,
    pub(crate) theta: Vec<f64>,
    pub(crate) m: Vec<f64>,
    /// v, s or f.
    pub(crate) v: Vec<f64>,
    pub(crate) v_max: Vec<f64>,
    /// How many steps it took part in.
    pub(crate) t: i32,
}

impl Parameter {
    pub(crate) fn new(algorithm: Algorithm, theta: Vec<f64>) -> Self {
        let zeros = vec![0.0; theta.len()];
        Self { algorithm, theta, m: zeros.clone(), v: zeros.clone(), v_max: zeros, t: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) max_grad_norm: Option<f64>,
    pub(crate) grad_scale: f64,
    /// Whether a gradient that is not finite stops the step (`Skip`, `Error`) or goes through (`Propagate`).
    pub(crate) check: bool,
}

/// What a step says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) skipped: bool,
    pub(crate) grad_norm: f64,
    pub(crate) clip_coefficient: f64,
    /// ‖Δ‖₂ before κ; ‖m‖₂ for FisherAdam.
    pub(crate) update_norm: f64,
    /// Per parameter: ‖g‖, ‖Δ‖ (or ‖m‖) and ‖θ‖ before the step; `None` where it took no part.
    pub(crate) norms: Vec<Option<[f64; 3]>>,
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn rms(x: &[f64]) -> f64 {
    norm(x) / (x.len() as f64).sqrt()
}

fn quotient(x: f64, d: f64) -> f64 {
    if d == 0.0 { 0.0 } else { x / d }
}

/// A gradient is refused if it, its square, or the sum of squares over 4096 elements leaves the range of f32.
fn is_finite(g: &[f64]) -> bool {
    g.chunks(4096).all(|chunk| chunk.iter().map(|g| g * g).sum::<f64>() <= f64::from(f32::MAX))
}

/// One optimizer step; a parameter without a gradient takes no part.
pub(crate) fn step(parameters: &mut [Parameter], gradients: &[Option<Vec<f64>>], policy: &Policy) -> Outcome {
    // g ← g / grad_scale
    let mut g: Vec<Option<Vec<f64>>> = gradients
        .iter()
        .map(|g| g.as_ref().map(|g| g.iter().map(|g| g / policy.grad_scale).collect()))
        .collect();
    let all: Vec<f64> = g.iter().flatten().flatten().copied().collect();
    let grad_norm = norm(&all);
    let mut outcome = Outcome {
        skipped: policy.check && !g.iter().flatten().all(|g| is_finite(g)),
        grad_norm,
        clip_coefficient: 1.0,
        update_norm: 0.0,
        norms: vec![None; parameters.len()],
    };
    if outcome.skipped {
        return outcome;
    }
    for ((parameter, g), norms) in parameters.iter().zip(&g).zip(&mut outcome.norms) {
        *norms = g.as_ref().map(|g| [norm(g), 0.0, norm(&parameter.theta)]);
    }
    // g ← g · min(1, max_grad_norm / (‖g‖ + 1e-6))
    if let Some(max) = policy.max_grad_norm {
        let c = max / (grad_norm + 1e-6);
        outcome.clip_coefficient = if c > 1.0 { 1.0 } else { c };
        for g in g.iter_mut().flatten().flatten() {
            *g *= outcome.clip_coefficient;
        }
    }
    // Moments and Δ (m for FisherAdam) of every parameter, before any θ changes: κ needs them all.
    let mut delta: Vec<Vec<f64>> = vec![Vec::new(); parameters.len()];
    let mut d: Vec<Vec<f64>> = vec![Vec::new(); parameters.len()];
    for (i, parameter) in parameters.iter_mut().enumerate() {
        if let Some(g) = &g[i] {
            parameter.t += 1;
            (delta[i], d[i]) = match parameter.algorithm {
                Algorithm::Adam(adam) => adam.direction(parameter, g),
                Algorithm::FAdam(fadam) => fadam.direction(parameter, g),
                Algorithm::FisherAdam(fisher_adam) => fisher_adam.direction(parameter, g),
            };
            if let Some([_, update, _]) = &mut outcome.norms[i] {
                *update = norm(&delta[i]);
            }
        }
    }
    outcome.update_norm = norm(&delta.concat());
    for (i, parameter) in parameters.iter_mut().enumerate() {
        if g[i].is_some() {
            match parameter.algorithm {
                Algorithm::Adam(adam) => adam.apply(parameter, &delta[i]),
                Algorithm::FAdam(fadam) => fadam.apply(parameter, &delta[i], &d[i], outcome.update_norm),
                Algorithm::FisherAdam(fisher_adam) => fisher_adam.apply(parameter, &d[i]),
            }
        }
    }
    outcome
}

impl Adam {
    /// Δ = m̂ / (√v̂ + ε), and the denominator.
    fn direction(&self, p: &mut Parameter, g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (beta1, beta2) = self.betas;
        let (mut delta, mut denominator) = (Vec::new(), Vec::new());
        for i in 0..g.len() {
            let mut g = g[i];
            if self.maximize {
                g = -g;
            }
            if !self.decoupled {
                g += self.weight_decay * p.theta[i];
            }
            p.m[i] = beta1 * p.m[i] + (1.0 - beta1) * g;
            p.v[i] = beta2 * p.v[i] + (1.0 - beta2) * g * g;
            if p.v[i] > p.v_max[i] {
                p.v_max[i] = p.v[i];
            }
            let v = if self.amsgrad { p.v_max[i] } else { p.v[i] };
            let m_hat = p.m[i] / (1.0 - beta1.powi(p.t));
            let v_hat = v / (1.0 - beta2.powi(p.t));
            let d = v_hat.sqrt() + self.eps;
            delta.push(quotient(m_hat, d));
            denominator.push(d);
        }
        (delta, denominator)
    }

    fn apply(&self, p: &mut Parameter, delta: &[f64]) {
        for i in 0..delta.len() {
            if self.decoupled {
                p.theta[i] -= self.lr * self.weight_decay * p.theta[i];
            }
            p.theta[i] -= self.lr * delta[i];
        }
    }
}

impl FAdam {
    /// Δ = m̂ / d, and d = √ŝ + ε_t.
    fn direction(&self, p: &mut Parameter, g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (beta1, beta2) = self.betas;
        let eps = self.eps0 / (1.0 + self.eps_decay * f64::from(p.t));
        let (mut delta, mut denominator) = (Vec::new(), Vec::new());
        for i in 0..g.len() {
            p.m[i] = beta1 * p.m[i] + (1.0 - beta1) * g[i];
            p.v[i] = beta2 * p.v[i] + (1.0 - beta2) * g[i] * g[i];
            let m_hat = p.m[i] / (1.0 - beta1.powi(p.t));
            let s_hat = p.v[i] / (1.0 - beta2.powi(p.t));
            let d = s_hat.sqrt() + eps;
            delta.push(quotient(m_hat, d));
            denominator.push(d);
        }
        (delta, denominator)
    }

    /// θ ← θ − η κ Δ/‖Δ‖ (where ‖Δ‖ > κ) − ηλ θ/d, the last factor capped.
    fn apply(&self, p: &mut Parameter, delta: &[f64], d: &[f64], delta_norm: f64) {
        for i in 0..delta.len() {
            let mut delta = delta[i];
            if delta_norm > self.kappa {
                delta *= self.kappa / delta_norm;
            }
            let mut shrink = quotient(self.lr * self.weight_decay, d[i]);
            if shrink > self.decay_cap {
                shrink = self.decay_cap;
            }
            p.theta[i] -= self.lr * delta + shrink * p.theta[i];
        }
    }
}

impl FisherAdam {
    /// m after this step, and d = f^ρ + ε̂^(2ρ).
    fn direction(&self, p: &mut Parameter, g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (beta1, beta2) = self.betas;
        let beta2_hat = beta2 * (1.0 - beta2.powi(p.t - 1)) / (1.0 - beta2.powi(p.t));
        let grad_rms = rms(g);
        let eps = if grad_rms == 0.0 || g.is_empty() { self.eps } else { self.eps.min(self.eps2 * grad_rms) };
        let (mut n, mut denominator) = (Vec::new(), Vec::new());
        for i in 0..g.len() {
            p.v[i] = beta2_hat * p.v[i] + (1.0 - beta2_hat) * g[i] * g[i];
            let d = p.v[i].powf(self.rho) + eps.powf(2.0 * self.rho);
            n.push(quotient(g[i], d));
            denominator.push(d);
        }
        let excess = (rms(&n) / self.clip).max(1.0);
        for i in 0..g.len() {
            p.m[i] = beta1 * p.m[i] + (1.0 - beta1) * n[i] / excess;
        }
        (p.m.clone(), denominator)
    }

    /// θ ← θ − η (m + λ w)
    fn apply(&self, p: &mut Parameter, d: &[f64]) {
        let w: Vec<f64> = p.theta.iter().zip(d).map(|(theta, d)| quotient(*theta, *d)).collect();
        let excess = (rms(&w) / self.clip).max(1.0);
        for i in 0..w.len() {
            p.theta[i] -= self.lr * (p.m[i] + self.weight_decay * w[i] / excess);
        }
    }
}
