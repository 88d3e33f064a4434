//! The CPU: SIMD kernels over chunks, rayon over threads. The same numbered steps as kernels/*.cuh, the same bits. What may not
//! enter: files, the caller's types, decisions that a GPU makes as well.
//!
//! A step lays out the chunks of all its tensors in one row, sweeps over them once, twice or three times, and folds the
//! chunks' partial sums between sweeps on the calling thread.

mod accumulate;
mod adam;
mod chunk;
mod fadam;
mod fisher;
mod fisher_adam;
mod fisher_adam_step;
mod kernel;
mod memory;
mod moments;
mod norm;
mod optimizer;
mod random;
mod simd;
mod stage;
mod state;
mod step;
mod sweep;
mod task;
mod team;
mod walk;

pub(crate) use accumulate::accumulate;
pub(crate) use fisher::{fisher_accumulate, natural_gradient};
pub(crate) use optimizer::Cpu;
pub use simd::Simd;
pub(crate) use task::sum_of_squares;
