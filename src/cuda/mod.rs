//! NVIDIA GPUs (feature `cuda`): kernels compiled by NVRTC at run time, launched through [`cudarc`]. All of this crate's
//! CUDA calls are here.
//!
//! A step uploads the table of its tensors if it has changed, and launches a fixed row of kernels; nothing in it waits
//! for the device. What the device decides (whether a gradient is finite, the clip coefficients) stays on the device, in
//! the control block that the host reads when it is asked for a report.
//!
//! PTX is compiled for a device's architecture once a process, and loaded once a context. Where the driver is older than
//! NVRTC's PTX, machine code for that architecture is compiled instead.
//!
//! cudarc's context objects order their streams by events only while they know of more than one stream and event
//! tracking is on (its default). For a captured step switch event tracking off before the tensors are made, as cudarc
//! demands of everything that is captured.

mod buffer;
mod device;
mod fisher;
mod module;
mod norm;
mod nvrtc;
mod probe;
mod step;
mod table;
mod tensor;

pub use cudarc;
pub use device::{DeviceInfo, KernelInfo, devices, driver_version, kernels, nvrtc_version};
pub(crate) use fisher::{FisherSum, natural_gradient};
pub(crate) use norm::global_norm;
pub(crate) use probe::{Unusable, driver};
pub(crate) use tensor::{ContextId, Source, Target, borrow};

use crate::algorithm::Hyper;
use crate::args::{Control, Progress, Record, Settings, Task};
use crate::backend::{Failure, Job, NotFinite};
use crate::optimizer::{Group, Policy};
use crate::{Algorithm, Error, NonFinite, Norms, Report, State};
use buffer::{Buffer, Pinned};
use cudarc::driver::sys::{CUresult, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use std::sync::Arc;
use step::Kernels;
use table::Tables;

/// A stage of work, for the error of a call that failed in it.
pub(crate) fn driver_error(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { doing, error }
}

/// The default stream of a device, in a context object of its own.
#[derive(Clone, Debug)]
pub(crate) struct DefaultStream {
    pub(crate) stream: Arc<CudaStream>,
    /// cudarc orders streams by events in a context object that knows of more than one. Tensors come from another context
    /// object, whose streams this one does not know; hence one more of its own, for the knowledge alone.
    _second: Arc<CudaStream>,
}

impl DefaultStream {
    /// # Errors
    /// [`Error::Unavailable`] without a driver or this device, [`Error::Cuda`].
    pub(crate) fn of(ordinal: usize) -> Result<Self, Error> {
        let context = open(ordinal)?;
        let second = context.new_stream().map_err(driver_error("creating a stream"))?;
        Ok(Self { stream: context.default_stream(), _second: second })
    }
}

/// A device's primary context.
///
/// # Errors
/// [`Error::Unavailable`] without a driver or this device, [`Error::Cuda`].
pub(crate) fn open(ordinal: usize) -> Result<Arc<CudaContext>, Error> {
    driver()?;
    let count = CudaContext::device_count().map_err(driver_error("counting devices"))?;
    if ordinal >= count as usize {
        return Err(Error::Unavailable {
            what: format!("device cuda:{ordinal}"),
            remedy: match count {
                1 => "there is one device, cuda:0".into(),
                _ => format!("there are {count} devices, cuda:0 to cuda:{}", count - 1),
            },
        });
    }
    CudaContext::new(ordinal).map_err(driver_error("opening the device"))
}

/// Whether kernels can be compiled and run on this device: asked by [`crate::Device::best`].
pub(crate) fn check_usable(ordinal: usize) -> Result<(), Error> {
    let (major, minor) =
        open(ordinal)?.compute_capability().map_err(driver_error("asking for the device's architecture"))?;
    nvrtc::Nvrtc::get()?.architecture(10 * major + minor).map(|_| ())
}

/// One parameter's memory.
#[derive(Debug)]
struct Parameter {
    len: usize,
    exp_avg: Buffer,
    exp_avg_sq: Buffer,
    max_exp_avg_sq: Option<Buffer>,
    record: Buffer,
}

#[derive(Debug)]
pub(crate) struct Cuda {
    // The pinned mirror goes first: dropping it waits for the copy into it.
    mirror: Mirror,
    kernels: Kernels,
    parameters: Vec<Parameter>,
    chunks: u64,
    tables: Tables,
    /// Whether a call of `step` was captured into a graph: replays then happen behind this object's back.
    captured: bool,
    /// Which figures the last step has computed.
    figures: Figures,
    /// The last failed step that was reported as an error.
    reported: u64,
    stream: Arc<CudaStream>,
    /// Where the stream is the device's default one.
    _default: Option<DefaultStream>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    grad_norm: bool,
    update_norm: bool,
}

/// The control block's copy on the host, and the event after which it holds the last step's.
#[derive(Debug)]
struct Mirror {
    control: Pinned<Control>,
    copied: CudaEvent,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let context = self.copied.context().clone();
        context.record_err(self.copied.synchronize());
    }
}

