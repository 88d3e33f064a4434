//! The algorithms once more, straight from their definition, in numbers that carry their own rounding error: what the
//! tolerances of the comparison with other libraries are derived from. Operations are grouped as the step groups them
//! (kernels/*.cuh), since that decides how often it rounds.

use crate::bounded::{Bounded, ZERO};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) param: Vec<Bounded>,
    pub(crate) exp_avg: Vec<Bounded>,
    pub(crate) exp_avg_sq: Vec<Bounded>,
    pub(crate) max_exp_avg_sq: Vec<Bounded>,
    steps: i32,
}

/// What a step that was not skipped reports.
pub(crate) struct Figures {
    pub(crate) grad_norm: Bounded,
    pub(crate) clip_coefficient: Bounded,
    pub(crate) update_norm: Option<Bounded>,
}

/// Parameters that take part in one step, with their gradients as recorded.
type Gradients = BTreeMap<String, Vec<f64>>;

pub(crate) struct Definition {
    pub(crate) states: BTreeMap<String, State>,
    optimizer: Value,
    algorithm: String,
}

impl Definition {
    pub(crate) fn new(optimizer: &Value, params: impl Iterator<Item = (String, Vec<f64>)>) -> Self {
        let states = params.map(|(name, values)| {
            let zeros = vec![ZERO; values.len()];
            let state = State {
                param: values.into_iter().map(Bounded::exact).collect(),
                exp_avg: zeros.clone(),
                exp_avg_sq: zeros.clone(),
                max_exp_avg_sq: zeros,
                steps: 0,
            };
            (name, state)
        });
        let algorithm = optimizer["algorithm"].as_str().unwrap().to_string();
        Self { states: states.collect(), optimizer: optimizer.clone(), algorithm }
    }

    fn key(&self, key: &str) -> f64 {
        self.optimizer[key].as_f64().unwrap_or_else(|| panic!("the recording gives no number `{key}`"))
    }

    fn flag(&self, key: &str) -> bool {
        self.optimizer[key].as_bool().unwrap()
    }

    /// Nothing where the step is skipped.
    /// ρ ≠ ½ takes a power, which a GPU may round otherwise.
    pub(crate) fn needs_pow(&self) -> bool {
        self.algorithm == "fisher_adam" && self.key("rho") != 0.5
    }

    pub(crate) fn step(&mut self, t: usize, gradients: &Gradients) -> Option<Figures> {
        if gradients.values().flatten().any(|g| !g.is_finite()) {
            return None;
        }
        let lr = &self.optimizer["lr"];
        let lr = lr.as_f64().unwrap_or_else(|| lr[t - 1].as_f64().unwrap());
        let grad_scale = self.key("grad_scale");
        let unscale = Bounded::constant(1.0 / grad_scale);
        let mut squares = BTreeMap::new();
        for (name, gradient) in gradients {
            let unscaled: Vec<Bounded> = gradient.iter().map(|&g| Bounded::exact(g).mul(unscale)).collect();
            squares.insert(name, Bounded::sum_of_squares(&unscaled));
        }
        let grad_norm = root(squares.values().copied());
        let clip = match self.optimizer["max_grad_norm"].as_f64() {
            None => Bounded::exact(1.0),
            Some(max) => {
                let value = max / (grad_norm.value + 1e-6);
                let error = value * grad_norm.error / (grad_norm.value + 1e-6 - grad_norm.error);
                Bounded::wide(value, error).min(Bounded::exact(1.0))
            }
        };
        let scale = Bounded::wide(clip.value / grad_scale, clip.error / grad_scale).narrow();
        let scaled = |gradient: &[f64]| gradient.iter().map(|&g| Bounded::exact(g).mul(scale)).collect();
        let effective: BTreeMap<&String, Vec<Bounded>> =
            gradients.iter().map(|(name, gradient)| (name, scaled(gradient))).collect();
        let update_norm = match self.algorithm.as_str() {
            "adam" => {
                effective.iter().for_each(|(name, g)| self.adam(name, g, lr));
                None
            }
            "fadam" => self.fadam(&effective, lr),
            _ => {
                for (name, g) in &effective {
                    let mean = squares[*name].value / g.len() as f64;
                    let rms = Bounded::wide(mean, squares[*name].error / g.len() as f64).sqrt_wide();
                    let rms = Bounded::wide(
                        rms.value * clip.value,
                        rms.value * clip.error + clip.value * rms.error,
                    );
                    self.fisher_adam(name, g, lr, rms);
                }
                None
            }
        };
        Some(Figures { grad_norm, clip_coefficient: clip, update_norm })
    }

