//! NVRTC's PTX of `fixtures/step.cu` for three architectures, against plain loops, bit for bit.

mod common;

use common::{Bytes, device, download_u32, download_u64, launch, upload};
use fadam_emulator::ptx::Module;

const MODULES: [&str; 3] = [
    include_str!("../fixtures/step.sm_80.ptx"),
    include_str!("../fixtures/step.sm_90.ptx"),
    include_str!("../fixtures/step.sm_100.ptx"),
];
const SEEDS: [u64; 3] = [0, 1, 77];

#[derive(Clone, Copy)]
struct Hyper {
    neg_lr: f32,
    weight_decay: f32,
    mix1: f32,
    mix2: f32,
    bias1: f32,
    bias2: f32,
    eps: f32,
}

const HYPER: Hyper =
    Hyper { neg_lr: -1e-3, weight_decay: 0.01, mix1: 0.1, mix2: 0.001, bias1: 3.7, bias2: 12.3, eps: 1e-8 };

/// Values of all sizes, subnormal ones and zeros among them.
fn values(seed: u32, len: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            match x % 16 {
                0 => 0.0,
                1 => f32::from_bits(x & 0x807f_ffff),
                _ => f32::from_bits(x & 0x807f_ffff | (100 + x % 40) << 23),
            }
        })
        .collect()
}

fn arguments(h: Hyper, [p, m, v, g]: [u64; 4], len: u64, bf16: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = [p, m, v, g, len].iter().flat_map(Bytes::bytes).collect();
    for x in [h.neg_lr, h.weight_decay, h.mix1, h.mix2, h.bias1, h.bias2, h.eps] {
        bytes.extend(x.bytes());
    }
    bytes.push(u8::from(bf16));
    bytes.resize(72, 0);
    bytes
}

fn element(h: Hyper, g: f32, p: &mut f32, m: &mut f32, v: &mut f32) {
    *m = h.mix1.mul_add(g - *m, *m);
    *v = h.mix2.mul_add(g * g - *v, *v);
    let d = v.sqrt() * h.bias2 + h.eps;
    let delta = if d == 0.0 { 0.0 } else { *m * h.bias1 / d };
    *p = h.neg_lr.mul_add(h.weight_decay.mul_add(*p, delta), *p);
}

#[test]
fn adamw_is_the_plain_loop() {
    for text in MODULES {
        let module = Module::parse(text).expect("it is NVRTC's");
        for (seed, (len, bf16)) in SEEDS.into_iter().zip([(10_007, false), (4096, false), (1001, true)]) {
            let mut memory = device();
            let (mut p, mut m) = (values(1, len), values(2, len));
            let mut v: Vec<f32> = values(3, len).iter().map(|x| x.abs()).collect();
            let mut g = values(4, len);
            let addresses = [upload(&mut memory, &p), upload(&mut memory, &m), upload(&mut memory, &v)];
            let gradient = if bf16 {
                g.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xffff_0000));
                upload(&mut memory, &g.iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<_>>())
            } else {
                upload(&mut memory, &g)
            };
            let bytes =
                arguments(HYPER, [addresses[0], addresses[1], addresses[2], gradient], len as u64, bf16);
            let counts = launch(&mut memory, &module, "adamw", (5, 128), &bytes, seed).expect("no fault");
            for i in 0..len {
                element(HYPER, g[i], &mut p[i], &mut m[i], &mut v[i]);
            }
            for (address, expected) in addresses.into_iter().zip([&p, &m, &v]) {
                let expected: Vec<u32> = expected.iter().map(|x| x.to_bits()).collect();
                assert_eq!(download_u32(&memory, address, len), expected);
            }
            assert_eq!(counts.bytes_written, len as u64 * 12);
            assert_eq!(counts.blocks, 5);
            // The scalar tail loads p twice, since the stores between may alias it.
            if len % 128 == 0 {
                assert_eq!(counts.bytes_read, len as u64 * 16);
                assert_eq!(counts.sectors_read * 32, counts.bytes_read);
                assert_eq!(counts.requests_written, 3 * len as u64 / 128);
            }
        }
    }
}

#[test]
fn norm_and_finalize_are_the_plain_loop() {
    for text in MODULES {
        let module = Module::parse(text).expect("it is NVRTC's");
        for (seed, len) in SEEDS.into_iter().zip([4096 * 37 + 1234, 4096 * 1030, 100]) {
            let mut memory = device();
            let g = values(9, len);
            let chunks = len.div_ceil(4096);
            let gradient = upload(&mut memory, &g);
            let partials = memory.allocate(4 * chunks).expect("room");
            let mut bytes = arguments(HYPER, [0, 0, 0, gradient], len as u64, false);
            bytes.extend(partials.bytes());
            let blocks = chunks.div_ceil(4) as u32;
            launch(&mut memory, &module, "sum_squares", (blocks, 128), &bytes, seed).expect("no fault");

            let expected: Vec<f32> = g.chunks(4096).map(partial).collect();
            let bits: Vec<u32> = expected.iter().map(|x| x.to_bits()).collect();
            assert_eq!(download_u32(&memory, partials, chunks), bits);

            let starts = upload(&mut memory, &[0_u64, 3, 3, 8, 30]);
            let out = memory.allocate(32).expect("room");
            let mut bytes: Vec<u8> =
                [partials, chunks as u64, out, starts].iter().flat_map(Bytes::bytes).collect();
            bytes.extend(5_u32.bytes());
            bytes.extend([0; 4]);
            bytes.extend(9_u64.bytes());
            launch(&mut memory, &module, "finalize", (1, 1024), &bytes, seed).expect("no fault");
            let bits: Vec<u64> = finalized(&expected).iter().map(|x| x.to_bits()).collect();
            assert_eq!(download_u64(&memory, out, 4), bits);
        }
    }
}

