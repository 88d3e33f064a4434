//! One promise: `accumulate` adds with one rounding, wherever it runs, and refuses what it must not mix before anything
//! has changed.

mod common;

use common::{bits, noise};
use fadam::{Adam, Device, Error, Optimizer, Tensor, TensorMut, Update, accumulate};
use half::bf16;

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&g| bf16::from_f32(g)).collect()
}

#[test]
fn sums_are_rounded_once() {
    // Around vectors, rows and chunks, and long enough for several threads.
    for len in [0, 1, 15, 127, 128, 129, 4095, 4096, 4097, 9000, 100_001] {
        let (start, wide, short) = (noise(len, 1), noise(len, 2), narrow(&noise(len, 3)));
        let (mut a, mut b) = (start.clone(), start.clone());
        accumulate(
            Device::Cpu,
            &mut [((&mut a).into(), (&wide).into()), ((&mut b).into(), (&short).into())],
            false,
        )
        .unwrap();
        let sum = |i: usize, g: f32| (f64::from(start[i]) + f64::from(g)) as f32; // exact in f64
        for i in 0..len {
            assert_eq!(a[i], sum(i, wide[i]), "{i} of {len}");
            assert_eq!(b[i], sum(i, short[i].to_f32()), "{i} of {len}");
        }
    }
}

#[test]
fn the_first_takes_the_place_of_what_was_there() {
    for len in [0, 1, 129, 5000] {
        let (wide, short) = (noise(len, 2), narrow(&noise(len, 3)));
        let (mut a, mut b) = (vec![f32::NAN; len], vec![f32::INFINITY; len]);
        let mut pairs = [((&mut a).into(), (&wide).into()), ((&mut b).into(), (&short).into())];
        accumulate(Device::Cpu, &mut pairs, true).unwrap();
        assert_eq!(a, wide);
        assert!(b.iter().zip(&short).all(|(b, g)| *b == g.to_f32()));
    }
}

#[test]
fn what_is_not_finite_and_what_is_small_survives() {
    let gradient = [f32::INFINITY, f32::NAN, 1e-45, -0.0, f32::MAX, 3e-39];
    let mut sum = [1.0, 1.0, 1e-45, -0.0, f32::MAX, -1e-39];
    accumulate(Device::Cpu, &mut [((&mut sum).into(), (&gradient).into())], false).unwrap();
    assert_eq!(bits(&sum), bits(&[f32::INFINITY, f32::NAN, 2.8e-45, -0.0, f32::INFINITY, 3e-39 - 1e-39]));
}

#[test]
fn nothing_to_add_is_legal() {
    accumulate(Device::Cpu, &mut [], false).unwrap();
    let mut empty: [f32; 0] = [];
    accumulate(Device::Cpu, &mut [((&mut empty).into(), (&[0.0_f32; 0]).into())], true).unwrap();
}

/// Four micro-batches and `grad_scale` 4 are a step by their mean.
#[test]
fn a_step_by_the_sums_is_a_step_by_the_mean() {
    let batches: Vec<Vec<f32>> = (0..4).map(|i| noise(1000, i)).collect();
    let mut sum = vec![f32::NAN; 1000];
    for (i, batch) in batches.iter().enumerate() {
        accumulate(Device::Cpu, &mut [((&mut sum).into(), batch.into())], i == 0).unwrap();
    }
    let mean: Vec<f32> = sum.iter().map(|sum| sum / 4.0).collect(); // exact
    let step = |gradient: &[f32], grad_scale| {
        let mut optimizer = Optimizer::new(Adam::adamw()).unwrap();
        let id = optimizer.register("w", 1000).unwrap();
        optimizer.set_grad_scale(grad_scale).unwrap();
        let mut weight = noise(1000, 9);
        optimizer.step(&mut [Update::new(id, &mut weight, gradient)]).unwrap();
        weight
    };
    assert_eq!(step(&sum, 4.0), step(&mean, 1.0));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (mut a, mut b) = ([1.0_f32; 3], [2.0_f32; 3]);
    let (three, four) = ([1.0_f32; 3], [1.0_f32; 4]);
    let mut pairs = [((&mut a).into(), (&three).into()), ((&mut b).into(), (&four).into())];
    let error = accumulate(Device::Cpu, &mut pairs, false).unwrap_err();
    assert!(matches!(error, Error::Length { role: "gradient", expected: 3, found: 4, .. }), "{error:?}");
    assert_eq!(error.to_string(), "gradient of `pair 1` has 4 elements, expected 3");
    let mut short = [bf16::ONE; 8]; // room for three f32
    let mut pairs = [((&mut a).into(), (&three).into()), ((&mut short[..3]).into(), (&three).into())];
    let error = accumulate(Device::Cpu, &mut pairs, true).unwrap_err();
    assert_eq!(error.to_string(), "sum of `pair 1` is bf16, expected f32");
    assert!(matches!(error, Error::Dtype { .. }), "{error:?}");
    assert_eq!((a, b), ([1.0; 3], [2.0; 3]));
    let mut pairs = [((&mut a).into(), (&three).into())];
    let missing = accumulate("cuda:1717".parse().unwrap(), &mut pairs, false).unwrap_err();
    assert!(matches!(missing, Error::Unavailable { .. }), "{missing:?}");
}

/// Two sums of 8 elements and their gradients, at offsets into one piece of memory.
fn views(sums: [usize; 2], gradients: [usize; 2], lengths: [usize; 2]) -> (Result<(), Error>, Vec<f32>) {
    let mut memory: Vec<f32> = (0..64_u8).map(f32::from).collect();
    let start = memory.as_mut_ptr();
    let mut pairs: Vec<(TensorMut<'_>, Tensor<'_>)> = (0..2)
        .map(|i| {
            assert!(sums[i] + lengths[i] <= 64 && gradients[i] + lengths[i] <= 64);
            // SAFETY: within the memory, which outlives the call; the views may overlap.
            unsafe {
                (
                    TensorMut::from_raw_parts(start.add(sums[i]), lengths[i]),
                    Tensor::from_raw_parts(start.add(gradients[i]).cast_const(), lengths[i]),
                )
            }
        })
        .collect();
    let result = accumulate(Device::Cpu, &mut pairs, false);
    drop(pairs);
    (result, memory)
}

#[test]
fn a_sum_shares_no_memory() {
    for (sums, gradients, names) in [
        ([0, 7], [40, 50], ["pair 1", "the sum of pair 0"]),
        ([7, 0], [40, 50], ["pair 0", "the sum of pair 1"]),
        ([0, 16], [40, 16], ["pair 1", "the gradient of pair 1"]),
        ([0, 16], [23, 40], ["pair 1", "the gradient of pair 0"]),
        ([0, 16], [40, 1], ["pair 0", "the gradient of pair 1"]),
    ] {
        let (result, memory) = views(sums, gradients, [8, 8]);
        match result.unwrap_err() {
            Error::Aliased { name, other } => assert_eq!([name.as_str(), other.as_str()], names),
            other => panic!("{other:?}"),
        }
        assert!(memory.iter().zip(0_u8..).all(|(x, i)| *x == f32::from(i)), "{names:?}");
    }
    // Neighbours, a gradient for two, an empty view inside another.
    views([0, 8], [16, 24], [8, 8]).0.unwrap();
    views([0, 8], [20, 20], [8, 8]).0.unwrap();
    views([0, 3], [20, 4], [8, 0]).0.unwrap();
}
