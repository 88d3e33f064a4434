//! What must hold for any values: equalities of bits, so there is no tolerance here.

mod common;

use common::{Gradient, Model, algorithms, bits, noise, random};
use fadam::{Adam, Algorithm, Dtype, FAdam, FisherAdam, Group, NonFinite, Optimizer, Update};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

/// Fixed seed: a failure is the same everywhere. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` look further.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = if default.rng_seed == RngSeed::Random { RngSeed::Fixed(1) } else { default.rng_seed };
    ProptestConfig { rng_seed, failure_persistence: None, ..default }
}

/// Any finite f32: ordinary ones, zeros of either sign, subnormals, the largest.
fn finite() -> impl Strategy<Value = f32> {
    let special = vec![0.0, -0.0, f32::from_bits(1), -f32::MIN_POSITIVE, 1e-23, 1.8e19, 2e19, f32::MAX];
    prop_oneof![
        6 => -2.0..2.0_f32,
        2 => select(special),
        2 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite()),
    ]
}

/// As gradient: without those whose squares overflow, since they would only be skipped.
fn gradient_value() -> impl Strategy<Value = f32> {
    finite().prop_map(|g| if g.abs() > 1e18 { g.signum() } else { g })
}

fn pairs() -> impl Strategy<Value = Vec<(f32, f32)>> {
    proptest::collection::vec((finite(), gradient_value()), 0..300)
}

fn betas() -> impl Strategy<Value = (f64, f64)> {
    let beta = || select(vec![0.0, 0.3, 0.4999, 0.5, 0.9, 0.999]);
    (beta(), beta())
}

fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    select(algorithms())
}

/// Gradients of a step: which parameters take part, with what, in which type.
fn gradients(lengths: &[usize], rng: &mut u64) -> Vec<Option<Gradient>> {
    lengths
        .iter()
        .map(|&len| {
            let g = noise(len, random(rng));
            match random(rng) % 3 {
                0 => None,
                1 => Some(Gradient::F32(g)),
                _ => Some(Gradient::Bf16(g.iter().map(|&g| bf16::from_f32(g)).collect())),
            }
        })
        .collect()
}

const LENGTHS: [usize; 5] = [5, 128, 0, 4097, 300];

fn parameters() -> Vec<Vec<f32>> {
    LENGTHS.iter().map(|&len| noise(len, len as u64)).collect()
}

