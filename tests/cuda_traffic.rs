//! One promise: a step on a GPU launches few kernels, however many tensors there are, and moves the bytes that its
//! algorithm needs and no more, in whole sectors. Counted on the emulated driver; the table in docs/kernels.md is written
//! with FADAM_RECORD_TRAFFIC=1, and is what this test checks.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/paths.rs"]
mod paths;
mod trajectories;

use emulator::{Counts, Emulator};
use fadam::{
    Adam, Algorithm, Dtype, FAdam, FisherAdam, Master, NonFinite, Optimizer, Tensor, TensorMut, Update,
};
use gpu::{Gpu, gpus};
use half::bf16;
use std::fmt::Write;

/// Set to write the table anew.
const RECORD: &str = "FADAM_RECORD_TRAFFIC";
const TABLE: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- traffic -->\n";
const END: &str = "<!-- /traffic -->";

const ELEMENTS: usize = 1 << 18;
const CHUNKS: u64 = ELEMENTS as u64 / 4096;
const SECTOR: u64 = 32;

struct Case {
    name: &'static str,
    algorithm: Algorithm,
    check: bool,
    max_grad_norm: Option<f64>,
    norms: bool,
    /// Of the gradients.
    narrow: bool,
    kept: Kept,
    /// Of tensors' memory, each way and in all: what the algorithm needs.
    bytes: f64,
    launches: u64,
}

/// How parameters and moments are kept.
#[derive(Clone, Copy)]
struct Kept {
    bf16_parameters: bool,
    /// Every second tensor is f32 all the same.
    mixed: bool,
    master: Master,
    moments: Dtype,
    ema: bool,
}

const F32: Kept =
    Kept { bf16_parameters: false, mixed: false, master: Master::Remainder, moments: Dtype::F32, ema: false };

