//! What the kernels of a step read besides tensors: the table of tasks, the settings, scratch for sums, the control block.
//! Uploaded when it changes, and then in the stream's order.

use super::buffer::{Buffer, Plain, Stage};
use super::context::{driver_error, refused};
use crate::algorithm::Hyper;
use crate::allocation::{collected, reserve, with_capacity};
use crate::args::{
    AdamStep, ChunkCounts, Control, FADAM_CHUNK, FADAM_TASK_BF16, FADAM_TASK_BF16_GRADIENT,
    FADAM_TASK_MASTER, FADAM_TASK_REMAINDER, FADAM_TASK_VECTOR, FAdamScalars, FisherAdamScalars, Settings,
    StepArgs, Task,
};
use crate::{Dtype, Error, Master, Schedule};
use cudarc::driver::{CudaStream, DriverError};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Where things lie in the scratch buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Layout {
    tasks: usize,
    chunks: u64,
}

impl Layout {
    /// Of one task's scalars, whichever the algorithm.
    const SCALARS: usize = {
        let (a, b, c) = (size_of::<AdamStep>(), size_of::<FAdamScalars>(), size_of::<FisherAdamScalars>());
        let larger = if a > b { a } else { b };
        (if larger > c { larger } else { c }).next_multiple_of(8)
    };

    /// Offsets of the sums, the scalars, the partials and the counts behind the tasks; and the end.
    fn offsets(self) -> [usize; 7] {
        let sums = self.tasks * size_of::<Task>();
        let scalars = sums + 3 * self.tasks * size_of::<f64>();
        let partials = scalars + self.tasks * Self::SCALARS;
        let row = self.chunks as usize * size_of::<f32>();
        let counts = partials + 3 * row;
        let end = counts + self.chunks as usize * size_of::<ChunkCounts>();
        [sums, scalars, partials, partials + row, partials + 2 * row, counts, end]
    }
}

#[derive(Debug)]
pub(super) struct Tables {
    stream: Arc<CudaStream>,
    stage: Stage,
    control: Buffer,
    scratch: Option<Buffer>,
    layout: Layout,
    settings: Option<Buffer>,
    /// The factors of a schedule.
    factors: Option<Buffer>,
    /// What the device has, or will have when the stream gets there.
    sent_settings: Option<Settings>,
    sent_schedule: Option<Schedule>,
    sent_hypers: Vec<Hyper>,
    sent_tasks: Vec<Task>,
    /// Of the step that is being prepared, until they are sent.
    hypers: Vec<Hyper>,
    tasks: Vec<Task>,
    chunks: u64,
    /// Whether a graph has captured a step with these settings, and with this scratch: then they live on, the scratch
    /// unchanged, for the tasks in it are the graph's.
    settings_captured: bool,
    scratch_captured: bool,
    /// Whether any graph has captured a step: old settings that it may have go on pointing to their factors.
    any_captured: bool,
    /// What only graphs use any more.
    retired: Vec<Buffer>,
}

/// What an allocation is for, should it fail.
pub(super) const TABLES: &str = "the tables of a step";

const CAPTURE: Error = Error::Capture {
    reason: "what the step reads is not on the device yet, or has changed: call `step` once, with the same tensors, \
             before the capture",
};

