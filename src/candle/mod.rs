//! The optimizers as [`candle_nn::Optimizer`]s (feature `candle`): replace `AdamW::new(vars, params)` in one line.
//!
//! ```
//! use candle_core::{Device, Result, Var};
//! use candle_nn::Optimizer;
//!
//! fn main() -> Result<()> {
//!     let w = Var::new(&[3f32, -2.0], &Device::Cpu)?;
//!     // was: candle_nn::AdamW::new(vec![w.clone()], candle_nn::ParamsAdamW { lr: 0.1, ..Default::default() })?
//!     let config = fadam::Adam { lr: 0.1, ..fadam::Adam::adamw() };
//!     let mut optimizer = fadam::candle::Adam::new(vec![w.clone()], config)?;
//!     for _ in 0..100 {
//!         optimizer.backward_step(&w.sqr()?.sum_all()?)?;
//!     }
//!     assert!(w.to_vec1::<f32>()?.iter().all(|w| w.abs() < 0.3));
//!     Ok(())
//! }
//! ```
//!
//! Over a [`VarMap`] it is as short, and the variables have their names. They are needed to [save](crate::Optimizer::save) and to
//! [load](crate::Optimizer::load) state; `new` has none, and `VarMap::all_vars` returns variables in another order in every run.
//!
//! ```
//! use candle_nn::{Optimizer as _, VarBuilder, VarMap};
//! # use candle_core::{DType, Device, Result};
//! # fn main() -> Result<()> {
//! let varmap = VarMap::new();
//! let layer = candle_nn::linear(4, 2, VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
//! let mut optimizer = fadam::candle::Optimizer::from_varmap(&varmap, fadam::Adam::adamw())?;
//! # let loss = candle_nn::Module::forward(&layer, &candle_core::Tensor::ones((1, 4), DType::F32, &Device::Cpu)?)?;
//! optimizer.backward_step(&loss.sum_all()?)?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Builder`] in the algorithm's place has clipping, the non-finite policy, norms and the rest:
//!
//! ```
//! # use candle_nn::{Optimizer as _, VarMap};
//! # let varmap = VarMap::new();
//! let builder = fadam::Optimizer::builder(fadam::FAdam::default()).max_grad_norm(1.0);
//! let optimizer = fadam::candle::Optimizer::from_varmap(&varmap, builder)?;
//! # Ok::<(), fadam::Error>(())
//! ```
//!
//! Variables are f32 or bf16; a bf16 one keeps the rest of its bits with the optimizer ([`crate::Master`]). They are
//! updated where they are: on the CPU, or with the feature `candle-cuda` on a GPU, on the stream of candle's device.
//!
//! # Other threads
//!
//! A step changes the variables in place, without a copy, while no other thread uses one of them or writes to a gradient: then it
//! holds all their locks, and other threads see all variables before the step or all after it. It never waits for one lock while
//! it holds another, nor for threads of the pool. So it ends whatever other threads do with the same tensors, if candle-nn's
//! optimizers do (the calling thread itself must hold no guard of them). Where tensors are in use it lets them go and tries again some times
//! ([`retries`](Contention::retries)); then it works on copies ([`copies`](Contention::copies)) and writes the variables back one
//! by one, as candle-nn's optimizers do. A reader on another thread may then see some variables before the step and others after
//! it, and what another thread writes to a variable during the step may be lost.
//!
//! An in-place operation may leave a storage that is shorter than its tensors, or of another type. Such a step is refused
//! ([`Error::Layout`]) and nothing changes; if it happens while a step on copies writes back, the other variables have been
//! stepped.
//!
//! # Memory
//!
//! What grows with the number of variables is answered with [`Error::OutOfMemory`] where there is no memory for it, and nothing
//! has changed; what candle itself allocates (gradients, and the copies of a step on copies) is candle's.

mod lock;
mod step;

use crate::allocation::{collected, push, with_capacity};
#[cfg(feature = "candle-cuda")]
use crate::tensor::ContextId;
use crate::tensor::Location;
use crate::{Algorithm, Builder, Dtype, Error, ParameterId, Report, Update};
use candle_core::backprop::GradStore;
use candle_core::{DType, Var};
use candle_nn::VarMap;
use std::marker::PhantomData;
pub use step::Contention;
use step::Part;

/// [`candle_nn::Optimizer`] with [`crate::Adam`] as its configuration: Adam and AdamW.
pub type Adam = Optimizer<crate::Adam>;
/// [`candle_nn::Optimizer`] with [`crate::FAdam`] as its configuration.
pub type FAdam = Optimizer<crate::FAdam>;
/// [`candle_nn::Optimizer`] with [`crate::FisherAdam`] as its configuration.
pub type FisherAdam = Optimizer<crate::FisherAdam>;