/// With bf16 gradients: 2 bytes. A bf16 value is 2 to read, where no f32 master is read in its place, and 2 to write; a
/// remainder 4, an f32 master 8; moments 16, or 8 of bf16; an average 8.
fn bf16_cases(case: impl Fn(&'static str, Algorithm, f64, u64) -> Case) -> Vec<Case> {
    let adamw: Algorithm = Adam::adamw().into();
    let kappa = |kappa| -> Algorithm { FAdam { kappa: Some(kappa), ..FAdam::default() }.into() };
    let (idle, fires, two_sweeps) = (kappa(1e6), kappa(300.0), kappa(10.0));
    let fisher: Algorithm = FisherAdam::default().into();
    let remainder = Kept { bf16_parameters: true, ..F32 };
    let master = Kept { master: Master::F32, ..remainder };
    let bare = Kept { master: Master::None, ..remainder };
    let short = |kept| Kept { moments: Dtype::Bf16, ..kept };
    let ema = |kept| Kept { ema: true, ..kept };
    let kept = |name, algorithm, kept, bytes, launches| Case {
        check: false,
        narrow: true,
        kept,
        ..case(name, algorithm, bytes, launches)
    };
    vec![
        kept("AdamW, bf16 with remainder", adamw, remainder, 26.0, 2),
        kept("AdamW, bf16 with f32 master", adamw, master, 28.0, 2),
        kept("AdamW, bf16 without master", adamw, bare, 22.0, 2),
        kept("AdamW, bf16 with remainder, bf16 moments", adamw, short(remainder), 18.0, 2),
        kept("AdamW, all bf16", adamw, short(bare), 14.0, 2),
        kept("AdamW, f32 and bf16 without master, mixed", adamw, Kept { mixed: true, ..bare }, 24.0, 2),
        kept("AdamW, bf16 with remainder, average", adamw, ema(remainder), 34.0, 2),
        kept("AdamW, all bf16, average", adamw, ema(short(bare)), 22.0, 2),
        Case { norms: true, ..kept("AdamW, bf16 with remainder, norms", adamw, remainder, 26.0, 3) },
        Case { check: true, ..kept("AdamW, bf16 with remainder, finite check", adamw, remainder, 28.0, 3) },
        kept("FAdam, κ, not firing, bf16 with remainder", idle, remainder, 26.0, 4),
        kept("FAdam, κ, firing, bf16 with remainder", fires, remainder, 42.0, 4),
        kept("FAdam, κ, firing, bf16 with remainder, average", fires, ema(remainder), 58.0, 4),
        kept("FAdam, κ < ½√N, bf16 with remainder", two_sweeps, remainder, 34.0, 4),
        kept("FAdam, κ, all bf16", idle, short(bare), 18.0, 4), // never speculative
        kept("FisherAdam, bf16 with remainder", fisher, remainder, 38.0, 5),
        kept("FisherAdam, all bf16", fisher, short(bare), 22.0, 5),
    ]
}

fn cases() -> Vec<Case> {
    let case = |name, algorithm: Algorithm, bytes, launches| Case {
        name,
        algorithm,
        check: true,
        max_grad_norm: None,
        norms: false,
        narrow: false,
        kept: F32,
        bytes,
        launches,
    };
    let adamw: Algorithm = Adam::adamw().into();
    let amsgrad: Algorithm = Adam { amsgrad: true, ..Adam::adamw() }.into();
    let fadam: Algorithm = FAdam::default().into();
    let kappa = |kappa| -> Algorithm { FAdam { kappa: Some(kappa), ..FAdam::default() }.into() };
    // √ELEMENTS / 2 = 256: Δ is applied speculatively from there on; in a first step ‖Δ‖ is 512.
    let (idle, fires, two_sweeps) = (kappa(1e6), kappa(300.0), kappa(10.0));
    let fisher: Algorithm = FisherAdam::default().into();
    let no_decay: Algorithm = FisherAdam { weight_decay: 0.0, ..FisherAdam::default() }.into();
    let mut cases = vec![
        Case { check: false, ..case("AdamW", adamw, 28.0, 2) },
        case("AdamW, finite check", adamw, 32.0, 3),
        Case { max_grad_norm: Some(1.0), ..case("AdamW, clipping and finite check", adamw, 32.0, 3) },
        Case { narrow: true, ..case("AdamW, bf16 gradients, finite check", adamw, 28.0, 3) },
        Case { norms: true, ..case("AdamW, finite check, norms", adamw, 32.0, 4) },
        case("AdamW with amsgrad, finite check", amsgrad, 40.0, 3),
        Case { check: false, ..case("FAdam", fadam, 28.0, 2) },
        Case { check: false, ..case("FAdam, κ, not firing", idle, 28.0, 4) },
        case("FAdam, κ, not firing, finite check", idle, 32.0, 5),
        Case { check: false, ..case("FAdam, κ, firing", fires, 44.0, 4) },
        Case { check: false, ..case("FAdam, κ < ½√N", two_sweeps, 36.0, 4) },
        case("FAdam, κ < ½√N, finite check", two_sweeps, 40.0, 5),
        Case { norms: true, ..case("FAdam, κ < ½√N, finite check, norms", two_sweeps, 40.0, 6) },
        case("FisherAdam, finite check", fisher, 44.0, 5),
        Case { norms: true, ..case("FisherAdam, finite check, norms", fisher, 44.0, 6) },
        Case { check: false, ..case("FisherAdam", fisher, 44.0, 5) },
        case("FisherAdam, λ = 0, finite check", no_decay, 40.0, 5),
    ];
    cases.extend(bf16_cases(case));
    cases
}

/// What the second of two steps of a case does, with its elements in `tensors` tensors.
fn count(emulator: &Emulator, gpu: &Gpu, case: &Case, tensors: usize) -> Vec<(String, Counts)> {
    let policy = if case.check { NonFinite::Skip } else { NonFinite::Propagate };
    let Kept { bf16_parameters, mixed, master, moments, ema } = case.kept;
    let mut builder = Optimizer::builder(case.algorithm)
        .stream(gpu.stream.clone())
        .non_finite(policy)
        .norms(case.norms)
        .master(master)
        .moments(moments);
    if ema {
        builder = builder.ema(0.999);
    }
    if let Some(max) = case.max_grad_norm {
        builder = builder.max_grad_norm(max);
    }
    let mut optimizer = builder.build().unwrap();
    let len = ELEMENTS / tensors;
    let is_bf16 = |i: usize| bf16_parameters && !(mixed && i % 2 == 1);
    let ids: Vec<_> = (0..tensors)
        .map(|i| match is_bf16(i) {
            false => optimizer.register(i.to_string(), len).unwrap(),
            true => optimizer.register_bf16(i.to_string(), len).unwrap(),
        })
        .collect();
    let half = vec![bf16::from_f32(0.5); len];
    let mut parameters: Vec<_> = (0..tensors)
        .map(|i| match is_bf16(i) {
            false => (Some(gpu.upload(&vec![0.5; len])), None),
            true => (None, Some(gpu.stream.clone_htod(&half).unwrap())),
        })
        .collect();
    let wide = gpu.upload(&vec![0.1; len]);
    let narrow = gpu.stream.clone_htod(&vec![bf16::from_f32(0.1); len]).unwrap();
    for last in [false, true] {
        if last {
            gpu.stream.synchronize().unwrap();
            emulator.reset_counts();
        }
        let mut updates: Vec<_> = ids
            .iter()
            .zip(&mut parameters)
            .map(|(&id, parameter)| {
                let gradient: Tensor<'_> = if case.narrow { (&narrow).into() } else { (&wide).into() };
                let parameter: TensorMut<'_> = match parameter {
                    (Some(wide), _) => wide.into(),
                    (_, narrow) => narrow.as_mut().unwrap().into(),
                };
                Update::new(id, parameter, gradient)
            })
            .collect();
        optimizer.step(&mut updates).unwrap();
        assert!(!last || emulator.syncs() == 0, "{}: a step waits for the device", case.name);
    }
    optimizer.synchronize().unwrap();
    emulator.launches()
}

