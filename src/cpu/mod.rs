//! The CPU: SIMD kernels over chunks, rayon over threads. The same numbered steps as kernels/*.cuh, the same bits.
//!
//! A step lays out the chunks of all its tensors in one row, sweeps over them once, twice or three times, and folds the
//! chunks' partial sums between sweeps on the calling thread.

mod adam;
mod fadam;
mod fisher;

mod fisher_adam;
mod kernel;
mod memory;
mod moments;
mod norm;
mod simd;
mod state;
mod step;
mod sweep;

pub(crate) use fisher::{fisher_accumulate, natural_gradient};
pub use simd::Simd;
pub(crate) use step::sum_of_squares;

use crate::args::{FADAM_CHUNK, Progress};
use crate::{Error, Norms, Report, State};
use memory::Buffer;
use step::Task;

const CHUNK: usize = FADAM_CHUNK as usize;

/// One parameter's memory and how far it has come.
#[derive(Debug)]
struct Parameter {
    exp_avg: Buffer,
    exp_avg_sq: Buffer,
    max_exp_avg_sq: Option<Buffer>,
    progress: Progress,
    norms: Option<Norms>,
}

/// One f32 sum a chunk, for each of the three sums that a kernel may have.
type Partials = [Vec<f32>; 3];

#[derive(Debug)]
pub(crate) struct Cpu {
    simd: Simd,
    parameters: Vec<Parameter>,
    report: Report,
    /// Scratch of one step, allocated at registration.
    tasks: Vec<Task>,
    partials: Partials,
}

impl Cpu {
    pub(crate) fn new(simd: Simd) -> Result<Self, Error> {
        Ok(Self {
            simd: simd.checked()?,
            parameters: Vec::new(),
            report: Report::default(),
            tasks: Vec::new(),
            partials: Default::default(),
        })
    }

    pub(crate) fn register(&mut self, name: &str, len: usize, amsgrad: bool) -> Result<(), Error> {
        let zeros =
            || Buffer::zeroed(len).map_err(|bytes| Error::OutOfMemory { name: name.to_string(), bytes });
        self.parameters.push(Parameter {
            exp_avg: zeros()?,
            exp_avg_sq: zeros()?,
            max_exp_avg_sq: amsgrad.then(zeros).transpose()?,
            progress: Progress::START,
            norms: None,
        });
        self.tasks.reserve(self.parameters.len());
        for partials in &mut self.partials {
            partials.resize(partials.len() + len.div_ceil(CHUNK), 0.0);
        }
        Ok(())
    }

    pub(crate) fn report(&self) -> Report {
        self.report
    }

    pub(crate) fn norms(&self, index: usize) -> Option<Norms> {
        self.parameters[index].norms
    }

    pub(crate) fn state(&self, index: usize) -> State {
        let Parameter { exp_avg, exp_avg_sq, max_exp_avg_sq, progress, .. } = &self.parameters[index];
        let copy = |buffer: &Buffer| buffer.as_slice().to_vec();
        State {
            step: progress.step,
            exp_avg: copy(exp_avg),
            exp_avg_sq: copy(exp_avg_sq),
            max_exp_avg_sq: max_exp_avg_sq.as_ref().map(copy),
        }
    }
}
