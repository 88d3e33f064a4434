//! An optimizer's memory on the CPU.

use super::chunk::CHUNK;
use super::kernel::Counts;
use super::memory::{Buffer, Plain};
use super::simd::Simd;
use super::task::{Partials, Task};
use crate::allocation::{collected, reserve};
use crate::args::Progress;
use crate::job::{Counters, STATE};
use crate::storage::Storage;
use crate::{Dtype, Error, Master, Norms, Report, State};
use half::bf16;

/// One parameter's memory and how far it has come.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) dtype: Dtype,
    /// f32 or the remainder.
    pub(super) master: Option<Buffer>,
    pub(super) ema: Option<Buffer>,
    pub(super) exp_avg: Buffer,
    pub(super) exp_avg_sq: Buffer,
    pub(super) max_exp_avg_sq: Option<Buffer>,
    pub(super) progress: Progress,
    pub(super) norms: Option<Norms>,
}

#[derive(Debug)]
pub(crate) struct Cpu {
    pub(super) simd: Simd,
    pub(super) storage: Storage,
    pub(super) parameters: Vec<Parameter>,
    pub(super) report: Report,
    pub(super) schedule_step: u64,
    pub(super) loss_scale: f64,
    pub(super) good_steps: u64,
    /// Scratch of one step, allocated at registration.
    pub(super) tasks: Vec<Task>,
    pub(super) partials: Partials,
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
