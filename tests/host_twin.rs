//! One promise: the kernels' arithmetic (kernels/*.cuh, here compiled by a C++ compiler) and the library's give the same
//! bits. A whole step is made here naively, one element function after the other over whole arrays; the rest of a step
//! (which sweeps, which sums, in which geometry) is written from the numerics contract and kernels/args.h, and takes
//! nothing from src/ but the checked-in mirror of args.h.
//!
//! Needs the feature `host-twin` and a C++ compiler.

#[path = "../src/args.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, clippy::all)]
mod args;
mod trajectories;

use args::*;
use fadam::{
    Adam, Algorithm, Decay, Device, EmpiricalFisher, FAdam, FisherAdam, FisherPower, Group, NonFinite, Simd,
    natural_gradient_step,
};
use trajectories::{Gradient, Inputs, Outcome, Trajectory};

#[link(name = "fadam_host_twin", kind = "static")]
unsafe extern "C" {
    fn twin_bf16_to_f32(n: usize, from: *const u16, to: *mut f32);
    fn twin_adam_scalars(h: &AdamHyper, progress: &Progress, grad_scale: f64, k: &mut AdamStep);
    fn twin_adam(
        k: &AdamStep,
        n: usize,
        grad: *const f32,
        p: *mut f32,
        m: *mut f32,
        v: *mut f32,
        vmax: *mut f32,
        delta: *mut f32,
    );
    fn twin_fadam_scalars(h: &FAdamHyper, progress: &Progress, grad_scale: f64, k: &mut FAdamStep);
    safe fn twin_fadam_clip(kappa: f64, update_norm: f64) -> f64;
    fn twin_fadam_moments(k: &FAdamStep, n: usize, grad: *const f32, m: *mut f32, s: *mut f32);
    fn twin_fadam_delta(k: &FAdamStep, n: usize, m: *const f32, s: *const f32, delta: *mut f32);
    fn twin_fadam_apply(
        k: &FAdamStep,
        clip: f32,
        n: usize,
        p: *mut f32,
        m: *const f32,
        s: *const f32,
        delta: *mut f32,
    );
    fn twin_fadam_correct(k: &FAdamStep, back: f32, n: usize, p: *mut f32, m: *const f32, s: *const f32);
    fn twin_fisher_adam_scalars(
        h: &FisherAdamHyper,
        progress: &Progress,
        previous: f64,
        grad_scale: f64,
        k: &mut FisherAdamStep,
    );
    fn twin_fisher_adam_damping(h: &FisherAdamHyper, grad_rms: f64, damping: &mut FisherAdamDamping);
    fn twin_fisher_adam_clip(
        h: &FisherAdamHyper,
        natural_sum: f64,
        decay_sum: f64,
        len: u64,
        clip: &mut FisherAdamClip,
    );
    fn twin_fisher_adam_fisher(k: &FisherAdamStep, n: usize, grad: *const f32, f: *mut f32, g: *mut f32);
    fn twin_fisher_adam_quotient(
        k: &FisherAdamStep,
        damping: &FisherAdamDamping,
        n: usize,
        x: *const f32,
        f: *const f32,
        quotient: *mut f32,
    );
    fn twin_fisher_adam_apply(
        k: &FisherAdamStep,
        damping: &FisherAdamDamping,
        clip: &FisherAdamClip,
        n: usize,
        grad: *const f32,
        f: *const f32,
        p: *mut f32,
        m: *mut f32,
    );
    fn twin_fisher_accumulate(n: usize, g: *const f32, sum: *mut f64);
    fn twin_natural_gradient(
        n: usize,
        p: *mut f32,
        g: *const f32,
        fisher: *const f32,
        neg_lr: f32,
        damping: f32,
        root: bool,
    );
}

// SAFETY: the name is the twin's own; no library has a function that is called so.
#[unsafe(no_mangle)]
extern "C" fn twin_powf(base: f32, exponent: f32) -> f32 {
    libm::powf(base, exponent)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn twin_pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

/// Σx² over a tensor by the geometry of args.h.
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = vec![0.0_f64; FADAM_FOLD_LANES as usize];
    for (chunk, values) in x.chunks(FADAM_CHUNK as usize).enumerate() {
        let mut partial = vec![0.0_f32; FADAM_LANES as usize];
        for (i, &x) in values.iter().enumerate() {
            let lane = &mut partial[i % FADAM_LANES as usize];
            *lane = x.mul_add(x, *lane);
        }
        fold_by_halves(&mut partial, |a, b| a + b);
        lanes[chunk % FADAM_FOLD_LANES as usize] += f64::from(partial[0]);
    }
    fold_by_halves(&mut lanes, |a, b| a + b);
    lanes[0]
}