impl Tables {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        Ok(Self {
            stream: stream.clone(),
            stage: Stage::default(),
            control: Buffer::zeroed(stream, size_of::<Control>(), TABLES)?,
            scratch: None,
            layout: Layout::default(),
            settings: None,
            factors: None,
            sent_settings: None,
            sent_schedule: None,
            sent_hypers: Vec::new(),
            sent_tasks: Vec::new(),
            hypers: Vec::new(),
            tasks: Vec::new(),
            chunks: 0,
            settings_captured: false,
            scratch_captured: false,
            any_captured: false,
            retired: Vec::new(),
        })
    }

    pub(super) fn control(&self) -> &Buffer {
        &self.control
    }

    /// A graph has captured the step that was prepared.
    pub(super) fn captured(&mut self) {
        (self.settings_captured, self.scratch_captured, self.any_captured) = (true, true, true);
    }

    pub(super) fn set_control(&mut self, control: &Control) -> Result<(), DriverError> {
        self.stage.upload(std::slice::from_ref(control), &self.control)
    }

    /// Uploads a schedule's factors if they have changed, and makes the settings point to them.
    fn schedule(
        &mut self,
        settings: &mut Settings,
        schedule: &Schedule,
        capturing: bool,
    ) -> Result<(), Error> {
        if self.sent_schedule != Some(*schedule) {
            if capturing {
                return Err(CAPTURE);
            }
            let steps = 0..schedule.steps() as usize + 1;
            let factors = collected(steps.map(|step| schedule.factor(step as u64)), TABLES)?;
            let bytes = size_of_val(&factors[..]);
            self.sent_schedule = None; // unknown, should the upload fail
            if self.factors.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
                let old = self.factors.replace(Buffer::zeroed(&self.stream, bytes, TABLES)?);
                if self.any_captured {
                    self.retired.extend(old);
                }
            }
            if let Some(buffer) = &self.factors {
                let sending = refused("sending the schedule", TABLES, bytes);
                self.stage.upload(&factors, buffer).map_err(sending)?;
            }
            self.sent_schedule = Some(*schedule);
        }
        settings.factors = self.factors.as_ref().map_or(0, Buffer::address);
        settings.last_factor = schedule.steps();
        settings.counts_skipped = schedule.counts_skipped().into();
        Ok(())
    }

    /// Room for a step of all `parameters`, of `chunks` chunks in all.
    pub(super) fn reserve(&mut self, parameters: usize, chunks: u64, capturing: bool) -> Result<(), Error> {
        let layout = Layout { tasks: parameters, chunks };
        if self.scratch.is_some() && layout == self.layout {
            return Ok(());
        }
        if capturing {
            return Err(CAPTURE);
        }
        self.renew_scratch(layout)
    }

    fn renew_scratch(&mut self, layout: Layout) -> Result<(), Error> {
        let scratch = Buffer::zeroed(&self.stream, layout.offsets()[6], TABLES)?;
        let old = self.scratch.replace(scratch);
        if self.scratch_captured {
            self.retired.extend(old);
        }
        self.scratch_captured = false;
        self.layout = layout;
        self.sent_tasks.clear();
        Ok(())
    }

    /// Uploads policy and hyper-parameters if they have changed.
    pub(super) fn settings(
        &mut self,
        mut settings: Settings,
        hypers: impl ExactSizeIterator<Item = Hyper>,
        schedule: Option<Schedule>,
        capturing: bool,
    ) -> Result<(), Error> {
        if let Some(schedule) = &schedule {
            self.schedule(&mut settings, schedule, capturing)?;
        }
        self.hypers.clear();
        reserve(&mut self.hypers, hypers.len(), TABLES)?;
        self.hypers.extend(hypers);
        if self.sent_settings == Some(settings) && self.hypers == self.sent_hypers {
            return Ok(());
        }
        if capturing {
            return Err(CAPTURE);
        }
        let mut bytes = with_capacity(size_of::<Settings>() + size_of_val(&self.hypers[..]), TABLES)?; // as much at the most
        append(&mut bytes, &settings);
        self.hypers.iter().for_each(|hyper| append_hyper(&mut bytes, hyper));
        if self.settings.as_ref().is_none_or(|buffer| buffer.bytes() < bytes.len()) {
            let larger = Buffer::zeroed(&self.stream, bytes.len(), TABLES)?;
            let old = self.settings.replace(larger);
            if self.settings_captured {
                self.retired.extend(old);
            }
            self.settings_captured = false;
        }
        self.sent_settings = None; // unknown, should the upload fail
        if let Some(buffer) = &self.settings {
            let sending = refused("sending the settings", TABLES, bytes.len());
            self.stage.upload(&bytes, buffer).map_err(sending)?;
        }
        self.sent_settings = Some(settings);
        std::mem::swap(&mut self.sent_hypers, &mut self.hypers);
        Ok(())
    }

    /// Uploads one group's hyper-parameters if they have changed; `false` where those of all `count` have to be.
    pub(super) fn hyper(
        &mut self,
        index: usize,
        count: usize,
        hyper: Hyper,
        capturing: bool,
    ) -> Result<bool, Error> {
        let (Some(buffer), Some(_)) = (&self.settings, &self.sent_settings) else { return Ok(false) };
        if self.sent_hypers.len() != count {
            return Ok(false);
        }
        if self.sent_hypers[index] == hyper {
            return Ok(true);
        }
        if capturing {
            return Err(CAPTURE);
        }
        let mut bytes = Vec::new();
        append_hyper(&mut bytes, &hyper);
        let offset = size_of::<Settings>() + index * bytes.len();
        let sent = self.stage.upload_at(offset, &bytes, buffer);
        if sent.is_err() {
            self.sent_settings = None; // unknown
        }
        sent.map_err(driver_error("sending the settings"))?;
        self.sent_hypers[index] = hyper;
        Ok(true)
    }

    /// Uploads the table of a step's tensors if it has changed.
    pub(super) fn tasks(
        &mut self,
        tasks: impl ExactSizeIterator<Item = Task>,
        capturing: bool,
    ) -> Result<(), Error> {
        self.tasks.clear();
        reserve(&mut self.tasks, tasks.len(), TABLES)?;
        self.chunks = 0;
        for mut task in tasks {
            task.first_chunk = self.chunks;
            self.chunks += task.len.div_ceil(FADAM_CHUNK.into());
            self.tasks.push(task);
        }
        if self.tasks == self.sent_tasks {
            return Ok(());
        }
        if capturing {
            return Err(CAPTURE);
        }
        if self.scratch_captured {
            self.renew_scratch(self.layout)?;
        }
        self.sent_tasks.clear(); // unknown, should the upload fail
        if let Some(scratch) = &self.scratch {
            let sending = refused("sending the table of tensors", TABLES, size_of_val(&self.tasks[..]));
            self.stage.upload(&self.tasks, scratch).map_err(sending)?;
        }
        std::mem::swap(&mut self.sent_tasks, &mut self.tasks);
        Ok(())
    }

    /// The argument of the kernels of the step that was prepared.
    pub(super) fn args(&self) -> StepArgs {
        let [sums, scalars, partials @ .., counts, _] = self.layout.offsets();
        let scratch = self.scratch.as_ref().map_or(0, Buffer::address);
        let settings = self.settings.as_ref().map_or(0, Buffer::address);
        let at = |offset: usize| scratch + offset as u64;
        StepArgs {
            tasks: scratch,
            task_count: self.sent_tasks.len() as u64,
            chunks: self.chunks,
            settings,
            hypers: settings + size_of::<Settings>() as u64,
            scalars: at(scalars),
            partials: partials.map(at),
            sums: at(sums),
            control: self.control.address(),
            counts: at(counts),
            ..StepArgs::default()
        }
    }
}

