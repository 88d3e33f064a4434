//! The geometry of sums is part of the format: chunks of 4096 elements, 128 lanes of fused additions, a fold by halves;
//! chunk partials in 256 lanes of f64, a fold by halves; tensors in the order of registration. Transcribed here, and
//! compared bit for bit: results of one version, machine or thread count must be those of any other.

mod common;

use common::{Gradient, Model, noise, random};
use fadam::{Adam, Decay, Device, Error, NonFinite, Optimizer, Simd, Update, global_norm};
use half::bf16;

fn by_halves<T: Copy + std::ops::Add<Output = T>>(mut lanes: Vec<T>) -> T {
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        lanes = (0..half).map(|j| lanes[j] + lanes[j + half]).collect();
    }
    lanes[0]
}

fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = vec![0.0_f64; 256];
    for (c, chunk) in x.chunks(4096).enumerate() {
        let mut partial = vec![0.0_f32; 128];
        for (i, &x) in chunk.iter().enumerate() {
            partial[i % 128] = x.mul_add(x, partial[i % 128]);
        }
        lanes[c % 256] += f64::from(by_halves(partial));
    }
    by_halves(lanes)
}

const LENGTHS: [usize; 12] = [0, 1, 2, 127, 128, 129, 300, 4095, 4096, 4097, 12_289, 70_000];

#[test]
fn a_norm_is_summed_as_written() {
    for len in LENGTHS {
        let x = noise(len, len as u64);
        assert_eq!(global_norm(Device::Cpu, &[(&x).into()]).unwrap(), sum_of_squares(&x).sqrt(), "{len}");
        let short: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
        let wide: Vec<f32> = short.iter().map(|&x| x.to_f32()).collect();
        assert_eq!(
            global_norm(Device::Cpu, &[(&short).into()]).unwrap(),
            sum_of_squares(&wide).sqrt(),
            "{len}"
        );
    }
}

#[test]
fn more_chunks_than_lanes_wrap_around() {
    // Chunks of magnitudes so far apart that f64 rounds their sum: else any order gives the same bits.
    for (chunks, seed, spread) in
        [(601, 1, true), (257, 2, true), (200, 3, true), (7, 4, true), (601, 5, false), (520, 6, false)]
    {
        let mut rng = seed;
        let mut x = vec![0.0; 4096 * (chunks - 1) + 5];
        for (c, chunk) in x.chunks_mut(4096).enumerate() {
            // Without `spread`: each of the others a third of the last bit of the first.
            let exponent = if spread { random(&mut rng) % 27 } else { 27 * u64::from(c > 0) };
            let scale = (-(exponent as f32)).exp2();
            for (x, noise) in chunk.iter_mut().zip(noise(64, random(&mut rng))) {
                *x = scale * noise;
            }
        }
        let expected = sum_of_squares(&x).sqrt();
        assert_eq!(global_norm(Device::Cpu, &[(&x).into()]).unwrap(), expected, "{chunks} chunks");
    }
}

