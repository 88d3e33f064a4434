//! How far one step in f32 may end from the same step in exact arithmetic: the numbered steps of kernels/*.cuh, walked
//! in running error analysis. Of the walk's results the tests use the bounds alone; values come from tests/reference.

use crate::reference::{Adam, Algorithm, FAdam, FisherAdam, Parameter, Policy};
use crate::rounded::{Rounded, norm};

/// Bounds of one parameter after one step.
#[derive(Default)]
pub(crate) struct Bounds {
    pub(crate) theta: Vec<f64>,
    pub(crate) m: Vec<f64>,
    pub(crate) v: Vec<f64>,
    pub(crate) v_max: Vec<f64>,
    /// Of ‖g‖, ‖Δ‖ (or ‖m‖) and ‖θ‖.
    pub(crate) norms: [f64; 3],
}

pub(crate) struct StepBounds {
    pub(crate) grad_norm: f64,
    pub(crate) clip_coefficient: f64,
    pub(crate) update_norm: f64,
    pub(crate) parameters: Vec<Option<Bounds>>,
}

/// Moments and direction of one parameter on its way.
struct Walk {
    m: Vec<Rounded>,
    v: Vec<Rounded>,
    v_max: Vec<Rounded>,
    d: Vec<Rounded>,
    /// Δ, or n of FisherAdam before its clip.
    delta: Vec<Rounded>,
}

fn errors(x: &[Rounded]) -> Vec<f64> {
    x.iter().map(|x| x.error).collect()
}

fn exact(x: &[f64]) -> Vec<Rounded> {
    x.iter().copied().map(Rounded::exact).collect()
}

/// `before` is the state that the step starts from, `t` not yet counted.
pub(crate) fn step(
    before: &[Parameter],
    gradients: &[Option<Vec<f64>>],
    policy: &Policy,
    speculates: bool,
) -> StepBounds {
    let unscale = Rounded::scalar(1.0 / policy.grad_scale);
    let unscaled: Vec<Option<Vec<Rounded>>> = gradients
        .iter()
        .map(|g| g.as_ref().map(|g| g.iter().map(|&g| Rounded::exact(g).mul(unscale)).collect()))
        .collect();
    let grad_norm = norm(unscaled.iter().flatten().flatten());
    // c = min(1, max / (norm + 1e-6)) in f64: only the norm is uncertain.
    let clip = match policy.max_grad_norm {
        Some(max) => grad_norm.map(|norm| (max / (norm.max(0.0) + 1e-6)).min(1.0)),
        None => Rounded::exact(1.0),
    };
    let scale = Rounded::within(clip.value / policy.grad_scale, clip.error / policy.grad_scale).round();
    let mut walks: Vec<Option<Walk>> = Vec::new();
    for ((p, g), unscaled) in before.iter().zip(gradients).zip(&unscaled) {
        walks.push(g.as_ref().zip(unscaled.as_ref()).map(|(g, unscaled)| {
            let g: Vec<Rounded> = g.iter().map(|&g| Rounded::exact(g).mul(scale)).collect(); // 1
            match p.algorithm {
                Algorithm::Adam(adam) => adam_moments(&adam, p, &g),
                Algorithm::FAdam(fadam) => fadam_moments(&fadam, p, &g),
                Algorithm::FisherAdam(fisher_adam) => {
                    // RMS of the unscaled gradient, times c in f64.
                    let norm = norm(unscaled);
                    let error = norm.error * clip.value + (norm.value + norm.error) * clip.error;
                    let root = (g.len() as f64).sqrt();
                    let rms = Rounded::within(norm.value * clip.value / root, error / root);
                    fisher_adam_moments(&fisher_adam, p, &g, rms)
                }
            }
        }));
    }
    let update_norm = norm(walks.iter().flatten().flat_map(|walk| match_update(walk, before)));
    let parameters = before
        .iter()
        .zip(&walks)
        .zip(&unscaled)
        .map(|((p, walk), g)| {
            walk.as_ref().zip(g.as_ref()).map(|(walk, g)| {
                let theta = match p.algorithm {
                    Algorithm::Adam(adam) => adam_apply(&adam, p, walk),
                    Algorithm::FAdam(fadam) => fadam_apply(&fadam, p, walk, update_norm, speculates),
                    Algorithm::FisherAdam(fisher_adam) => fisher_adam_apply(&fisher_adam, p, walk),
                };
                Bounds {
                    theta: errors(&theta),
                    m: errors(&walk.m),
                    v: errors(&walk.v),
                    v_max: errors(&walk.v_max),
                    norms: [norm(g), norm(match_update(walk, before)), norm(&exact(&p.theta))]
                        .map(|n| n.error),
                }
            })
        })
        .collect();
    StepBounds {
        grad_norm: grad_norm.error,
        clip_coefficient: clip.error,
        update_norm: update_norm.error,
        parameters,
    }
}

