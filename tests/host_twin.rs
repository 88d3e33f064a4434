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
    Adam, Algorithm, Decay, Device, Dtype, EmpiricalFisher, FAdam, FisherAdam, FisherPower, Group, Master,
    NonFinite, Rounding, Simd, State, natural_gradient_step,
};
use half::bf16;
use trajectories::{Gradient, Inputs, Kept, Outcome, Trajectory, high_halves};

#[link(name = "fadam_host_twin", kind = "static")]
unsafe extern "C" {
    fn twin_bf16_to_f32(n: usize, from: *const u16, to: *mut f32);
    fn twin_bf16_nearest(n: usize, from: *const f32, to: *mut u16);
    fn twin_bf16_stochastic(n: usize, from: *const f32, random: *const u16, to: *mut u16);
    fn twin_split(n: usize, from: *const f32, value: *mut u16, remainder: *mut u16);
    fn twin_join(n: usize, value: *const u16, remainder: *const u16, to: *mut f32);
    fn twin_philox(seed: u64, block: u64, step: u32, stream: u32, random: &mut [u32; 4]);
    fn twin_adam_scalars(h: &AdamHyper, progress: &Progress, grad_scale: f64, k: &mut AdamStep);
    fn twin_adam_moments(
        k: &AdamStep,
        n: usize,
        grad: *const f32,
        p: *const f32,
        m: *mut f32,
        v: *mut f32,
        g: *mut f32,
    );
    fn twin_adam_apply(
        k: &AdamStep,
        n: usize,
        p: *mut f32,
        m: *const f32,
        v: *const f32,
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
    fn twin_fisher_adam_momentum(
        k: &FisherAdamStep,
        damping: &FisherAdamDamping,
        clip: &FisherAdamClip,
        n: usize,
        grad: *const f32,
        f: *const f32,
        m: *mut f32,
    );
    fn twin_fisher_adam_apply(
        k: &FisherAdamStep,
        damping: &FisherAdamDamping,
        clip: &FisherAdamClip,
        n: usize,
        f: *const f32,
        p: *mut f32,
        m: *const f32,
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
    /// θ as exactly as it is kept.
    p: Vec<f32>,
    /// Of a bf16 parameter: what the caller has, and the low bits.
    value: Option<Vec<u16>>,
    remainder: Vec<u16>,
    ema: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    vmax: Vec<f32>,
    progress: Progress,
    norms: Option<[f64; 3]>,
    index: u32,
    kept: Kept,
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

/// 16 random bits for each of `n` elements: Philox4x32-10, its key the seed, its counter (element / 8 in 64 bits, the
/// parameter's step, parameter and purpose), one draw for 8 elements, the low half of a word first.
fn random_bits(seed: u64, step: u64, index: u32, purpose: u32, n: usize) -> Vec<u16> {
    let stream = index << FADAM_RANDOM_PURPOSE_BITS | purpose;
    let mut bits = Vec::new();
    for block in 0..n.div_ceil(8) {
        let mut words = [0; 4];
        // SAFETY: plain references.
        unsafe { twin_philox(seed, block as u64, step as u32, stream, &mut words) };
        bits.extend(words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]));
    }
    bits
}

impl Tensor {
    fn new(t: &Trajectory, index: usize, start: &[f32]) -> Self {
        let zeros = vec![0.0_f32; start.len()];
        let bf16 = t.has_bf16_parameter(index);
        Self {
            p: start.to_vec(),
            value: bf16.then(|| narrow(start)),
            remainder: vec![0; start.len()],
            ema: zeros.clone(),
            m: zeros.clone(),
            v: zeros.clone(),
            vmax: zeros,
            progress: Progress { step: 0, start: 0, beta1_power: 1.0, beta2_power: 1.0 },
            norms: None,
            index: index as u32,
            kept: t.kept,
        }
    }

    fn starts(&self) -> bool {
        self.progress.start == self.progress.step
    }

    fn overwrite(&mut self, values: &[f32]) {
        self.p = values.to_vec();
        if let Some(value) = &mut self.value {
            *value = narrow(values);
        }
        self.progress.start = 0;
    }

    /// θ from where it is kept. A master that has not begun is the value.
    fn load(&mut self) {
        let Some(value) = &self.value else { return };
        let n = value.len();
        if self.starts() || self.kept.master == Master::None {
            self.p = widen(value);
        } else if self.kept.master == Master::Remainder {
            // SAFETY: all arrays have n elements.
            unsafe { twin_join(n, value.as_ptr(), self.remainder.as_ptr(), self.p.as_mut_ptr()) };
        }
    }

    /// θ to where it is kept.
    fn store(&mut self) {
        let Some(value) = &self.value else { return };
        let n = value.len();
        let mut bits = vec![0; n];
        // SAFETY: all arrays have n elements.
        unsafe {
            match self.kept.master {
                Master::F32 => twin_bf16_nearest(n, self.p.as_ptr(), bits.as_mut_ptr()),
                Master::Remainder => {
                    twin_split(n, self.p.as_ptr(), bits.as_mut_ptr(), self.remainder.as_mut_ptr());
                }
                Master::None => bits = self.rounded(FADAM_RANDOM_PARAMETER, &self.p),
            }
        }
        self.value = Some(bits);
    }

    fn rounded(&self, purpose: u32, x: &[f32]) -> Vec<u16> {
        let n = x.len();
        let mut bits = vec![0; n];
        if self.kept.rounding == Some(Rounding::Nearest) {
            // SAFETY: both have n elements.
            unsafe { twin_bf16_nearest(n, x.as_ptr(), bits.as_mut_ptr()) };
            return bits;
        }
        let random = random_bits(self.kept.seed, self.progress.step, self.index, purpose, n);
        // SAFETY: all have n elements, the random bits at least as many.
        unsafe { twin_bf16_stochastic(n, x.as_ptr(), random.as_ptr(), bits.as_mut_ptr()) };
        bits
    }

    /// The moments as stored.
    fn round_first(&mut self) {
        if self.kept.moments == Dtype::Bf16 {
            self.m = widen(&self.rounded(FADAM_RANDOM_EXP_AVG, &self.m));
        }
    }

    fn round_second(&mut self) {
        if self.kept.moments == Dtype::Bf16 {
            self.v = widen(&self.rounded(FADAM_RANDOM_EXP_AVG_SQ, &self.v));
        }
    }

    /// ema ← ema + (1 − decay)(θ − ema), or θ where it begins.
    fn average(&mut self) {
        let starts = self.starts();
        let Some(decay) = self.kept.ema else { return };
        for (ema, &p) in self.ema.iter_mut().zip(&self.p) {
            *ema = if starts { p } else { ((1.0 - decay) as f32).mul_add(p - *ema, *ema) };
        }
    }

    /// ema ← ema + (1 − decay)(θ − θ before the correction).
    fn correct_average(&mut self, before: &[f32]) {
        let starts = self.starts();
        let Some(decay) = self.kept.ema else { return };
        for ((ema, &p), &before) in self.ema.iter_mut().zip(&self.p).zip(before) {
            *ema = if starts { p } else { ((1.0 - decay) as f32).mul_add(p - before, *ema) };
        }
    }

    fn adam(&mut self, h: &AdamHyper, grad: &[f32], scale: f64) -> Summed {
        self.load();
        let mut k = AdamStep::default();
        let (n, p) = (grad.len(), self.p.clone());
        let (mut g, mut update) = (vec![0.0; n], vec![0.0; n]);
        // SAFETY: all arrays have n elements.
        unsafe {
            twin_adam_scalars(h, &self.progress, scale, &mut k);
            let (m, v) = (self.m.as_mut_ptr(), self.v.as_mut_ptr());
            twin_adam_moments(&k, n, grad.as_ptr(), p.as_ptr(), m, v, g.as_mut_ptr());
        }
        self.round_first();
        self.round_second();
        // SAFETY: as above.
        unsafe {
            let (p, vmax) = (self.p.as_mut_ptr(), self.vmax.as_mut_ptr());
            twin_adam_apply(&k, n, p, self.m.as_ptr(), self.v.as_ptr(), vmax, update.as_mut_ptr());
        }
        self.store();
        self.average();
        Summed { g, update, p }
    }

    /// Commits the moments; Δ of them.
    fn fadam_moments(&mut self, k: &FAdamStep, grad: &[f32]) -> Vec<f32> {
        self.load();
        let n = grad.len();
        let mut delta = vec![0.0; n];
        // SAFETY: all arrays have n elements.
        unsafe { twin_fadam_moments(k, n, grad.as_ptr(), self.m.as_mut_ptr(), self.v.as_mut_ptr()) };
        self.round_first();
        self.round_second();
        // SAFETY: as above.
        unsafe { twin_fadam_delta(k, n, self.m.as_ptr(), self.v.as_ptr(), delta.as_mut_ptr()) };
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
        self.store();
        self.average();
        delta
    }

    fn fadam_correct(&mut self, k: &FAdamStep, back: f32) {
        let before = self.p.clone();
        // SAFETY: all arrays have as many elements as the parameter.
        unsafe {
            let (p, m, s) = (self.p.as_mut_ptr(), self.m.as_ptr(), self.v.as_ptr());
            twin_fadam_correct(k, back, self.p.len(), p, m, s);
        }
        self.store();
        self.correct_average(&before);
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
        self.load();
        let (n, p) = (grad.len(), self.p.clone());
        let mut k = FisherAdamStep::default();
        let mut damping = FisherAdamDamping::default();
        let mut clip = FisherAdamClip::default();
        let (mut g, mut natural, mut decay) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        // SAFETY: all arrays have n elements.
        unsafe {
            twin_fisher_adam_scalars(h, &self.progress, previous, scale, &mut k);
            twin_fisher_adam_fisher(&k, n, grad.as_ptr(), self.v.as_mut_ptr(), g.as_mut_ptr());
        }
        self.round_second();
        let rms = grad_rms.unwrap_or_else(|| (sum_of_squares(&g) / n as f64).sqrt());
        let f = self.v.as_ptr();
        // SAFETY: as above.
        unsafe {
            twin_fisher_adam_damping(h, rms, &mut damping);
            twin_fisher_adam_quotient(&k, &damping, n, g.as_ptr(), f, natural.as_mut_ptr());
            if h.weight_decay != 0.0 {
                twin_fisher_adam_quotient(&k, &damping, n, p.as_ptr(), f, decay.as_mut_ptr());
            }
            let sums = (sum_of_squares(&natural), sum_of_squares(&decay));
            twin_fisher_adam_clip(h, sums.0, sums.1, n as u64, &mut clip);
            let m = self.m.as_mut_ptr();
            twin_fisher_adam_momentum(&k, &damping, &clip, n, grad.as_ptr(), f, m);
        }
        self.round_first();
        // SAFETY: as above.
        unsafe {
            let (p, m, f) = (self.p.as_mut_ptr(), self.m.as_ptr(), self.v.as_ptr());
            twin_fisher_adam_apply(&k, &damping, &clip, n, f, p, m);
        }
        self.store();
        self.average();
        Summed { g, update: self.m.clone(), p }
    }

    fn state(&self, amsgrad: bool) -> State {
        let begun = self.progress.start != 0;
        let has = |master| self.value.is_some() && begun && self.kept.master == master;
        let mut state = State::default();
        state.step = self.progress.step;
        state.exp_avg = self.m.clone();
        state.exp_avg_sq = self.v.clone();
        state.max_exp_avg_sq = amsgrad.then(|| self.vmax.clone());
        state.master = has(Master::F32).then(|| self.p.clone());
        state.remainder = has(Master::Remainder).then(|| self.remainder.iter().map(|&r| r as i16).collect());
        state.ema = (self.kept.ema.is_some() && begun).then(|| self.ema.clone());
        state
    }
}

fn widen(bits: &[u16]) -> Vec<f32> {
    let mut wide = vec![0.0; bits.len()];
    // SAFETY: both have as many elements.
    unsafe { twin_bf16_to_f32(bits.len(), bits.as_ptr(), wide.as_mut_ptr()) };
    wide
}

fn narrow(values: &[f32]) -> Vec<u16> {
    high_halves(values).iter().map(|value| value.to_bits()).collect()
}

fn scaled(grad: &[f32], scale: f32) -> Vec<f32> {
    grad.iter().map(|g| g * scale).collect()
}

fn widened(gradient: &Gradient) -> Vec<f32> {
    match gradient {
        Gradient::F32(g) => g.clone(),
        Gradient::Bf16(g) => widen(&g.iter().map(|x| x.to_bits()).collect::<Vec<_>>()),
    }
}

fn replay(t: &Trajectory, inputs: &Inputs) -> Outcome {
    let mut tensors: Vec<Tensor> =
        inputs.parameters.iter().enumerate().map(|(i, p)| Tensor::new(t, i, p)).collect();
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
            let values = tensor.value.as_ref().map_or_else(|| tensor.p.clone(), |value| widen(value));
            outcome.floats(format!("parameter {i} after step {step}"), &values);
        }
        for (i, tensor) in tensors.iter().enumerate().filter(|_| t.norms) {
            outcome.norms(i, step, tensor.norms);
        }
        for (i, tensor) in tensors.iter_mut().enumerate() {
            if let Some(values) = t.overwritten(inputs, i, step) {
                tensor.overwrite(&values);
            }
        }
    }
    let amsgrad = matches!(t.algorithm, Algorithm::Adam(adam) if adam.amsgrad);
    for (i, tensor) in tensors.iter().enumerate() {
        outcome.state(i, &tensor.state(amsgrad));
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
        if tensor.progress.start == 0 {
            tensor.progress.start = tensor.progress.step;
        }
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
        // A correction must not round what is rounded already.
        let bare = |tensor| t.has_bf16_parameter(tensor) && t.kept.master == Master::None;
        let exact = t.kept.moments == Dtype::F32 && !(0..t.lengths.len()).any(bare);
        let clip = kappa.map_or(1.0, |kappa| twin_fadam_clip(kappa, update_norm));
        for (((_, tensor, _), (k, lr)), s) in taking_part.iter_mut().zip(&fadam_steps).zip(&summed) {
            let delta = if seldom && bounded && exact {
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

#[test]
fn bf16_has_the_kernels_bits() {
    same_bits(trajectories::bf16());
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

/// The known answers of Random123, where Philox comes from: counter, key, result.
const PHILOX: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

#[test]
fn philox_gives_the_published_answers() {
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    for (counter, key, answer) in PHILOX {
        let mut words = [0; 4];
        let [c0, c1, step, stream] = counter;
        // SAFETY: plain references.
        unsafe { twin_philox(join(key[0], key[1]), join(c0, c1), step, stream, &mut words) };
        assert_eq!(words, answer);
    }
}

/// Every high half with the low halves on which rounding turns. All 2^32 are tried in src/cpu/simd/tests.rs, whose
/// formulas `bf16_has_the_kernels_bits` compares with these.
#[test]
fn rounding_and_splitting_are_what_they_say() {
    let lows = [0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xfedc, 0xffff];
    let random = [0, 1, 0x7fff, 0x8000, 0xedcb, 0xffff, 0x0124, 0x0001];
    for high in 0..=u16::MAX {
        let x = lows.map(|low: u32| f32::from_bits(u32::from(high) << 16 | low));
        let ([mut value, mut remainder], [mut nearest, mut stochastic]) = ([[0_u16; 8]; 2], [[0_u16; 8]; 2]);
        let mut joined = [0.0; 8];
        // SAFETY: all have 8 elements.
        unsafe {
            twin_split(8, x.as_ptr(), value.as_mut_ptr(), remainder.as_mut_ptr());
            twin_join(8, value.as_ptr(), remainder.as_ptr(), joined.as_mut_ptr());
            twin_bf16_nearest(8, x.as_ptr(), nearest.as_mut_ptr());
            twin_bf16_stochastic(8, x.as_ptr(), random.as_ptr(), stochastic.as_mut_ptr());
        }
        for i in 0..8 {
            assert_eq!(nearest[i], bf16::from_f32(x[i]).to_bits(), "{:#x}", x[i].to_bits());
            if x[i].is_nan() {
                let values = [value[i], stochastic[i]].map(bf16::from_bits);
                assert!(joined[i].is_nan() && values.iter().all(|value| value.is_nan()) && remainder[i] == 0);
                continue;
            }
            assert_eq!(joined[i].to_bits(), x[i].to_bits());
            let away = lows[i] >= 0x8000;
            assert_eq!(value[i], high + u16::from(away));
            let up = x[i].is_finite() && lows[i] + u32::from(random[i]) > 0xffff;
            assert_eq!(stochastic[i], high + u16::from(up), "{:#x} and {:#x}", x[i].to_bits(), random[i]);
        }
    }
}