/// A struct's bytes, padding included.
fn append<T: Plain>(bytes: &mut Vec<MaybeUninit<u8>>, value: &T) {
    // SAFETY: any memory may be seen as bytes that may not be initialised.
    bytes.extend_from_slice(unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>())
    });
}

fn append_hyper(bytes: &mut Vec<MaybeUninit<u8>>, hyper: &Hyper) {
    match hyper {
        Hyper::Adam(hyper) => append(bytes, hyper),
        Hyper::FAdam(hyper) => append(bytes, hyper),
        Hyper::FisherAdam(hyper) => append(bytes, hyper),
    }
}

/// The flags of a parameter and a gradient that lie at these addresses. What the optimizer keeps of them is aligned.
pub(super) fn flags(parameter: (u64, Dtype), gradient: (u64, Dtype)) -> u32 {
    let vector = |(address, dtype): (u64, Dtype)| address.is_multiple_of(4 * dtype.size() as u64);
    let flag = |on, flag| if on { flag } else { 0 };
    flag(vector(parameter) && vector(gradient), FADAM_TASK_VECTOR)
        | flag(parameter.1 == Dtype::Bf16, FADAM_TASK_BF16)
        | flag(gradient.1 == Dtype::Bf16, FADAM_TASK_BF16_GRADIENT)
}

/// The flags of what is kept beside a parameter.
pub(super) fn master_flags(parameter: Dtype, master: Master) -> u32 {
    match (parameter, master) {
        (Dtype::Bf16, Master::F32) => FADAM_TASK_MASTER,
        (Dtype::Bf16, Master::Remainder) => FADAM_TASK_REMAINDER,
        _ => 0,
    }
}
