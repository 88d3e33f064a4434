//! The kernels of a step, and the order in which they are launched.

use super::context::driver_error;
use super::module::{Kept, Module, Source};
use crate::args::{FADAM_FINALIZE_THREADS, FADAM_SWEEP_THREADS, FADAM_WARP, StepArgs};
use crate::job::Failure;
use crate::settings::Policy;
use crate::{Algorithm, Error};
use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use std::sync::Arc;

/// A kernel that walks over chunks, a warp a chunk, in a grid that fills the device.
#[derive(Debug)]
pub(super) struct Sweep {
    function: CudaFunction,
    /// How many blocks the device holds at a time.
    resident: u64,
}

/// A kernel of one block.
#[derive(Debug)]
pub(super) struct Finalize {
    function: CudaFunction,
}

// SAFETY: `repr(C)` structs of integers and floats, the same in kernels/args.h.
unsafe impl DeviceRepr for StepArgs {}
// SAFETY: as above.
unsafe impl DeviceRepr for crate::args::FisherArgs {}

impl Sweep {
    pub(super) fn load(module: &Module, context: &CudaContext, name: &str) -> Result<Self, Error> {
        let failed = driver_error("asking how many blocks the device holds");
        let function = module.function(name)?;
        let blocks = function
            .occupancy_max_active_blocks_per_multiprocessor(FADAM_SWEEP_THREADS, 0, None)
            .map_err(&failed)?;
        let multiprocessors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(&failed)?;
        Ok(Self { function, resident: u64::from(blocks.max(1)) * multiprocessors.max(1) as u64 })
    }

    /// Launches it over `warps` warps of work, of which there is at least one.
    pub(super) fn launch<T: DeviceRepr>(
        &self,
        stream: &CudaStream,
        args: &T,
        warps: u64,
    ) -> Result<(), DriverError> {
        let blocks = warps.div_ceil(u64::from(FADAM_SWEEP_THREADS / FADAM_WARP)).min(self.resident);
        launch(stream, &self.function, args, blocks as u32, FADAM_SWEEP_THREADS)
    }
}

impl Finalize {
    pub(super) fn load(module: &Module, name: &str) -> Result<Self, Error> {
        Ok(Self { function: module.function(name)? })
    }

    pub(super) fn launch(&self, stream: &CudaStream, args: &StepArgs) -> Result<(), DriverError> {
        launch(stream, &self.function, args, 1, FADAM_FINALIZE_THREADS)
    }
}

fn launch<T: DeviceRepr>(
    stream: &CudaStream,
    function: &CudaFunction,
    args: &T,
    blocks: u32,
    threads: u32,
) -> Result<(), DriverError> {
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: every kernel takes one struct by value, this one; its addresses are of buffers that the optimizer owns and of
    // tensors that the step has checked and borrowed, all long enough for what kernels/*.cu say they touch.
    unsafe { stream.launch_builder(function).arg(args).launch(config) }.map(|_| ())
}

/// One algorithm's kernels.
#[derive(Debug)]
pub(super) struct Kernels {
    norm_partial: Sweep,
    finalize: Finalize,
    rest: Rest,
    keep_norms: Option<Finalize>,
}

/// What follows `finalize`.
#[derive(Debug)]
enum Rest {
    /// One sweep: Adam, and FAdam without κ.
    Direct(Sweep),
    FAdam {
        fadam: Sweep,
        moments: Sweep,
        decide: Finalize,
        apply: Sweep,
        correct: Sweep,
    },
    FisherAdam {
        sums: Sweep,
        decide: Finalize,
        apply: Sweep,
    },
}

impl Kernels {
    pub(super) fn load(
        context: &Arc<CudaContext>,
        algorithm: &Algorithm,
        norms: bool,
        kept: Kept,
    ) -> Result<Self, Error> {
        let source = match algorithm {
            Algorithm::Adam(_) => Source::Adam { norms },
            Algorithm::FAdam(fadam) => Source::FAdam { norms, kappa: fadam.kappa.is_some() },
            Algorithm::FisherAdam(fisher_adam) => Source::FisherAdam { norms, power: fisher_adam.rho != 0.5 },
        };
        let module = Module::load(context, source, kept)?;
        let sweep = |name| Sweep::load(&module, context, name);
        let finalize = |name| Finalize::load(&module, name);
        let (first, rest) = match source {
            Source::FAdam { kappa: true, .. } => (
                "fadam_finalize",
                Rest::FAdam {
                    fadam: sweep("fadam")?,
                    moments: sweep("fadam_moments")?,
                    decide: finalize("fadam_decide")?,
                    apply: sweep("fadam_apply")?,
                    correct: sweep("fadam_correct")?,
                },
            ),
            Source::FAdam { .. } => ("fadam_finalize", Rest::Direct(sweep("fadam")?)),
            Source::FisherAdam { .. } => (
                "fisher_adam_finalize",
                Rest::FisherAdam {
                    sums: sweep("fisher_adam_sums")?,
                    decide: finalize("fisher_adam_decide")?,
                    apply: sweep("fisher_adam_apply")?,
                },
            ),
            _ => ("adam_finalize", Rest::Direct(sweep("adam")?)),
        };
        let norm = Module::load(context, Source::Norm, Kept::default())?;
        Ok(Self {
            norm_partial: Sweep::load(&norm, context, "norm_partial")?,
            finalize: finalize(first)?,
            rest,
            keep_norms: norms.then(|| finalize("keep_norms")).transpose()?,
        })
    }

    /// Whether a pass over the gradients goes first. FisherAdam always wants their sums here: with the check they are
    /// there anyway, and to speculate without them would take a launch more.
    pub(super) fn reads_gradients(&self, policy: &Policy) -> bool {
        policy.reads_gradients() || matches!(self.rest, Rest::FisherAdam { .. })
    }

    /// Launches a step: three kernels for Adam with clipping or the finite check, five at most for FAdam with κ and for
    /// FisherAdam, one more with norms.
    pub(super) fn launch(
        &self,
        stream: &CudaStream,
        args: &StepArgs,
        policy: &Policy,
    ) -> Result<(), Failure> {
        let untouched = |error| Failure::Untouched(driver_error("launching a kernel")(error));
        let midway = |error| Failure::Midway(driver_error("launching a kernel")(error));
        let sweep = |kernel: &Sweep| match args.chunks {
            0 => Ok(()), // nothing to walk over
            chunks => kernel.launch(stream, args, chunks),
        };
        if self.reads_gradients(policy) {
            sweep(&self.norm_partial).map_err(untouched)?; // writes scratch alone
        }
        self.finalize.launch(stream, args).map_err(untouched)?;
        // From here on step counts have advanced.
        let decide = |kernel: &Finalize| kernel.launch(stream, args);
        match &self.rest {
            Rest::Direct(kernel) => sweep(kernel),
            Rest::FAdam { fadam, decide: decision, correct, .. } if policy.speculate => {
                sweep(fadam).and_then(|()| decide(decision)).and_then(|()| sweep(correct))
            }
            Rest::FAdam { moments, decide: decision, apply, .. } => {
                sweep(moments).and_then(|()| decide(decision)).and_then(|()| sweep(apply))
            }
            Rest::FisherAdam { sums, decide: decision, apply } => {
                sweep(sums).and_then(|()| decide(decision)).and_then(|()| sweep(apply))
            }
        }
        .map_err(midway)?;
        self.keep_norms.iter().try_for_each(decide).map_err(midway)
    }
}
