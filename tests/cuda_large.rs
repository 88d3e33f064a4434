//! One promise: tensors of more than 2³¹ elements are stepped to their end. On the emulated driver, where an allocation of
//! more than 1 GiB is a small window that repeats through it, and only the last blocks are run; `doctor --large` does the
//! whole on a GPU that has the memory.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::{Adam, NonFinite, Optimizer, Update};
use gpu::gpus;

/// A chunk, and a bit, beyond 2³²: an index of 32 bits would be too short, with a sign or without.
const LEN: usize = (1 << 32) + 4096 + 5;
/// Elements of a window: a little more than 1 MiB, so that an index that has lost its high bits lands elsewhere in it.
const WINDOW: usize = (17 << 16) / 4;

#[test]
fn the_last_elements_of_a_large_tensor_are_stepped() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: only the emulated driver runs single blocks");
        return;
    };
    let blocks = LEN.div_ceil(4096).div_ceil(4) as u64; // four warps a block, a chunk each
    emulator.set_multiprocessors(1 << 18); // enough for a block for every four chunks
    let gpu = gpu::middle(&gpus);
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
    let mut window = vec![0.0_f32; WINDOW];
    gpu.stream.memcpy_dtoh(&parameter.slice(..WINDOW), &mut window).unwrap();
    gpu.stream.synchronize().unwrap();
    emulator.set_multiprocessors(2);
    // The last block has the last two chunks.
    let first = (1 << 32) % WINDOW;
    for (i, &x) in window.iter().enumerate() {
        let stepped = (first..first + 4096 + 5).contains(&i);
        assert_eq!(x != 0.0, stepped, "element {i} of the window: {x}");
    }
}
