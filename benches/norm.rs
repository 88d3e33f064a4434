//! The global norm by element type and size, in bytes read a second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fadam::{Device, Tensor, global_norm};
use half::bf16;
use std::time::Duration;

const SIZES: [usize; 4] = [1 << 14, 1 << 17, 1 << 20, 1 << 24];

fn norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("global_norm");
    for elements in SIZES {
        let wide: Vec<f32> = (0..elements).map(|i| (i % 17) as f32 - 8.0).collect();
        let narrow: Vec<bf16> = wide.iter().map(|&value| bf16::from_f32(value)).collect();
        for tensor in [Tensor::from(&wide), Tensor::from(&narrow)] {
            group.throughput(Throughput::Bytes((elements * tensor.dtype().size()) as u64));
            group.bench_function(BenchmarkId::new(tensor.dtype().to_string(), elements), |bencher| {
                // From inside the pool, as in a training loop whose threads are awake.
                rayon::scope(|_| bencher.iter(|| global_norm(Device::Cpu, &[tensor]).unwrap()));
            });
        }
    }
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = config(); targets = norm);
criterion_main!(benches);
