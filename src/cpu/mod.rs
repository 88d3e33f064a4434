//! The CPU: SIMD kernels over chunks, rayon over threads. The same numbered steps as kernels/*.cuh, the same bits.
//!
//! A step lays out the chunks of all its tensors in one row, sweeps over them once, twice or three times, and folds the
//! chunks' partial sums between sweeps on the calling thread.

mod accumulate;
mod adam;
mod chunk;
mod fadam;
mod fisher;
mod fisher_adam;
mod kernel;
mod memory;
mod moments;
mod norm;
mod random;
mod simd;
mod stage;
mod state;
mod step;
mod sweep;
mod team;
mod walk;

pub(crate) use accumulate::accumulate;
pub(crate) use fisher::{fisher_accumulate, natural_gradient};
pub use simd::Simd;
pub(crate) use step::sum_of_squares;

use crate::allocation::{collected, reserve};
use crate::args::{FADAM_CHUNK, Progress};
use crate::job::{Counters, STATE};
use crate::storage::Storage;
use crate::{Dtype, Error, Master, Norms, Report, State};
use half::bf16;
use kernel::Counts;
use memory::{Buffer, Plain};
use step::Task;

const CHUNK: usize = FADAM_CHUNK as usize;

/// One parameter's memory and how far it has come.
#[derive(Debug)]
struct Parameter {
    dtype: Dtype,
    /// f32 or the remainder.
    master: Option<Buffer>,
    ema: Option<Buffer>,
    exp_avg: Buffer,
    exp_avg_sq: Buffer,
    max_exp_avg_sq: Option<Buffer>,
    progress: Progress,
    norms: Option<Norms>,
}

/// What kernels have found, chunk by chunk.
#[derive(Debug, Default)]
struct Partials {
    /// For each of the three sums that a kernel may have.
    sums: [Vec<f32>; 3],
    counts: Vec<Counts>,
}

#[derive(Debug)]
pub(crate) struct Cpu {
    simd: Simd,
    storage: Storage,
    parameters: Vec<Parameter>,
    report: Report,
    schedule_step: u64,
    loss_scale: f64,
    good_steps: u64,
    /// Scratch of one step, allocated at registration.
    tasks: Vec<Task>,
    partials: Partials,
}

impl Cpu {
    pub(crate) fn new(simd: Simd, storage: Storage) -> Result<Self, Error> {
        Ok(Self {
            simd: simd.checked()?,
            storage,
            parameters: Vec::new(),
            report: Report::default(),
            schedule_step: 0,
            loss_scale: 0.0,
            good_steps: 0,
            tasks: Vec::new(),
            partials: Partials::default(),
        })
    }

    pub(crate) fn register(&mut self, name: &str, len: usize, dtype: Dtype) -> Result<(), Error> {
        let zeros = |size: usize| {
            Buffer::zeroed(len.saturating_mul(size))
                .map_err(|bytes| Error::OutOfMemory { name: name.to_string(), bytes })
        };
        let Storage { moments, ema, amsgrad, .. } = self.storage;
        let parameter = Parameter {
            dtype,
            master: self.storage.master_size(dtype).map(zeros).transpose()?,
            ema: ema.map(|_| zeros(size_of::<f32>())).transpose()?,
            exp_avg: zeros(moments.size())?,
            exp_avg_sq: zeros(moments.size())?,
            max_exp_avg_sq: amsgrad.then(|| zeros(moments.size())).transpose()?,
            progress: Progress::START,
            norms: None,
        };
        reserve(&mut self.parameters, 1, name)?;
        reserve(&mut self.tasks, self.parameters.len() + 1, name)?;
        let Partials { sums, counts } = &mut self.partials;
        let more = len.div_ceil(CHUNK);
        reserve(counts, more, name)?;
        for sums in &mut *sums {
            reserve(sums, more, name)?;
        }
        // Nothing is refused from here on.
        let chunks = counts.len() + more;
        for sums in sums {
            sums.resize(chunks, 0.0);
        }
        counts.resize(chunks, Counts::default());
        self.parameters.push(parameter);
        Ok(())
    }

    pub(crate) fn report(&self) -> Report {
        self.report
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            step: self.report.step,
            skipped_steps: self.report.skipped_steps,
            clipped_updates: self.report.clipped_updates,
            schedule_step: self.schedule_step,
            loss_scale: self.loss_scale,
            good_steps: self.good_steps,
        }
    }

    pub(crate) fn set_counters(&mut self, counters: &Counters) {
        let Counters { step, skipped_steps, clipped_updates, .. } = *counters;
        self.report = Report { step, skipped_steps, clipped_updates, ..Report::default() };
        self.schedule_step = counters.schedule_step;
        self.loss_scale = counters.loss_scale;
        self.good_steps = counters.good_steps;
    }

    pub(crate) fn norms(&self, index: usize) -> Option<Norms> {
        self.parameters[index].norms
    }

    /// Lets master and EMA begin with the parameter's value in its next step.
    pub(crate) fn restart(&mut self, index: usize) {
        self.parameters[index].progress.start = 0;
    }

    pub(crate) fn state(&self, index: usize) -> Result<State, Error> {
        let Parameter { master, ema, exp_avg, exp_avg_sq, max_exp_avg_sq, progress, .. } =
            &self.parameters[index];
        let moment = |buffer: &Buffer| match self.storage.moments {
            Dtype::F32 => copy::<f32>(buffer),
            Dtype::Bf16 => collected(buffer.as_slice::<bf16>().iter().map(|m| m.to_f32()), STATE),
        };
        let begun = progress.start != 0;
        let master = |kind| master.as_ref().filter(|_| begun && self.storage.master == kind);
        Ok(State {
            step: progress.step,
            exp_avg: moment(exp_avg)?,
            exp_avg_sq: moment(exp_avg_sq)?,
            max_exp_avg_sq: max_exp_avg_sq.as_ref().map(moment).transpose()?,
            master: master(Master::F32).map(copy).transpose()?,
            remainder: master(Master::Remainder).map(copy).transpose()?,
            ema: ema.as_ref().filter(|_| begun).map(copy).transpose()?,
        })
    }
}

fn copy<T: Plain>(buffer: &Buffer) -> Result<Vec<T>, Error> {
    collected(buffer.as_slice::<T>().iter().copied(), STATE)
}
