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
//! For clipping, the non-finite policy, norms and names, build on a [`Builder`]:
//!
//! ```
//! use candle_nn::{Optimizer as _, VarBuilder, VarMap};
//! # use candle_core::{DType, Device, Result};
//! # fn main() -> Result<()> {
//! let varmap = VarMap::new();
//! let layer = candle_nn::linear(4, 2, VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
//! let builder = fadam::Optimizer::builder(fadam::FAdam::default()).max_grad_norm(1.0);
//! let mut optimizer = fadam::candle::Optimizer::from_varmap(&varmap, builder)?;
//! # let loss = candle_nn::Module::forward(&layer, &candle_core::Tensor::ones((1, 4), DType::F32, &Device::Cpu)?)?;
//! optimizer.backward_step(&loss.sum_all()?)?;
//! println!("gradient norm {:?}", optimizer.report()?.grad_norm);
//! # Ok(())
//! # }
//! ```
//!
//! Variables are f32 or bf16; a bf16 one keeps the rest of its bits with the optimizer ([`crate::Master`]). They are
//! updated in place, without a copy, where they are: on the CPU, or with the feature `candle-cuda` on a GPU, on the stream of
//! candle's device. A step takes the write locks of all its variables and the read locks of their gradients, in the order in
//! which candle itself takes several locks, and holds them to its end.

use crate::backend::Address;
#[cfg(feature = "candle-cuda")]
use crate::cuda::{
    ContextId,
    cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut},
};
use crate::tensor::Location;
use crate::{Algorithm, Builder, Error, ParameterId, Report, Tensor, TensorMut, Update};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Var};
#[cfg(feature = "candle-cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use candle_nn::VarMap;
use half::bf16;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::mpsc::channel;

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
    learning_rate: f64,
    scratch: Scratch,
    config: PhantomData<fn(A)>,
}

#[derive(Debug)]
struct Parameter {
    var: Var,
    id: ParameterId,
}

/// Memory of one step, kept for the next. Empty between steps.
#[derive(Debug, Default)]
struct Scratch {
    parts: Vec<Part>,
    /// The storages to lock, in candle's order.
    locks: Vec<Lock>,
    updates: Vec<Update<'static>>,
}

/// One variable's part in a step. The addresses are known, and good, while the locks are held.
#[derive(Debug)]
struct Part {
    parameter: usize,
    gradient: candle_core::Tensor,
    parameter_at: Address,
    gradient_at: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lock {
    storage: usize,
    gradient: bool,
    part: usize,
}

impl Optimizer<Algorithm> {
    /// An optimizer over all variables of `varmap`, by their names and in the order of these: the order in which norms
    /// are summed, so that two runs give the same bits.
    ///
    /// # Errors
    /// As [`from_named`](Self::from_named).
    pub fn from_varmap(varmap: &VarMap, builder: Builder) -> Result<Self, Error> {
        let data = varmap.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut named: Vec<(String, Var)> =
            data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        drop(data);
        named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self::from_named(named, builder)
    }

