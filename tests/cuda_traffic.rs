//! One promise: a step on a GPU launches few kernels, however many tensors there are, and moves the bytes that its
//! algorithm needs and no more, in whole sectors. Counted on the emulated driver; the table in docs/kernels.md is written
//! with FADAM_RECORD_TRAFFIC=1, and is what this test checks.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use emulator::{Counts, Emulator};
use fadam::{Adam, Algorithm, FAdam, FisherAdam, NonFinite, Optimizer, Update};
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
    narrow: bool,
    /// Of tensors' memory, each way and in all: what the algorithm needs.
    bytes: f64,
    launches: u64,
}

fn cases() -> Vec<Case> {
    let case = |name, algorithm: Algorithm, bytes, launches| Case {
        name,
        algorithm,
        check: true,
        max_grad_norm: None,
        norms: false,
        narrow: false,
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
    vec![
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
    ]
}

/// What the second of two steps of a case does, with its elements in `tensors` tensors.
fn count(emulator: &Emulator, gpu: &Gpu, case: &Case, tensors: usize) -> Vec<(String, Counts)> {
    let policy = if case.check { NonFinite::Skip } else { NonFinite::Propagate };
    let mut builder =
        Optimizer::builder(case.algorithm).stream(gpu.stream.clone()).non_finite(policy).norms(case.norms);
    if let Some(max) = case.max_grad_norm {
        builder = builder.max_grad_norm(max);
    }
    let mut optimizer = builder.build().unwrap();
    let len = ELEMENTS / tensors;
    let ids: Vec<_> = (0..tensors).map(|i| optimizer.register(i.to_string(), len).unwrap()).collect();
    let mut parameters: Vec<_> = ids.iter().map(|_| gpu.upload(&vec![0.5; len])).collect();
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
                if case.narrow {
                    Update::new(id, parameter, &narrow)
                } else {
                    Update::new(id, parameter, &wide)
                }
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
    let emulator = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = emulator else {
        println!("skipped: a real driver does not count");
        return;
    };
    let mut table = String::from(
        "| step | launches | bytes a parameter | with tables | sectors a request |\n|---|---|---|---|---|\n",
    );
    for case in cases() {
        let counts = count(&emulator, &gpus[1], &case, 1);
        let launches = sum(&counts, |counts| counts.launches);
        assert_eq!(launches, case.launches, "{}: {counts:?}", case.name);
        // 64 tensors of one chunk: the same launches.
        let many = count(&emulator, &gpus[1], &case, 64);
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
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the table's place");
    let (recorded, tail) = rest.split_once(END).expect("the table's end");
    if std::env::var_os(RECORD).is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
    } else {
        assert_eq!(recorded, table, "{TABLE} is out of date; {RECORD}=1 writes it anew");
    }
}