/// What the update norm is of: Δ, or m for FisherAdam.
fn match_update<'a>(walk: &'a Walk, before: &[Parameter]) -> &'a [Rounded] {
    if matches!(before[0].algorithm, Algorithm::FisherAdam(_)) { &walk.m } else { &walk.delta }
}

fn exp_avg(m: f64, g: Rounded, beta: f64) -> Rounded {
    let m = Rounded::exact(m);
    if beta < 0.5 {
        return Rounded::scalar(beta).mul_add(m.sub(g), g); // M1'
    }
    Rounded::scalar(1.0 - beta).mul_add(g.sub(m), m) // M1
}

/// `old` is where the library starts from; `beta` is β2 (which chooses the form), `weight` β2 or β̂2.
fn exp_avg_sq(old: f64, g: Rounded, beta: f64, weight: f64) -> Rounded {
    let v = Rounded::exact(old);
    if beta < 0.5 {
        let q = g.mul(g); // M2'
        return Rounded::scalar(weight).mul_add(v.sub(q), q); // M3'
    }
    let rest = g.mul_add(g, v.neg()); // M2
    Rounded::scalar(1.0 - weight).mul_add(rest, v)
}

/// The step count and 1/(1−β^t) of the step to come.
fn bias(p: &Parameter, beta: f64) -> f64 {
    1.0 - beta.powi(p.t + 1)
}

fn direction(
    p: &Parameter,
    (beta1, beta2): (f64, f64),
    eps: f64,
    m: Rounded,
    v: Rounded,
) -> (Rounded, Rounded) {
    let d = v.sqrt().mul_add(Rounded::scalar(1.0 / bias(p, beta2).sqrt()), Rounded::scalar(eps)); // M4
    (d, m.mul(Rounded::scalar(1.0 / bias(p, beta1))).div_or_zero(d)) // M5
}

fn adam_moments(adam: &Adam, p: &Parameter, g: &[Rounded]) -> Walk {
    let mut walk = Walk { m: vec![], v: vec![], v_max: vec![], d: vec![], delta: vec![] };
    for (i, &g) in g.iter().enumerate() {
        let mut g = if adam.maximize { g.neg() } else { g };
        if !adam.decoupled {
            g = Rounded::scalar(adam.weight_decay).mul_add(Rounded::exact(p.theta[i]), g); // 2
        }
        let m = exp_avg(p.m[i], g, adam.betas.0); // 3
        let v = exp_avg_sq(p.v[i], g, adam.betas.1, adam.betas.1); // 4
        let v_max = v.max(Rounded::exact(p.v_max[i])); // 5
        let (d, delta) = direction(p, adam.betas, adam.eps, m, if adam.amsgrad { v_max } else { v }); // 6, 7
        walk.m.push(m);
        walk.v.push(v);
        walk.v_max.push(v_max);
        walk.d.push(d);
        walk.delta.push(delta);
    }
    walk
}

fn adam_apply(adam: &Adam, p: &Parameter, walk: &Walk) -> Vec<Rounded> {
    let decay = Rounded::scalar(if adam.decoupled { adam.weight_decay } else { 0.0 });
    let one = |(&theta, &delta)| {
        let theta = Rounded::exact(theta);
        let r = decay.mul_add(theta, delta); // 8
        Rounded::scalar(-adam.lr).mul_add(r, theta) // 9
    };
    p.theta.iter().zip(&walk.delta).map(one).collect()
}

fn fadam_moments(fadam: &FAdam, p: &Parameter, g: &[Rounded]) -> Walk {
    let mut walk = Walk { m: vec![], v: vec![], v_max: vec![], d: vec![], delta: vec![] };
    let eps = fadam.eps0 / (1.0 + fadam.eps_decay * f64::from(p.t + 1));
    for (i, &g) in g.iter().enumerate() {
        let m = exp_avg(p.m[i], g, fadam.betas.0); // 2
        let s = exp_avg_sq(p.v[i], g, fadam.betas.1, fadam.betas.1); // 3
        let (d, delta) = direction(p, fadam.betas, eps, m, s); // 4, 5
        walk.m.push(m);
        walk.v.push(s);
        walk.d.push(d);
        walk.delta.push(delta);
    }
    walk
}