#[test]
fn tensors_are_added_in_the_order_of_registration() {
    // One after the other, sums of 2⁻⁵⁴ are lost beside the 1 that comes first; taken before it, they are not.
    let tensors: Vec<Vec<f32>> = LENGTHS
        .iter()
        .map(|&len| {
            let norm = if len == 1 { 1.0 } else { (-27.0_f64).exp2() };
            let x = noise(len, len as u64);
            let scale = norm / sum_of_squares(&x).sqrt();
            x.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
        })
        .collect();
    let norm =
        |order: &mut dyn Iterator<Item = &Vec<f32>>| order.map(|x| sum_of_squares(x)).sum::<f64>().sqrt();
    let expected = norm(&mut tensors.iter());
    assert_ne!(expected, norm(&mut tensors.iter().rev()), "these values do not tell one order from another");
    let views: Vec<_> = tensors.iter().map(|x| x.into()).collect();
    assert_eq!(global_norm(Device::Cpu, &views).unwrap(), expected);
    for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
        let parameters: Vec<&[f32]> = tensors.iter().map(Vec::as_slice).collect();
        // Norms are taken by the pass over the gradients, or (Propagate) by the step itself.
        for policy in [NonFinite::Skip, NonFinite::Propagate] {
            let builder = Optimizer::builder(Adam::default()).simd(simd).norms(true).non_finite(policy);
            let mut model = Model::built(builder, &parameters);
            model.optimizer.set_grad_scale(2.0).unwrap(); // exact: halves all that follows
            let Model { optimizer, ids, parameters, .. } = &mut model;
            let mut updates: Vec<Update<'_>> = parameters
                .iter_mut()
                .zip(ids.iter())
                .zip(&tensors)
                .map(|((p, id), g)| Update::new(*id, p, g))
                .collect();
            updates.reverse();
            optimizer.step(&mut updates).unwrap();
            assert_eq!(model.report().grad_norm, Some(expected / 2.0), "{simd} {policy:?}");
            for (i, x) in tensors.iter().enumerate() {
                let norms = model.optimizer.norms_of(model.ids[i]).unwrap().unwrap();
                assert_eq!(norms.grad, sum_of_squares(x).sqrt() / 2.0, "{simd} {policy:?}");
                assert_eq!(norms.parameter, sum_of_squares(x).sqrt(), "{simd} {policy:?}");
            }
        }
    }
}

/// Δ = g/(|g| + 1), in f32 by one addition and one division.
const DAMPED: Adam = Adam {
    lr: 1e-3,
    betas: (0.0, 0.0),
    eps: 1.0,
    weight_decay: 0.0,
    decay: Decay::L2,
    amsgrad: false,
    maximize: false,
};

fn damped(g: &[f32]) -> Vec<f32> {
    g.iter().map(|g| g / ((g * g).sqrt() + 1.0)).collect()
}

#[test]
fn the_update_norm_is_summed_alike() {
    for len in LENGTHS {
        let g = noise(len, 3);
        let delta = damped(&g);
        let mut model = Model::built(Optimizer::builder(DAMPED).norms(true), &[&g]);
        model.try_step(&[Some(Gradient::F32(g))]).unwrap();
        assert_eq!(model.report().update_norm, Some(sum_of_squares(&delta).sqrt()), "{len}");
    }
}

#[test]
fn sums_and_the_check_are_of_hundreds_of_tensors() {
    let mut gradients: Vec<Vec<f32>> = (0..300).map(|i| noise(i % 131, i as u64)).collect();
    let views: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
    let total = |tensors: &[Vec<f32>]| tensors.iter().map(|x| sum_of_squares(x)).sum::<f64>().sqrt();
    let update = total(&gradients.iter().map(|g| damped(g)).collect::<Vec<_>>());
    let all: Vec<_> = gradients.iter().map(|g| g.into()).collect();
    assert_eq!(global_norm(Device::Cpu, &all).unwrap(), total(&gradients));
    // Norms of gradients are taken by the pass over them, or (Propagate) by the step itself.
    for policy in [NonFinite::Skip, NonFinite::Propagate] {
        let mut model = Model::built(Optimizer::builder(DAMPED).norms(true).non_finite(policy), &views);
        let report = model.step(&views);
        assert_eq!(report.grad_norm, Some(total(&gradients)), "{policy:?}");
        assert_eq!(report.update_norm, Some(update), "{policy:?}");
    }
    let mut model = Model::built(Optimizer::builder(DAMPED).non_finite(NonFinite::Error), &views);
    for bad in [72, 73, 74, 255, 256, 299] {
        let good = std::mem::replace(&mut gradients[bad][0], f32::NAN);
        let poisoned: Vec<_> = gradients.iter().map(|g| Some(g.clone())).collect();
        let error = model.try_step(&poisoned).unwrap_err();
        assert!(matches!(&error, Error::NonFinite { name, .. } if *name == format!("p{bad}")), "{error}");
        gradients[bad][0] = good;
    }
}