/// Lane j takes lane j + n/2, then j + n/4, … j + 1.
fn fold_by_halves<T: Copy>(lanes: &mut [T], add: impl Fn(T, T) -> T) {
    let mut half = lanes.len() / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] = add(lanes[j], lanes[j + half]);
        }
        half /= 2;
    }
}

fn total(sums: &[f64]) -> f64 {
    sums.iter().fold(0.0, |total, sum| total + sum)
}

enum Hyper {
    Adam(AdamHyper),
    FAdam(FAdamHyper),
    FisherAdam(FisherAdamHyper),
}

impl Hyper {
    fn new(algorithm: Algorithm, group: &Group, lr: Option<f64>) -> Self {
        let structure = |(beta1, beta2): (f64, f64), weight_decay: f64| {
            let flag = |on, flag| if on { flag } else { 0 };
            flag(beta1 < 0.5, FADAM_EXP_AVG_NEW)
                | flag(beta2 < 0.5, FADAM_EXP_AVG_SQ_NEW)
                | flag(weight_decay != 0.0, FADAM_WEIGHT_DECAY)
        };
        let own = |lr_of: f64, betas, eps, decay| {
            (
                group.lr.or(lr).unwrap_or(lr_of),
                group.betas.unwrap_or(betas),
                group.eps.unwrap_or(eps),
                group.weight_decay.unwrap_or(decay),
            )
        };
        match algorithm {
            Algorithm::Adam(Adam { lr, betas, eps, weight_decay, decay, amsgrad, maximize }) => {
                let (lr, betas, eps, weight_decay) = own(lr, betas, eps, weight_decay);
                let mut flags = structure(betas, weight_decay);
                if decay == Decay::Decoupled {
                    flags |= FADAM_DECOUPLED;
                }
                if amsgrad {
                    flags |= FADAM_AMSGRAD;
                }
                let (beta1, beta2) = betas;
                Self::Adam(AdamHyper {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    flags,
                    maximize: maximize.into(),
                })
            }
            Algorithm::FAdam(FAdam { lr, betas, eps0, eps_decay, kappa: _, weight_decay, decay_cap }) => {
                let (lr, betas, eps0, weight_decay) = own(lr, betas, eps0, weight_decay);
                let mut flags = structure(betas, weight_decay);
                if decay_cap.is_some() {
                    flags |= FADAM_DECAY_CAP;
                }
                let (beta1, beta2) = betas;
                let decay_cap = decay_cap.unwrap_or(f64::INFINITY);
                Self::FAdam(FAdamHyper { lr, beta1, beta2, eps0, eps_decay, weight_decay, decay_cap, flags })
            }
            Algorithm::FisherAdam(FisherAdam { lr, betas, eps, eps2, rho, clip, weight_decay }) => {
                let (lr, betas, eps, weight_decay) = own(lr, betas, eps, weight_decay);
                let mut flags = structure(betas, weight_decay);
                if rho != 0.5 {
                    flags |= FADAM_RHO;
                }
                let (beta1, beta2) = betas;
                Self::FisherAdam(FisherAdamHyper {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    eps2,
                    rho,
                    clip,
                    weight_decay,
                    flags,
                })
            }
            _ => unreachable!("an algorithm that this test does not know"),
        }
    }

    fn betas(&self) -> (f64, f64) {
        match self {
            Self::Adam(h) => (h.beta1, h.beta2),
            Self::FAdam(h) => (h.beta1, h.beta2),
            Self::FisherAdam(h) => (h.beta1, h.beta2),
        }
    }
}

/// A tensor with its moments; the sums and norms of its last step.
struct Tensor {
    p: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    vmax: Vec<f32>,
    progress: Progress,
    norms: Option<[f64; 3]>,
}

/// What a step of one tensor leaves to be summed.
struct Summed {
    /// The effective gradient.
    g: Vec<f32>,
    /// Δ, or m of FisherAdam.
    update: Vec<f32>,
    /// θ before the step.
    p: Vec<f32>,
}

impl Tensor {
    fn adam(&mut self, h: &AdamHyper, grad: &[f32], scale: f64) -> Summed {
        let mut k = AdamStep::default();
        let (n, p) = (grad.len(), self.p.clone());
        let mut update = vec![0.0; n];
        // SAFETY: all arrays have n elements.
        unsafe {
            twin_adam_scalars(h, &self.progress, scale, &mut k);
            twin_adam(
                &k,
                n,
                grad.as_ptr(),
                self.p.as_mut_ptr(),
                self.m.as_mut_ptr(),
                self.v.as_mut_ptr(),
                self.vmax.as_mut_ptr(),
                update.as_mut_ptr(),
            );
        }
        Summed { g: scaled(grad, k.moments.grad_scale), update, p }
    }