fn fadam_apply(
    fadam: &FAdam,
    p: &Parameter,
    walk: &Walk,
    update_norm: Rounded,
    speculates: bool,
) -> Vec<Rounded> {
    let clip = match fadam.kappa {
        f64::INFINITY => Rounded::exact(1.0),
        kappa => update_norm.map(|norm| if norm > kappa { kappa / norm } else { 1.0 }),
    };
    let lr = Rounded::scalar(fadam.lr);
    let decay = |theta: Rounded, d: Rounded, r: Rounded| {
        let mut q = Rounded::scalar(fadam.weight_decay).div_or_zero(d); // 7
        if fadam.decay_cap.is_finite() && fadam.lr > 0.0 {
            q = q.min(Rounded::scalar(fadam.decay_cap / fadam.lr)); // 8
        }
        q.mul_add(theta, r) // 9
    };
    let one = |((&theta, &delta), &d)| {
        let theta = Rounded::exact(theta);
        if !speculates || clip.value == 1.0 && clip.error == 0.0 {
            let first = if clip.value == 1.0 && clip.error == 0.0 { delta } else { clip.round().mul(delta) }; // 6
            return lr.neg().mul_add(decay(theta, d, first), theta); // 10
        }
        let theta = lr.neg().mul_add(decay(theta, d, delta), theta); // 10, unclipped
        let back = Rounded::within(fadam.lr * (1.0 - clip.value), fadam.lr * clip.error).round();
        back.mul_add(delta, theta) // 11
    };
    p.theta.iter().zip(&walk.delta).zip(&walk.d).map(one).collect()
}

/// 1 / max(1, rms/c), rms by f32 sums.
fn shrink(x: &[Rounded], clip: f64) -> Rounded {
    let root = (x.len() as f64).sqrt();
    norm(x).map(|norm| 1.0 / (norm / root / clip).max(1.0))
}

fn fisher_adam_moments(fisher_adam: &FisherAdam, p: &Parameter, g: &[Rounded], grad_rms: Rounded) -> Walk {
    let FisherAdam { betas: (beta1, beta2), eps, eps2, rho, clip, .. } = *fisher_adam;
    let mut walk = Walk { m: vec![], v: vec![], v_max: vec![], d: vec![], delta: vec![] };
    let beta2_hat = beta2 * (1.0 - beta2.powi(p.t)) / bias(p, beta2);
    let eps_hat = if grad_rms.value == 0.0 && grad_rms.error == 0.0 {
        Rounded::exact(eps)
    } else if grad_rms.value <= grad_rms.error {
        Rounded { value: eps, error: f64::INFINITY } // an RMS of 0 would mean ε
    } else {
        grad_rms.map(|rms| eps.min(eps2 * rms))
    };
    let damping = eps_hat.map(|eps| eps.max(0.0).powf(2.0 * rho)).round();
    for (i, &g) in g.iter().enumerate() {
        let f = exp_avg_sq(p.v[i], g, beta2, beta2_hat); // 2
        let d = if rho == 0.5 { f.sqrt() } else { f.pow(rho) }.add(damping); // 3
        walk.v.push(f);
        walk.d.push(d);
        walk.delta.push(g.div_or_zero(d));
    }
    let natural = shrink(&walk.delta, clip).round();
    for (i, n) in walk.delta.iter().enumerate() {
        walk.m.push(exp_avg(p.m[i], n.mul(natural), beta1)); // 4, 5
    }
    walk
}

fn fisher_adam_apply(fisher_adam: &FisherAdam, p: &Parameter, walk: &Walk) -> Vec<Rounded> {
    let w: Vec<Rounded> =
        p.theta.iter().zip(&walk.d).map(|(&theta, &d)| Rounded::exact(theta).div_or_zero(d)).collect();
    let Rounded { value, error } = shrink(&w, fisher_adam.clip);
    let lambda = fisher_adam.weight_decay;
    let decay = if lambda == 0.0 {
        Rounded::exact(0.0)
    } else {
        Rounded::within(lambda * value, lambda * error).round()
    };
    let one = |((&theta, &w), &m)| {
        let r = decay.mul_add(w, m); // 6
        Rounded::scalar(-fisher_adam.lr).mul_add(r, Rounded::exact(theta)) // 7
    };
    p.theta.iter().zip(&w).zip(&walk.m).map(one).collect()
}
