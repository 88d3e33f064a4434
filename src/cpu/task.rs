//! The tensors of one sweep, in one row of chunks, and what comes of the chunks: which kernel runs over them is the caller's.

use super::chunk::{CHUNK, Chunk};
use super::fisher_adam::FisherAdam;
use super::kernel::{Counts, Found, Kernel, Sums};
use super::moments::Ema;
use super::norm::{NormPartial, fold_partials};
use super::simd::Simd;
use super::sweep::{Chunked, sweep};
use super::walk::run;
use crate::allocation::{collected, filled};
use crate::args::{AdamStep, FAdamScalars, Progress};
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::Range;
use std::ptr::null_mut;

/// A tensor in a step: its memory, its place in the row of chunks, its scalars.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) index: usize,
    pub(super) tensor: Chunk,
    pub(super) chunks: Range<usize>,
    pub(super) progress: Progress,
    pub(super) step: Step,
    pub(super) ema: Ema,
}

impl Task {
    /// A tensor outside an optimizer, its chunks from `start` on.
    pub(super) fn bare(index: usize, tensor: Chunk, start: usize) -> Self {
        let chunks = start..start + tensor.len.div_ceil(CHUNK);
        let ema = Ema { weight: 0.0, starts: false };
        Self { index, tensor, chunks, progress: Progress::START, step: Step::None, ema }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Outside an optimizer.
    None,
    Adam(AdamStep),
    /// With the learning rate, from which a correction is made.
    FAdam(FAdamScalars, f64),
    FisherAdam(FisherAdam),
}

// SAFETY: the pointers are those of a checked `Job` (see `Address`) and of buffers that the step holds exclusively; a
// sweep hands each chunk to one thread.
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

impl Chunked for Task {
    fn chunks(&self) -> Range<usize> {
        self.chunks.clone()
    }
}

impl Task {
    /// The memory of one chunk, counted within the tensor.
    pub(super) fn chunk(&self, chunk: usize) -> Chunk {
        self.tensor.part(chunk * CHUNK, CHUNK)
    }
}

/// Runs a kernel over every chunk of every tensor for which `kernel` gives one, and keeps what it finds.
pub(super) fn run_all<K: Kernel>(
    simd: Simd,
    tasks: &[Task],
    partials: &mut Partials,
    kernel: impl Fn(&Task) -> Option<K> + Sync,
) {
    let slots = Slots::new(partials);
    sweep(tasks, elements(tasks), &|task: &Task, chunk| {
        if let Some(kernel) = kernel(task) {
            // SAFETY: `Cpu::new` checked the level; the chunk's memory is valid (see `Task`) and this thread's alone.
            let Found { sums, counts } = unsafe { run(simd, kernel, task.chunk(chunk)) };
            let slot = task.chunks.start + chunk;
            // SAFETY: one slot a chunk, and the sweep visits each chunk once.
            unsafe {
                slots.put(slot, K::SUMS, sums);
                if let Some(counts) = counts {
                    slots.put_counts(slot, counts);
                }
            }
        }
    });
}

pub(super) fn elements(tasks: &[Task]) -> usize {
    tasks.iter().map(|task| task.tensor.len).sum()
}

/// The partial sums and counts, written by many threads, each chunk's by one.
pub(super) struct Slots {
    sums: [*mut f32; 3],
    counts: *mut Counts,
}

// SAFETY: `put` and `put_counts` are the only accesses, and their contract forbids two threads in one slot.
unsafe impl Sync for Slots {}

impl Slots {
    pub(super) fn new(partials: &mut Partials) -> Self {
        let Partials { sums, counts } = partials;
        Self { sums: sums.each_mut().map(|sums| sums.as_mut_ptr()), counts: counts.as_mut_ptr() }
    }

    /// # Safety
    /// `slot` counts a chunk of this step (the partials have room for all registered ones), and no other thread uses it.
    pub(super) unsafe fn put(&self, slot: usize, used: [bool; 3], sums: Sums) {
        for i in (0..3).filter(|&i| used[i]) {
            // SAFETY: the caller's.
            unsafe { *self.sums[i].add(slot) = sums[i] };
        }
    }

    /// # Safety
    /// As for `put`.
    unsafe fn put_counts(&self, slot: usize, counts: Counts) {
        // SAFETY: the caller's.
        unsafe { *self.counts.add(slot) = counts };
    }
}

/// Second pass over one tensor.
pub(super) fn fold(task: &Task, partials: &[f32]) -> f64 {
    fold_partials(&partials[task.chunks.clone()])
}

/// Second pass over all tensors, added in the order of registration.
pub(super) fn total(tasks: &[Task], partials: &[f32]) -> f64 {
    let total: f64 = tasks.iter().map(|task| fold(task, partials)).sum();
    total + 0.0 // the sum of no tensors is -0
}

/// What kernels have found, chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Partials {
    /// For each of the three sums that a kernel may have.
    pub(super) sums: [Vec<f32>; 3],
    pub(super) counts: Vec<Counts>,
}

/// Σx² of each tensor by the geometry of a step, added in order: what a global norm is the root of.
///
/// # Safety
/// Each tensor's memory is valid for reads.
pub(crate) unsafe fn sum_of_squares(tensors: &[Tensor<'_>]) -> Result<f64, Error> {
    const NORM: &str = "the sums of a norm";
    let mut end = 0;
    let task = |(index, tensor)| {
        let task = Task::bare(index, Chunk::outside(null_mut(), tensor), end);
        end = task.chunks.end;
        task
    };
    let tasks = collected(tensors.iter().enumerate().map(task), NORM)?;
    let sums = [filled(0.0, end, NORM)?, Vec::new(), Vec::new()];
    let mut partials = Partials { sums, counts: Vec::new() };
    run_all(Simd::best(), &tasks, &mut partials, |_| Some(NormPartial { scale: 1.0 }));
    Ok(total(&tasks, &partials.sums[0]))
}