fn model(algorithm: Algorithm) -> Model {
    let parameters = parameters();
    let views: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
    Model::built(Optimizer::builder(algorithm).max_grad_norm(3.0), &views)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fadam_without_its_own_is_adam(
        pairs in pairs(),
        betas in betas(),
        eps in select(vec![0.0, 1e-30, 1e-8, 1.0]),
        lr in select(vec![0.0, 1e-3, 2.0]),
        clip in select(vec![1e-3, 1.0, 1e30]),
        norms in any::<bool>(),
    ) {
        let (p, g): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let (first, second) = p.split_at(p.len() / 3);
        let built = |algorithm: Algorithm| {
            Model::built(Optimizer::builder(algorithm).max_grad_norm(clip).norms(norms), &[first, second])
        };
        let mut adam = built(Adam { lr, betas, eps, ..Adam::default() }.into());
        let mut fadam = built(FAdam { lr, betas, eps0: eps, ..FAdam::default() }.into());
        for step in 0..4 {
            let scaled: Vec<f32> = g.iter().map(|g| g * 0.75_f32.powi(step)).collect();
            let (a, b) = scaled.split_at(p.len() / 3);
            // The first tensor sits out the second step.
            let gradients = [(step != 1).then(|| a.to_vec()), Some(b.to_vec())];
            adam.try_step(&gradients).unwrap();
            fadam.try_step(&gradients).unwrap();
            prop_assert_eq!(adam.snapshot(), fadam.snapshot());
            let report = fadam.report();
            prop_assert_eq!(report.coordinates.is_some(), norms && !report.skipped);
            let [mut adam, mut fadam] = [adam.report(), report];
            (adam.coordinates, fadam.coordinates) = (None, None); // FAdam alone counts
            prop_assert_eq!(format!("{adam:?}"), format!("{fadam:?}")); // NaN = NaN
        }
    }

    #[test]
    fn a_zero_gradient_moves_nothing(
        parameter in proptest::collection::vec(finite(), 1..200),
        betas in betas(),
        eps in select(vec![0.0, 1e-45, 1e-30, 1e-8, 1e3]),
        negative in any::<bool>(),
        bf16_gradient in any::<bool>(),
    ) {
        let lr = 0.1;
        let zero = if negative { -0.0 } else { 0.0 };
        let algorithms: [Algorithm; 5] = [
            Adam { lr, betas, eps, ..Adam::default() }.into(),
            Adam { lr, betas, eps, amsgrad: true, maximize: true, ..Adam::default() }.into(),
            FAdam { lr, betas, eps0: eps, ..FAdam::default() }.into(),
            FAdam { lr, betas, eps0: eps, kappa: Some(1e-3), eps_decay: 0.5, ..FAdam::default() }.into(),
            FisherAdam { lr, betas, eps, weight_decay: 0.0, ..FisherAdam::default() }.into(),
        ];
        for algorithm in algorithms {
            let mut model = Model::new(algorithm, &[&parameter]);
            for _ in 0..3 {
                let gradient = match bf16_gradient {
                    true => Gradient::Bf16(vec![bf16::from_f32(zero); parameter.len()]),
                    false => Gradient::F32(vec![zero; parameter.len()]),
                };
                model.try_step(&[Some(gradient)]).unwrap();
                prop_assert_eq!(bits(&model.parameters[0]), bits(&parameter), "{:?}", algorithm);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: config().cases / 8, ..config() })]

    #[test]
    fn the_order_of_updates_does_not_matter(algorithm in any_algorithm(), seed in any::<u64>()) {
        let (mut straight, mut shuffled) = (model(algorithm), model(algorithm));
        let mut rng = seed;
        for _ in 0..3 {
            let gradients = gradients(&LENGTHS, &mut rng);
            straight.try_step(&gradients).unwrap();
            let Model { optimizer, ids, parameters, .. } = &mut shuffled;
            let mut updates: Vec<Update<'_>> = parameters
                .iter_mut()
                .zip(ids.iter())
                .zip(&gradients)
                .filter_map(|((p, id), g)| Some(Update::new(*id, p, g.as_ref()?.view())))
                .collect();
            for i in (1..updates.len()).rev() {
                updates.swap(i, random(&mut rng) as usize % (i + 1));
            }
            optimizer.step(&mut updates).unwrap();
            prop_assert_eq!(straight.snapshot(), shuffled.snapshot());
            prop_assert_eq!(straight.report(), shuffled.report());
        }
    }

    #[test]
    fn groups_with_equal_hyper_parameters_are_one(algorithm in any_algorithm(), seed in any::<u64>()) {
        let mut one = model(algorithm);
        let mut many = Model::built(Optimizer::builder(algorithm).max_grad_norm(3.0), &[]);
        let (betas, eps, weight_decay) = match algorithm {
            Algorithm::Adam(a) => (a.betas, a.eps, a.weight_decay),
            Algorithm::FAdam(a) => (a.betas, a.eps0, a.weight_decay),
            Algorithm::FisherAdam(a) => (a.betas, a.eps, a.weight_decay),
            _ => unreachable!(),
        };
        let spelled_out = Group {
            lr: Some(algorithm.learning_rate()),
            betas: Some(betas),
            eps: Some(eps),
            weight_decay: Some(weight_decay),
        };
        for (i, p) in parameters().into_iter().enumerate() {
            let group = if i % 2 == 0 { spelled_out } else { Group::default() };
            let group = many.optimizer.add_group(group).unwrap();
            let id = many.optimizer.register_in(group, format!("p{i}"), p.len(), Dtype::F32).unwrap();
            many.add(id, Dtype::F32, p);
        }
        let mut rng = seed;
        for _ in 0..3 {
            let gradients = gradients(&LENGTHS, &mut rng);
            one.try_step(&gradients).unwrap();
            many.try_step(&gradients).unwrap();
            prop_assert_eq!(one.snapshot(), many.snapshot());
            prop_assert_eq!(one.report(), many.report());
        }
    }

    #[test]
    fn an_element_does_not_see_its_neighbours(cut in any::<Index>(), seed in any::<u64>(), which in 0..3_usize) {
        // Without a norm in the step, a tensor is the sum of its parts, wherever it is cut.
        let algorithm: Algorithm = [
            Adam { weight_decay: 0.1, amsgrad: true, ..Adam::default() }.into(),
            Adam::adamw().into(),
            FAdam { weight_decay: 0.01, decay_cap: Some(0.5), ..FAdam::default() }.into(),
        ][which];
        let (p, len) = (noise(4500, seed), 4500);
        let cut = cut.index(len + 1);
        let mut whole = Model::new(algorithm, &[&p]);
        let mut parts = Model::new(algorithm, &[&p[..cut], &p[cut..]]);
        for step in 0..2 {
            let g = noise(len, seed ^ (step + 1));
            whole.step(&[&g]);
            parts.step(&[&g[..cut], &g[cut..]]);
        }
        prop_assert_eq!(bits(&whole.parameters[0]), bits(&parts.parameters.concat()));
        let [a, b] = [0, 1].map(|i| parts.state(i));
        prop_assert_eq!(bits(&whole.state(0).exp_avg), bits(&[a.exp_avg, b.exp_avg].concat()));
        prop_assert_eq!(bits(&whole.state(0).exp_avg_sq), bits(&[a.exp_avg_sq, b.exp_avg_sq].concat()));
    }

    #[test]
    fn taking_norms_changes_no_bit(algorithm in any_algorithm(), seed in any::<u64>(), policy in 0..2_usize) {
        let policy = [NonFinite::Skip, NonFinite::Propagate][policy];
        let built = |norms| {
            let parameters = parameters();
            let views: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
            Model::built(Optimizer::builder(algorithm).non_finite(policy).norms(norms), &views)
        };
        let (mut without, mut with) = (built(false), built(true));
        let mut rng = seed;
        for _ in 0..3 {
            let gradients = gradients(&LENGTHS, &mut rng);
            without.try_step(&gradients).unwrap();
            with.try_step(&gradients).unwrap();
            prop_assert_eq!(without.snapshot(), with.snapshot());
            // What both report is the same.
            let (a, b) = (without.report(), with.report());
            prop_assert!(a.grad_norm.is_none_or(|norm| Some(norm) == b.grad_norm));
            prop_assert!(a.update_norm.is_none_or(|norm| Some(norm) == b.update_norm));
        }
    }

    #[test]
    fn a_subset_is_as_separate_optimizers(which in 0..4_usize, seed in any::<u64>()) {
        // Without a norm over all tensors. FisherAdam's are per tensor.
        let algorithm: Algorithm = [
            Adam { weight_decay: 0.1, maximize: true, ..Adam::default() }.into(),
            Adam { amsgrad: true, ..Adam::adamw() }.into(),
            FAdam { eps_decay: 1.0, weight_decay: 0.01, decay_cap: Some(0.5), ..FAdam::default() }.into(),
            FisherAdam::default().into(),
        ][which];
        let parameters = parameters();
        let views: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        let mut together = Model::new(algorithm, &views);
        let mut apart: Vec<Model> = views.iter().map(|p| Model::new(algorithm, &[*p])).collect();
        let mut rng = seed;
        for _ in 0..4 {
            let gradients = gradients(&LENGTHS, &mut rng);
            together.try_step(&gradients).unwrap();
            for (model, gradient) in apart.iter_mut().zip(&gradients) {
                if gradient.is_some() {
                    model.try_step(std::slice::from_ref(gradient)).unwrap();
                }
            }
        }
        for (i, model) in apart.iter_mut().enumerate() {
            prop_assert_eq!(bits(&together.parameters[i]), bits(&model.parameters[0]));
            prop_assert_eq!(together.state(i), model.state(0));
        }
    }

    #[test]
    fn a_learning_rate_takes_effect_at_once(algorithm in any_algorithm(), lr in select(vec![0.0, 0.1, 0.25])) {
        let gradients = LENGTHS.map(|len| Some(noise(len, len as u64 + 9)));
        // Two steps, the second at another rate.
        let run = |second: f64| {
            let mut model = model(algorithm);
            model.optimizer.set_learning_rate(0.5).unwrap();
            model.try_step(&gradients).unwrap();
            let between = model.parameters[0].clone();
            model.optimizer.set_learning_rate(second).unwrap();
            assert_eq!(model.optimizer.algorithm().learning_rate(), second);
            model.try_step(&gradients).unwrap();
            (between, model.parameters.swap_remove(0))
        };
        let ((before, unchanged), (same, changed)) = (run(0.5), run(lr));
        prop_assert_eq!(bits(&before), bits(&same));
        for ((changed, unchanged), before) in changed.iter().zip(&unchanged).zip(&before) {
            // Every term of an update is in proportion to η, but for a decay that is capped.
            let ratio = (changed - before) / (unchanged - before);
            let capped = matches!(algorithm, Algorithm::FAdam(FAdam { decay_cap: Some(_), .. }));
            prop_assert!(capped || (ratio - 2.0 * lr as f32).abs() < 1e-3, "{ratio}");
            prop_assert!(lr != 0.0 || changed == before);
        }
    }

    #[test]
    fn a_groups_own_learning_rate_stays_its_own(algorithm in any_algorithm(), lr in select(vec![0.0, 0.1, 0.3])) {
        let mut model = Model::built(Optimizer::builder(algorithm), &[&noise(40, 1)]);
        let group = model.optimizer.add_group(Group { lr: Some(0.2), ..Group::default() }).unwrap();
        let own = model.optimizer.register_in(group, "own", 40, Dtype::F32).unwrap();
        model.add(own, Dtype::F32, noise(40, 1));
        // Both have the same values and gradients: they differ by the learning rate alone.
        let g = noise(40, 2);
        model.optimizer.set_learning_rate(lr).unwrap();
        model.step(&[&g, &g]);
        prop_assert_ne!(&model.parameters[0], &model.parameters[1]);
        prop_assert_eq!(lr == 0.0, model.parameters[0] == noise(40, 1));
        model.parameters = vec![noise(40, 3), noise(40, 3)];
        model.optimizer.set_group_learning_rate(group, lr).unwrap();
        model.step(&[&g, &g]);
        prop_assert_eq!(bits(&model.parameters[0]), bits(&model.parameters[1]));
    }
}