fn sum(counts: &[(String, Counts)], field: impl Fn(&Counts) -> u64) -> u64 {
    counts.iter().map(|(_, counts)| field(counts)).sum()
}

#[test]
fn launches_and_bytes_are_what_the_algorithm_needs() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver does not count");
        return;
    };
    let mut table = String::from(
        "| step | launches | bytes a parameter | with tables | sectors a request |\n|---|---|---|---|---|\n",
    );
    for case in cases() {
        let counts = count(emulator, gpu::middle(&gpus), &case, if case.kept.mixed { 2 } else { 1 });
        let launches = sum(&counts, |counts| counts.launches);
        assert_eq!(launches, case.launches, "{}: {counts:?}", case.name);
        // 64 tensors of one chunk: the same launches.
        let many = count(emulator, gpu::middle(&gpus), &case, 64);
        assert_eq!(sum(&many, |counts| counts.launches), launches, "{}: {many:?}", case.name);

        let sectors = sum(&counts, |counts| counts.sectors_read + counts.sectors_written);
        let traffic = (sectors * SECTOR) as f64 / ELEMENTS as f64;
        // Per chunk, sweep and warp: its task and scalars, the partial sum that it leaves and a fold reads; and what one
        // block of a finalize kernel reads and writes for its tensor.
        let tables = (launches * (CHUNKS * 24 + 200) * SECTOR) as f64 / ELEMENTS as f64;
        assert!(
            traffic >= case.bytes && traffic <= case.bytes + tables,
            "{}: {traffic} bytes a parameter, of which at most {tables} are tables; expected {}",
            case.name,
            case.bytes
        );
        // The sweeps' own accesses: 512 bytes a request (256 of bf16), in whole sectors.
        let requests = sum(&counts, |counts| counts.requests_read + counts.requests_written);
        let per_request = sectors as f64 / requests as f64;
        let launches = case.launches;
        writeln!(table, "| {} | {launches} | {} | {traffic:.2} | {per_request:.1} |", case.name, case.bytes)
            .unwrap();
    }
    let path = paths::repository(TABLE);
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the table's place");
    let (recorded, tail) = rest.split_once(END).expect("the table's end");
    if std::env::var_os(RECORD).is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
    } else {
        assert_eq!(recorded, table, "{TABLE} is out of date; {RECORD}=1 writes it anew");
    }
}
