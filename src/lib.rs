//! Fused optimizer steps for people who train neural networks in Rust: [`FAdam`] (Adam seen as natural gradient
//! descent), [`Adam`] and AdamW, Hwang's [`FisherAdam`], and a two-pass [`global_norm`]. As fast as memory allows, and
//! **the same bits on every device, instruction set and thread count**.
//!
//! ```
//! use fadam::{FAdam, Optimizer, Update};
//!
//! let mut optimizer = Optimizer::builder(FAdam { lr: 3e-3, ..FAdam::default() })
//!     .max_grad_norm(1.0)
//!     .build()?;
//! let (w, b) = (optimizer.register("w", 4)?, optimizer.register("b", 1)?);
//!
//! let (mut weight, mut bias) = (vec![0.5_f32; 4], vec![0.0_f32; 1]);
//! for step in 0..10 {
//!     let (grad_weight, grad_bias) = (vec![0.1_f32; 4], vec![-0.2_f32; 1]); // from your backward pass
//!     optimizer.step(&mut [
//!         Update::new(w, &mut weight, &grad_weight),
//!         Update::new(b, &mut bias, &grad_bias),
//!     ])?;
//!     let report = optimizer.report()?;
//!     println!("{step}: |g| = {:?}, skipped: {}", report.grad_norm, report.skipped);
//! }
//! # Ok::<(), fadam::Error>(())
//! ```
//!
//! On an NVIDIA GPU (feature `cuda`, on by default) the tensors are cudarc's, and the optimizer works on a stream of yours,
//! or on a device's default one:
//!
//! ```no_run
//! # // needs a GPU
//! # #[cfg(feature = "cuda")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use fadam::cuda::cudarc::driver::CudaContext;
//! use fadam::{FAdam, Optimizer, Update};
//!
//! let stream = CudaContext::new(0)?.new_stream()?;
//! let (mut weight, gradient) = (stream.clone_htod(&[0.5_f32; 4])?, stream.clone_htod(&[0.1_f32; 4])?);
//! let mut optimizer = Optimizer::builder(FAdam::default()).stream(stream).build()?;
//! let w = optimizer.register("w", 4)?;
//! optimizer.step(&mut [Update::new(w, &mut weight, &gradient)])?; // launched, not waited for
//! println!("{:?}", optimizer.report()?.grad_norm);                // waited for
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "cuda"))]
//! # fn main() {}
//! ```
//!
//! With the feature `candle`, [`candle`] holds each algorithm as a `candle_nn::Optimizer`.
//!
//! # The name
//!
//! In the paper ([Hwang 2024](https://arxiv.org/abs/2405.12807)) and in `pytorch_optimizer`, *FAdam* is the paper's Algorithm 1:
//! here [`FisherAdam`]. [`FAdam`] is the formulation of the article [Adam Through the Lens of Information Geometry: A Diagonal
//! Fisher Approximation](https://jiha-kim.github.io/series/optimization-theory-for-machine-learning/12-adam-info-geo)
//! (J. Kim, 2025), which cites the paper: momentum before the preconditioner, an adaptive ε, and one clipping threshold κ for
//! all parameters.
//!
//! # What FAdam is
//!
//! The natural gradient `F⁻¹g` is the steepest descent where distance is measured between the model's *distributions*
//! and not between its weights; `F` is the Fisher information. With the diagonal empirical Fisher in its place, and a
//! moving average for the expectation, out comes Adam, once `F` is taken to the power ½. Seen so, Adam does some things
//! by accident, and FAdam does them on purpose: weight decay is divided by the same denominator as the gradient
//! (*Riemannian*), the length of the natural gradient and not of the gradient is bounded (κ), and ε shrinks as the
//! estimate of `F` settles (*adaptive*). With those three off, which is the default, FAdam **is** Adam, bit for bit.
//!
//! # Which optimizer
//!
//! | you have | take |
//! |---|---|
//! | a recipe that says Adam or AdamW | [`Adam`], [`Adam::adamw`]: PyTorch's semantics and defaults |
//! | single batches that throw training off | [`FAdam`] with [`kappa`](FAdam::kappa): costs what Adam costs as long as it does not fire |
//! | a wish for decay that respects the geometry | [`FAdam`] with [`weight_decay`](FAdam::weight_decay) **and** [`decay_cap`](FAdam::decay_cap); read the hazard there |
//! | results to compare with arXiv:2405.12807 or its ports | [`FisherAdam`], Algorithm 1 of that paper; it moves more memory, and its learning rates are not Adam's |
//! | the Fisher information itself to study | [`EmpiricalFisher`], [`natural_gradient_step`] |
//!
//! Which of them trains *your* model best is an experiment; `cargo run --release --example ablation` is one to begin
//! with. On five small tasks none of them won (`docs/evidence.md` in the repository).
//!
//! # What a step does
//!
//! ```text
//! your tensors ──► Optimizer::step ──► backend: CPU or GPU ──► your tensors, in place
//!  Update::new      checks everything    norm_partial            moments stay with the optimizer,
//!                   before the first     adam | fadam | ...      where the tensors are
//!                   byte changes         by chunks of 4096       Report on request
//! ```
//!
//! 1. Every [`Update`] is checked: the parameter is known and occurs once, lengths and types fit, nothing overlaps.
//! 2. Unless [`NonFinite::Propagate`] is set and clipping is off, one sweep reads the gradients: their global norm, the
//!    clip coefficient, and whether all are finite. If not, nothing changes at all.
//! 3. One sweep updates parameters and moments; [`FAdam`] with κ and [`FisherAdam`] may take another (each page says
//!    when). Unscaling and clipping happen in it, in registers: gradients are never rewritten.
//!
//! Gradients and parameters are f32 or bf16, in any mix of types and lengths; a bf16 parameter keeps the rest of its bits
//! with the optimizer ([`Master`]). On the CPU a small step stays on the calling thread and allocates nothing; in a larger one
//! idle threads of the caller's rayon pool help, for a few allocated words each. The caller never waits for a thread that does
//! something else, so a step may be called under a lock, and works in a pool that is busy or cannot start threads. On a GPU a
//! sweep is one launch over all tensors, what is decided between sweeps is decided on the device, and nothing in a step waits
//! for it.
//!
//! A process that has forked may step in the child: the pool's threads are the parent's, and the child's step runs on one
//! thread. (Rayon itself, and CUDA, do not survive a fork: prefer to start a new process.)
//!
//! # Schedules, loss scaling, micro-batches
//!
//! [`Builder::schedule`] multiplies the learning rates step by step, [`Builder::loss_scale`] divides gradients by a scale that
//! adapts itself ([`LossScaler`] where several optimizers have one loss), [`accumulate`] adds up the gradients of micro-batches, by whose number [`Optimizer::set_grad_scale`]
//! divides. Schedule and scale are kept where the step runs: a skipped step does not advance the schedule, and a captured
//! one moves both on.
//!
//! ```
//! use fadam::{Adam, Device, LossScale, Optimizer, Schedule, Update, accumulate};
//!
//! const MICRO_BATCHES: u32 = 4;
//! let mut optimizer = Optimizer::builder(Adam::adamw())
//!     .schedule(Schedule::cosine(10, 100, 0.1))
//!     .loss_scale(LossScale::default())
//!     .build()?;
//! optimizer.set_grad_scale(MICRO_BATCHES.into())?;
//! let w = optimizer.register("w", 4)?;
//! let (mut weight, mut sum) = (vec![0.5_f32; 4], vec![0.0_f32; 4]);
//! for _ in 0..100 {
//!     let scale = optimizer.loss_scale()? as f32;
//!     for micro_batch in 0..MICRO_BATCHES {
//!         let gradient = vec![0.1 * scale; 4]; // from your backward pass of scale × loss
//!         accumulate(Device::Cpu, &mut [((&mut sum).into(), (&gradient).into())], micro_batch == 0)?;
//!     }
//!     optimizer.step(&mut [Update::new(w, &mut weight, &sum)])?;
//! }
//! # assert!(optimizer.report()?.grad_norm.is_some_and(|norm| (norm - 0.2).abs() < 1e-6));
//! # Ok::<(), fadam::Error>(())
//! ```
//!
//! # Watching a run
//!
//! [`Optimizer::report`] says what the last step did, [`Optimizer::norms_of`] what it did to one parameter. With
//! [`Builder::norms`] the sweeps of the step also count how its [`Coordinates`] lay, at no more memory traffic. Of [`FAdam`]:
//!
//! ```
//! use fadam::{FAdam, Optimizer, Update};
//!
//! let kappa = 1.5;
//! let fadam = FAdam { kappa: Some(kappa), weight_decay: 0.01, decay_cap: Some(0.1), ..FAdam::default() };
//! let mut optimizer = Optimizer::builder(fadam).norms(true).build()?;
//! let w = optimizer.register("w", 4)?;
//! let mut weight = vec![0.5_f32; 4];
//! for _ in 0..10 {
//!     let gradient = vec![0.1_f32, -0.2, 1e-6, 0.0]; // from your backward pass
//!     optimizer.step(&mut [Update::new(w, &mut weight, &gradient)])?;
//! }
//! let report = optimizer.report()?;
//! if let (Some(norm), Some(coordinates)) = (report.update_norm, report.coordinates) {
//!     let root = (coordinates.count as f64).sqrt();
//!     let share = |count: u64| 100.0 * count as f64 / coordinates.count as f64;
//!     println!("|delta| / sqrt N: {:.2}, kappa / sqrt N: {:.2}", norm / root, kappa / root);
//!     println!("kappa fired in {} of {} steps", report.clipped_updates, report.step - report.skipped_steps);
//!     println!("epsilon is more than half of d in {:.1} %", share(coordinates.near_eps[0]));
//!     println!("the decay is beyond its limit in {:.1} %", share(coordinates.near_decay_limit[0]));
//! }
//! # assert_eq!((report.clipped_updates, report.step), (10, 10)); // |delta| is nearly sqrt 3
//! # assert_eq!(report.coordinates.map(|all| (all.near_eps[0], all.near_decay_limit[0])), Some((1, 2)));
//! # Ok::<(), fadam::Error>(())
//! ```
//!
//! Where κ fires in most steps it acts as a smaller learning rate: raise it, or lower η. Where many coordinates lie near ε,
//! ε0 is too large for these gradients, or parameters get none. Where the decay of many is at its limit, λ is too large, or
//! their parameters belong in a [`Group`] without decay; `norms_of` tells which.
//!
//! # State
//!
//! [`Optimizer::save`] writes what later steps depend on to a safetensors file, [`Optimizer::load`] takes it: a run goes on
//! with the same bits, on whichever device. [`Optimizer::load_torch`] takes PyTorch's.
//!
//! # Without a GPU
//!
//! [`Device::best`] is the CPU where there is no NVIDIA driver or no device, and an error, never a panic, where there is one
//! that does not work. `cargo run --release -p fadam-programs --example doctor` tells what a machine has and lacks.
//!
//! # Without memory
//!
//! What grows with elements, parameters, groups or a file is answered with [`Error::OutOfMemory`] where the system, or the device,
//! has no memory for it: nothing has changed, and the same call may be tried again. Small allocations (a message, a name, a task
//! for a thread) end the process there, as the standard library's do.
//!
//! # Numerics
//!
//! [`numerics`] states the promise and what it rests on.