    /// An optimizer over named variables, in the given order. As in candle's own, variables of integers are left out.
    ///
    /// # Errors
    /// [`Error::DuplicateName`], [`Error::Aliased`] where two variables share their memory, [`Error::Dtype`] for
    /// another type than f32 and bf16, [`Error::Device`], [`Error::Layout`], and those of [`Builder::build`].
    pub fn from_named(
        vars: impl IntoIterator<Item = (String, Var)>,
        builder: Builder,
    ) -> Result<Self, Error> {
        Self::over(vars, builder)
    }
}

impl<A> Optimizer<A> {
    fn over(vars: impl IntoIterator<Item = (String, Var)>, builder: Builder) -> Result<Self, Error> {
        let vars: Vec<(String, Var)> = vars.into_iter().filter(|(_, var)| var.dtype().is_float()).collect();
        #[cfg(feature = "candle-cuda")]
        let builder = match vars.first().map(|(_, var)| var.device()) {
            Some(candle_core::Device::Cuda(device)) => builder.stream_by_default(device.cuda_stream()),
            _ => builder,
        };
        let mut inner = builder.build()?;
        let mut parameters = Vec::new();
        let mut storages: Vec<(usize, String)> = Vec::new();
        for (name, var) in vars {
            check_variable(&name, &var, &inner)?;
            storages.push((storage_key(&var), name.clone()));
            let id = match var.dtype() {
                DType::BF16 => inner.register_bf16(name, var.elem_count())?,
                _ => inner.register(name, var.elem_count())?,
            };
            parameters.push(Parameter { var, id });
        }
        storages.sort_unstable();
        for pair in storages.windows(2) {
            if pair[0].0 == pair[1].0 {
                let [(_, name), (_, other)] = [&pair[0], &pair[1]];
                return Err(Error::Aliased { name: name.clone(), other: format!("parameter `{other}`") });
            }
        }
        let learning_rate = inner.algorithm().learning_rate();
        Ok(Self { inner, parameters, learning_rate, scratch: Scratch::default(), config: PhantomData })
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

    fn try_step(&mut self, grads: &GradStore) -> Result<(), Error> {
        self.inner.set_learning_rate(self.learning_rate)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.locked_step(grads, &mut scratch);
        scratch.updates.clear(); // before anything else: what they borrow is no longer locked
        scratch.parts.clear();
        scratch.locks.clear();
        self.scratch = scratch;
        result
    }

    fn locked_step(&mut self, grads: &GradStore, scratch: &mut Scratch) -> Result<(), Error> {
        let Scratch { parts, locks, updates } = scratch;
        for (parameter, Parameter { var, id }) in self.parameters.iter().enumerate() {
            let Some(gradient) = grads.get(var) else { continue };
            check_gradient(self.inner.name(*id)?, var, gradient, &self.inner)?;
            let gradient = gradient.contiguous()?; // the same tensor, where it is contiguous
            let part = parts.len();
            locks.push(Lock { storage: storage_key(var), gradient: false, part });
            locks.push(Lock { storage: storage_key(&gradient), gradient: true, part });
            let unknown = Address(null_mut());
            parts.push(Part { parameter, gradient, parameter_at: unknown, gradient_at: unknown });
        }
        locks.sort_unstable();
        // A variable's storage comes first among equal keys: whoever wants it next would wait for ourselves.
        for pair in locks.windows(2) {
            if pair[0].storage == pair[1].storage && !pair[0].gradient {
                let name = |lock: Lock| self.inner.name(self.parameters[parts[lock.part].parameter].id);
                let other = format!("the gradient of `{}`", name(pair[1])?);
                return Err(Error::Aliased { name: name(pair[0])?.to_string(), other });
            }
        }
        let count = parts.len();
        let mut step = Step {
            parameters: &self.parameters,
            parts,
            updates,
            #[cfg(feature = "candle-cuda")]
            stream: self.inner.stream(),
        };
        if count <= INLINE {
            let mut result = Ok(());
            step.lock(locks, &mut |updates| {
                result = self.inner.step(updates);
            })?;
            return result;
        }
        // A thread with room for the frames takes the locks and holds them while this one steps, in its own pool.
        let (locked, wait_locked) = channel::<Vec<Update<'static>>>();
        let (done, wait_done) = channel::<()>();
        std::thread::scope(|scope| {
            let holder = std::thread::Builder::new().stack_size(STACK + count * FRAME).spawn_scoped(
                scope,
                move || {
                    step.lock(locks, &mut |updates| {
                        if locked.send(std::mem::take(updates)).is_ok() {
                            let _ = wait_done.recv(); // ends when the step is done, or its thread has panicked
                        }
                    })
                },
            );
            let holder = holder.map_err(candle_core::Error::from)?;
            let result = wait_locked.recv().map(|mut updates| self.inner.step(&mut updates));
            drop(done);
            match holder.join() {
                Ok(locked) => locked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            result.unwrap_or(Ok(())) // not locked: the error was the holder's
        })
    }
}

impl<A: Into<Algorithm>> candle_nn::Optimizer for Optimizer<A> {
    type Config = A;

    /// Names the variables by their index. The order is the caller's: `VarMap::all_vars()` returns another one in every
    /// run (it iterates over a hash map), and with it the last bits of norms change; prefer
    /// [`from_varmap`](Optimizer::from_varmap).
    fn new(vars: Vec<Var>, config: A) -> candle_core::Result<Self> {
        let named = vars.into_iter().enumerate().map(|(index, var)| (index.to_string(), var));
        Ok(Self::over(named, crate::Optimizer::builder(config))?)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        Ok(self.try_step(grads)?)
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Takes effect at the next step, which refuses a value outside its domain.
    fn set_learning_rate(&mut self, lr: f64) {
        self.learning_rate = lr;
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

/// Identity of a tensor's storage. candle orders its locks by the address of the lock; the storage lies within the
/// lock, always at the same distance.
fn storage_key(tensor: &candle_core::Tensor) -> usize {
    std::ptr::from_ref::<Storage>(&tensor.storage_and_layout().0).addr()
}

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

/// Variables whose locks fit the caller's stack, a frame each (4 KiB without optimization).
const INLINE: usize = 64;
/// Stack of a thread that holds more: a frame each, and something for the thread itself.
const FRAME: usize = 16 << 10;
const STACK: usize = 256 << 10;

/// A step that is taking its locks.
struct Step<'a> {
    parameters: &'a [Parameter],
    parts: &'a mut [Part],
    updates: &'a mut Vec<Update<'static>>,
    /// Where the optimizer works, if that is a GPU.
    #[cfg(feature = "candle-cuda")]
    stream: Option<std::sync::Arc<CudaStream>>,
}

/// What happens while all locks are held.
type Held<'a> = &'a mut (dyn FnMut(&mut Vec<Update<'static>>) + 'a);

impl Step<'_> {
    /// Takes these locks one after the other and calls `held` while it has them all. candle shows a `&mut` storage only
    /// inside an in-place operation, so each lock is a frame of this recursion.
    fn lock(&mut self, locks: &[Lock], held: Held<'_>) -> Result<(), Error> {
        let Some((lock, rest)) = locks.split_first() else {
            self.collect();
            held(self.updates);
            self.updates.clear();
            return Ok(());
        };
        if lock.gradient {
            let gradient = self.parts[lock.part].gradient.clone();
            let (storage, layout) = gradient.storage_and_layout();
            #[cfg(feature = "candle-cuda")]
            if let Storage::Cuda(storage) = &*storage {
                return match storage.dtype() {
                    DType::BF16 => self.lock_gradient::<bf16>(storage, layout, *lock, rest, held),
                    _ => self.lock_gradient::<f32>(storage, layout, *lock, rest, held),
                };
            }
            let Storage::Cpu(storage) = &*storage else { return Err(moved()) };
            self.parts[lock.part].gradient_at = match storage {
                CpuStorage::F32(values) => address(values, layout),
                CpuStorage::BF16(values) => address(values, layout),
                _ => return Err(moved()),
            };
            return self.lock(rest, held);
        }
        let var = &self.parameters[self.parts[lock.part].parameter].var;
        let frame = Frame { step: RefCell::new((self, held, Ok(()))), part: lock.part, rest };
        var.inplace_op1(&frame)?;
        frame.step.into_inner().2
    }

    /// A gradient on a GPU: the step waits for whoever wrote it, and whoever writes it next waits for the step.
    #[cfg(feature = "candle-cuda")]
    fn lock_gradient<T: candle_core::cuda_backend::CudaDType>(
        &mut self,
        storage: &CudaStorage,
        layout: &Layout,
        lock: Lock,
        rest: &[Lock],
        held: Held<'_>,
    ) -> Result<(), Error> {
        let stream = self.stream.clone().ok_or_else(moved)?;
        let view = storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..);
        let (address, _read) = view.device_ptr(&stream);
        self.parts[lock.part].gradient_at = Address(std::ptr::without_provenance_mut(address as usize));
        self.lock(rest, held)
    }

    /// The innermost frame: every lock is held, every address known.
    fn collect(&mut self) {
        #[cfg(feature = "candle-cuda")]
        if let Some(stream) = &self.stream {
            return self.collect_on(&stream.context().clone());
        }
        for part in &*self.parts {
            let Parameter { var, id } = &self.parameters[part.parameter];
            let (len, from) = (var.elem_count(), part.gradient_at.0);
            // SAFETY: both addresses were taken from storages that are locked now and until `lock` has returned, the
            // variable's by a write lock, each at an offset that candle's layout gives for this many contiguous
            // elements. No two variables share a storage (`over`), and no gradient shares a variable's
            // (`locked_step`). The updates live no longer than the locks: `lock` drops them before it returns, or it
            // has handed them to a caller whose step ends before the locks do.
            let update = unsafe {
                let gradient = match part.gradient.dtype() {
                    DType::BF16 => Tensor::from_raw_parts(from.cast::<bf16>(), len),
                    _ => Tensor::from_raw_parts(from.cast::<f32>(), len),
                };
                let to = part.parameter_at.0;
                let parameter = match var.dtype() {
                    DType::BF16 => TensorMut::from_raw_parts(to.cast::<bf16>(), len),
                    _ => TensorMut::from_raw_parts(to.cast::<f32>(), len),
                };
                Update::new(*id, parameter, gradient)
            };
            self.updates.push(update);
        }
    }

    /// As `collect`, on a GPU.
    #[cfg(feature = "candle-cuda")]
    fn collect_on(&mut self, context: &std::sync::Arc<CudaContext>) {
        for part in &*self.parts {
            let Parameter { var, id } = &self.parameters[part.parameter];
            let len = var.elem_count();
            let at = |address: Address| address.0.addr() as u64;
            // SAFETY: as in `collect`; the guards of the frames order the step among the tensors' other uses.
            let update = unsafe {
                let gradient = match part.gradient.dtype() {
                    DType::BF16 => Tensor::from_device_address::<bf16>(at(part.gradient_at), len, context),
                    _ => Tensor::from_device_address::<f32>(at(part.gradient_at), len, context),
                };
                let to = at(part.parameter_at);
                let parameter = match var.dtype() {
                    DType::BF16 => TensorMut::from_device_address::<bf16>(to, len, context),
                    _ => TensorMut::from_device_address::<f32>(to, len, context),
                };
                Update::new(*id, parameter, gradient)
            };
            self.updates.push(update);
        }
    }
}

/// One variable's write lock.
struct Frame<'a, 'b> {
    step: RefCell<(&'a mut Step<'b>, Held<'a>, Result<(), Error>)>,
    part: usize,
    rest: &'a [Lock],
}

impl InplaceOp1 for Frame<'_, '_> {
    fn name(&self) -> &'static str {
        "fadam"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (step, held, result) = &mut *self.step.borrow_mut();
        let start = layout.start_offset();
        step.parts[self.part].parameter_at = Address(match storage {
            CpuStorage::F32(values) => values[start..].as_mut_ptr().cast(),
            CpuStorage::BF16(values) => values[start..].as_mut_ptr().cast(),
            _ => return Err(moved().into()),
        });
        *result = step.lock(self.rest, held);
        Ok(())
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        match storage.dtype() {
            DType::BF16 => self.lock_parameter::<bf16>(storage, layout),
            _ => self.lock_parameter::<f32>(storage, layout),
        }
    }
}

#[cfg(feature = "candle-cuda")]
impl Frame<'_, '_> {
    fn lock_parameter<T: candle_core::cuda_backend::CudaDType>(
        &self,
        storage: &mut CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (step, held, result) = &mut *self.step.borrow_mut();
        let stream = step.stream.clone().ok_or_else(moved)?;
        let mut view = storage.as_cuda_slice_mut::<T>()?.slice_mut(layout.start_offset()..);
        let (address, _written) = view.device_ptr_mut(&stream);
        step.parts[self.part].parameter_at = Address(std::ptr::without_provenance_mut(address as usize));
        *result = step.lock(self.rest, held);
        Ok(())
    }
}

/// Where a gradient begins in its storage.
fn address<T>(values: &[T], layout: &Layout) -> Address {
    Address(values[layout.start_offset()..].as_ptr().cast_mut().cast())
}

/// The checks have seen an f32 or bf16 tensor on the CPU; a tensor cannot change either.
fn moved() -> Error {
    Error::Candle(candle_core::Error::Msg("a checked tensor changed its device or type".into()))
}
