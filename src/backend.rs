//! The device: the only place that matches on it.

use crate::algorithm::Hyper;
use crate::args::Progress;
use crate::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::cuda::{self, Cuda};
use crate::job::{Address, Counters, Failure, Job, NotFinite};
use crate::settings::{Group, Policy};
use crate::slot::{Slot, Stored};
use crate::storage::Storage;
use crate::tensor::Location;
use crate::{Algorithm, Dtype, Error, Norms, Report, Simd, State, Update};
use std::fmt;
use std::str::FromStr;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// Where parameters live and steps run.
///
/// ```
/// use fadam::Device;
/// assert_eq!("cpu".parse::<Device>()?, Device::Cpu);
/// # if false {
/// println!("running on {}", Device::best()?);
/// # }
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number (feature `cuda`): its primary context, and there the legacy default stream. See
    /// [`Builder::device`](crate::Builder::device) for what that means while CUDA graphs are captured.
    Cuda(usize),
}

impl Device {
    /// `cuda:0` where there is an NVIDIA driver and a device, else the CPU.
    ///
    /// # Errors
    /// A GPU that cannot be used is never passed over in silence: [`Error::Unavailable`] for a driver that is broken, too
    /// old or the toolkit's stub, and where NVRTC is missing, with the remedy.
    pub fn best() -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        return match cuda::driver() {
            Ok(()) => cuda::check_usable(0).map(|()| Self::Cuda(0)),
            Err(cuda::Unusable::Absent { .. }) => Ok(Self::Cpu),
            Err(broken) => Err(broken.into()),
        };
        #[cfg(not(feature = "cuda"))]
        Ok(Self::Cpu)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// `best`, `cpu`, or `cuda[:N]`. Whether the machine has it shows when it is used; `best` alone looks.
impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "best" => Self::best(),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let ordinal = name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
                ordinal.map(Self::Cuda).ok_or_else(|| Error::Unavailable {
                    what: format!("device `{name}`"),
                    remedy: "known are best, cpu, cuda and cuda:N".into(),
                })
            }
        }
    }
}

/// Without the feature there is no such device, wherever this runs.
#[cfg(not(feature = "cuda"))]
pub(crate) fn no_cuda(ordinal: usize) -> Error {
    let what = format!("device `cuda:{ordinal}`");
    Error::Unavailable { what, remedy: "this build of fadam lacks the feature `cuda`".into() }
}

#[derive(Debug)]
pub(crate) enum Backend {
    Cpu(Box<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
}

/// Which tensors' last uses a step waits for, and whose next uses wait for it: the stream that it runs on.
pub(crate) struct Order {
    #[cfg(feature = "cuda")]
    stream: Option<Arc<cuda::cudarc::driver::CudaStream>>,
}

impl Order {
    /// Fills in where the updates' tensors are. The result is dropped when the step is on its way.
    pub(crate) fn borrow<'a>(
        &'a self,
        updates: &'a mut [Update<'_>],
        found: impl FnMut(usize, Address, Address),
    ) -> Result<Guards<'a>, Error> {
        let mut found = found;
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.stream {
            return cuda::borrow(updates, stream, |index, parameter, gradient| {
                let address = |address: u64| Address(std::ptr::without_provenance_mut(address as usize));
                found(index, address(parameter), address(gradient));
            });
        }
        for (index, update) in updates.iter().enumerate() {
            found(index, Address(update.parameter.host()), Address(update.gradient.host().cast_mut()));
        }
        Ok(Guards::default())
    }

    /// Whether all of it worked.
    pub(crate) fn check(&self) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.stream {
            return stream
                .context()
                .check_err()
                .map_err(cuda::driver_error("ordering the tensors' next uses"));
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
pub(crate) use cuda::Guards;
#[cfg(not(feature = "cuda"))]
pub(crate) type Guards<'a> = Vec<std::marker::PhantomData<&'a ()>>;

/// Where an optimizer is to work.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Device(Device),
    #[cfg(feature = "cuda")]
    Stream(Arc<cuda::cudarc::driver::CudaStream>),
}

impl Backend {
    /// Without a target, the CPU.
    pub(crate) fn new(
        target: Option<Target>,
        simd: Option<Simd>,
        algorithm: &Algorithm,
        norms: bool,
        storage: Storage,
    ) -> Result<Self, Error> {
        #[cfg(not(feature = "cuda"))]
        let _ = (algorithm, norms);
        let simd = simd.map(Simd::checked).transpose()?; // also where nothing will use it
        match target.unwrap_or(Target::Device(Device::Cpu)) {
            Target::Device(Device::Cpu) => {
                Ok(Self::Cpu(Box::new(Cpu::new(simd.unwrap_or_else(Simd::best), storage)?)))
            }
            #[cfg(feature = "cuda")]
            Target::Device(Device::Cuda(ordinal)) => {
                Ok(Self::Cuda(Box::new(Cuda::on_device(ordinal, algorithm, norms, storage)?)))
            }
            #[cfg(not(feature = "cuda"))]
            Target::Device(Device::Cuda(ordinal)) => Err(no_cuda(ordinal)),
            #[cfg(feature = "cuda")]
            Target::Stream(stream) => {
                Ok(Self::Cuda(Box::new(Cuda::on_stream(stream, algorithm, norms, storage)?)))
            }
        }
    }

