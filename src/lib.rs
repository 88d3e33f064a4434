//! Fused optimizer steps.

mod algorithm;
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod args;
mod backend;
#[cfg(feature = "candle")]
pub mod candle;
mod cpu;
mod error;
mod fisher;
mod norm;
mod optimizer;
mod report;
mod tensor;

pub use algorithm::{Adam, Algorithm, Decay, FAdam, FisherAdam};
pub use backend::Device;
pub use cpu::Simd;
pub use error::Error;
pub use fisher::{EmpiricalFisher, FisherPower, natural_gradient_step};
pub use norm::global_norm;
pub use optimizer::{Builder, Group, GroupId, NonFinite, Optimizer, ParameterId, State, Update};
pub use report::{Norms, Report};
pub use tensor::{Dtype, Element, Tensor, TensorMut};