    /// Commits the moments; Δ of them.
    fn fadam_moments(&mut self, k: &FAdamStep, grad: &[f32]) -> Vec<f32> {
        let n = grad.len();
        let mut delta = vec![0.0; n];
        // SAFETY: all arrays have n elements.
        unsafe {
            twin_fadam_moments(k, n, grad.as_ptr(), self.m.as_mut_ptr(), self.v.as_mut_ptr());
            twin_fadam_delta(k, n, self.m.as_ptr(), self.v.as_ptr(), delta.as_mut_ptr());
        }
        delta
    }

    fn fadam_apply(&mut self, k: &FAdamStep, clip: f32) -> Vec<f32> {
        let n = self.p.len();
        let mut delta = vec![0.0; n];
        // SAFETY: all arrays have n elements.
        unsafe {
            let (p, m, s) = (self.p.as_mut_ptr(), self.m.as_ptr(), self.v.as_ptr());
            twin_fadam_apply(k, clip, n, p, m, s, delta.as_mut_ptr());
        }
        delta
    }

    fn fadam_correct(&mut self, k: &FAdamStep, back: f32) {
        // SAFETY: all arrays have as many elements as the parameter.
        unsafe {
            let (p, m, s) = (self.p.as_mut_ptr(), self.m.as_ptr(), self.v.as_ptr());
            twin_fadam_correct(k, back, self.p.len(), p, m, s);
        }
    }

    /// `grad_rms` of the clipped gradient, where a pass over the gradients went before.
    fn fisher_adam(
        &mut self,
        h: &FisherAdamHyper,
        grad: &[f32],
        scale: f64,
        previous: f64,
        grad_rms: Option<f64>,
    ) -> Summed {
        let (n, p) = (grad.len(), self.p.clone());
        let mut k = FisherAdamStep::default();
        let mut damping = FisherAdamDamping::default();
        let mut clip = FisherAdamClip::default();
        let (mut g, mut natural, mut decay) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        // SAFETY: all arrays have n elements.
        unsafe {
            twin_fisher_adam_scalars(h, &self.progress, previous, scale, &mut k);
            twin_fisher_adam_fisher(&k, n, grad.as_ptr(), self.v.as_mut_ptr(), g.as_mut_ptr());
            let rms = grad_rms.unwrap_or_else(|| (sum_of_squares(&g) / n as f64).sqrt());
            twin_fisher_adam_damping(h, rms, &mut damping);
            let f = self.v.as_ptr();
            twin_fisher_adam_quotient(&k, &damping, n, g.as_ptr(), f, natural.as_mut_ptr());
            if h.weight_decay != 0.0 {
                twin_fisher_adam_quotient(&k, &damping, n, p.as_ptr(), f, decay.as_mut_ptr());
            }
            let sums = (sum_of_squares(&natural), sum_of_squares(&decay));
            twin_fisher_adam_clip(h, sums.0, sums.1, n as u64, &mut clip);
            let (p, m) = (self.p.as_mut_ptr(), self.m.as_mut_ptr());
            twin_fisher_adam_apply(&k, &damping, &clip, n, grad.as_ptr(), f, p, m);
        }
        Summed { g, update: self.m.clone(), p }
    }
}

fn scaled(grad: &[f32], scale: f32) -> Vec<f32> {
    grad.iter().map(|g| g * scale).collect()
}

fn widened(gradient: &Gradient) -> Vec<f32> {
    match gradient {
        Gradient::F32(g) => g.clone(),
        Gradient::Bf16(g) => {
            let bits: Vec<u16> = g.iter().map(|x| x.to_bits()).collect();
            let mut wide = vec![0.0; bits.len()];
            // SAFETY: both have as many elements.
            unsafe { twin_bf16_to_f32(bits.len(), bits.as_ptr(), wide.as_mut_ptr()) };
            wide
        }
    }
}

