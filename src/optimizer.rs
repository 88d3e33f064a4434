//! Parameters, groups, the step and its report: what holds on every device.

use crate::algorithm::{Hyper, check, positive};
use crate::alias::{Span, find_alias};
use crate::allocation::{collected, push, refused, reserve};
use crate::backend::{Backend, Target};
use crate::environment::with_default_environment;
use crate::job::{Address, Counters, Failure, Job, NotFinite};
use crate::settings::{Group, NonFinite, Policy};
use crate::storage::Storage;
use crate::update::{GroupId, ParameterId, State, Update};
use crate::{
    Algorithm, Device, Dtype, Error, LossScale, LossScaler, Master, Norms, Report, Rounding, Schedule, Simd,
};
use std::collections::HashMap;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Builder of an [`Optimizer`]: the algorithm, and its options.
///
/// ```
/// use fadam::{Device, FAdam, NonFinite, Optimizer};
/// let optimizer = Optimizer::builder(FAdam::default())
///     .device(Device::Cpu)
///     .max_grad_norm(1.0)
///     .non_finite(NonFinite::Error)
///     .build()?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    algorithm: Algorithm,
    target: Option<Target>,
    simd: Option<Simd>,
    max_grad_norm: Option<f64>,
    non_finite: NonFinite,
    norms: bool,
    schedule: Option<Schedule>,
    loss_scale: Option<LossScale>,
    loss_scaler: Option<LossScaler>,
    master: Master,
    moments: Dtype,
    rounding: Option<Rounding>,
    seed: u64,
    ema: Option<f64>,
}

impl<A: Into<Algorithm>> From<A> for Builder {
    fn from(algorithm: A) -> Self {
        Optimizer::builder(algorithm)
    }
}

impl Builder {
    /// Where parameters live and the step runs. Default [`Device::Cpu`]. On a GPU the step runs on the legacy default
    /// stream (stream 0) of the device's primary context. While a blocking stream elsewhere captures a CUDA graph, that
    /// stream refuses all work with `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT` (906): give the optimizer a stream of its own
    /// then, by `stream`.
    pub fn device(mut self, device: Device) -> Self {
        self.target = Some(Target::Device(device));
        self
    }

    /// The GPU of this stream, and its context: steps are launched on it, in order with whatever else is. Takes the place
    /// of [`device`](Self::device). A stream that cudarc's `new_stream` makes is non-blocking: it neither waits for the
    /// legacy default stream nor is concerned by captures elsewhere. See [`crate::cuda`].
    #[cfg(feature = "cuda")]
    pub fn stream(mut self, stream: std::sync::Arc<crate::cuda::cudarc::driver::CudaStream>) -> Self {
        self.target = Some(Target::Stream(stream));
        self
    }

    /// The CPU's instruction set. Default: the best that the machine has. The bits are the same with any. On a GPU it has no
    /// effect.
    pub fn simd(mut self, simd: Simd) -> Self {
        self.simd = Some(simd);
        self
    }

    /// Scales gradients down so that ‖g‖₂ over all tensors of a step is at most this, as PyTorch's
    /// `clip_grad_norm_` does. Default: off. The coefficient is folded into the step; gradients are not rewritten.
    pub fn max_grad_norm(mut self, max_grad_norm: f64) -> Self {
        self.max_grad_norm = Some(max_grad_norm);
        self
    }