impl Cuda {
    /// On a device's default stream.
    pub(crate) fn on_device(ordinal: usize, algorithm: &Algorithm, norms: bool) -> Result<Self, Error> {
        let default = DefaultStream::of(ordinal)?;
        let cuda = Self::new(default.stream.clone(), algorithm, norms)?;
        Ok(Self { _default: Some(default), ..cuda })
    }

    pub(crate) fn new(stream: Arc<CudaStream>, algorithm: &Algorithm, norms: bool) -> Result<Self, Error> {
        let context = stream.context();
        Ok(Self {
            mirror: Mirror {
                control: Pinned::new(context, Control::default())?,
                copied: context.new_event(None).map_err(driver_error("creating an event"))?,
            },
            kernels: Kernels::load(context, algorithm, norms)?,
            parameters: Vec::new(),
            chunks: 0,
            tables: Tables::new(&stream)?,
            captured: false,
            figures: Figures::default(),
            reported: 0,
            stream,
            _default: None,
        })
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(crate) fn context_id(&self) -> ContextId {
        ContextId::of(self.stream.context())
    }

    pub(crate) fn register(&mut self, name: &str, len: usize, amsgrad: bool) -> Result<(), Error> {
        let failed = driver_error("allocating the optimizer's state");
        let buffer = |bytes| {
            Buffer::zeroed(&self.stream, bytes).map_err(|error| match error.0 {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { name: name.to_string(), bytes },
                _ => failed(error),
            })
        };
        let moment = || buffer(len.saturating_mul(size_of::<f32>()));
        let parameter = Parameter {
            len,
            exp_avg: moment()?,
            exp_avg_sq: moment()?,
            max_exp_avg_sq: amsgrad.then(moment).transpose()?,
            record: buffer(size_of::<Record>())?,
        };
        let record = Record { progress: Progress::START, ..Record::default() };
        parameter.record.upload(0, &[record]).map_err(&failed)?;
        self.parameters.push(parameter);
        self.chunks += (len as u64).div_ceil(crate::args::FADAM_CHUNK.into());
        Ok(())
    }

    /// Whether the stream is recording a graph.
    fn capturing(&self) -> Result<bool, Error> {
        let status =
            self.stream.capture_status().map_err(driver_error("asking whether a graph is captured"))?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Whether the device has failed for good. Waits for it, outside a capture.
    pub(crate) fn is_dead(&self) -> bool {
        !self.capturing().unwrap_or(false) && self.stream.synchronize().is_err()
    }

    /// Sends changed hyper-parameters to the device, in the stream's order, so that a graph replayed from now on sees
    /// them.
    pub(crate) fn change_settings(
        &mut self,
        groups: &[(Group, Hyper)],
        policy: &Policy,
    ) -> Result<(), Error> {
        let capturing = self.capturing()?;
        let settings = Settings {
            grad_scale: policy.grad_scale,
            max_grad_norm: policy.max_grad_norm.unwrap_or(0.0),
            kappa: policy.kappa.unwrap_or(f64::INFINITY),
            reads_gradients: self.kernels.reads_gradients(policy).into(),
            skips: (policy.non_finite != NonFinite::Propagate).into(),
        };
        let hypers = groups.iter().map(|(_, hyper)| *hyper);
        self.tables.settings(settings, hypers, capturing)
    }

    /// One step over jobs in the order of registration.
    pub(crate) fn step(
        &mut self,
        jobs: &[Job],
        groups: &[(Group, Hyper)],
        policy: &Policy,
    ) -> Result<Option<NotFinite>, Failure> {
        let capturing = self.capturing().map_err(Failure::Untouched)?;
        if policy.non_finite == NonFinite::Error && !capturing {
            // Found without waiting, and before this call does anything.
            if let Some(failed) = self.known_failure().map_err(Failure::Untouched)? {
                return Ok(Some(failed));
            }
        }
        self.prepare(jobs, groups, policy, capturing).map_err(Failure::Untouched)?;
        self.kernels.launch(&self.stream, &self.tables.args(), policy)?;
        self.figures = Figures {
            grad_norm: policy.reads_gradients() || policy.norms,
            update_norm: policy.kappa.is_some() || policy.norms,
        };
        if capturing {
            self.captured = true;
            self.tables.captured();
        } else {
            self.copy_control()
                .map_err(|error| Failure::Midway(driver_error("copying the report")(error)))?;
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
        self.change_settings(groups, policy)?;
        let parameters = &self.parameters;
        let task = |job: &Job| {
            let Parameter { exp_avg, exp_avg_sq, max_exp_avg_sq, record, .. } = &parameters[job.index];
            let (parameter, gradient) = (job.parameter.0.addr() as u64, job.gradient.0.addr() as u64);
            Task {
                parameter,
                gradient,
                exp_avg: exp_avg.address(),
                exp_avg_sq: exp_avg_sq.address(),
                max_exp_avg_sq: max_exp_avg_sq.as_ref().map_or(0, Buffer::address),
                len: job.len as u64,
                first_chunk: 0, // the table's to say
                record: record.address(),
                parameter_index: job.index as u32,
                group: job.group as u32,
                flags: table::flags(parameter, gradient, job.gradient_dtype),
            }
        };
        self.tables.tasks(jobs.iter().map(task), capturing)
    }

    fn copy_control(&mut self) -> Result<(), DriverError> {
        // SAFETY: `read` is called only once `copied` is complete, and `drop` waits for it.
        unsafe { self.mirror.control.copy_from(self.tables.control()) }?;
        self.mirror.copied.record(&self.stream)
    }

    /// A step that was skipped and not reported as an error yet, if the device has got there.
    fn known_failure(&mut self) -> Result<Option<NotFinite>, Error> {
        let asking = driver_error("asking how far the device is");
        if self.captured || !self.mirror.copied.try_is_complete().map_err(asking)? {
            return Ok(None); // a later call will see it
        }
        // SAFETY: the last copy is complete.
        let control = unsafe { self.mirror.control.read() };
        Ok(self.unreported(&control))
    }

    fn unreported(&mut self, control: &Control) -> Option<NotFinite> {
        let new = control.failed_step > self.reported;
        self.reported = control.failed_step;
        new.then_some(NotFinite { parameter: control.failed_parameter as usize, step: control.failed_step })
    }

    /// The control block as the last step has left it. Waits for that step, under graphs for the whole stream.
    fn control(&mut self) -> Result<Control, Error> {
        if self.captured {
            let mut control = [Control::default()];
            self.tables.control().download(0, &mut control).map_err(driver_error("reading the report"))?;
            return Ok(control[0]);
        }
        self.mirror.copied.synchronize().map_err(driver_error("waiting for the step"))?;
        // SAFETY: the last copy is complete.
        Ok(unsafe { self.mirror.control.read() })
    }

    pub(crate) fn report(&mut self) -> Result<(Report, Option<NotFinite>), Error> {
        let control = self.control()?;
        let not_finite = self.unreported(&control);
        let skipped = control.skipped != 0;
        let unless_skipped = |known: bool, figure: f64| (known && !skipped).then_some(figure);
        let mut report =
            Report { step: control.step, skipped, skipped_steps: control.skipped_steps, ..Report::default() };
        if control.step > 0 {
            report.grad_norm = self.figures.grad_norm.then_some(control.grad_norm);
            report.clip_coefficient = unless_skipped(true, control.clip_coefficient);
            report.update_norm = unless_skipped(self.figures.update_norm, control.update_norm);
        }
        Ok((report, not_finite))
    }

    /// Waits for the device. A step that was skipped and not reported as an error yet.
    pub(crate) fn synchronize(&mut self) -> Result<Option<NotFinite>, Error> {
        self.stream.synchronize().map_err(driver_error("waiting for the device"))?;
        let control = self.control()?;
        Ok(self.unreported(&control))
    }

    fn record(&self, index: usize) -> Result<Record, Error> {
        let mut record = [Record::default()];
        let buffer = &self.parameters[index].record;
        buffer.download(0, &mut record).map_err(driver_error("reading a parameter's record"))?;
        Ok(record[0])
    }

    pub(crate) fn norms(&mut self, index: usize) -> Result<Option<Norms>, Error> {
        let Record { grad_norm: grad, update_norm: update, parameter_norm: parameter, norms_known, .. } =
            self.record(index)?;
        Ok((norms_known != 0).then_some(Norms { grad, update, parameter }))
    }

    pub(crate) fn state(&mut self, index: usize) -> Result<State, Error> {
        let failed = driver_error("reading the optimizer's state");
        let Parameter { len, exp_avg, exp_avg_sq, max_exp_avg_sq, .. } = &self.parameters[index];
        let copy = |buffer: &Buffer| {
            let mut values = vec![0.0_f32; *len];
            buffer.download(0, &mut values).map(|()| values)
        };
        Ok(State {
            step: self.record(index)?.progress.step,
            exp_avg: copy(exp_avg).map_err(&failed)?,
            exp_avg_sq: copy(exp_avg_sq).map_err(&failed)?,
            max_exp_avg_sq: max_exp_avg_sq.as_ref().map(copy).transpose().map_err(&failed)?,
        })
    }
}
