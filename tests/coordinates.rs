//! One promise: what a report says of FAdam's coordinates, and of κ, is what happened: exactly as many of them lay near ε
//! and near the decay's limit as a recount finds, in whatever form the step ran and whatever is kept.

mod common;

use common::{Model, device, noise};
use fadam::{
    Adam, Builder, Coordinates, Device, Dtype, FAdam, FisherAdam, Group, Optimizer, Schedule, Simd, State,
};

/// Around rows of 128 elements and chunks of 4096.
const LENGTHS: [usize; 7] = [0, 1, 127, 129, 4096, 4097, 10_000];

/// The levels to run at; a GPU has none.
fn levels() -> Vec<Simd> {
    let available = Simd::ALL.into_iter().filter(|simd| simd.is_available());
    if device() == Device::Cpu { available.collect() } else { vec![Simd::Scalar] }
}

/// How many of these d and λ/d lie where the documentation says, by f32 comparisons with numbers rounded from f64.
fn count(d: &[f32], eps: f64, decay: f32, (limit, lr): (f64, f64)) -> ([u64; 4], [u64; 3]) {
    let number = |holds: &dyn Fn(f32) -> bool| d.iter().filter(|&&d| holds(d)).count() as u64;
    let near_eps = [2.0, 10.0, 100.0, 1000.0].map(|multiple| number(&|d| d < (multiple * eps) as f32));
    let near_limit = [1.0, 10.0, 100.0].map(|part| {
        let limit = (limit / (part * lr)) as f32;
        number(&|d| d != 0.0 && decay / d > limit)
    });
    (near_eps, near_limit)
}

/// Recounted from the second moment, with the parameter's own λ and learning rate.
fn recount(fadam: &FAdam, state: &State, decay: f64, lr: f64) -> ([u64; 4], [u64; 3]) {
    let power = (0..state.step).fold(1.0, |power, _| power * fadam.betas.1);
    let inverse = (1.0 / f64::sqrt(1.0 - power)) as f32;
    let eps = fadam.eps0 / (1.0 + fadam.eps_decay * state.step as f64);
    let d: Vec<f32> = state.exp_avg_sq.iter().map(|s| s.sqrt().mul_add(inverse, eps as f32)).collect();
    count(&d, eps, decay as f32, (fadam.decay_cap.unwrap_or(1.0), lr))
}

