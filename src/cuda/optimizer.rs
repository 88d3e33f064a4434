//! An optimizer's memory on a GPU, and the launches of its steps.

use super::buffer::{self, Buffer, Mirror};
use super::context::{FATAL, bind, capturing, driver_error, open, refuse_capture, settle};
use super::module::Kept;
use super::step::Kernels;
use super::table::{Tables, flags, master_flags};
use crate::algorithm::Hyper;
use crate::allocation::{collected, filled, reserve};
use crate::args::{Control, Record, Settings, StepArgs, Task};
use crate::job::{Counters, Failure, Job, NotFinite, STATE};
use crate::settings::{Group, Policy};
use crate::storage::Storage;
use crate::tensor::ContextId;
use crate::{Algorithm, Dtype, Error, Master, NonFinite, Norms, Report, Rounding, State};
use cudarc::driver::sys::{CUstream, CUstreamCaptureStatus};
use cudarc::driver::{CudaStream, DriverError, result};
use half::bf16;
use std::sync::Arc;

/// The handle that means another stream on every thread. candle's tensors are on it.
const PER_THREAD: usize = 2;

/// A stream of the optimizer's own, in order with the caller's per-thread stream. It is made behind cudarc's back: a
/// context object that knows of one more stream would begin to record events for all tensors of the caller.
#[derive(Debug)]
struct Beside {
    caller: Arc<CudaStream>,
    own: Arc<CudaStream>,
}

impl Beside {
    fn new(caller: Arc<CudaStream>) -> Result<Self, Error> {
        let context = caller.context();
        let create = || {
            context.bind_to_thread()?;
            result::stream::create(result::stream::StreamKind::NonBlocking)
        };
        let raw: CUstream = create().map_err(driver_error("creating a stream"))?;
        // SAFETY: the stream is this context's, and destroyed by `drop`, after all that the optimizer has on it.
        let own = unsafe { context.wrap_borrowed_stream(raw) };
        Ok(Self { own, caller })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let context = self.own.context();
        context.record_err(bind(context));
        // SAFETY: created by `new`, destroyed once.
        context.record_err(unsafe { result::stream::destroy(self.own.cu_stream()) });
    }
}

/// One parameter's memory.
#[derive(Debug)]
pub(super) struct Parameter {
    len: usize,
    /// f32 or the remainder.
    pub(super) master: Option<Buffer>,
    pub(super) ema: Option<Buffer>,
    pub(super) exp_avg: Buffer,
    pub(super) exp_avg_sq: Buffer,
    pub(super) max_exp_avg_sq: Option<Buffer>,
    pub(super) record: Buffer,
}

#[derive(Debug)]
pub(crate) struct Cuda {
    /// The control block after the last step that was not captured.
    mirror: Mirror<Control>,
    /// The control block after an earlier step, copied anew only when the last copy is there: where `step` looks for a
    /// step that was skipped, without waiting.
    alarm: Mirror<Control>,
    kernels: Kernels,
    /// Those from before the first bf16 parameter: a graph may hold them.
    earlier: Option<Kernels>,
    kept: Kept,
    algorithm: Algorithm,
    norms: bool,
    pub(super) storage: Storage,
    pub(super) parameters: Vec<Parameter>,
    chunks: u64,
    tables: Tables,
    /// Whether a call of `step` was captured into a graph: replays then happen behind this object's back.
    captured: bool,
    /// Which figures the last step has computed.
    figures: Figures,
    /// The last failed step that was reported as an error.
    reported: u64,
    /// The steps that a file has brought along: of the last one only the count is known.
    loaded: u64,
    stream: Arc<CudaStream>,
    // Last: what is above is freed on its stream.
    beside: Option<Beside>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    grad_norm: bool,
    update_norm: bool,
    update_clip: bool,
}

/// Kernels are unloaded and pinned memory is freed only when the device has done with them.
impl Drop for Cuda {
    fn drop(&mut self) {
        settle(&self.stream);
    }
}

impl Cuda {
    /// On a device's default stream.
    pub(crate) fn on_device(
        ordinal: usize,
        algorithm: &Algorithm,
        norms: bool,
        storage: Storage,
    ) -> Result<Self, Error> {
        Self::on_stream(open(ordinal)?.default_stream(), algorithm, norms, storage)
    }

