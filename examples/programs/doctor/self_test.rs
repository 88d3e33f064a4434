//! Every algorithm and way to keep parameters and moments, stepped everywhere from the same start: the bits must be the
//! same.

use crate::gpu::{self, OnGpu, Values};
use anyhow::{Result, ensure};
use fadam::{
    Adam, Algorithm, Builder, Device, Dtype, FAdam, FisherAdam, Master, Optimizer, ParameterId, Simd, State,
    Update,
};

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
    pool.install(|| each(|builder, types| host(builder.simd(Simd::Scalar), types)))
}

pub(crate) fn on_cpu(simd: Simd, expected: &[Bits]) -> Result<String> {
    compare(&each(|builder, types| host(builder.simd(simd), types))?, expected)
}

pub(crate) fn on_gpu(ordinal: usize, expected: &[Bits]) -> Result<String> {
    compare(&each(|builder, types| device(builder, ordinal, types))?, expected)
}

/// Types of parameters, gradients and moments, and the master of bf16 parameters.
struct Types {
    name: &'static str,
    parameter: Dtype,
    gradient: Dtype,
    moments: Dtype,
    master: Master,
}

const fn types(name: &'static str, [parameter, gradient, moments]: [Dtype; 3], master: Master) -> Types {
    Types { name, parameter, gradient, moments, master }
}

use Dtype::{Bf16, F32};

const TYPES: [Types; 6] = [
    types("f32", [F32; 3], Master::Remainder),
    types("f32 with bf16 gradients", [F32, Bf16, F32], Master::Remainder),
    types("bf16 with remainders", [Bf16, Bf16, F32], Master::Remainder),
    types("bf16 with f32 masters", [Bf16, F32, F32], Master::F32),
    types("bf16, rounded by chance", [Bf16, Bf16, F32], Master::None),
    types("bf16 throughout, rounded by chance", [Bf16; 3], Master::None),
];

/// All cases, each with all types.
fn each(run: impl Fn(Builder, &Types) -> Result<Bits>) -> Result<Vec<Bits>> {
    let mut all = Vec::new();
    for (_, algorithm) in cases() {
        for types in &TYPES {
            let builder = Optimizer::builder(algorithm).max_grad_norm(1.0).ema(0.9);
            all.push(run(builder.moments(types.moments).master(types.master), types)?);
        }
    }
    Ok(all)
}

fn compare(found: &[Bits], expected: &[Bits]) -> Result<String> {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (name, _) = cases()[i / TYPES.len()];
        let types = TYPES[i % TYPES.len()].name;
        for (tensor, (found, expected)) in found.iter().zip(expected).enumerate() {
            let different = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            ensure!(
                found.len() == expected.len() && different == 0,
                "{name}, {types}: {different} of {} values of result {tensor} have other bits",
                expected.len()
            );
        }
    }
    Ok(format!(
        "{} algorithms and options, f32 and bf16 in {} ways: the same bits",
        cases().len(),
        TYPES.len()
    ))
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

fn register(optimizer: &mut Optimizer, types: &Types) -> Result<Vec<ParameterId>> {
    let register = |&len: &usize| match types.parameter {
        Bf16 => optimizer.register_bf16(len.to_string(), len),
        _ => optimizer.register(len.to_string(), len),
    };
    Ok(LENGTHS.iter().map(register).collect::<Result<_, _>>()?)
}

fn tensors(stream: u32, dtype: Dtype) -> Vec<Values> {
    LENGTHS.iter().enumerate().map(|(i, &len)| Values::of(values(stream, i, len), dtype)).collect()
}

/// Parameters and what the optimizer keeps beside them.
fn bits(optimizer: &mut Optimizer, ids: &[ParameterId], parameters: &[Values]) -> Result<Bits> {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let mut all: Bits = (parameters.iter())
        .map(|parameter| match parameter {
            Values::F32(values) => bits(values),
            Values::Bf16(values) => values.iter().map(|x| x.to_bits().into()).collect(),
        })
        .collect();
    for &id in ids {
        let State { exp_avg, exp_avg_sq, max_exp_avg_sq, master, remainder, ema, .. } =
            optimizer.state(id)?;
        all.extend([bits(&exp_avg), bits(&exp_avg_sq)]);
        all.extend([max_exp_avg_sq, master, ema].map(|values| bits(&values.unwrap_or_default())));
        all.push(remainder.unwrap_or_default().iter().map(|&rest| u32::from(rest as u16)).collect());
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

fn host(builder: Builder, types: &Types) -> Result<Bits> {
    let mut optimizer = builder.build()?;
    let ids = register(&mut optimizer, types)?;
    let mut parameters = tensors(0, types.parameter);
    for step in 1..=STEPS {
        let gradients = tensors(step, types.gradient);
        let updates =
            parameters.iter_mut().zip(&gradients).zip(&ids).map(|((parameter, gradient), &id)| {
                Update::new(id, parameter.tensor_mut(), gradient.tensor())
            });
        optimizer.step(&mut updates.collect::<Vec<_>>())?;
    }
    bits(&mut optimizer, &ids, &parameters)
}

fn device(builder: Builder, ordinal: usize, types: &Types) -> Result<Bits> {
    let mut optimizer = builder.device(Device::Cuda(ordinal)).build()?;
    let ids = register(&mut optimizer, types)?;
    let stream = gpu::stream(ordinal)?;
    let copies = |tensors: &[Values]| {
        tensors.iter().map(|values| OnGpu::of(&stream, values)).collect::<Result<Vec<_>>>()
    };
    let mut parameters = tensors(0, types.parameter);
    let mut targets = copies(&parameters)?;
    for step in 1..=STEPS {
        let gradients = copies(&tensors(step, types.gradient))?;
        let sources: Vec<_> = gradients.iter().map(OnGpu::view).collect();
        let mut views: Vec<_> = targets.iter_mut().map(OnGpu::view_mut).collect();
        let updates = views
            .iter_mut()
            .zip(&sources)
            .zip(&ids)
            .map(|((parameter, gradient), &id)| Update::new(id, parameter.tensor(), gradient.tensor()));
        optimizer.step(&mut updates.collect::<Vec<_>>())?;
    }
    for (copy, values) in targets.iter().zip(&mut parameters) {
        copy.read(&stream, values)?;
    }
    bits(&mut optimizer, &ids, &parameters)
}
