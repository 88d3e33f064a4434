//! One promise: tensors of more than 2³¹ elements are stepped to their end. On the emulated driver, where an allocation of
//! more than 1 GiB is a window of 1 MiB that repeats through it, and only the last blocks are run; `doctor --large` does the
//! whole on a GPU that has the memory.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::{Adam, NonFinite, Optimizer, Update};
use gpu::{Gpu, gpus};

/// A chunk, and a bit, beyond 2³¹.
const LEN: usize = (1 << 31) + 4096 + 5;
/// Elements of a window: 1 MiB.
const WINDOW: usize = 1 << 18;

#[test]
fn the_last_elements_of_a_large_tensor_are_stepped() {
    if gpus().is_none() {
        return;
    }
    let Some(emulator) = emulator::find() else {
        println!("skipped: only the emulated driver runs single blocks");
        return;
    };
    let blocks = LEN.div_ceil(4096).div_ceil(4) as u64; // four warps a block, a chunk each
    emulator.set_multiprocessors(1 << 17); // enough for a block for every four chunks
    let gpu = Gpu::new(1);
    let builder = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone());
    let mut optimizer = builder.non_finite(NonFinite::Propagate).build().unwrap();
    let id = optimizer.register("w", LEN).unwrap();
    let mut parameter = gpu.stream.alloc_zeros::<f32>(LEN).unwrap();
    let mut gradient = gpu.stream.alloc_zeros::<f32>(LEN).unwrap();
    gpu.stream.memcpy_htod(&vec![1.0_f32; WINDOW], &mut gradient.slice_mut(..WINDOW)).unwrap();
    gpu.stream.synchronize().unwrap();
    emulator.run_blocks(blocks - 1, 1);
    // The one block of finalize has number 0: run it, and of the sweep the last one.
    optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
    let result = optimizer.synchronize();
    emulator.run_blocks(0, 0);
    result.unwrap();
    let end = LEN % WINDOW;
    let mut window = vec![0.0_f32; WINDOW];
    gpu.stream.memcpy_dtoh(&parameter.slice(..WINDOW), &mut window).unwrap();
    gpu.stream.synchronize().unwrap();
    emulator.set_multiprocessors(2);
    let moved: Vec<usize> = (0..WINDOW).filter(|&i| window[i] != 0.0).collect();
    let last = *moved.last().unwrap();
    assert_eq!(last + 1, end, "the last element of the tensor moved, and none beyond");
    assert!(moved.len() >= 5, "{}", moved.len());
}
