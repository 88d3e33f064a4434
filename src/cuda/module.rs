//! From kernel sources to functions on a device: compiled once a process and architecture, loaded once a context.

use super::context::driver_error;
use super::nvrtc::{Nvrtc, Output};
use crate::Error;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

/// What the sources include.
const HEADERS: [(&str, &str); 10] = [
    ("args.h", include_str!("../../kernels/args.h")),
    ("access.cuh", include_str!("../../kernels/access.cuh")),
    ("adam.cuh", include_str!("../../kernels/adam.cuh")),
    ("element.cuh", include_str!("../../kernels/element.cuh")),
    ("fadam.cuh", include_str!("../../kernels/fadam.cuh")),
    ("finalize.cuh", include_str!("../../kernels/finalize.cuh")),
    ("fisher.cuh", include_str!("../../kernels/fisher.cuh")),
    ("fisher_adam.cuh", include_str!("../../kernels/fisher_adam.cuh")),
    ("moments.cuh", include_str!("../../kernels/moments.cuh")),
    ("sweep.cuh", include_str!("../../kernels/sweep.cuh")),
];

/// A file of kernels, with the structure that is fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Norm,
    Adam {
        norms: bool,
    },
    FAdam {
        norms: bool,
        /// κ is finite.
        kappa: bool,
    },
    FisherAdam {
        norms: bool,
        /// ρ ≠ ½.
        power: bool,
    },
    Fisher,
    Accumulate,
}

/// How parameters and moments are kept, as far as kernels are compiled for it. Default: f32, no average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kept {
    /// There are bf16 parameters.
    pub(crate) bf16_parameters: bool,
    pub(crate) bf16_moments: bool,
    /// Stochastic rounding of bf16.
    pub(crate) stochastic: bool,
    pub(crate) ema: bool,
}

impl Kept {
    fn definitions(self) -> Vec<&'static str> {
        let either = |on, names: [&'static str; 2]| names[usize::from(on)];
        vec![
            either(self.bf16_parameters, ["FADAM_BF16_PARAMETERS=0", "FADAM_BF16_PARAMETERS=1"]),
            either(self.bf16_moments, ["FADAM_BF16_MOMENTS=0", "FADAM_BF16_MOMENTS=1"]),
            either(self.stochastic, ["FADAM_STOCHASTIC=0", "FADAM_STOCHASTIC=1"]),
            either(self.ema, ["FADAM_EMA=0", "FADAM_EMA=1"]),
        ]
    }
}