    /// On a stream of the caller's.
    pub(crate) fn on_stream(
        stream: Arc<CudaStream>,
        algorithm: &Algorithm,
        norms: bool,
        storage: Storage,
    ) -> Result<Self, Error> {
        refuse_capture(&stream)?;
        let per_thread = stream.cu_stream().addr() == PER_THREAD;
        let beside = per_thread.then(|| Beside::new(stream.clone())).transpose()?;
        let stream = beside.as_ref().map_or(stream, |beside| beside.own.clone());
        let context = stream.context();
        let bf16_moments = storage.moments == Dtype::Bf16;
        let kept = Kept {
            bf16_parameters: false, // as yet
            bf16_moments,
            stochastic: bf16_moments && storage.rounding == Rounding::Stochastic,
            ema: storage.ema.is_some(),
        };
        Ok(Self {
            kernels: Kernels::load(context, algorithm, norms, kept)?,
            earlier: None,
            kept,
            algorithm: *algorithm,
            norms,
            storage,
            parameters: Vec::new(),
            chunks: 0,
            tables: Tables::new(&stream)?,
            mirror: Mirror::new(context, Control::default())?,
            alarm: Mirror::new(context, Control::default())?,
            captured: false,
            figures: Figures::default(),
            reported: 0,
            loaded: 0,
            stream,
            beside,
        })
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(crate) fn context_id(&self) -> ContextId {
        ContextId::of(self.stream.context())
    }

    pub(crate) fn register(&mut self, name: &str, len: usize, dtype: Dtype) -> Result<(), Error> {
        let Storage { moments, ema, amsgrad, master, rounding, .. } = self.storage;
        reserve(&mut self.parameters, 1, name)?;
        let buffer = |bytes| Buffer::zeroed(&self.stream, bytes, name);
        let zeros = |size: usize| buffer(len.saturating_mul(size));
        let parameter = Parameter {
            len,
            master: self.storage.master_size(dtype).map(zeros).transpose()?,
            ema: ema.map(|_| zeros(size_of::<f32>())).transpose()?,
            exp_avg: zeros(moments.size())?,
            exp_avg_sq: zeros(moments.size())?,
            max_exp_avg_sq: amsgrad.then(|| zeros(moments.size())).transpose()?,
            record: buffer(size_of::<Record>())?,
        };
        if dtype == Dtype::Bf16 && !self.kept.bf16_parameters {
            let rounds = master == Master::None || self.kept.bf16_moments;
            let stochastic = rounds && rounding == Rounding::Stochastic;
            let kept = Kept { bf16_parameters: true, stochastic, ..self.kept };
            let kernels = Kernels::load(self.stream.context(), &self.algorithm, self.norms, kept)?;
            self.earlier = Some(std::mem::replace(&mut self.kernels, kernels));
            self.kept = kept;
        }
        self.parameters.push(parameter);
        self.chunks += (len as u64).div_ceil(crate::args::FADAM_CHUNK.into());
        Ok(())
    }

    /// Lets master and EMA begin with the parameter's value in its next step.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), Error> {
        let mut record = self.record(index)?;
        record.progress.start = 0;
        self.parameters[index].record.upload_at(0, &[record])
    }