// What a feature leaves out cannot be linked to; the links are checked where every feature is on.
#![cfg_attr(not(all(feature = "cuda", feature = "candle")), allow(rustdoc::broken_intra_doc_links))]

#[cfg(target_endian = "big")]
compile_error!("fadam needs a little-endian target: state files and kernels take memory as it is");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("fadam needs a 64-bit target: tensors and files may have more than 2^32 elements");

mod accumulate;
mod algorithm;
mod alias;
mod allocation;
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // half of it is for a GPU alone
mod args;
mod backend;
#[cfg(feature = "candle")]
pub mod candle;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod environment;
mod error;
mod fisher;
mod job;
mod loss_scale;
mod loss_scaler;
mod norm;
pub mod numerics;
mod optimizer;
mod report;
mod schedule;
mod settings;
mod slot;
mod state;
mod storage;
mod tensor;
mod update;

pub use accumulate::accumulate;
pub use algorithm::{Adam, Algorithm, Decay, FAdam, FisherAdam};
pub use backend::Device;
pub use cpu::Simd;
pub use error::Error;
pub use fisher::{EmpiricalFisher, FisherPower, natural_gradient_step};
pub use loss_scale::LossScale;
pub use loss_scaler::LossScaler;
pub use norm::global_norm;
pub use optimizer::{Builder, Optimizer};
pub use report::{Coordinates, Norms, Report};
pub use schedule::Schedule;
pub use settings::{Group, NonFinite};
pub use state::Loaded;
pub use storage::{Master, Rounding, join};
pub use tensor::{Dtype, Element, Tensor, TensorMut};
pub use update::{GroupId, ParameterId, State, Update};