impl Source {
    /// Every variant that an optimizer may ask for, with whatever is kept.
    pub(crate) const ALL: [Self; 13] = [
        Self::Norm,
        Self::Adam { norms: false },
        Self::Adam { norms: true },
        Self::FAdam { norms: false, kappa: false },
        Self::FAdam { norms: true, kappa: false },
        Self::FAdam { norms: false, kappa: true },
        Self::FAdam { norms: true, kappa: true },
        Self::FisherAdam { norms: false, power: false },
        Self::FisherAdam { norms: true, power: false },
        Self::FisherAdam { norms: false, power: true },
        Self::FisherAdam { norms: true, power: true },
        Self::Fisher,
        Self::Accumulate,
    ];

    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Norm => ("norm.cu", include_str!("../../kernels/norm.cu")),
            Self::Adam { .. } => ("adam.cu", include_str!("../../kernels/adam.cu")),
            Self::FAdam { .. } => ("fadam.cu", include_str!("../../kernels/fadam.cu")),
            Self::FisherAdam { .. } => ("fisher_adam.cu", include_str!("../../kernels/fisher_adam.cu")),
            Self::Fisher => ("fisher.cu", include_str!("../../kernels/fisher.cu")),
            Self::Accumulate => ("accumulate.cu", include_str!("../../kernels/accumulate.cu")),
        }
    }

    fn definitions(self) -> Vec<&'static str> {
        let norms = |norms| if norms { "FADAM_NORMS=1" } else { "FADAM_NORMS=0" };
        match self {
            Self::Norm | Self::Fisher | Self::Accumulate => vec!["FADAM_NORMS=0"],
            Self::Adam { norms: on } => vec![norms(on)],
            Self::FAdam { norms: on, kappa } => {
                vec![norms(on), if kappa { "FADAM_KAPPA=1" } else { "FADAM_KAPPA=0" }]
            }
            Self::FisherAdam { norms: on, power: true } => vec![norms(on)],
            Self::FisherAdam { norms: on, power: false } => vec![norms(on), "FADAM_SQRT_ONLY"],
        }
    }

    /// Its entries.
    pub(crate) fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Norm => &["norm_partial", "global_norm"],
            Self::Adam { norms: false } => &["adam_finalize", "adam"],
            Self::Adam { norms: true } => &["adam_finalize", "adam", "keep_norms"],
            Self::FAdam { norms: false, kappa: false } => &["fadam_finalize", "fadam"],
            Self::FAdam { norms: true, kappa: false } => &["fadam_finalize", "fadam", "keep_norms"],
            Self::FAdam { norms: false, kappa: true } => {
                &["fadam_finalize", "fadam", "fadam_decide", "fadam_correct", "fadam_moments", "fadam_apply"]
            }
            Self::FAdam { norms: true, kappa: true } => &[
                "fadam_finalize",
                "fadam",
                "fadam_decide",
                "fadam_correct",
                "fadam_moments",
                "fadam_apply",
                "keep_norms",
            ],
            Self::FisherAdam { norms: false, .. } => {
                &["fisher_adam_finalize", "fisher_adam_sums", "fisher_adam_decide", "fisher_adam_apply"]
            }
            Self::FisherAdam { norms: true, .. } => &[
                "fisher_adam_finalize",
                "fisher_adam_sums",
                "fisher_adam_decide",
                "fisher_adam_apply",
                "keep_norms",
            ],
            Self::Fisher => &["fisher_accumulate", "natural_gradient"],
            Self::Accumulate => &["accumulate", "accumulate_first"],
        }
    }

    /// PTX (or CUBIN) for a device of this compute capability, from the process's cache if it is there.
    pub(crate) fn compile(self, kept: Kept, capability: i32, output: Output) -> Result<Arc<Vec<u8>>, Error> {
        type Key = (Source, Kept, i32, bool);
        static COMPILED: LazyLock<Mutex<HashMap<Key, Arc<Vec<u8>>>>> = LazyLock::new(Mutex::default);
        let nvrtc = Nvrtc::get()?;
        let architecture = nvrtc.architecture(capability, output)?;
        let mut compiled = lock(&COMPILED);
        let key = (self, kept, architecture, output == Output::Ptx);
        if let Some(image) = compiled.get(&key) {
            return Ok(image.clone());
        }
        let definitions = [self.definitions(), kept.definitions()].concat();
        let image = nvrtc.compile(self.text(), &HEADERS, &definitions, architecture, output)?;
        Ok(compiled.entry(key).or_insert(Arc::new(image)).clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // a cache stays valid whoever panicked
}

/// A file's kernels in one context.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    module: Arc<CudaModule>,
}

impl Module {
    /// Loads a file's kernels into a context, unless they are there already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without NVRTC, [`Error::Compile`], [`Error::Cuda`].
    pub(crate) fn load(context: &Arc<CudaContext>, source: Source, kept: Kept) -> Result<Self, Error> {
        /// By the context's address: the module holds the context, so a dead entry is all that a dead context leaves.
        type Loaded = HashMap<(usize, Source, Kept), Weak<CudaModule>>;
        static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);
        let mut loaded = lock(&LOADED);
        let key = (context.cu_ctx().addr(), source, kept);
        if let Some(module) = loaded.get(&key).and_then(Weak::upgrade) {
            return Ok(Self { module });
        }
        let module = super::load::load(context, source.entries(), |capability, output| {
            source.compile(kept, capability, output)
        })?;
        loaded.retain(|_, module| module.strong_count() > 0);
        loaded.insert(key, Arc::downgrade(&module));
        Ok(Self { module })
    }

    /// As [`load`](Self::load), never to be unloaded: for functions that launch and do not wait. The context lives on with
    /// it.
    pub(crate) fn load_for_good(context: &Arc<CudaContext>, source: Source) -> Result<Self, Error> {
        static KEPT: Mutex<Vec<Module>> = Mutex::new(Vec::new());
        let module = Self::load(context, source, Kept::default())?;
        let mut kept = lock(&KEPT);
        if !kept.iter().any(|other| Arc::ptr_eq(&other.module, &module.module)) {
            kept.push(module.clone());
        }
        Ok(module)
    }

    pub(crate) fn function(&self, name: &str) -> Result<CudaFunction, Error> {
        self.module.load_function(name).map_err(driver_error("looking up a kernel"))
    }
}