fn replay(t: &Trajectory, inputs: &Inputs) -> Outcome {
    let zeros = |p: &Vec<f32>| vec![0.0_f32; p.len()];
    let mut tensors: Vec<Tensor> = (inputs.parameters.iter())
        .map(|p| Tensor {
            p: p.clone(),
            m: zeros(p),
            v: zeros(p),
            vmax: zeros(p),
            progress: Progress { step: 0, beta1_power: 1.0, beta2_power: 1.0 },
            norms: None,
        })
        .collect();
    let mut outcome = Outcome::default();
    let mut skipped_steps = 0;
    for step in 1..=t.steps {
        let gradients: Vec<Option<Vec<f32>>> =
            inputs.gradients[step as usize - 1].iter().map(|g| g.as_ref().map(widened)).collect();
        let figures = step_of(t, step, &mut tensors, &gradients);
        let skipped = figures[1].is_none();
        skipped_steps += u64::from(skipped);
        outcome.report(step, skipped && t.non_finite == NonFinite::Error, skipped, skipped_steps, figures);
        for (i, tensor) in tensors.iter().enumerate() {
            outcome.floats(format!("parameter {i} after step {step}"), &tensor.p);
        }
        for (i, tensor) in tensors.iter().enumerate().filter(|_| t.norms) {
            outcome.norms(i, step, tensor.norms);
        }
    }
    let amsgrad = matches!(t.algorithm, Algorithm::Adam(adam) if adam.amsgrad);
    for (i, Tensor { m, v, vmax, progress, .. }) in tensors.iter().enumerate() {
        outcome.state(i, progress.step, m, v, amsgrad.then_some(vmax.as_slice()));
    }
    outcome
}

/// One step; ‖g‖, clip coefficient and ‖Δ‖ as a report has them.
fn step_of(
    t: &Trajectory,
    step: u64,
    tensors: &mut [Tensor],
    gradients: &[Option<Vec<f32>>],
) -> [Option<f64>; 3] {
    let grad_scale = t.grad_scale(step);
    let checks = t.non_finite != NonFinite::Propagate;
    let reads_gradients = checks || t.max_grad_norm.is_some();
    let (mut grad_norm, mut clip) = (None, 1.0);
    let mut grad_sums = vec![0.0; tensors.len()];
    if reads_gradients {
        for (sum, grad) in grad_sums.iter_mut().zip(gradients) {
            *sum = grad.as_ref().map_or(0.0, |g| sum_of_squares(&scaled(g, (1.0 / grad_scale) as f32)));
        }
        let norm = total(&grad_sums).sqrt();
        grad_norm = Some(norm);
        if checks && grad_sums.iter().any(|sum| !sum.is_finite()) {
            return [grad_norm, None, None];
        }
        if let Some(max) = t.max_grad_norm {
            let coefficient = max / (norm + 1e-6);
            clip = if coefficient > 1.0 { 1.0 } else { coefficient };
        }
    }
    let groups: Vec<Hyper> = std::iter::once(&Group::default())
        .chain(t.groups)
        .map(|group| Hyper::new(t.algorithm, group, t.lr(step)))
        .collect();
    let mut taking_part: Vec<_> = (tensors.iter_mut().zip(gradients).enumerate())
        .filter_map(|(i, (tensor, grad))| Some((i, tensor, grad.as_ref()?)))
        .collect();
    let scale = clip / grad_scale;
    let mut summed = Vec::new();
    let mut fadam_steps = Vec::new();
    for (i, tensor, grad) in &mut taking_part {
        let hyper = &groups[t.group(*i)];
        let (beta1, beta2) = hyper.betas();
        let previous = tensor.progress.beta2_power;
        tensor.progress.step += 1;
        tensor.progress.beta1_power *= beta1;
        tensor.progress.beta2_power *= beta2;
        match hyper {
            Hyper::Adam(h) => summed.push(tensor.adam(h, grad, scale)),
            Hyper::FAdam(h) => {
                let mut k = FAdamStep::default();
                // SAFETY: plain references.
                unsafe { twin_fadam_scalars(h, &tensor.progress, scale, &mut k) };
                let update = tensor.fadam_moments(&k, grad);
                summed.push(Summed { g: scaled(grad, k.moments.grad_scale), update, p: tensor.p.clone() });
                fadam_steps.push((k, h.lr));
            }
            Hyper::FisherAdam(h) => {
                let rms = reads_gradients.then(|| (grad_sums[*i] / grad.len() as f64).sqrt() * clip);
                summed.push(tensor.fisher_adam(h, grad, scale, previous, rms));
            }
        }
    }
    let update_sums: Vec<f64> = summed.iter().map(|s| sum_of_squares(&s.update)).collect();
    let update_norm = total(&update_sums).sqrt();
    let mut knows_update_norm = t.norms;
    if let Algorithm::FAdam(FAdam { kappa, .. }) = t.algorithm {
        knows_update_norm |= kappa.is_some();
        let elements: usize = t.lengths.iter().sum();
        let seldom = kappa.is_some_and(|kappa| kappa >= 0.5 * (elements as f64).sqrt());
        let bounded = groups.iter().all(|group| group.betas().0 * group.betas().0 < group.betas().1);
        let clip = kappa.map_or(1.0, |kappa| twin_fadam_clip(kappa, update_norm));
        for (((_, tensor, _), (k, lr)), s) in taking_part.iter_mut().zip(&fadam_steps).zip(&summed) {
            let delta = if seldom && bounded {
                let delta = tensor.fadam_apply(k, 1.0);
                if clip != 1.0 {
                    tensor.fadam_correct(k, (lr * (1.0 - clip)) as f32);
                }
                delta
            } else {
                tensor.fadam_apply(k, clip as f32)
            };
            assert!(
                delta
                    .iter()
                    .zip(&s.update)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            );
        }
    }
    if t.norms {
        let mut grads = Vec::new();
        for (((i, tensor, _), s), update) in taking_part.iter_mut().zip(&summed).zip(&update_sums) {
            let grad = if reads_gradients { grad_sums[*i] } else { sum_of_squares(&s.g) };
            grads.push(grad);
            tensor.norms = Some([grad, *update, sum_of_squares(&s.p)].map(f64::sqrt));
        }
        grad_norm = Some(total(&grads).sqrt());
    }
    [grad_norm, Some(clip), knows_update_norm.then_some(update_norm)]
}

