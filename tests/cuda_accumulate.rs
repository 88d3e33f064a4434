//! One promise: on a GPU `accumulate` gives the CPU's bits for all tensors in one launch, moves no byte that it need not
//! move, waits for nobody, and refuses what it must not mix.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::cuda::cudarc::driver::CudaSlice;
use fadam::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use fadam::{Device, Error, Tensor, TensorMut, accumulate};
use gpu::gpus;
use half::bf16;
use trajectories::Home;

fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Around vectors, rows and chunks; empty ones between.
const LENGTHS: [usize; 9] = [1, 0, 127, 128, 4096, 0, 4097, 9000, 3];

#[test]
fn sums_have_the_bits_of_the_cpu() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let starts: Vec<Vec<f32>> = LENGTHS.iter().zip(1..).map(|(&len, seed)| values(len, seed)).collect();
    let wide: Vec<Vec<f32>> = LENGTHS.iter().zip(40..).map(|(&len, seed)| values(len, seed)).collect();
    let narrow: Vec<Vec<bf16>> =
        wide.iter().map(|g| g.iter().map(|&g| bf16::from_f32(g)).collect()).collect();
    for first in [false, true] {
        let mut expected = starts.clone();
        let mut pairs: Vec<(TensorMut<'_>, Tensor<'_>)> = Vec::new();
        for (i, sum) in expected.iter_mut().enumerate() {
            pairs.push((sum.into(), if i % 2 == 0 { (&wide[i]).into() } else { (&narrow[i]).into() }));
        }
        accumulate(Device::Cpu, &mut pairs, first).unwrap();
        for gpu in &gpus {
            for offset in [0, 1] {
                if let Some(emulator) = driver.emulated() {
                    emulator.set_seed(offset as u64 + 5);
                }
                let mut sums: Vec<_> = starts.iter().map(|start| gpu.f32(start, offset)).collect();
                let wide: Vec<_> = wide.iter().map(|g| gpu.f32(g, offset)).collect();
                let narrow: Vec<_> = narrow.iter().map(|g| gpu.bf16(g, offset)).collect();
                let mut pairs: Vec<(TensorMut<'_>, Tensor<'_>)> = Vec::new();
                for (i, sum) in sums.iter_mut().enumerate() {
                    let gradient = match i % 2 {
                        0 => gpu.f32_gradient(&wide[i], offset),
                        _ => gpu.bf16_gradient(&narrow[i], offset),
                    };
                    pairs.push((gpu.parameter(sum, offset), gradient));
                }
                // Bare addresses: the default stream, behind all that made them.
                gpu.stream.synchronize().unwrap();
                accumulate(Device::Cuda(gpu.ordinal), &mut pairs, first).unwrap();
                gpu.context().default_stream().synchronize().unwrap();
                drop(pairs);
                for (i, sum) in sums.iter().enumerate() {
                    assert_eq!(gpu.read(sum, offset), expected[i], "{i}, first {first}, offset {offset}");
                }
            }
        }
    }
}

fn pair<'a>(sum: &'a mut CudaSlice<f32>, gradient: impl Into<Tensor<'a>>) -> (TensorMut<'a>, Tensor<'a>) {
    (sum.into(), gradient.into())
}