/// An optimizer over candle variables. `A` is the configuration that [`candle_nn::Optimizer::new`] takes.
#[derive(Debug)]
pub struct Optimizer<A = Algorithm> {
    inner: crate::Optimizer,
    parameters: Vec<Parameter>,
    refused_rate: Option<RefusedRate>,
    contention: Contention,
    config: PhantomData<fn(A)>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    var: Var,
    id: ParameterId,
}

/// A learning rate that the optimizer underneath would not take, and how often its own had been set by then: the error is the
/// next step's, unless a rate is set that it takes.
#[derive(Clone, Copy, Debug)]
struct RefusedRate {
    rate: f64,
    changes: u64,
}

impl Optimizer<Algorithm> {
    /// An optimizer over all variables of `varmap`, by their names and in the order of these: the order in which norms
    /// are summed, so that two runs give the same bits. `builder` is a [`Builder`] or an algorithm.
    ///
    /// # Errors
    /// As [`from_named`](Self::from_named).
    pub fn from_varmap(varmap: &VarMap, builder: impl Into<Builder>) -> Result<Self, Error> {
        let data = varmap.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut named = collected(data.iter().map(|(name, var)| (name.clone(), var.clone())), VARIABLES)?;
        drop(data);
        named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self::from_named(named, builder)
    }

    /// An optimizer over named variables, in the given order. As in candle's own, variables of integers are left out. `builder`
    /// is a [`Builder`] or an algorithm.
    ///
    /// # Errors
    /// [`Error::DuplicateName`], [`Error::Aliased`] where two variables share their memory, [`Error::Dtype`] for
    /// another type than f32 and bf16, [`Error::Device`], [`Error::Layout`], [`Error::OutOfMemory`], and those of
    /// [`Builder::build`].
    pub fn from_named(
        vars: impl IntoIterator<Item = (String, Var)>,
        builder: impl Into<Builder>,
    ) -> Result<Self, Error> {
        Self::over(vars, builder.into())
    }
}

impl<A> Optimizer<A> {
    fn over(vars: impl IntoIterator<Item = (String, Var)>, builder: Builder) -> Result<Self, Error> {
        let mut floats: Vec<(String, Var)> = Vec::new();
        for named in vars.into_iter().filter(|(_, var)| var.dtype().is_float()) {
            push(&mut floats, named, VARIABLES)?;
        }
        #[cfg(feature = "candle-cuda")]
        let builder = match floats.first().map(|(_, var)| var.device()) {
            Some(candle_core::Device::Cuda(device)) => builder.stream_by_default(device.cuda_stream()),
            _ => builder,
        };
        let mut inner = builder.build()?;
        let mut parameters = with_capacity(floats.len(), VARIABLES)?;
        let mut storages: Vec<(usize, String)> = with_capacity(floats.len(), VARIABLES)?;
        for (name, var) in floats {
            check_variable(&name, &var, &inner)?;
            storages.push((lock::key(lock::of(&var)), name.clone()));
            let id = match var.dtype() {
                DType::BF16 => inner.register_bf16(&name, var.elem_count())?,
                _ => inner.register(&name, var.elem_count())?,
            };
            parameters.push(Parameter { name, var, id });
        }
        storages.sort_unstable();
        for pair in storages.windows(2) {
            if pair[0].0 == pair[1].0 {
                let [(_, name), (_, other)] = [&pair[0], &pair[1]];
                return Err(Error::Aliased { name: name.clone(), other: format!("parameter `{other}`") });
            }
        }
        Ok(Self {
            inner,
            parameters,
            refused_rate: None,
            contention: Contention::default(),
            config: PhantomData,
        })
    }

