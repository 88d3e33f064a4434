//! The device: the only place that matches on it.

use crate::algorithm::Hyper;
use crate::cpu::Cpu;
use crate::optimizer::{Group, Policy};
use crate::{Dtype, Error, Norms, Report, Simd, State};
use std::fmt;
use std::str::FromStr;

/// Where parameters live and steps run.
///
/// ```
/// use fadam::Device;
/// assert_eq!("cpu".parse::<Device>()?, Device::Cpu);
/// println!("running on {}", Device::best());
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
}

impl Device {
    /// The fastest device of this machine that this build can use.
    pub fn best() -> Self {
        Self::Cpu
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

/// `best`, `cpu`, or `cuda[:N]`, which this version refuses.
impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let remedy = match name {
            "best" => return Ok(Self::best()),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => "this version of fadam has no CUDA backend yet; use cpu",
            _ if name.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok()) => {
                "this version of fadam has no CUDA backend yet; use cpu"
            }
            _ => "known are best, cpu, cuda and cuda:N",
        };
        Err(Error::Unavailable { what: format!("device `{name}`"), remedy: remedy.into() })
    }
}

/// An address that a step has borrowed. Meaningless outside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) *mut u8);

// SAFETY: a plain address; what it points to is `Tensor` and `TensorMut` memory, which is Send and Sync, and it is
// dereferenced within the step alone, whose `&mut [Update]` borrows that memory.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// One parameter's part in a step, checked: `len` elements at both addresses, the parameter f32, no overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) group: usize,
    pub(crate) len: usize,
    pub(crate) parameter: Address,
    pub(crate) gradient: Address,
    pub(crate) gradient_dtype: Dtype,
}

#[derive(Debug)]
pub(crate) enum Backend {
    Cpu(Cpu),
}

impl Backend {
    pub(crate) fn new(device: Device, simd: Option<Simd>) -> Result<Self, Error> {
        match device {
            Device::Cpu => Ok(Self::Cpu(Cpu::new(simd.unwrap_or_else(Simd::best))?)),
        }
    }

    /// Allocates the moments of the next parameter.
    pub(crate) fn register(&mut self, name: &str, len: usize, amsgrad: bool) -> Result<(), Error> {
        match self {
            Self::Cpu(cpu) => cpu.register(name, len, amsgrad),
        }
    }

    /// One step over jobs in the order of registration. The index of the first parameter whose gradient is not finite,
    /// where the policy looks for one: then nothing has changed.
    pub(crate) fn step(&mut self, jobs: &[Job], groups: &[(Group, Hyper)], policy: &Policy) -> Option<usize> {
        match self {
            // SAFETY: `Optimizer::step` has checked the jobs and holds the borrows behind them.
            Self::Cpu(cpu) => unsafe { cpu.step(jobs, groups, policy) },
        }
    }

    pub(crate) fn report(&self) -> Report {
        match self {
            Self::Cpu(cpu) => cpu.report(),
        }
    }

    pub(crate) fn norms(&self, index: usize) -> Option<Norms> {
        match self {
            Self::Cpu(cpu) => cpu.norms(index),
        }
    }

    pub(crate) fn state(&self, index: usize) -> State {
        match self {
            Self::Cpu(cpu) => cpu.state(index),
        }
    }
}