fn same_bits(trajectories: Vec<Trajectory>) {
    for trajectory in trajectories {
        let inputs = trajectory.inputs();
        let library = trajectory.replay(&inputs, Simd::best(), 0);
        library.assert_same_bits(&replay(&trajectory, &inputs), trajectory.name);
    }
}

#[test]
fn adam_has_the_kernels_bits() {
    same_bits(trajectories::adam());
}

#[test]
fn fadam_has_the_kernels_bits() {
    same_bits(trajectories::fadam());
}

#[test]
fn fisher_adam_has_the_kernels_bits() {
    same_bits(trajectories::fisher_adam());
}

/// The steps of a trajectory serve as samples, its tensors one by one as parameters.
#[test]
fn empirical_fisher_and_natural_gradient_have_the_kernels_bits() {
    let names = ["adam", "adam_bf16", "adam_l2_extreme", "adam_l2_wild", "adamw_eps_zero_no_gradient"];
    let all = trajectories::adam();
    for t in names.map(|name| all.iter().find(|t| t.name == name).unwrap()) {
        let inputs = t.inputs();
        for (tensor, start) in inputs.parameters.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
            let n = start.len();
            let mut library = EmpiricalFisher::new(Device::Cpu, n).unwrap();
            let mut sum = vec![0.0_f64; n];
            for gradients in &inputs.gradients {
                let gradient = gradients[tensor].as_ref().unwrap();
                match gradient {
                    Gradient::F32(g) => library.add(g).unwrap(),
                    Gradient::Bf16(g) => library.add(g).unwrap(),
                }
                // SAFETY: both have n elements.
                unsafe { twin_fisher_accumulate(n, widened(gradient).as_ptr(), sum.as_mut_ptr()) };
            }
            let samples = inputs.gradients.len() as f64;
            let fisher: Vec<f32> = sum.iter().map(|sum| (sum / samples) as f32).collect();
            let (mut here, mut there) = (Outcome::default(), Outcome::default());
            here.floats("diagonal".into(), &library.diagonal().unwrap());
            there.floats("diagonal".into(), &fisher);
            let gradient = inputs.gradients[0][tensor].as_ref().unwrap();
            for (power, root) in [(FisherPower::One, false), (FisherPower::Half, true)] {
                for damping in [0.0, 1e-4] {
                    let (mut p, mut q) = (start.clone(), start.clone());
                    match gradient {
                        Gradient::F32(g) => {
                            natural_gradient_step(Device::Cpu, &mut p, g, &fisher, 0.1, power, damping)
                        }
                        Gradient::Bf16(g) => {
                            natural_gradient_step(Device::Cpu, &mut p, g, &fisher, 0.1, power, damping)
                        }
                    }
                    .unwrap();
                    let g = widened(gradient);
                    let (neg_lr, d) = (-0.1_f64 as f32, damping as f32);
                    // SAFETY: all have n elements.
                    unsafe {
                        twin_natural_gradient(n, q.as_mut_ptr(), g.as_ptr(), fisher.as_ptr(), neg_lr, d, root)
                    };
                    here.floats(format!("{power:?}, damping {damping}"), &p);
                    there.floats(format!("{power:?}, damping {damping}"), &q);
                }
            }
            here.assert_same_bits(&there, &format!("{}, tensor {tensor}", t.name));
        }
    }
}