fn partial(chunk: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 32];
    for (i, x) in chunk.iter().enumerate() {
        lanes[i % 32] = x.mul_add(*x, lanes[i % 32]);
    }
    for distance in [16, 8, 4, 2, 1] {
        for i in 0..distance {
            lanes[i] += lanes[i + distance];
        }
    }
    lanes[0]
}

fn fold(lanes: &[f64]) -> f64 {
    let mut lanes = lanes.to_vec();
    for distance in [16, 8, 4, 2, 1] {
        for i in 0..distance {
            lanes[i] += lanes[i + distance];
        }
    }
    lanes[0]
}

fn finalized(partials: &[f32]) -> [f64; 4] {
    let mut threads = vec![0.0_f64; 1024];
    for (i, x) in partials.iter().enumerate() {
        threads[i % 1024] += f64::from(*x);
    }
    let warps: Vec<f64> = threads.chunks(32).map(fold).collect();
    let norm = fold(&warps).sqrt();
    let c = 1.0 / (norm + 1e-6);
    let clip = if c > 1.0 { 1.0 } else { c };
    [norm, clip, f64::from((norm / partials.len() as f64) as f32) * 0.1 - c, 3.0]
}

/// CUDA's powf is within 4 ulp of the true value and pow within 2 (CUDA Programming Guide, mathematical functions); the
/// emulated approximations within them are nearer than hardware's.
#[test]
fn powers_are_near() {
    for text in MODULES {
        let module = Module::parse(text).expect("it is NVRTC's");
        let x: Vec<f32> = values(5, 300).iter().map(|x| x.abs()).collect();
        let y: Vec<f32> = values(6, 300).iter().map(|x| x.clamp(-3.0, 3.0)).collect();
        let (u, w): (Vec<f64>, Vec<f64>) =
            x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y) * 1.1)).unzip();
        let mut memory = device();
        let (single, twice) = (memory.allocate(1200).expect("room"), memory.allocate(2400).expect("room"));
        let mut bytes = upload(&mut memory, &x).bytes();
        bytes.extend(upload(&mut memory, &y).bytes());
        bytes.extend(single.bytes());
        bytes.extend(upload(&mut memory, &u).bytes());
        bytes.extend(upload(&mut memory, &w).bytes());
        bytes.extend(twice.bytes());
        bytes.extend(300_u32.bytes());
        launch(&mut memory, &module, "power", (3, 128), &bytes, 3).expect("no fault");
        for (i, bits) in download_u32(&memory, single, 300).into_iter().enumerate() {
            let expected = (u[i].powf(f64::from(y[i])) as f32).to_bits();
            assert!(bits.abs_diff(expected) <= 4, "{}^{}: {bits:#x}, not {expected:#x}", x[i], y[i]);
        }
        for (i, bits) in download_u64(&memory, twice, 300).into_iter().enumerate() {
            let expected = u[i].powf(w[i]).to_bits();
            assert!(bits.abs_diff(expected) <= 3, "{}^{}: {bits:#x}, not {expected:#x}", u[i], w[i]);
        }
    }
}

/// `cargo test --release -p fadam-emulator --test end_to_end -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let module = Module::parse(MODULES[1]).expect("it is NVRTC's");
    let len = 1 << 22;
    let mut memory = device();
    let v: Vec<f32> = values(3, len).iter().map(|x| x.abs()).collect();
    let addresses = [
        upload(&mut memory, &values(1, len)),
        upload(&mut memory, &values(2, len)),
        upload(&mut memory, &v),
        upload(&mut memory, &values(4, len)),
    ];
    let bytes = arguments(HYPER, addresses, len as u64, false);
    for seed in [0, 0, 5, 5] {
        let start = std::time::Instant::now();
        let counts = launch(&mut memory, &module, "adamw", (1024, 128), &bytes, seed).expect("no fault");
        let seconds = start.elapsed().as_secs_f64();
        let (elements, instructions) =
            (len as f64 / seconds / 1e6, counts.instructions as f64 / seconds / 1e6);
        println!("seed {seed}: {elements:.1} M elements/s, {instructions:.1} M warp instructions/s");
    }
}