    /// Whether the device has failed for good. Waits for it, unless a stream captures: waiting would spoil the capture, also
    /// that of a blocking stream where this is the legacy default one.
    pub(crate) fn is_dead(&self) -> bool {
        let _ = self.stream.context().check_err(); // somebody else's, or what has been told already
        let answer = match self.stream.capture_status() {
            Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) => self.stream.synchronize(),
            other => other.map(|_| ()),
        };
        answer.is_err_and(|error| FATAL.contains(&(error.0 as u32)))
    }

    /// Sends changed hyper-parameters to the device, in the stream's order, so that a graph replayed from now on sees
    /// them.
    pub(crate) fn change_settings(
        &mut self,
        groups: &[(Group, Hyper)],
        group: Option<usize>,
        policy: &Policy,
    ) -> Result<(), Error> {
        let capturing = capturing(&self.stream)?;
        // One alone costs the same however many there are; unless those of the others are not there yet.
        if let Some(index) = group
            && self.tables.hyper(index, groups.len(), groups[index].1, capturing)?
        {
            return Ok(());
        }
        self.send_settings(groups, policy, capturing)
    }

    fn send_settings(
        &mut self,
        groups: &[(Group, Hyper)],
        policy: &Policy,
        capturing: bool,
    ) -> Result<(), Error> {
        let settings = Settings {
            grad_scale: policy.fixed_scale(),
            max_grad_norm: policy.max_grad_norm.unwrap_or(0.0),
            kappa: policy.kappa.unwrap_or(f64::INFINITY),
            reads_gradients: self.kernels.reads_gradients(policy).into(),
            skips: (policy.non_finite != NonFinite::Propagate).into(),
            growth_factor: policy.loss_scale.map_or(0.0, |scale| scale.growth_factor),
            backoff_factor: policy.loss_scale.map_or(0.0, |scale| scale.backoff_factor),
            growth_interval: policy.loss_scale.map_or(0, |scale| scale.growth_interval),
            ..Settings::default() // the schedule is the table's to say
        };
        let hypers = groups.iter().map(|(_, hyper)| *hyper);
        self.tables.settings(settings, hypers, policy.schedule, capturing)
    }

    /// One step over jobs in the order of registration.
    pub(crate) fn step(
        &mut self,
        jobs: &[Job],
        groups: &[(Group, Hyper)],
        policy: &Policy,
    ) -> Result<Option<NotFinite>, Failure> {
        if let Some(Beside { caller, own, .. }) = &self.beside {
            let joining = driver_error("ordering the step after the caller's stream");
            own.join(caller).map_err(|error| Failure::Untouched(joining(error)))?;
        }
        let capturing = capturing(&self.stream).map_err(Failure::Untouched)?;
        // Asked without waiting, and before this call does anything; a graph would be the one to answer otherwise.
        let watched = policy.non_finite == NonFinite::Error && !capturing && !self.captured;
        let mut alarm_is_here = false;
        if watched {
            alarm_is_here = self.alarm.is_complete().map_err(untouched("asking how far the device is"))?;
            if alarm_is_here {
                let control = self.alarm.read().map_err(untouched("asking how far the device is"))?;
                if let Some(failed) = self.unreported(&control) {
                    return Ok(Some(failed));
                }
            }
        }
        self.prepare(jobs, groups, policy, capturing).map_err(Failure::Untouched)?;
        let args =
            StepArgs { seed: self.storage.seed, ema_weight: self.storage.ema_weight(), ..self.tables.args() };
        self.kernels.launch(&self.stream, &args, policy)?;
        self.figures = Figures {
            grad_norm: policy.reads_gradients() || policy.norms,
            update_norm: policy.kappa.is_some() || policy.norms,
            update_clip: policy.kappa.is_some(),
        };
        let midway = |doing| move |error| Failure::Midway(driver_error(doing)(error));
        if capturing {
            self.captured = true;
            self.tables.captured();
        } else {
            let control = self.tables.control();
            self.mirror.copy_from(control).map_err(midway("copying the report"))?;
            if alarm_is_here {
                self.alarm.copy_from(control).map_err(midway("copying the report"))?;
            }
        }
        if let Some(Beside { caller, own, .. }) = &self.beside {
            caller.join(own).map_err(midway("ordering the caller's stream after the step"))?;
        }
        Ok(None)
    }

    /// Brings the tables on the device up to date, and launches nothing.
    fn prepare(
        &mut self,
        jobs: &[Job],
        groups: &[(Group, Hyper)],
        policy: &Policy,
        capturing: bool,
    ) -> Result<(), Error> {
        self.tables.reserve(self.parameters.len(), self.chunks, capturing)?;
        self.send_settings(groups, policy, capturing)?;
        let (parameters, storage) = (&self.parameters, &self.storage);
        let task = |job: &Job| {
            let Parameter { master, ema, exp_avg, exp_avg_sq, max_exp_avg_sq, record, .. } =
                &parameters[job.index];
            let address = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);
            let [parameter, gradient] = [job.parameter, job.gradient].map(|at| at.0.addr() as u64);
            Task {
                parameter,
                gradient,
                master: address(master),
                ema: address(ema),
                exp_avg: exp_avg.address(),
                exp_avg_sq: exp_avg_sq.address(),
                max_exp_avg_sq: address(max_exp_avg_sq),
                len: job.len as u64,
                first_chunk: 0, // the table's to say
                record: record.address(),
                parameter_index: job.index as u32,
                group: job.group as u32,
                flags: flags((parameter, job.parameter_dtype), (gradient, job.gradient_dtype))
                    | master_flags(job.parameter_dtype, storage.master),
            }
        };
        self.tables.tasks(jobs.iter().map(task), capturing)
    }

    fn unreported(&mut self, control: &Control) -> Option<NotFinite> {
        let new = control.failed_step > self.reported;
        self.reported = self.reported.max(control.failed_step);
        new.then_some(NotFinite { parameter: control.failed_parameter as usize, step: control.failed_step })
    }

    /// The control block as the last step has left it. Waits for that step, under graphs for the whole stream.
    fn control(&mut self) -> Result<Control, Error> {
        refuse_capture(&self.stream)?;
        if self.captured {
            let mut control = [Control::default()];
            self.tables.control().download(&mut control)?;
            return Ok(control[0]);
        }
        self.mirror.read().map_err(driver_error("waiting for the step"))
    }

    pub(crate) fn counters(&mut self) -> Result<Counters, Error> {
        let Control { step, skipped_steps, clipped_updates, schedule_step, loss_scale, good_steps, .. } =
            self.control()?;
        Ok(Counters { step, skipped_steps, clipped_updates, schedule_step, loss_scale, good_steps })
    }

    /// In the stream's order, as the settings are.
    pub(crate) fn set_counters(&mut self, counters: &Counters) -> Result<(), Error> {
        refuse_capture(&self.stream)?;
        let Counters { step, skipped_steps, clipped_updates, schedule_step, loss_scale, good_steps } =
            *counters;
        let control = Control {
            step,
            skipped_steps,
            clipped_updates,
            schedule_step,
            loss_scale,
            good_steps,
            ..Control::default()
        };
        let sending = driver_error("sending the counters");
        self.tables.set_control(&control).map_err(&sending)?;
        // What the mirrors held of a step that failed is no longer to be reported.
        self.mirror.copy_from(self.tables.control()).map_err(&sending)?;
        self.alarm.copy_from(self.tables.control()).map_err(&sending)?;
        (self.loaded, self.reported) = (step, 0);
        Ok(())
    }

    pub(crate) fn report(&mut self) -> Result<(Report, Option<NotFinite>), Error> {
        let control = self.control()?;
        let not_finite = self.unreported(&control);
        let skipped = control.skipped != 0;
        let unless_skipped = |known: bool, figure: f64| (known && !skipped).then_some(figure);
        let mut report = Report {
            step: control.step,
            skipped,
            skipped_steps: control.skipped_steps,
            clipped_updates: control.clipped_updates,
            ..Report::default()
        };
        if control.step > self.loaded {
            report.grad_norm = self.figures.grad_norm.then_some(control.grad_norm);
            report.clip_coefficient = unless_skipped(true, control.clip_coefficient);
            report.learning_rate_factor = unless_skipped(true, control.learning_rate_factor);
            report.loss_scale = (control.last_loss_scale != 0.0).then_some(control.last_loss_scale);
            report.update_norm = unless_skipped(self.figures.update_norm, control.update_norm);
            report.update_clip = unless_skipped(self.figures.update_clip, control.update_clip);
            let counted = self.counts_coordinates() && !skipped;
            report.coordinates = counted.then(|| control.coordinates.into());
        }
        Ok((report, not_finite))
    }

    /// Waits for the device. A step that was skipped and not reported as an error yet.
    pub(crate) fn synchronize(&mut self) -> Result<Option<NotFinite>, Error> {
        refuse_capture(&self.stream)?;
        self.stream.synchronize().map_err(driver_error("waiting for the device"))?;
        let control = self.control()?;
        Ok(self.unreported(&control))
    }

    pub(super) fn record(&self, index: usize) -> Result<Record, Error> {
        let mut record = [Record::default()];
        self.parameters[index].record.download(&mut record)?;
        Ok(record[0])
    }

    pub(crate) fn norms(&mut self, index: usize) -> Result<Option<Norms>, Error> {
        let Record {
            grad_norm: grad,
            update_norm: update,
            parameter_norm: parameter,
            norms_known,
            coordinates,
            ..
        } = self.record(index)?;
        let coordinates = self.counts_coordinates().then(|| coordinates.into());
        Ok((norms_known != 0).then_some(Norms { grad, update, parameter, coordinates }))
    }

    fn counts_coordinates(&self) -> bool {
        self.norms && matches!(self.algorithm, Algorithm::FAdam(_))
    }

    pub(crate) fn state(&mut self, index: usize) -> Result<State, Error> {
        let progress = self.record(index)?.progress;
        let Parameter { len, master, ema, exp_avg, exp_avg_sq, max_exp_avg_sq, .. } = &self.parameters[index];
        fn copy<T: buffer::Plain + Default>(buffer: &Buffer, len: usize) -> Result<Vec<T>, Error> {
            let mut values = filled(T::default(), len, STATE)?;
            buffer.download(&mut values).map(|()| values)
        }
        let moment = |buffer: &Buffer| match self.storage.moments {
            Dtype::F32 => copy(buffer, *len),
            Dtype::Bf16 => collected(copy::<bf16>(buffer, *len)?.into_iter().map(bf16::to_f32), STATE),
        };
        let begun = progress.start != 0;
        let master = |kind| master.as_ref().filter(|_| begun && self.storage.master == kind);
        Ok(State {
            step: progress.step,
            exp_avg: moment(exp_avg)?,
            exp_avg_sq: moment(exp_avg_sq)?,
            max_exp_avg_sq: max_exp_avg_sq.as_ref().map(moment).transpose()?,
            master: master(Master::F32).map(|buffer| copy(buffer, *len)).transpose()?,
            remainder: master(Master::Remainder).map(|buffer| copy(buffer, *len)).transpose()?,
            ema: ema.as_ref().filter(|_| begun).map(|buffer| copy(buffer, *len)).transpose()?,
        })
    }
}

/// An error before anything has changed.
fn untouched(doing: &'static str) -> impl Fn(DriverError) -> Failure {
    move |error| Failure::Untouched(driver_error(doing)(error))
}