    /// Where the parameters turn out to be, unless the caller has said.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn stream_by_default(
        self,
        stream: std::sync::Arc<crate::cuda::cudarc::driver::CudaStream>,
    ) -> Self {
        if self.target.is_some() { self } else { self.stream(stream) }
    }

    /// What to do with a gradient that is not finite. Default [`NonFinite::Skip`].
    pub fn non_finite(mut self, policy: NonFinite) -> Self {
        self.non_finite = policy;
        self
    }

    /// Whether each step computes gradient, update and parameter norms per parameter, and of FAdam counts
    /// [`Coordinates`](crate::Coordinates), for [`Optimizer::norms_of`] and the [report](Optimizer::report). Within the sweeps:
    /// no more memory is read, on a GPU one launch more. Default: no.
    pub fn norms(mut self, norms: bool) -> Self {
        self.norms = norms;
        self
    }

    /// Multiplies every group's learning rate with a schedule's factor. Default: none, and a factor of 1.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// Divides gradients by a loss scale that adapts itself: see [`LossScale`]. Default: off.
    pub fn loss_scale(mut self, loss_scale: LossScale) -> Self {
        self.loss_scale = Some(loss_scale);
        self
    }

    /// Divides gradients by a loss scale that this optimizer shares with others: see [`LossScaler`]. Not together with
    /// [`loss_scale`](Self::loss_scale). Default: none.
    pub fn loss_scaler(mut self, scaler: &LossScaler) -> Self {
        self.loss_scaler = Some(scaler.clone());
        self
    }

    /// What is kept beside bf16 parameters. Default [`Master::Remainder`].
    pub fn master(mut self, master: Master) -> Self {
        self.master = master;
        self
    }

    /// The type of the moments, whatever the parameters' is. Default [`Dtype::F32`]. With [`Dtype::Bf16`] they take half
    /// the memory and traffic, and are rounded by [`rounding`](Self::rounding) in each step; what the step computes from
    /// them it computes from the rounded ones.
    pub fn moments(mut self, moments: Dtype) -> Self {
        self.moments = moments;
        self
    }

    /// How bf16 parameters with [`Master::None`] and bf16 moments are rounded. Default [`Rounding::Stochastic`]. Refused
    /// where neither is: with a master and f32 moments nothing is rounded.
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = Some(rounding);
        self
    }

    /// The key of stochastic rounding. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Keeps an exponential moving average of each parameter, in f32: it begins with the parameter after its first step, and
    /// then ema ← decay · ema + (1 − decay) · θ in the sweep that steps θ, 8 bytes more; θ is not rounded to bf16 before.
    /// 0.999 or 0.9999 are usual; in [0.5, 1). Default: none. It is read by [`Optimizer::state`].
    pub fn ema(mut self, decay: f64) -> Self {
        self.ema = Some(decay);
        self
    }

    pub(crate) fn storage(&self) -> Result<Storage, Error> {
        if let Some(decay) = self.ema {
            check((0.5..1.0).contains(&decay), "ema", decay, "a number in [0.5, 1)")?;
        }
        let storage = Storage {
            master: self.master,
            moments: self.moments,
            rounding: self.rounding.unwrap_or_default(),
            seed: self.seed,
            ema: self.ema,
            amsgrad: matches!(self.algorithm, Algorithm::Adam(adam) if adam.amsgrad),
        };
        if self.rounding.is_some() && !storage.rounds() {
            let reason = "rounding has no effect: with a master and f32 moments nothing is rounded";
            return Err(Error::Options { reason });
        }
        Ok(storage)
    }

    /// The optimizer, without parameters yet.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] for a value outside its domain, [`Error::Options`] for a rounding where nothing is rounded,
    /// [`Error::Unavailable`] for a device, a compiler or an instruction set that is not there, [`Error::Compile`], [`Error::Cuda`],
    /// [`Error::OutOfMemory`] of the device.
    pub fn build(self) -> Result<Optimizer, Error> {
        with_default_environment(|| self.checked_build())
    }

    fn checked_build(self) -> Result<Optimizer, Error> {
        if let Some(max) = self.max_grad_norm {
            positive("max_grad_norm", max)?;
        }
        if let Some(schedule) = &self.schedule {
            schedule.check()?;
        }
        if let Some(loss_scale) = &self.loss_scale {
            loss_scale.check()?;
            let checked = self.non_finite != NonFinite::Propagate;
            check(checked, "loss_scale", loss_scale.init_scale, "none, or NonFinite::Skip or Error")?;
        }
        if self.loss_scaler.is_some() {
            let refused = |reason| Err(Error::Options { reason });
            if self.loss_scale.is_some() {
                return refused("loss_scale and loss_scaler exclude each other: a loss has one scale");
            }
            if self.non_finite == NonFinite::Propagate {
                return refused("loss_scaler needs the finite check: NonFinite::Skip or Error");
            }
        }
        let hyper = self.algorithm.resolve(&Group::default())?;
        let storage = self.storage()?;
        let mut backend = Backend::new(self.target, self.simd, &self.algorithm, self.norms, storage)?;
        if let Some(LossScale { init_scale, .. }) = self.loss_scale {
            backend.set_counters(&Counters { loss_scale: init_scale, ..Counters::default() })?;
        }
        static OWNERS: AtomicUsize = AtomicUsize::new(0);
        Ok(Optimizer {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            algorithm: self.algorithm,
            policy: Policy {
                max_grad_norm: self.max_grad_norm,
                grad_scale: 1.0,
                shared_scale: 1.0,
                non_finite: self.non_finite,
                norms: self.norms,
                kappa: match self.algorithm {
                    Algorithm::FAdam(fadam) => fadam.kappa,
                    _ => None,
                },
                speculate: false,
                schedule: self.schedule,
                loss_scale: self.loss_scale,
            },
            scaler: self.loss_scaler,
            storage,
            groups: vec![(Group::default(), hyper)],
            parameters: Vec::new(),
            by_name: HashMap::new(),
            elements: 0,
            jobs: Vec::new(),
            spans: Vec::new(),
            backend,
            named: true,
            rate_changes: 0,
            lost: false,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) len: usize,
    pub(crate) group: usize,
}

/// What an allocation is for, should it fail.
const GROUPS: &str = "groups of parameters";

/// A fused optimizer: it owns the moments, and steps over tensors that it borrows.
///
/// ```
/// use fadam::{FAdam, Optimizer, Update};
/// let mut optimizer = Optimizer::new(FAdam { lr: 0.1, ..FAdam::default() })?;
/// let x = optimizer.register("x", 1)?;
/// let mut value = [3.0_f32];
/// for _ in 0..100 {
///     let gradient = [2.0 * value[0]]; // of x²
///     optimizer.step(&mut [Update::new(x, &mut value, &gradient)])?;
/// }
/// assert!(value[0].abs() < 0.3);
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Debug)]
pub struct Optimizer {
    owner: usize,
    pub(crate) algorithm: Algorithm,
    pub(crate) policy: Policy,
    scaler: Option<LossScaler>,
    pub(crate) storage: Storage,
    pub(crate) groups: Vec<(Group, Hyper)>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) by_name: HashMap<String, usize>,
    elements: usize,
    /// Scratch of one step, kept so that no step allocates.
    jobs: Vec<Job>,
    spans: Vec<Span>,
    pub(crate) backend: Backend,
    /// Whether parameters have names by which another run knows them.
    named: bool,
    /// How often the learning rate was set.
    rate_changes: u64,
    /// Set while a step, or a file that is loaded, writes; if it is still set afterwards, that has failed after a part.
    pub(crate) lost: bool,
}

