//! What goes into a step for each parameter, and what comes out of an optimizer: no arithmetic.

use crate::tensor::{Tensor, TensorMut};

/// A parameter of one optimizer, as [`Optimizer::register`](crate::Optimizer::register) returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParameterId {
    pub(crate) owner: usize,
    pub(crate) index: usize,
}

/// A group of one optimizer, as [`Optimizer::add_group`](crate::Optimizer::add_group) returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId {
    pub(crate) owner: usize,
    pub(crate) index: usize,
}

/// One parameter's part in a step: the tensor to update and its gradient.
///
/// ```
/// use fadam::{FAdam, Optimizer, Update};
/// let mut optimizer = Optimizer::new(FAdam::default())?;
/// let w = optimizer.register("w", 3)?;
/// let (mut weight, gradient) = (vec![0.0_f32; 3], vec![1.0_f32; 3]);
/// optimizer.step(&mut [Update::new(w, &mut weight, &gradient)])?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Debug)]
pub struct Update<'a> {
    pub(crate) id: ParameterId,
    pub(crate) parameter: TensorMut<'a>,
    pub(crate) gradient: Tensor<'a>,
}

impl<'a> Update<'a> {
    /// Joins a registered parameter's memory with its gradient. Nothing is checked before
    /// [`step`](crate::Optimizer::step).
    pub fn new(
        id: ParameterId,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<Tensor<'a>>,
    ) -> Self {
        Self { id, parameter: parameter.into(), gradient: gradient.into() }
    }
}

/// The optimizer's state of one parameter, copied out.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct State {
    /// How many steps the parameter took part in.
    pub step: u64,
    /// m, the first moment; bf16 moments are widened, here and below.
    pub exp_avg: Vec<f32>,
    /// v of Adam, s of FAdam, the Fisher diagonal f of FisherAdam.
    pub exp_avg_sq: Vec<f32>,
    /// The largest v so far, with amsgrad.
    pub max_exp_avg_sq: Option<Vec<f32>>,
    /// θ in f32, of a bf16 parameter with [`Master::F32`](crate::Master::F32). `None`, as the two below, where it begins with
    /// the parameter's value in the next step.
    pub master: Option<Vec<f32>>,
    /// With [`Master::Remainder`](crate::Master::Remainder), what [`join`](crate::join) makes θ of, together with the bf16 value.
    pub remainder: Option<Vec<i16>>,
    /// The exponential moving average of θ, with [`Builder::ema`](crate::Builder::ema).
    pub ema: Option<Vec<f32>>,
}