#[test]
fn it_moves_what_it_must_in_one_launch_and_waits_for_nobody() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver does not count");
        return;
    };
    const LEN: usize = 1 << 16;
    let gpu = gpu::middle(&gpus);
    let mut sums = [gpu.upload(&[1.0; LEN]), gpu.upload(&[1.0; LEN])];
    let wide = gpu.upload(&[0.5; LEN]);
    let narrow = gpu.stream.clone_htod(&[bf16::from_f32(0.5); LEN]).unwrap();
    for (first, short, bytes) in [(false, false, 12), (false, true, 10), (true, false, 8), (true, true, 6)] {
        gpu.stream.synchronize().unwrap();
        emulator.reset_counts();
        let [a, b] = &mut sums;
        let mut pairs = match short {
            true => [pair(a, &narrow), pair(b, &narrow)],
            false => [pair(a, &wide), pair(b, &wide)],
        };
        accumulate(Device::Cuda(gpu.ordinal), &mut pairs, first).unwrap();
        assert_eq!(emulator.syncs(), 0, "it waits for the device");
        gpu.stream.synchronize().unwrap();
        let launches = emulator.launches();
        let [(name, counts)] = &launches[..] else { panic!("{launches:?}") };
        assert_eq!(
            (name.as_str(), counts.launches),
            (["accumulate", "accumulate_first"][usize::from(first)], 1)
        );
        let traffic = 32 * (counts.sectors_read + counts.sectors_written);
        let (arrays, tables) = (bytes * 2 * LEN as u64, 2 * LEN as u64 / 4096 * 20 * 32);
        assert!((arrays..=arrays + tables).contains(&traffic), "{name}, bf16 {short}: {traffic}, {arrays}");
    }
}

/// On the sum's stream, behind what made the gradient on another, before what reads the sum on a third.
#[test]
fn streams_are_in_order() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let elsewhere = gpu.context().new_stream().unwrap();
    let mut sum = gpu.upload(&[1.0; 5000]);
    for i in 0..3 {
        let gradient = elsewhere.clone_htod(&[1.0_f32; 5000]).unwrap();
        accumulate(Device::Cuda(0), &mut [pair(&mut sum, &gradient)], false).unwrap();
        let read = elsewhere.clone_dtoh(&sum).unwrap();
        elsewhere.synchronize().unwrap();
        assert_eq!(read, [2.0 + i as f32; 5000]);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let mut sum = gpu.upload(&[1.0; 8]);
    let gradient = gpu.upload(&[1.0; 8]);
    let other = gpu.upload(&[1.0; 9]);
    let error = accumulate(Device::Cuda(0), &mut [pair(&mut sum, &other)], false).unwrap_err();
    assert!(matches!(error, Error::Length { .. }), "{error:?}");
    let error = accumulate(Device::Cpu, &mut [pair(&mut sum, &gradient)], false).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    let mut here = [1.0_f32; 8];
    let error =
        accumulate(Device::Cuda(0), &mut [((&mut here).into(), (&gradient).into())], false).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    if gpus.len() > 1 {
        let error = accumulate(Device::Cuda(1), &mut [pair(&mut sum, &gradient)], false).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
    }
    // The same memory twice.
    let address = |slice: &CudaSlice<f32>| {
        use fadam::cuda::cudarc::driver::DevicePtr;
        slice.device_ptr(&gpu.stream).0
    };
    let at = address(&sum);
    // SAFETY: within the slice, on one stream; the views overlap, which is to be refused.
    let (to, from) = unsafe {
        (
            TensorMut::from_device_address::<f32>(at, 6, gpu.context()),
            Tensor::from_device_address::<f32>(at + 8, 6, gpu.context()),
        )
    };
    let error = accumulate(Device::Cuda(0), &mut [(to, from)], false).unwrap_err();
    assert!(matches!(error, Error::Aliased { .. }), "{error:?}");
    // In a capture its table would be gone at the replay.
    gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let error = accumulate(Device::Cuda(0), &mut [pair(&mut sum, &gradient)], false).unwrap_err();
    let _ = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
    assert!(matches!(error, Error::Capture { .. }), "{error:?}");
    if let Some(emulator) = driver.emulated() {
        emulator.fail("cuLaunchKernel", 1, 1);
        let error = accumulate(Device::Cuda(0), &mut [pair(&mut sum, &gradient)], false).unwrap_err();
        assert!(matches!(error, Error::Cuda { .. }), "{error:?}");
    }
    assert_eq!(gpu.download(&sum), [1.0; 8]);
}
