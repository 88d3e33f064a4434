//! The empirical Fisher and the natural-gradient step against their definitions in f64.

use fadam::{Device, EmpiricalFisher, Error, FisherPower, Tensor, natural_gradient_step};
use half::bf16;

/// Values of either sign over many magnitudes, with zeros.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    (0..len)
        .map(|_| {
            let (unit, power) = (next() as f32 / (1 << 24) as f32 - 0.5, next() % 12);
            if power == 0 { 0.0 } else { unit * 10_f32.powi(power as i32 - 8) }
        })
        .collect()
}

#[test]
fn diagonal_is_the_mean_of_squares_in_sample_order() {
    for len in [1, 7, 4096, 10_001] {
        let samples: Vec<Vec<f32>> = (0..5).map(|i| values(len, i + 1)).collect();
        let mut one_by_one = EmpiricalFisher::new(Device::Cpu, len).unwrap();
        for sample in &samples {
            one_by_one.add(sample).unwrap();
        }
        let mut at_once = EmpiricalFisher::new(Device::Cpu, len).unwrap();
        at_once.add(&samples.concat()).unwrap();
        let diagonal = one_by_one.diagonal().unwrap();
        assert_eq!(diagonal, at_once.diagonal().unwrap());
        for (i, f) in diagonal.iter().enumerate() {
            let sum = samples.iter().fold(0.0, |sum, sample| sum + f64::from(sample[i]).powi(2));
            assert_eq!(*f, (sum / 5.0) as f32);
        }
    }
}

#[test]
fn bf16_samples_are_widened_exactly() {
    let sample: Vec<bf16> = values(100, 3).into_iter().map(bf16::from_f32).collect();
    let widened: Vec<f32> = sample.iter().map(|g| g.to_f32()).collect();
    let mut fisher = [(); 2].map(|()| EmpiricalFisher::new(Device::Cpu, 100).unwrap());
    fisher[0].add(&sample).unwrap();
    fisher[1].add(&widened).unwrap();
    assert_eq!(fisher[0].diagonal().unwrap(), fisher[1].diagonal().unwrap());
}

#[test]
fn natural_gradient_step_is_its_formula() {
    for (len, damping, power) in
        [(1, 0.0, FisherPower::One), (37, 1e-3, FisherPower::One), (9000, 1e-4, FisherPower::Half)]
    {
        let (theta, gradient) = (values(len, 1), values(len, 2));
        let fisher: Vec<f32> = values(len, 3).iter().map(|x| x * x).collect();
        let mut stepped = theta.clone();
        natural_gradient_step(Device::Cpu, &mut stepped, &gradient, &fisher, 0.1, power, damping).unwrap();
        for i in 0..len {
            let f = f64::from(fisher[i]);
            let d = if power == FisherPower::Half { f.sqrt() } else { f } + damping;
            let delta = if d == 0.0 { 0.0 } else { 0.1 * f64::from(gradient[i]) / d };
            let expected = f64::from(theta[i]) - delta;
            // Roundings of the root, the sum, the quotient, δ and η, each 2⁻²⁴ of Δ; and that of θ itself.
            let tolerance = 2_f64.powi(-24) * (5.0 * delta.abs() + expected.abs());
            assert!((f64::from(stepped[i]) - expected).abs() <= tolerance, "{i}: {} {expected}", stepped[i]);
        }
    }
}

#[test]
fn refusals_change_nothing() {
    let mut fisher = EmpiricalFisher::new(Device::Cpu, 3).unwrap();
    let error = fisher.add(&[1.0_f32; 4]).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 3, found: 4, .. }), "{error}");
    assert_eq!((fisher.samples(), fisher.diagonal().unwrap()), (0, vec![0.0; 3]));

    let mut theta = [1.0_f32; 3];
    let mut step = |gradient: Tensor<'_>, fisher: Tensor<'_>, lr: f64, damping: f64| {
        natural_gradient_step(Device::Cpu, &mut theta, gradient, fisher, lr, FisherPower::One, damping)
            .unwrap_err()
            .to_string()
    };
    let (three, four, bf16s) = ([1.0_f32; 3], [1.0_f32; 4], [bf16::ONE; 3]);
    assert_eq!(step((&four).into(), (&three).into(), 0.1, 0.0), "gradient of `θ` has 4 elements, expected 3");
    assert_eq!(step((&three).into(), (&four).into(), 0.1, 0.0), "fisher of `θ` has 4 elements, expected 3");
    assert_eq!(step((&three).into(), (&bf16s).into(), 0.1, 0.0), "fisher of `θ` is bf16, expected f32");
    assert!(step((&three).into(), (&three).into(), f64::NAN, 0.0).contains("learning_rate is NaN"));
    assert!(step((&three).into(), (&three).into(), 0.1, -1.0).contains("damping is -1"));
    assert_eq!(theta, [1.0; 3]);

    // SAFETY: the array outlives the view; the call refuses to use both.
    let alias = unsafe { Tensor::from_raw_parts(theta.as_ptr(), 3) };
    let aliased = natural_gradient_step(Device::Cpu, &mut theta, alias, &three, 0.1, FisherPower::One, 0.0);
    assert!(matches!(aliased, Err(Error::Aliased { .. })));
}
