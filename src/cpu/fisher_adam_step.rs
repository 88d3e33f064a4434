//! The two sweeps of `fisher_adam`, and what is decided between them.

use super::fisher_adam::FisherAdam;
use super::norm::fold_partials;
use super::optimizer::Cpu;
use super::simd::Simd;
use super::sweep::{Chunked, sweep};
use super::task::{Slots, Step, Task, elements, fold, run_all};
use super::walk::run;

/// A tensor of at most this many chunks takes both sweeps on one thread, one right after the other: its four arrays
/// (512 KiB) then stay in that core's cache.
const RESIDENT: usize = 8;

fn rms(sum: f64, len: usize) -> f64 {
    (sum / len as f64).sqrt()
}

/// Both sweeps over a small tensor. Leaves the sums that `norms` wants in `slots`.
///
/// # Safety
/// The level is available, and no other thread uses this tensor or its slots.
unsafe fn resident<const NORMS: bool>(
    simd: Simd,
    task: &Task,
    mut fisher: FisherAdam,
    speculates: bool,
    slots: &Slots,
) {
    let (chunks, len) = (task.chunks(), task.tensor.len);
    let mut sums = [[0.0_f32; 3]; RESIDENT];
    let fold = |sums: &[[f32; 3]; RESIDENT], slot: usize| {
        fold_partials(&sums.map(|sums| sums[slot])[..chunks.len()])
    };
    for (chunk, sums) in sums.iter_mut().enumerate().take(chunks.len()) {
        // SAFETY: the caller's.
        *sums = unsafe { run(simd, fisher.sums::<true>(), task.chunk(chunk)).sums };
    }
    if speculates {
        fisher.settle_damping(rms(fold(&sums, 0), len));
    }
    if speculates && fisher.mistaken {
        for (chunk, sums) in sums.iter_mut().enumerate().take(chunks.len()) {
            // SAFETY: the caller's.
            *sums = unsafe { run(simd, fisher.sums::<false>(), task.chunk(chunk)).sums };
        }
    }
    fisher.settle_clip(fold(&sums, 1), fold(&sums, 2), len);
    for (chunk, sums) in sums.iter().enumerate().take(chunks.len()) {
        // SAFETY: the caller's.
        let [_, update, parameter] = unsafe { run(simd, fisher.apply::<NORMS>(), task.chunk(chunk)).sums };
        // SAFETY: the caller's; a chunk's slot is where the chunk is in the row.
        unsafe { slots.put(chunks.start + chunk, [NORMS; 3], [sums[0], update, parameter]) };
    }
}

/// The scalars of a tensor that is too large to be resident.
fn streamed(task: &mut Task) -> Option<&mut FisherAdam> {
    let chunks = task.chunks().len();
    match &mut task.step {
        Step::FisherAdam(fisher) if chunks > RESIDENT => Some(fisher),
        _ => None,
    }
}

impl Cpu {
    /// `clip` is the coefficient of the gradients where a pass over them went before: then their sums are in slot 0 and
    /// ε̂ is known. Else ε̂ is taken to be ε, and the sums are taken again where it is not.
    pub(super) fn fisher_adam<const NORMS: bool>(&mut self, clip: Option<f64>) {
        if let Some(clip) = clip {
            for task in &mut self.tasks {
                let rms = rms(fold(task, &self.partials.sums[0]), task.tensor.len);
                if let Step::FisherAdam(fisher) = &mut task.step {
                    fisher.settle_damping(rms * clip);
                }
            }
        }
        self.fisher_adam_sums::<NORMS>(clip.is_none());
        for task in &mut self.tasks {
            let sums = self.partials.sums.each_ref().map(|partials| fold(task, partials));
            let len = task.tensor.len;
            if let Some(fisher) = streamed(task) {
                fisher.settle_clip(sums[1], sums[2], len);
            }
        }
        run_all(self.simd, &self.tasks, &mut self.partials, |task| match task.step {
            Step::FisherAdam(fisher) if task.chunks().len() > RESIDENT => Some(fisher.apply::<NORMS>()),
            _ => None,
        });
    }

    fn fisher_adam_sums<const NORMS: bool>(&mut self, speculates: bool) {
        let (simd, slots) = (self.simd, Slots::new(&mut self.partials));
        sweep(&self.tasks, elements(&self.tasks), &|task: &Task, chunk| {
            let Step::FisherAdam(fisher) = task.step else { return };
            let chunks = task.chunks();
            if chunks.len() > RESIDENT {
                // SAFETY: `Cpu::new` checked the level; the sweep gives each chunk, and so each slot, to one thread.
                unsafe {
                    let sums = run(simd, fisher.sums::<true>(), task.chunk(chunk)).sums;
                    slots.put(chunks.start + chunk, [true; 3], sums);
                }
            } else if chunk == 0 {
                // SAFETY: as above; of a small tensor, only this visit does anything.
                unsafe { resident::<NORMS>(simd, task, fisher, speculates, &slots) };
            }
        });
        if !speculates {
            return;
        }
        let mut mistaken = false;
        for task in &mut self.tasks {
            let rms = rms(fold(task, &self.partials.sums[0]), task.tensor.len);
            if let Some(fisher) = streamed(task) {
                fisher.settle_damping(rms);
                mistaken |= fisher.mistaken;
            }
        }
        if mistaken {
            run_all(simd, &self.tasks, &mut self.partials, |task| match task.step {
                Step::FisherAdam(fisher) if fisher.mistaken && task.chunks().len() > RESIDENT => {
                    Some(fisher.sums::<false>())
                }
                _ => None,
            });
        }
    }
}
