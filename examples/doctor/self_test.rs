//! Every algorithm and gradient type, stepped everywhere from the same start: the bits must be the same.

use crate::gpu;
use anyhow::{Result, ensure};
use fadam::{
    Adam, Algorithm, Builder, Device, FAdam, FisherAdam, Optimizer, ParameterId, Simd, State, Tensor, Update,
};
use half::bf16;

/// Around the lengths that matter: lanes, chunks, blocks; and an empty one.
const LENGTHS: [usize; 5] = [129, 0, 33_000, 4097, 1];
const STEPS: u32 = 3;

/// What one case leaves behind, everywhere the same.
type Bits = Vec<Vec<u32>>;

fn cases() -> Vec<(&'static str, Algorithm)> {
    let fadam = FAdam { eps_decay: 0.1, weight_decay: 0.01, decay_cap: Some(0.1), ..FAdam::default() };
    vec![
        ("adam with L2 decay", Adam { weight_decay: 0.1, ..Adam::default() }.into()),
        ("adamw with amsgrad", Adam { amsgrad: true, ..Adam::adamw() }.into()),
        ("fadam", fadam.into()),
        // √37 227 = 193 in the first step: κ fires in a speculative step, never, and in two sweeps.
        ("fadam, κ = 150", FAdam { kappa: Some(150.0), ..fadam }.into()),
        ("fadam, κ = 1e6", FAdam { kappa: Some(1e6), ..fadam }.into()),
        ("fadam, κ = 10", FAdam { kappa: Some(10.0), ..fadam }.into()),
        ("fisher_adam", FisherAdam::default().into()),
    ]
}

/// On one thread, without SIMD.
pub(crate) fn expected() -> Result<Vec<Bits>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| each(|builder, narrow| host(builder.simd(Simd::Scalar), narrow)))
}

pub(crate) fn on_cpu(simd: Simd, expected: &[Bits]) -> Result<String> {
    compare(&each(|builder, narrow| host(builder.simd(simd), narrow))?, expected)
}

pub(crate) fn on_gpu(ordinal: usize, expected: &[Bits]) -> Result<String> {
    compare(&each(|builder, narrow| device(builder, ordinal, narrow))?, expected)
}

/// All cases, each with f32 and with bf16 gradients.
fn each(run: impl Fn(Builder, bool) -> Result<Bits>) -> Result<Vec<Bits>> {
    let mut all = Vec::new();
    for (_, algorithm) in cases() {
        for narrow in [false, true] {
            all.push(run(Optimizer::builder(algorithm).max_grad_norm(1.0), narrow)?);
        }
    }
    Ok(all)
}

fn compare(found: &[Bits], expected: &[Bits]) -> Result<String> {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (name, _) = cases()[i / 2];
        let gradients = if i % 2 == 0 { "f32" } else { "bf16" };
        for (tensor, (found, expected)) in found.iter().zip(expected).enumerate() {
            let different = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            ensure!(
                found.len() == expected.len() && different == 0,
                "{name}, {gradients} gradients: {different} of {} values of result {tensor} have other bits",
                expected.len()
            );
        }
    }
    Ok(format!("{} algorithms and options, f32 and bf16 gradients: the same bits", cases().len()))
}

/// Numbers of both signs between 2⁻⁸ and 1, a function of the arguments alone.
fn values(stream: u32, tensor: usize, len: usize) -> Vec<f32> {
    let mut state = stream.wrapping_mul(0x9e37_79b9) ^ (tensor as u32).wrapping_mul(0x85eb_ca6b) ^ 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // Numerical Recipes' generator
            let exponent = 119 + (state >> 28) % 8;
            f32::from_bits(state & (1 << 31) | exponent << 23 | state >> 5 & 0x007f_ffff)
        })
        .collect()
}

fn narrowed(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|x| bf16::from_f32(*x)).collect()
}

fn register(optimizer: &mut Optimizer) -> Result<Vec<ParameterId>> {
    LENGTHS.iter().map(|&len| Ok(optimizer.register(len.to_string(), len)?)).collect()
}