fn add<const N: usize>(sum: &mut [u64; N], part: [u64; N]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

fn parts(coordinates: Coordinates) -> (u64, [u64; 4], [u64; 3]) {
    (coordinates.count, coordinates.near_eps, coordinates.near_decay_limit)
}

/// Magnitudes from 1 down to 1e-7, and a zero in eight.
fn spread(len: usize, seed: u64) -> Vec<f32> {
    let element = |(i, x): (usize, f32)| if i % 8 == 7 { 0.0 } else { x * 0.1_f32.powi((i % 29) as i32 / 4) };
    noise(len, seed).into_iter().enumerate().map(element).collect()
}

/// Steps over tensors of all lengths, every second one in a group with another decay; all counts after each.
fn follow(fadam: FAdam, builder: Builder, dtype: Dtype) {
    // The third step has learning rate 0.
    let factors = [1.0, 0.5, 0.0];
    let builder = builder.norms(true).schedule(Schedule::linear(0, 2, 0.0));
    let mut model = Model::built(builder, &[]);
    let group = Group { weight_decay: Some(3.0 * fadam.weight_decay), ..Group::default() };
    let group = model.optimizer.add_group(group).unwrap();
    for (i, len) in LENGTHS.into_iter().enumerate() {
        let (name, optimizer) = (i.to_string(), &mut model.optimizer);
        let id = match (i % 2, dtype) {
            (0, Dtype::F32) => optimizer.register(name, len),
            (0, _) => optimizer.register_bf16(name, len),
            (_, dtype) => optimizer.register_in(group, name, len, dtype),
        };
        model.add(id.unwrap(), dtype, vec![1.0; len]);
    }
    let mut seen = ([0; 4], [0; 3]);
    for (step, factor) in factors.into_iter().enumerate() {
        // One of them sits out a step.
        let gradient = |(i, len)| (i != 5 || step != 1).then(|| spread(len, (7 * step + i) as u64));
        let gradients: Vec<_> = LENGTHS.into_iter().enumerate().map(gradient).collect();
        model.try_step(&gradients).unwrap();
        let mut all = (0, [0; 4], [0; 3]);
        for (i, len) in LENGTHS.into_iter().enumerate().filter(|&(i, _)| gradients[i].is_some()) {
            let decay = if i % 2 == 0 { fadam.weight_decay } else { 3.0 * fadam.weight_decay };
            let (near_eps, near_limit) = recount(&fadam, &model.state(i), decay, fadam.lr * factor);
            let found = model.optimizer.norms_of(model.ids[i]).unwrap().unwrap().coordinates.unwrap();
            assert_eq!(
                parts(found),
                (len as u64, near_eps, near_limit),
                "{fadam:?}, tensor {i}, step {step}"
            );
            all.0 += len as u64;
            add(&mut all.1, near_eps);
            add(&mut all.2, near_limit);
        }
        assert_eq!(parts(model.report().coordinates.unwrap()), all, "{fadam:?}, step {step}");
        assert!(factor != 0.0 || all.2 == [0; 3], "without a learning rate nothing decays");
        add(&mut seen.0, all.1);
        add(&mut seen.1, all.2);
    }
    assert!(
        fadam.eps0 == 0.0 || seen.0.is_sorted_by(|a, b| 0 < *a && a < b),
        "the data decide nothing: {seen:?}"
    );
    assert!(fadam.weight_decay == 0.0 || seen.1.is_sorted_by(|a, b| 0 < *a && a < b), "likewise: {seen:?}");
}

/// Each form of the step, with and without a cap, a decay and ε.
#[test]
fn counts_are_those_of_a_recount() {
    let plain = FAdam { lr: 0.01, eps0: 1e-6, eps_decay: 0.5, weight_decay: 0.01, ..FAdam::default() };
    let capped = FAdam { decay_cap: Some(0.05), ..plain };
    let cases = [
        plain,
        capped,
        FAdam { kappa: Some(100.0), ..plain }, // speculative: ½√18450 is 68
        FAdam { kappa: Some(75.0), ..capped }, // fires
        FAdam { kappa: Some(1.0), ..capped },  // two sweeps
        FAdam { weight_decay: 0.0, ..plain },
        FAdam { eps0: 0.0, ..plain },
    ];
    for simd in levels() {
        for fadam in cases {
            follow(fadam, Optimizer::builder(fadam).simd(simd), Dtype::F32);
        }
    }
}

/// What a step computes from bf16 moments it computes from them as stored, and counts so.
#[test]
fn whatever_is_kept() {
    let fadam = FAdam { lr: 0.01, eps0: 1e-6, weight_decay: 0.01, ..FAdam::default() };
    for simd in levels() {
        for kappa in [None, Some(1.0), Some(1e3)] {
            let fadam = FAdam { kappa, ..fadam };
            let builder = || Optimizer::builder(fadam).simd(simd);
            follow(fadam, builder(), Dtype::Bf16);
            follow(fadam, builder().moments(Dtype::Bf16), Dtype::F32);
            follow(fadam, builder().moments(Dtype::Bf16).ema(0.9), Dtype::Bf16);
        }
    }
}

/// More chunks than a warp has threads, and more tensors than a block has warps.
#[test]
fn of_many() {
    let fadam = FAdam { lr: 0.01, eps0: 1e-6, weight_decay: 0.01, ..FAdam::default() };
    for lengths in [vec![140_000], (0..100).collect()] {
        let gradients: Vec<_> = lengths.iter().map(|&len| spread(len, len as u64)).collect();
        let views: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
        let mut model = Model::built(Optimizer::builder(fadam).norms(true), &views);
        let report = model.step(&views);
        let mut all = (lengths.iter().sum::<usize>() as u64, [0; 4], [0; 3]);
        for i in 0..lengths.len() {
            let (near_eps, near_limit) = recount(&fadam, &model.state(i), fadam.weight_decay, fadam.lr);
            add(&mut all.1, near_eps);
            add(&mut all.2, near_limit);
        }
        assert_eq!(parts(report.coordinates.unwrap()), all);
    }
}

/// One step in which d = |g| + ε, as β2 = 0.
fn one_step(fadam: FAdam, gradient: &[f32]) -> (u64, [u64; 4], [u64; 3]) {
    let fadam = FAdam { betas: (0.0, 0.0), ..fadam };
    let mut model = Model::built(Optimizer::builder(fadam).norms(true), &[&vec![0.0; gradient.len()]]);
    parts(model.step(&[gradient]).coordinates.unwrap())
}

/// On a threshold a coordinate is not near; next to it, it is.
#[test]
fn thresholds_are_the_documented_ones() {
    let eps = f32::powi(2.0, -10);
    let fadam = FAdam { eps0: eps.into(), ..FAdam::default() };
    for (i, multiple) in [2.0, 10.0, 100.0, 1000.0].into_iter().enumerate() {
        // d = multiple · ε, exactly; then the f32 below.
        let on = (multiple - 1.0) * eps;
        let below = (multiple * eps).next_down() - eps;
        let near = |from| std::array::from_fn(|k| u64::from(k >= from));
        assert_eq!(one_step(fadam, &[on]), (1, near(i + 1), [0; 3]), "{multiple} ε");
        assert_eq!(one_step(fadam, &[below]), (1, near(i), [0; 3]), "just below {multiple} ε");
    }
    // λ/d = 1/|g|, against limit/η = 4, 0.4 and 0.04.
    let fadam = FAdam { lr: 0.125, eps0: 0.0, weight_decay: 1.0, decay_cap: Some(0.5), ..FAdam::default() };
    let double = FAdam { lr: 0.25, decay_cap: None, ..fadam };
    for fadam in [fadam, double] {
        for (i, on) in [0.25_f32, 2.5, 25.0].into_iter().enumerate() {
            let near = |from| std::array::from_fn(|k| u64::from(k >= from));
            assert_eq!(one_step(fadam, &[on]), (1, [0; 4], near(i + 1)), "on the limit {i}");
            assert_eq!(
                one_step(fadam, &[on * (1.0 - 1e-6)]),
                (1, [0; 4], near(i)),
                "just beyond the limit {i}"
            );
        }
    }
    // d = 0: no gradient yet, and no ε. Δ and the decay are 0, and so is every count.
    assert_eq!(one_step(fadam, &[0.0; 300]), (300, [0; 4], [0; 3]));
    let no_rate = FAdam { lr: 0.0, eps0: 1e-8, ..fadam };
    assert_eq!(one_step(no_rate, &[0.0; 300]), (300, [300; 4], [0; 3]));
}

#[test]
fn nobody_else_counts() {
    let step = |builder: Builder| {
        let mut model = Model::built(builder, &[&[1.0; 3]]);
        let report = model.step(&[&[1.0, 2.0, 3.0]]);
        (report, model.optimizer.norms_of(model.ids[0]).unwrap())
    };
    for builder in [Optimizer::builder(Adam::default()), Optimizer::builder(FisherAdam::default())] {
        let (report, norms) = step(builder.norms(true));
        assert_eq!((report.coordinates, report.update_clip, report.clipped_updates), (None, None, 0));
        assert_eq!(norms.unwrap().coordinates, None);
    }
    let (report, norms) = step(Optimizer::builder(FAdam::default()));
    assert_eq!((report.coordinates, report.update_clip, norms), (None, None, None));
    // A step of nothing, of a parameter that has been counted.
    let mut model = Model::built(Optimizer::builder(FAdam::default()).norms(true), &[&[1.0; 3]]);
    let counted = model.step(&[&[1.0; 3]]).coordinates;
    model.try_step(&[None::<Vec<f32>>]).unwrap();
    assert_eq!(model.report().coordinates, Some(Coordinates::default()));
    assert_eq!(model.optimizer.norms_of(model.ids[0]).unwrap().unwrap().coordinates, counted);
}

/// ‖Δ‖ = 4 in each step, as g = 1 throughout: either form of the clipped step, and what a skipped step leaves.
#[test]
fn kappa_is_seen_to_fire() {
    let fadam = FAdam { eps0: 0.0, ..FAdam::default() };
    for (kappa, clip) in [(1.0, 0.25), (3.0, 0.75), (5.0, 1.0)] {
        for norms in [false, true] {
            let builder = Optimizer::builder(FAdam { kappa: Some(kappa), ..fadam }).norms(norms);
            let mut model = Model::built(builder, &[&[1.0; 16]]);
            let fires = u64::from(clip != 1.0);
            for step in 1..=3 {
                let report = model.step(&[&[1.0; 16]]);
                assert!((report.update_clip.unwrap() - clip).abs() < 1e-6, "{report:?}");
                assert_eq!(report.update_clip == Some(1.0), clip == 1.0);
                assert_eq!(report.clipped_updates, fires * step);
            }
            let counted = model.optimizer.norms_of(model.ids[0]).unwrap();
            model.try_step(&[Some(vec![f32::NAN; 16])]).unwrap();
            let report = model.report();
            assert_eq!((report.update_clip, report.coordinates), (None, None));
            assert_eq!((report.skipped_steps, report.clipped_updates), (1, 3 * fires));
            assert_eq!(model.optimizer.norms_of(model.ids[0]).unwrap(), counted);
        }
    }
}