    pub(crate) fn location(&self) -> Location {
        match self {
            Self::Cpu(_) => Location::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Location::Cuda(cuda.context_id()),
        }
    }

    pub(crate) fn order(&self) -> Order {
        match self {
            Self::Cpu(_) => Order {
                #[cfg(feature = "cuda")]
                stream: None,
            },
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Order { stream: Some(cuda.stream().clone()) },
        }
    }

    /// Allocates what is kept of the next parameter.
    pub(crate) fn register(&mut self, name: &str, len: usize, dtype: Dtype) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => cpu.register(name, len, dtype),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.register(name, len, dtype),
        }
    }

    /// Lets master and EMA begin with the parameter's value in its next step.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => {
                cpu.restart(index);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.restart(index),
        }
    }

    /// Tells the device of new hyper-parameters, where `group` is given of that group alone, so that a graph that it replays
    /// knows them.
    pub(crate) fn change_settings(
        &mut self,
        groups: &[(Group, Hyper)],
        group: Option<usize>,
        policy: &Policy,
    ) -> Result<(), Error> {
        match self {
            Self::Cpu(_) => {
                let _ = (groups, group, policy); // they come with each step
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.change_settings(groups, group, policy),
        }
    }

    /// One step over jobs in the order of registration. `Some`, where the policy looks for gradients that are not finite
    /// and found one: on the CPU in this step, on a GPU in an earlier one, and this one did not take place either.
    pub(crate) fn step(
        &mut self,
        jobs: &[Job],
        groups: &[(Group, Hyper)],
        policy: &Policy,
    ) -> Result<Option<NotFinite>, Failure> {
        match self {
            Self::Cpu(cpu) => {
                // SAFETY: `Optimizer::step` has checked the jobs and holds the borrows behind them.
                let parameter = unsafe { cpu.step(jobs, groups, policy) };
                Ok(parameter.map(|parameter| NotFinite { parameter, step: cpu.report().step }))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.step(jobs, groups, policy),
        }
    }

    /// Whether the device has failed for good, after a call of it has failed. Waits for it.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.is_dead(),
        }
    }

    /// Waits for the device. A step that a gradient kept from taking place and that `step` could not report yet.
    pub(crate) fn synchronize(&mut self) -> Result<Option<NotFinite>, Error> {
        match self {
            Self::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.synchronize(),
        }
    }

    pub(crate) fn counters(&mut self) -> Result<Counters, Error> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.counters()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.counters(),
        }
    }

    /// Goes on from these, with nothing to report of the last step. A loss scale of 0, of an optimizer that had none, leaves
    /// this one's as it is.
    pub(crate) fn set_counters(&mut self, counters: &Counters) -> Result<(), Error> {
        let mut counters = *counters;
        if counters.loss_scale == 0.0 {
            let own = self.counters()?;
            (counters.loss_scale, counters.good_steps) = (own.loss_scale, own.good_steps);
        }
        match self {
            Self::Cpu(cpu) => {
                cpu.set_counters(&counters);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.set_counters(&counters),
        }
    }

    pub(crate) fn report(&mut self) -> Result<(Report, Option<NotFinite>), Error> {
        match self {
            Self::Cpu(cpu) => Ok((cpu.report(), None)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.report(),
        }
    }

    pub(crate) fn norms(&mut self, index: usize) -> Result<Option<Norms>, Error> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.norms(index)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.norms(index),
        }
    }

    pub(crate) fn state(&mut self, index: usize) -> Result<State, Error> {
        match self {
            Self::Cpu(cpu) => cpu.state(index),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.state(index),
        }
    }

    /// How a slot of a parameter is stored, if it is kept.
    pub(crate) fn slot(&self, index: usize, slot: Slot) -> Option<Stored> {
        match self {
            Self::Cpu(cpu) => cpu.slot(index, slot),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.slot(index, slot),
        }
    }

    /// Copies a part of a slot that is kept, from a byte on, to the host. Waits for the device.
    pub(crate) fn read_slot(
        &mut self,
        index: usize,
        slot: Slot,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => cpu.read_slot(index, slot, offset, into),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.read_slot(index, slot, offset, into)?,
        }
        Ok(())
    }

    /// The way back. Waits for the device.
    pub(crate) fn write_slot(
        &mut self,
        index: usize,
        slot: Slot,
        offset: usize,
        from: &[u8],
    ) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => cpu.write_slot(index, slot, offset, from),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.write_slot(index, slot, offset, from)?,
        }
        Ok(())
    }

    pub(crate) fn progress(&mut self, index: usize) -> Result<Progress, Error> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.progress(index)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.progress(index),
        }
    }

    /// Forgets the parameter's norms, too: they were another step's.
    pub(crate) fn set_progress(&mut self, index: usize, progress: Progress) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => cpu.set_progress(index, progress),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.set_progress(index, progress)?,
        }
        Ok(())
    }
}