/// The optimizer's memory beside the parameters.
fn bits(optimizer: &mut Optimizer, ids: &[ParameterId], parameters: &[Vec<f32>]) -> Result<Bits> {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let mut all: Bits = parameters.iter().map(|p| bits(p)).collect();
    for &id in ids {
        let State { exp_avg, exp_avg_sq, max_exp_avg_sq, .. } = optimizer.state(id)?;
        all.extend([bits(&exp_avg), bits(&exp_avg_sq), bits(&max_exp_avg_sq.unwrap_or_default())]);
    }
    let report = optimizer.report()?;
    let figures = [report.grad_norm, report.clip_coefficient, report.update_norm];
    all.push(
        figures
            .iter()
            .flat_map(|f| [f.is_some().into(), (f.unwrap_or(0.0).to_bits() >> 32) as u32])
            .collect(),
    );
    Ok(all)
}

fn host(builder: Builder, narrow: bool) -> Result<Bits> {
    let mut optimizer = builder.build()?;
    let ids = register(&mut optimizer)?;
    let mut parameters: Vec<Vec<f32>> =
        LENGTHS.iter().enumerate().map(|(i, &len)| values(0, i, len)).collect();
    for step in 1..=STEPS {
        let gradients: Vec<_> = LENGTHS.iter().enumerate().map(|(i, &len)| values(step, i, len)).collect();
        let narrowed: Vec<_> = gradients.iter().map(|g| narrowed(g)).collect();
        let mut updates: Vec<_> = (parameters.iter_mut().enumerate())
            .map(|(i, parameter)| {
                let gradient: Tensor<'_> =
                    if narrow { (&narrowed[i]).into() } else { (&gradients[i]).into() };
                Update::new(ids[i], parameter, gradient)
            })
            .collect();
        optimizer.step(&mut updates)?;
    }
    bits(&mut optimizer, &ids, &parameters)
}

fn device(builder: Builder, ordinal: usize, narrow: bool) -> Result<Bits> {
    let mut optimizer = builder.device(Device::Cuda(ordinal)).build()?;
    let ids = register(&mut optimizer)?;
    let stream = gpu::stream(ordinal)?;
    let copy = |values: Vec<f32>| gpu::Copy::of(&stream, &values);
    let mut parameters: Vec<gpu::Copy<f32>> =
        LENGTHS.iter().enumerate().map(|(i, &len)| copy(values(0, i, len))).collect::<Result<_>>()?;
    for step in 1..=STEPS {
        let gradients = LENGTHS.iter().enumerate().map(|(i, &len)| values(step, i, len)).collect::<Vec<_>>();
        let narrow_copies: Vec<gpu::Copy<bf16>> =
            gradients.iter().map(|g| gpu::Copy::of(&stream, &narrowed(g))).collect::<Result<_>>()?;
        let wide_copies: Vec<gpu::Copy<f32>> = gradients.into_iter().map(copy).collect::<Result<_>>()?;
        let wide: Vec<_> = wide_copies.iter().map(gpu::Copy::view).collect();
        let narrowed: Vec<_> = narrow_copies.iter().map(gpu::Copy::view).collect();
        let mut targets: Vec<_> = parameters.iter_mut().map(gpu::Copy::view_mut).collect();
        let mut updates: Vec<_> = (targets.iter_mut().enumerate())
            .map(|(i, parameter)| {
                let gradient: Tensor<'_> = if narrow { (&narrowed[i]).into() } else { (&wide[i]).into() };
                Update::new(ids[i], parameter, gradient)
            })
            .collect();
        optimizer.step(&mut updates)?;
    }
    let read = |(copy, &len): (&gpu::Copy<f32>, &usize)| {
        let mut values = vec![0.0; len];
        copy.read(&stream, &mut values).map(|()| values)
    };
    let parameters = parameters.iter().zip(&LENGTHS).map(read).collect::<Result<Vec<_>>>()?;
    bits(&mut optimizer, &ids, &parameters)
}
