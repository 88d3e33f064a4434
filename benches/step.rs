//! The step by algorithm, types and size, in bytes a second: the bytes of memory traffic that it needs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fadam::{
    Adam, Algorithm, Dtype, FAdam, FisherAdam, Master, NonFinite, Optimizer, Tensor, TensorMut, Update,
};
use half::bf16;
use std::time::Duration;

/// On the calling thread alone, in the cores' own caches, in the shared cache, in memory.
const SIZES: [usize; 4] = [1 << 14, 1 << 17, 1 << 20, 1 << 24];
/// So small that parameters stay what they are, however often the step runs.
const LR: f64 = 1e-9;

/// Names, types of parameter and gradient, and the master of a bf16 parameter. As many bytes of traffic go to and from a bf16
/// parameter with its remainder as to and from an f32 one, to and from one without half as many.
const TYPES: [(&str, Dtype, Dtype, Master); 4] = [
    ("f32", Dtype::F32, Dtype::F32, Master::Remainder),
    ("f32_bf16_gradient", Dtype::F32, Dtype::Bf16, Master::Remainder),
    ("bf16_remainder", Dtype::Bf16, Dtype::Bf16, Master::Remainder),
    ("bf16_stochastic", Dtype::Bf16, Dtype::Bf16, Master::None),
];

/// One kind of step, and the bytes of traffic for one f32 parameter apart from its gradient.
struct Case {
    name: &'static str,
    algorithm: Algorithm,
    /// Clipping and the finite check, one more pass over the gradients.
    clip: bool,
    state_bytes: usize,
    /// How many sweeps read the gradient, and how many read or write the parameter.
    gradient_reads: usize,
    parameter_accesses: usize,
}

fn cases(elements: usize) -> [Case; 5] {
    let adamw = Adam { lr: LR, ..Adam::adamw() }.into();
    let fadam = FAdam { lr: LR, ..FAdam::default() };
    let kappa = Some(2.0 * (elements as f64).sqrt()); // never acts: the update's RMS is 1
    let fisher = FisherAdam { lr: LR, ..FisherAdam::default() }.into();
    let case = |name, algorithm, clip, state_bytes, gradient_reads| Case {
        name,
        algorithm,
        clip,
        state_bytes,
        gradient_reads,
        parameter_accesses: if name == "fisher_adam" { 3 } else { 2 },
    };
    [
        case("adamw", adamw, false, 24, 1),
        case("adamw_clip", adamw, true, 24, 2),
        case("fadam", fadam.into(), false, 24, 1),
        case("fadam_kappa", FAdam { kappa, ..fadam }.into(), false, 24, 1),
        case("fisher_adam", fisher, false, 32, 2),
    ]
}

/// Numbers of both signs, none near 0.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| if i % 3 == 0 { -0.01 } else { 0.005 } * (1.0 + (i % 7) as f32)).collect()
}

fn step(criterion: &mut Criterion) {
    for elements in SIZES {
        for case in cases(elements) {
            let mut group = criterion.benchmark_group(case.name);
            let wide = values(elements);
            let narrow: Vec<bf16> = wide.iter().map(|&value| bf16::from_f32(value)).collect();
            for (name, parameter, gradient, master) in TYPES {
                let saved = if (parameter, master) == (Dtype::Bf16, Master::None) { 2 } else { 0 };
                let bytes = case.state_bytes + case.gradient_reads * gradient.size()
                    - case.parameter_accesses * saved;
                let mut optimizer = Optimizer::builder(case.algorithm).master(master);
                optimizer = match case.clip {
                    true => optimizer.max_grad_norm(1.0),
                    false => optimizer.non_finite(NonFinite::Propagate),
                };
                let mut optimizer = optimizer.build().unwrap();
                let gradient: Tensor<'_> =
                    if gradient == Dtype::F32 { (&wide).into() } else { (&narrow).into() };
                let (mut wide_parameter, mut narrow_parameter) = (wide.clone(), narrow.clone());
                let (id, parameter): (_, TensorMut<'_>) = match parameter {
                    Dtype::F32 => (optimizer.register("p", elements), (&mut wide_parameter).into()),
                    _ => (optimizer.register_bf16("p", elements), (&mut narrow_parameter).into()),
                };
                let mut updates = [Update::new(id.unwrap(), parameter, gradient)];
                group.throughput(Throughput::Bytes((elements * bytes) as u64));
                group.bench_function(BenchmarkId::new(name, elements), |bencher| {
                    // From inside the pool, as in a training loop whose threads are awake.
                    rayon::scope(|_| bencher.iter(|| optimizer.step(&mut updates).unwrap()));
                });
            }
        }
    }
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = config(); targets = step);
criterion_main!(benches);