    /// The figures of the last step.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn report(&mut self) -> Result<Report, Error> {
        self.inner.report()
    }

    /// The optimizer underneath: groups' learning rates, the gradient scale, norms, state.
    pub fn inner_mut(&mut self) -> &mut crate::Optimizer {
        &mut self.inner
    }

    /// The variables, in the order of registration.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.parameters.iter().map(|parameter| &parameter.var)
    }

    /// How often steps found tensors in use by other threads: see [above](self#other-threads).
    pub fn contention(&self) -> Contention {
        self.contention
    }

    fn try_step(&mut self, grads: &GradStore) -> Result<(), Error> {
        if let Some(rate) = self.refused() {
            self.inner.set_learning_rate(rate)?;
        }
        self.refused_rate = None;
        let mut parts = with_capacity(self.parameters.len(), VARIABLES)?;
        for Parameter { name, var, id } in &self.parameters {
            let Some(gradient) = grads.get(var) else { continue };
            check_gradient(name, var, gradient, &self.inner)?;
            let gradient = gradient.contiguous()?; // the same tensor, where it is contiguous
            let dtype = if var.dtype() == DType::BF16 { Dtype::Bf16 } else { Dtype::F32 };
            parts.push(Part { id: *id, name, dtype, variable: var.as_tensor().clone(), gradient });
        }
        let inner = &mut self.inner;
        step::step(&parts, &mut self.contention, &mut |updates: &mut [Update<'_>]| inner.step(updates))
    }

    /// A rate that still stands, though it was refused.
    fn refused(&self) -> Option<f64> {
        let refused = self.refused_rate?;
        (refused.changes == self.inner.rate_changes()).then_some(refused.rate)
    }
}

impl<A: Into<Algorithm>> candle_nn::Optimizer for Optimizer<A> {
    type Config = A;

    /// The variables are known by their places in `vars`. Such an optimizer refuses to save and to load state
    /// ([`Error::Unnamed`]): `VarMap::all_vars()` returns another order in every run (it iterates over a hash map), and with it
    /// the last bits of norms change, too. Prefer [`from_varmap`](Optimizer::from_varmap).
    fn new(vars: Vec<Var>, config: A) -> candle_core::Result<Self> {
        let named = vars.into_iter().enumerate().map(|(index, var)| (index.to_string(), var));
        let mut optimizer = Self::over(named, crate::Optimizer::builder(config))?;
        optimizer.inner.forget_names();
        Ok(optimizer)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        Ok(self.try_step(grads)?)
    }

    /// What was set last, here or on the [optimizer underneath](Optimizer::inner_mut).
    fn learning_rate(&self) -> f64 {
        self.refused().unwrap_or_else(|| self.inner.algorithm().learning_rate())
    }

    /// As [`crate::Optimizer::set_learning_rate`]. A value outside its domain is refused by the next step.
    fn set_learning_rate(&mut self, lr: f64) {
        self.refused_rate = match self.inner.set_learning_rate(lr) {
            Ok(()) => None,
            Err(_) => Some(RefusedRate { rate: lr, changes: self.inner.rate_changes() }),
        };
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => Self::wrap(error),
        }
    }
}

/// What an allocation is for, should it fail.
const VARIABLES: &str = "a list of variables";

fn check_variable(name: &str, var: &Var, optimizer: &crate::Optimizer) -> Result<(), Error> {
    check_device(name, var, optimizer)?;
    check_dtype(name, "parameter", var)?;
    if !var.is_contiguous() {
        let found = format!("a view with strides {:?}", var.stride());
        return Err(Error::Layout { name: name.to_string(), role: "parameter", found });
    }
    Ok(())
}

fn check_gradient(
    name: &str,
    var: &Var,
    gradient: &candle_core::Tensor,
    optimizer: &crate::Optimizer,
) -> Result<(), Error> {
    check_device(name, gradient, optimizer)?;
    check_dtype(name, "gradient", gradient)?;
    if gradient.shape() != var.shape() {
        let found = format!("of shape {:?} for a parameter of shape {:?}", gradient.dims(), var.dims());
        return Err(Error::Layout { name: name.to_string(), role: "gradient", found });
    }
    Ok(())
}

fn check_dtype(name: &str, role: &'static str, tensor: &candle_core::Tensor) -> Result<(), Error> {
    if matches!(tensor.dtype(), DType::F32 | DType::BF16) {
        return Ok(());
    }
    let (name, found) = (name.to_string(), tensor.dtype().as_str().to_string());
    Err(Error::Dtype { name, role, expected: "f32 or bf16", found })
}

/// Every tensor lies where the optimizer works.
fn check_device(name: &str, tensor: &candle_core::Tensor, optimizer: &crate::Optimizer) -> Result<(), Error> {
    let found = match tensor.device() {
        candle_core::Device::Cpu => Location::Cpu,
        #[cfg(feature = "candle-cuda")]
        candle_core::Device::Cuda(device) => Location::Cuda(ContextId::of(device.cuda_stream().context())),
        other => {
            let (expected, found) = (optimizer.location().to_string(), format!("{:?}", other.location()));
            return Err(Error::Device { name: name.to_string(), expected, found });
        }
    };
    found.check(optimizer.location(), name)
}