    /// Both moments of an element, in place; and what they have to be divided by.
    fn moments(&mut self, name: &str, g: &[Bounded]) -> (f64, f64) {
        let (beta1, beta2) = (self.key("beta1"), self.key("beta2"));
        let state = self.states.get_mut(name).unwrap();
        state.steps += 1;
        for (i, &g) in g.iter().enumerate() {
            state.exp_avg[i] = Bounded::mix(state.exp_avg[i], g, beta1, beta1 < 0.5);
            state.exp_avg_sq[i] =
                Bounded::mix(state.exp_avg_sq[i], square(g, beta2 < 0.5), beta2, beta2 < 0.5);
        }
        (1.0 - beta1.powi(state.steps), 1.0 - beta2.powi(state.steps))
    }

    fn adam(&mut self, name: &str, g: &[Bounded], lr: f64) {
        let decoupled = self.optimizer["decay"] == "decoupled";
        let decay = Bounded::constant(self.key("weight_decay"));
        let sign = if self.flag("maximize") { -1.0 } else { 1.0 };
        let with_decay = |(g, p): (&Bounded, &Bounded)| {
            let g = Bounded { value: sign * g.value, ..*g };
            if decay == ZERO || decoupled { g } else { decay.mul_add(*p, g) }
        };
        let g: Vec<Bounded> = g.iter().zip(&self.states[name].param).map(with_decay).collect();
        let bias = self.moments(name, &g);
        let (eps, amsgrad) = (self.key("eps"), self.flag("amsgrad"));
        let state = self.states.get_mut(name).unwrap();
        for i in 0..g.len() {
            let mut second = state.exp_avg_sq[i];
            if amsgrad {
                second = state.max_exp_avg_sq[i].max(second);
                state.max_exp_avg_sq[i] = second;
            }
            let p = &mut state.param[i];
            let delta = direction(state.exp_avg[i], denominator(second, bias.1, eps), bias.0);
            let r = if decay == ZERO || !decoupled { delta } else { decay.mul_add(*p, delta) };
            *p = Bounded::constant(-lr).mul_add(r, *p);
        }
    }

    fn fadam(&mut self, gradients: &BTreeMap<&String, Vec<Bounded>>, lr: f64) -> Option<Bounded> {
        let (mut denominators, mut deltas) = (BTreeMap::new(), BTreeMap::new());
        for (name, g) in gradients {
            let bias = self.moments(name, g);
            let state = &self.states[*name];
            let eps = self.key("eps0") / (1.0 + self.key("eps_decay") * f64::from(state.steps));
            let d: Vec<_> = state.exp_avg_sq.iter().map(|&s| denominator(s, bias.1, eps)).collect();
            let delta: Vec<_> =
                state.exp_avg.iter().zip(&d).map(|(&m, &d)| direction(m, d, bias.0)).collect();
            denominators.insert(*name, d);
            deltas.insert(*name, delta);
        }
        let kappa = self.optimizer["kappa"].as_f64();
        let norm = root(deltas.values().map(|delta| Bounded::sum_of_squares(delta)));
        let clip = match kappa {
            Some(kappa) if norm.value > kappa => {
                Bounded::wide(kappa / norm.value, kappa / norm.value * norm.error / (norm.value - norm.error))
            }
            _ => Bounded::exact(1.0),
        };
        let elements: usize = self.states.values().map(|state| state.param.len()).sum();
        let (beta1, beta2) = (self.key("beta1"), self.key("beta2"));
        // The library's rule for applying Δ before its norm is known, and taking the surplus back.
        let speculative =
            kappa.is_some_and(|kappa| kappa >= 0.5 * (elements as f64).sqrt()) && beta1 * beta1 < beta2;
        let decay = Bounded::constant(self.key("weight_decay"));
        let cap = self.optimizer["decay_cap"].as_f64().map(|cap| Bounded::constant(cap / lr));
        for (name, delta) in &deltas {
            let state = self.states.get_mut(*name).unwrap();
            for (i, p) in state.param.iter_mut().enumerate() {
                let first = if speculative { Bounded::exact(1.0) } else { clip.narrow() };
                let mut r = if first == Bounded::exact(1.0) { delta[i] } else { first.mul(delta[i]) };
                if decay != ZERO {
                    let q = decay.div_or_zero(denominators[name][i]);
                    // lr = 0 makes the cap infinite, and the step nothing
                    let q = cap.filter(|cap| cap.value.is_finite()).map_or(q, |cap| q.min(cap));
                    r = q.mul_add(*p, r);
                }
                *p = Bounded::constant(-lr).mul_add(r, *p);
                if speculative && clip.value != 1.0 {
                    let back = Bounded::wide(lr * (1.0 - clip.value), lr * clip.error).narrow();
                    *p = back.mul_add(delta[i], *p);
                }
            }
        }
        kappa.map(|_| norm)
    }