impl Optimizer {
    /// An optimizer on the CPU with every option at its default.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(algorithm: impl Into<Algorithm>) -> Result<Self, Error> {
        Self::builder(algorithm).build()
    }

    /// Starts an optimizer with options.
    pub fn builder(algorithm: impl Into<Algorithm>) -> Builder {
        Builder {
            algorithm: algorithm.into(),
            target: None,
            simd: None,
            max_grad_norm: None,
            non_finite: NonFinite::Skip,
            norms: false,
            schedule: None,
            loss_scale: None,
            loss_scaler: None,
            master: Master::default(),
            moments: Dtype::F32,
            rounding: None,
            seed: 0,
            ema: None,
        }
    }

    /// Adds a group with hyper-parameters of its own.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] for a value outside its domain, [`Error::OutOfMemory`].
    pub fn add_group(&mut self, group: Group) -> Result<GroupId, Error> {
        let hyper = self.algorithm.resolve(&group)?;
        push(&mut self.groups, (group, hyper), GROUPS)?;
        self.choose_form();
        Ok(GroupId { owner: self.owner, index: self.groups.len() - 1 })
    }

    /// Registers an f32 parameter of `len` elements and allocates its moments, all zero. The order of registration is
    /// the order in which norms are summed, and part of what stochastic rounding draws: keep it fixed, by sorted names, say.
    ///
    /// # Errors
    /// [`Error::DuplicateName`], [`Error::OutOfMemory`]; on a GPU [`Error::Cuda`], [`Error::Compile`].
    pub fn register(&mut self, name: impl Into<String>, len: usize) -> Result<ParameterId, Error> {
        self.register_at(0, name.into(), len, Dtype::F32)
    }

    /// As [`register`](Self::register), a bf16 parameter. Its master begins with the parameter's value in its first step.
    ///
    /// # Errors
    /// As `register`.
    pub fn register_bf16(&mut self, name: impl Into<String>, len: usize) -> Result<ParameterId, Error> {
        self.register_at(0, name.into(), len, Dtype::Bf16)
    }

    /// As [`register`](Self::register), in a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], and those of `register`.
    pub fn register_in(
        &mut self,
        group: GroupId,
        name: impl Into<String>,
        len: usize,
        dtype: Dtype,
    ) -> Result<ParameterId, Error> {
        let group = self.group_index(group)?;
        self.register_at(group, name.into(), len, dtype)
    }

    fn register_at(
        &mut self,
        group: usize,
        name: String,
        len: usize,
        dtype: Dtype,
    ) -> Result<ParameterId, Error> {
        if self.by_name.contains_key(&name) {
            return Err(Error::DuplicateName { name });
        }
        let index = self.parameters.len();
        // Here, and then in the backend: once that has taken the parameter nothing is refused any more.
        reserve(&mut self.parameters, 1, &name)?;
        self.by_name.try_reserve(1).map_err(|_| refused::<(String, usize)>(index + 1, &name))?;
        reserve(&mut self.jobs, index + 1, &name)?;
        reserve(&mut self.spans, 2 * (index + 1), &name)?;
        self.ask(|backend| backend.register(&name, len, dtype))?;
        self.by_name.insert(name.clone(), index);
        self.parameters.push(Parameter { name, dtype, len, group });
        self.elements += len;
        self.choose_form();
        Ok(ParameterId { owner: self.owner, index })
    }

    /// Whether FAdam applies Δ before its norm is known: it must be bounded in every group, κ must fire seldom, and a
    /// correction must not round what has been rounded.
    fn choose_form(&mut self) {
        let most = with_default_environment(|| 0.5 * (self.elements as f64).sqrt());
        let seldom = self.policy.kappa.is_some_and(|kappa| kappa >= most);
        let has_no_master = |p: &Parameter| p.dtype == Dtype::Bf16 && self.storage.master == Master::None;
        let exact = self.storage.moments == Dtype::F32 && !self.parameters.iter().any(has_no_master);
        self.policy.speculate = seldom && exact && self.groups.iter().all(|(_, hyper)| hyper.bounds_update());
    }

    /// Tells the optimizer that the caller has overwritten this parameter (loaded weights, clamped it, or stepped it by another
    /// optimizer): its master (of bf16) and its EMA begin with the new value in its next step. Without this call a parameter
    /// with [`Master::F32`] returns to its master in the next step, and what was written is lost; with [`Master::Remainder`] the
    /// new value counts, with the old one's remainder. Moments and step count stay. (An f32 parameter without EMA needs no telling.)
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Lost`]; on a GPU [`Error::Cuda`], [`Error::Capture`].
    ///
    /// ```
    /// use fadam::{Adam, Optimizer, Update};
    /// use half::bf16;
    /// let mut optimizer = Optimizer::new(Adam::default())?;
    /// let w = optimizer.register_bf16("w", 1)?;
    /// let mut weight = [bf16::ONE];
    /// optimizer.step(&mut [Update::new(w, &mut weight, &[1.0_f32])])?;
    /// weight[0] = bf16::from_f32(2.0); // loaded from elsewhere
    /// optimizer.reset_master(w)?;
    /// # Ok::<(), fadam::Error>(())
    /// ```
    pub fn reset_master(&mut self, id: ParameterId) -> Result<(), Error> {
        let index = self.parameter_index(id)?;
        self.ask(|backend| backend.restart(index))
    }

    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<ParameterId> {
        self.by_name.get(name).map(|&index| ParameterId { owner: self.owner, index })
    }

    /// The name of a parameter.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn name(&self, id: ParameterId) -> Result<&str, Error> {
        Ok(&self.parameters[self.parameter_index(id)?].name)
    }

    /// The algorithm, with the learning rate as it stands, before any schedule.
    pub fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Changes the learning rate of every group that has none of its own, from the next step on (on a GPU, in the order of
    /// its stream: replays of a captured step see it too). With a [`Schedule`] it is what the factors multiply.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`], [`Error::OutOfMemory`]; on a GPU [`Error::Cuda`], [`Error::Capture`]. Then nothing has changed.
    pub fn set_learning_rate(&mut self, lr: f64) -> Result<(), Error> {
        let algorithm = self.algorithm.with_learning_rate(lr);
        algorithm.resolve(&Group::default())?;
        let mut groups = collected(self.groups.iter().copied(), GROUPS)?;
        for (group, hyper) in &mut groups {
            *hyper = algorithm.resolve(group)?;
        }
        let before = std::mem::replace(&mut self.groups, groups);
        match self.send_settings(None) {
            Ok(()) => {
                self.algorithm = algorithm;
                self.rate_changes += 1;
            }
            Err(error) => {
                self.groups = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Changes the learning rate of one group, from the next step on.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], and those of [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_group_learning_rate(&mut self, group: GroupId, lr: f64) -> Result<(), Error> {
        let index = self.group_index(group)?;
        let changed = Group { lr: Some(lr), ..self.groups[index].0 };
        let hyper = self.algorithm.resolve(&changed)?;
        let before = std::mem::replace(&mut self.groups[index], (changed, hyper));
        let sent = self.send_settings(Some(index));
        if sent.is_err() {
            self.groups[index] = before;
        }
        sent
    }

    /// Sets what the gradients were multiplied with, from the next step on: g ← g / grad_scale. A fixed loss scale, say, or
    /// the number of micro-batches whose gradients were added up; with [`LossScale`], besides it. Default 1. (The product of
    /// both is not checked: keep it far within f32's range.)
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_grad_scale(&mut self, grad_scale: f64) -> Result<(), Error> {
        with_default_environment(|| {
            positive("grad_scale", grad_scale)?;
            let inverse = (1.0 / grad_scale) as f32;
            let expected = "a number whose inverse is within f32's range";
            check(inverse.is_finite() && inverse > 0.0, "grad_scale", grad_scale, expected)
        })?;
        self.set_policy(Policy { grad_scale, ..self.policy })
    }

    /// Changes the schedule of the learning rate from the next step on (on a GPU, in the order of its stream: replays of a
    /// captured step see it too). The count of steps goes on: the next step takes the new schedule's factor of
    /// [`schedule_step`](Self::schedule_step).
    ///
    /// ```
    /// use fadam::{Adam, Optimizer, Schedule};
    /// let mut optimizer = Optimizer::builder(Adam::adamw()).schedule(Schedule::constant(100)).build()?;
    /// // ... and when it is time to cool down:
    /// let stable = optimizer.schedule_step()?.max(100) - 100;
    /// optimizer.set_schedule(Some(Schedule::warmup_stable_decay(100, stable, 1000, 0.0)))?;
    /// # Ok::<(), fadam::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_schedule(&mut self, schedule: Option<Schedule>) -> Result<(), Error> {
        if let Some(schedule) = &schedule {
            schedule.check()?;
        }
        self.set_policy(Policy { schedule, ..self.policy })
    }

    /// The schedule of the learning rate.
    pub fn schedule(&self) -> Option<&Schedule> {
        self.policy.schedule.as_ref()
    }

    /// The place in the schedule of the next step: how many steps took place so far, and skipped ones if the schedule counts
    /// them. Counted without a schedule, too. On a GPU it waits for the last step.
    ///
    /// # Errors
    /// [`Error::Lost`]; on a GPU [`Error::Cuda`], [`Error::Capture`].
    pub fn schedule_step(&mut self) -> Result<u64, Error> {
        Ok(self.ask(Backend::counters)?.schedule_step)
    }

    /// What to multiply the next loss with: see [`LossScale`]. 1 without it. On a GPU it waits for the last step.
    ///
    /// # Errors
    /// As [`schedule_step`](Self::schedule_step).
    pub fn loss_scale(&mut self) -> Result<f64, Error> {
        match (&self.scaler, self.policy.loss_scale) {
            (Some(scaler), _) => Ok(scaler.scale()),
            (None, Some(_)) => Ok(self.ask(Backend::counters)?.loss_scale),
            (None, None) => Ok(1.0),
        }
    }

    fn set_policy(&mut self, policy: Policy) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.policy, policy);
        let sent = self.send_settings(None);
        if sent.is_err() {
            self.policy = before;
        }
        sent
    }

    /// All of them, or those of one group.
    fn send_settings(&mut self, group: Option<usize>) -> Result<(), Error> {
        let groups = std::mem::take(&mut self.groups);
        let policy = self.policy;
        let sent = self.ask(|backend| backend.change_settings(&groups, group, &policy));
        self.groups = groups;
        sent
    }

    /// One optimizer step over any subset of the parameters, in place. A parameter that takes no part keeps its value,
    /// its moments and its step count. The order of `updates` does not matter.
    ///
    /// On the CPU idle threads of the current rayon pool (the caller's, inside [`rayon::ThreadPool::install`]) help the calling
    /// thread; a small step stays on it and allocates nothing. The call waits for no thread that does something else.
    ///
    /// On a GPU the step is launched and not waited for. Tensors that were last used on another stream are waited for, and
    /// their next use waits for the step: by cudarc's events or, where it records none, stream by stream. The step can be
    /// captured into a CUDA graph once it has run with the same tensors; step counts, learning rates, schedule and loss scale
    /// live on the device and advance under replay. Replay on the same stream. A captured graph holds addresses of the
    /// optimizer's memory and of the tensors, and must not outlive either; after adding a group, capture anew.
    ///
    /// # Errors
    /// Before anything has changed: [`Error::UnknownParameter`], [`Error::RepeatedParameter`], [`Error::Length`],
    /// [`Error::Dtype`], [`Error::Device`], [`Error::Aliased`], [`Error::Lost`], [`Error::Capture`], on a GPU
    /// [`Error::OutOfMemory`], and under [`NonFinite::Error`] [`Error::NonFinite`]: on a GPU that of an earlier step, and this
    /// one did not take place either.
    /// [`Error::Cuda`] leaves the optimizer untouched, or lost: then every later call says [`Error::Lost`].
    pub fn step(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.check_lost()?;
        self.take_shared_scale()?;
        let surplus = self.collect(updates)?;
        let order = self.backend.order();
        let jobs = &mut self.jobs;
        let guards = order.borrow(updates, |update, parameter, gradient| {
            if let Some(job) = jobs.get_mut(update) {
                (job.parameter, job.gradient) = (parameter, gradient);
            }
        });
        let guards = match guards {
            Ok(guards) => guards,
            Err(error) => {
                self.lost = self.backend.is_dead();
                return Err(error);
            }
        };
        self.sort(surplus)?;
        self.refuse_aliases()?;
        self.lost = true;
        let Self { backend, jobs, groups, policy, .. } = self;
        let outcome = with_default_environment(|| backend.step(jobs, groups, policy));
        drop(guards);
        let outcome = match outcome {
            Ok(not_finite) => {
                order.check()?; // else lost
                not_finite
            }
            Err(Failure::Untouched(error)) => {
                self.lost = self.backend.is_dead();
                return Err(error);
            }
            Err(Failure::Midway(error)) => return Err(error),
        };
        self.lost = false;
        self.jobs.clear();
        let outcome = self.tell_scaler(outcome)?;
        self.refuse_non_finite(outcome)
    }

    /// Takes over the factor by which the loss of this step was multiplied.
    fn take_shared_scale(&mut self) -> Result<(), Error> {
        let Some(scaler) = &self.scaler else { return Ok(()) };
        let shared_scale = scaler.scale();
        self.ask(Backend::counters)?; // refused in a capture, whose outcome nobody could wait for
        if shared_scale != self.policy.shared_scale {
            self.set_policy(Policy { shared_scale, ..self.policy })?;
        }
        Ok(())
    }

    /// Waits for the step's outcome, if others are to know it.
    fn tell_scaler(&mut self, outcome: Option<NotFinite>) -> Result<Option<NotFinite>, Error> {
        if self.scaler.is_none() {
            return Ok(outcome);
        }
        let (report, not_finite) = self.ask(Backend::report)?;
        if let Some(scaler) = &self.scaler {
            scaler.note(report.skipped);
        }
        Ok(outcome.or(not_finite))
    }

    /// What is saved, with a shared loss scale in its place.
    pub(crate) fn counters(&mut self) -> Result<Counters, Error> {
        let mut counters = self.ask(Backend::counters)?;
        if let Some(scaler) = &self.scaler {
            (counters.loss_scale, counters.good_steps) = scaler.state();
        }
        Ok(counters)
    }

    /// What is loaded. On an error the caller leaves the optimizer lost.
    pub(crate) fn set_counters(&mut self, counters: &Counters) -> Result<(), Error> {
        self.backend.set_counters(counters)?;
        if let Some(scaler) = self.scaler.as_ref().filter(|_| counters.loss_scale != 0.0) {
            scaler.restore(counters.loss_scale, counters.good_steps);
        }
        Ok(())
    }

    /// Asks something of the device. What a device that has died kept of the optimizer is lost.
    pub(crate) fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Backend) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_lost()?;
        let answer = with_default_environment(|| question(&mut self.backend));
        self.lost = answer.is_err() && self.backend.is_dead();
        answer
    }

    /// The parameters' names are places in a list: no state is saved or loaded by them.
    #[cfg(feature = "candle")]
    pub(crate) fn forget_names(&mut self) {
        self.named = false;
    }

    pub(crate) fn check_named(&self) -> Result<(), Error> {
        if self.named { Ok(()) } else { Err(Error::Unnamed) }
    }

    /// How often the learning rate was set.
    #[cfg(feature = "candle")]
    pub(crate) fn rate_changes(&self) -> u64 {
        self.rate_changes
    }

    pub(crate) fn check_lost(&self) -> Result<(), Error> {
        if self.lost { Err(Error::Lost) } else { Ok(()) }
    }

    fn refuse_non_finite(&self, outcome: Option<NotFinite>) -> Result<(), Error> {
        match outcome {
            Some(NotFinite { parameter, step }) if self.policy.non_finite == NonFinite::Error => {
                Err(Error::NonFinite { name: self.parameters[parameter].name.clone(), step })
            }
            _ => Ok(()),
        }
    }

    /// Checks each update alone and makes a job of it, without its addresses yet. A parameter, if there are more updates
    /// than parameters: the scratch must not grow.
    fn collect(&mut self, updates: &[Update<'_>]) -> Result<Option<usize>, Error> {
        self.jobs.clear();
        let location = self.backend.location();
        for update in updates {
            let index = self.parameter_index(update.id)?;
            let Parameter { name, dtype, len, group } = &self.parameters[index];
            let (parameter, gradient) = (&update.parameter, &update.gradient);
            for (role, found) in [("parameter", parameter.len), ("gradient", gradient.len)] {
                if found != *len {
                    return Err(Error::Length { name: name.clone(), role, expected: *len, found });
                }
            }
            if parameter.dtype != *dtype {
                return Err(Error::Dtype {
                    name: name.clone(),
                    role: "parameter",
                    expected: dtype.name(),
                    found: parameter.dtype.to_string(),
                });
            }
            parameter.place.check(location, name)?;
            gradient.place.check(location, name)?;
            if self.jobs.len() == self.parameters.len() {
                return Ok(Some(index));
            }
            self.jobs.push(Job {
                index,
                group: *group,
                len: *len,
                parameter: Address(null_mut()),
                parameter_dtype: *dtype,
                gradient: Address(null_mut()),
                gradient_dtype: gradient.dtype,
            });
        }
        Ok(None)
    }

    /// Puts the jobs in the order of registration, each parameter at most once.
    fn sort(&mut self, surplus: Option<usize>) -> Result<(), Error> {
        self.jobs.sort_unstable_by_key(|job| job.index);
        let repeated = self.jobs.windows(2).find(|pair| pair[0].index == pair[1].index);
        match repeated.map(|pair| pair[0].index).or(surplus) {
            Some(index) => Err(Error::RepeatedParameter { name: self.parameters[index].name.clone() }),
            None => Ok(()),
        }
    }

    /// No parameter may share memory with another tensor of the step. Gradients may share memory with each other.
    fn refuse_aliases(&mut self) -> Result<(), Error> {
        self.spans.clear();
        for job in self.jobs.iter().filter(|job| job.len > 0) {
            let span = |address: Address, dtype: Dtype, written| {
                let start = address.0.addr();
                Span { start, end: start + job.len * dtype.size(), parameter: job.index, written }
            };
            self.spans.push(span(job.parameter, job.parameter_dtype, true));
            self.spans.push(span(job.gradient, job.gradient_dtype, false));
        }
        let Some((victim, other)) = find_alias(&mut self.spans) else { return Ok(()) };
        let name = |span: Span| &self.parameters[span.parameter].name;
        let role = if other.written { "parameter" } else { "the gradient of" };
        Err(Error::Aliased { name: name(victim).clone(), other: format!("{role} `{}`", name(other)) })
    }

    /// The figures of the last step. On a GPU it waits for that step, though not for what was launched after it (unless a
    /// step was captured into a graph: then for the whole stream).
    ///
    /// # Errors
    /// [`Error::Lost`]; on a GPU [`Error::Cuda`], and under [`NonFinite::Error`] [`Error::NonFinite`] of a step that did not
    /// take place, once: the next call returns the figures.
    pub fn report(&mut self) -> Result<Report, Error> {
        let (mut report, not_finite) = self.ask(Backend::report)?;
        self.refuse_non_finite(not_finite)?;
        if self.scaler.is_some() && report.step > 0 {
            report.loss_scale = Some(self.policy.shared_scale);
        }
        Ok(report)
    }

    /// Waits until the device has done all steps. On the CPU they are done when [`step`](Self::step) returns.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub fn synchronize(&mut self) -> Result<(), Error> {
        let not_finite = self.ask(Backend::synchronize)?;
        self.refuse_non_finite(not_finite)
    }

    /// Norms and coordinates of one parameter in the last step that it took part in; `None` before that, or without
    /// [`Builder::norms`]. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Lost`], [`Error::Cuda`].
    pub fn norms_of(&mut self, id: ParameterId) -> Result<Option<Norms>, Error> {
        let index = self.parameter_index(id)?;
        self.ask(|backend| backend.norms(index))
    }

    /// A copy of the optimizer's memory of one parameter. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::OutOfMemory`], [`Error::Lost`], [`Error::Cuda`].
    pub fn state(&mut self, id: ParameterId) -> Result<State, Error> {
        let index = self.parameter_index(id)?;
        self.ask(|backend| backend.state(index))
    }

    /// Where parameters have to be.
    #[cfg(feature = "candle")]
    pub(crate) fn location(&self) -> crate::tensor::Location {
        self.backend.location()
    }

    fn parameter_index(&self, id: ParameterId) -> Result<usize, Error> {
        if id.owner == self.owner { Ok(id.index) } else { Err(Error::UnknownParameter { index: id.index }) }
    }

    fn group_index(&self, id: GroupId) -> Result<usize, Error> {
        if id.owner == self.owner { Ok(id.index) } else { Err(Error::UnknownGroup { index: id.index }) }
    }
}