    fn fisher_adam(&mut self, name: &str, g: &[Bounded], lr: f64, rms: Bounded) {
        let [beta1, beta2, rho, c] = ["beta1", "beta2", "rho", "clip"].map(|key| self.key(key));
        let (eps, eps2, decay) = (self.key("eps"), self.key("eps2"), self.key("weight_decay"));
        let eps = if rms.value == 0.0 {
            Bounded::exact(eps)
        } else {
            Bounded::wide(eps2 * rms.value, eps2 * rms.error).min(Bounded::exact(eps))
        };
        // (ε̂)^2ρ in f64, then rounded; its slope is 2ρ·ε̂^2ρ/ε̂
        let power = eps.value.powf(2.0 * rho);
        let damping = Bounded::wide(power, 2.0 * rho * power / eps.value * eps.error).narrow();
        let state = self.states.get_mut(name).unwrap();
        state.steps += 1;
        let power = |steps: i32| 1.0 - beta2.powi(steps);
        let fisher_beta = beta2 * power(state.steps - 1) / power(state.steps);
        let mut d = Vec::new();
        for (i, &g) in g.iter().enumerate() {
            let f = &mut state.exp_avg_sq[i];
            *f = Bounded::mix(*f, square(g, beta2 < 0.5), fisher_beta, beta2 < 0.5);
            d.push(if rho == 0.5 { f.sqrt() } else { f.pow(rho) }.add(damping));
        }
        let over = |x: &[Bounded]| x.iter().zip(&d).map(|(x, &d)| x.div_or_zero(d)).collect::<Vec<_>>();
        let (natural, decayed) = (over(g), over(&state.param));
        // λ is folded into the factor of w.
        let factor = |x: &[Bounded], weight: f64| {
            let sum = Bounded::sum_of_squares(x);
            let rms = Bounded::wide(sum.value / x.len() as f64, sum.error / x.len() as f64).sqrt_wide();
            let excess = Bounded::wide(rms.value / c, rms.error / c).max(Bounded::exact(1.0));
            let value = weight / excess.value;
            Bounded::wide(value, value * excess.error / (excess.value - excess.error)).narrow()
        };
        let (natural_factor, decay_factor) = (factor(&natural, 1.0), factor(&decayed, decay));
        for (i, p) in state.param.iter_mut().enumerate() {
            let n = natural[i].mul(natural_factor);
            let m = &mut state.exp_avg[i];
            *m = Bounded::mix(*m, n, beta1, beta1 < 0.5);
            let r = if decay == 0.0 { *m } else { decay_factor.mul_add(decayed[i], *m) };
            *p = Bounded::constant(-lr).mul_add(r, *p);
        }
    }
}

/// g² inside a fused operation, or rounded on its own.
fn square(g: Bounded, rounded: bool) -> Bounded {
    let error = (2.0 * g.value.abs() + g.error) * g.error;
    if rounded { Bounded::rounded(g.value * g.value, error) } else { Bounded::wide(g.value * g.value, error) }
}

fn root(squares: impl Iterator<Item = Bounded>) -> Bounded {
    let sum = squares.fold(ZERO, |sum, x| Bounded::wide(sum.value + x.value, sum.error + x.error));
    sum.sqrt_wide()
}

fn denominator(second: Bounded, bias: f64, eps: f64) -> Bounded {
    second.sqrt().mul_add(Bounded::constant(1.0 / bias.sqrt()), Bounded::constant(eps))
}

fn direction(first: Bounded, denominator: Bounded, bias: f64) -> Bounded {
    first.mul(Bounded::constant(1.0 / bias)).div_or_zero(denominator)
}
