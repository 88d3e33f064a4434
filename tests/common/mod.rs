//! What the tests share: data without a random generator of its own, bits to compare, and an optimizer together with
//! the parameters that it steps.
//!
//! FADAM_TEST_DEVICE=cuda runs each model on a GPU, its parameters copied there for each step and back.
#![allow(dead_code)] // each test file uses its part

use fadam::{
    Algorithm, Builder, Device, Dtype, Error, Optimizer, ParameterId, Report, State, Tensor, TensorMut,
    Update,
};
use half::bf16;
use std::process::Command;

/// Bits, with every NaN the same: payloads are not part of any promise.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// The next of a row of 64 random bits (SplitMix64).
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `len` values in (−1, 1), none of them 0.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len).map(|_| ((random(&mut state) >> 40) as f32 + 0.5) / (1 << 23) as f32 - 1.0).collect()
}

/// A gradient of either type.
#[derive(Clone, Debug)]
pub(crate) enum Gradient {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Gradient {
    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }

    pub(crate) fn view(&self) -> Tensor<'_> {
        match self {
            Self::F32(g) => g.into(),
            Self::Bf16(g) => g.into(),
        }
    }

    pub(crate) fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(g) => g.iter().map(|&g| g.into()).collect(),
            Self::Bf16(g) => g.iter().map(|&g| g.into()).collect(),
        }
    }

    pub(crate) fn set(&mut self, i: usize, value: f32) {
        match self {
            Self::F32(g) => g[i] = value,
            Self::Bf16(g) => g[i] = bf16::from_f32(value),
        }
    }
}

impl From<Vec<f32>> for Gradient {
    fn from(g: Vec<f32>) -> Self {
        Self::F32(g)
    }
}

/// An optimizer and the parameters `p0`, `p1`, … that it steps.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) optimizer: Optimizer,
    pub(crate) ids: Vec<ParameterId>,
    /// What the caller has of each, bf16 widened.
    pub(crate) parameters: Vec<Vec<f32>>,
    pub(crate) dtypes: Vec<Dtype>,
}

/// Step count, arrays of f32 and remainder of one parameter.
type Kept = (u64, [Vec<u32>; 5], Option<Vec<i16>>);

/// Everything that a step may change.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    parameters: Vec<Vec<u32>>,
    states: Vec<Kept>,
}

/// bf16 without rounding: of what bf16 can hold.
pub(crate) fn narrowed(values: &[f32]) -> Vec<bf16> {
    values
        .iter()
        .map(|&x| {
            let narrow = bf16::from_f32(x);
            assert!(x.is_nan() || narrow.to_f32().to_bits() == x.to_bits(), "{x:e} is not a bf16");
            narrow
        })
        .collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|x| x.to_f32()).collect()
}

impl Model {
    pub(crate) fn new(algorithm: impl Into<Algorithm>, parameters: &[&[f32]]) -> Self {
        Self::built(Optimizer::builder(algorithm), parameters)
    }

    pub(crate) fn built(builder: Builder, parameters: &[&[f32]]) -> Self {
        Self::of(builder, Dtype::F32, parameters)
    }

    /// bf16 parameters of these values, which bf16 can hold.
    pub(crate) fn bf16(builder: Builder, parameters: &[&[f32]]) -> Self {
        Self::of(builder, Dtype::Bf16, parameters)
    }

    fn of(builder: Builder, dtype: Dtype, parameters: &[&[f32]]) -> Self {
        let device = device();
        let builder = if device == Device::Cpu { builder } else { builder.device(device) };
        let optimizer = builder.build().unwrap();
        let mut model = Self { optimizer, ids: vec![], parameters: vec![], dtypes: vec![] };
        for (i, p) in parameters.iter().enumerate() {
            let name = format!("p{i}");
            let id = match dtype {
                Dtype::F32 => model.optimizer.register(name, p.len()),
                _ => model.optimizer.register_bf16(name, p.len()),
            };
            model.add(id.unwrap(), dtype, p.to_vec());
        }
        model
    }

    /// Takes in a parameter that is registered already.
    pub(crate) fn add(&mut self, id: ParameterId, dtype: Dtype, values: Vec<f32>) {
        self.ids.push(id);
        self.dtypes.push(dtype);
        self.parameters.push(values);
    }

    /// θ as exactly as it is kept.
    pub(crate) fn theta(&mut self, i: usize) -> Vec<f32> {
        let (state, values) = (self.state(i), self.parameters[i].clone());
        match (state.master, state.remainder) {
            (Some(master), _) => master,
            (_, Some(remainder)) => {
                let both = narrowed(&values).into_iter().zip(remainder);
                both.map(|(value, rest)| fadam::join(value, rest)).collect()
            }
            _ => values,
        }
    }

    /// A step of those parameters that have a gradient.
    pub(crate) fn try_step<'a, G>(&mut self, gradients: &'a [Option<G>]) -> Result<(), Error>
    where
        &'a G: Into<Tensor<'a>>,
    {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = device() {
            return self.try_step_on_gpu(ordinal, gradients);
        }
        let mut narrow = self.narrow();
        let mut updates: Vec<Update<'_>> = self
            .parameters
            .iter_mut()
            .zip(&mut narrow)
            .zip(&self.ids)
            .zip(gradients)
            .filter_map(|(((wide, narrow), id), g)| {
                let g: Tensor<'a> = g.as_ref()?.into();
                let p = narrow.as_mut().map_or_else(|| TensorMut::from(wide), TensorMut::from);
                Some(Update::new(*id, p, g))
            })
            .collect();
        let result = self.optimizer.step(&mut updates);
        drop(updates);
        for (p, narrow) in self.parameters.iter_mut().zip(narrow) {
            if let Some(narrow) = narrow {
                *p = widened(&narrow);
            }
        }
        result
    }

    /// The bf16 parameters.
    fn narrow(&self) -> Vec<Option<Vec<bf16>>> {
        let bf16 = self.parameters.iter().zip(&self.dtypes);
        bf16.map(|(p, &dtype)| (dtype == Dtype::Bf16).then(|| narrowed(p))).collect()
    }

    /// The same with copies on a GPU. Waits, so that an error comes from here.
    #[cfg(feature = "cuda")]
    fn try_step_on_gpu<'a, G>(&mut self, ordinal: usize, gradients: &'a [Option<G>]) -> Result<(), Error>
    where
        &'a G: Into<Tensor<'a>>,
    {
        use fadam::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaView};
        let stream = CudaContext::new(ordinal).unwrap().default_stream();
        // The driver has no empty allocation: one element more.
        let wide = |values: &[f32]| stream.clone_htod(&[values, &[0.0]].concat()).unwrap();
        let narrow = |values: &[bf16]| stream.clone_htod(&[values, &[bf16::ZERO]].concat()).unwrap();
        /// One of the two.
        type Copies = (Option<CudaSlice<f32>>, Option<CudaSlice<bf16>>);
        let mut targets: Vec<Copies> = (self.parameters.iter().zip(self.narrow()))
            .map(|(p, bf16)| bf16.map_or_else(|| (Some(wide(p)), None), |p| (None, Some(narrow(&p)))))
            .collect();
        let gradients: Vec<Option<Tensor<'a>>> =
            gradients.iter().map(|g| g.as_ref().map(Into::into)).collect();
        let copy = |g: &Tensor<'a>| (g.as_slice::<f32>().map(wide), g.as_slice::<bf16>().map(narrow));
        let copies: Vec<_> = gradients.iter().map(|g| g.as_ref().map(|g| (copy(g), g.len()))).collect();
        /// One of the two, of a gradient that is there.
        type View<'a> = Option<(Option<CudaView<'a, f32>>, Option<CudaView<'a, bf16>>)>;
        let mut views: Vec<_> = targets
            .iter_mut()
            .zip(&self.parameters)
            .zip(&copies)
            .map(|((target, p), copy)| {
                let gradient: View<'_> = copy.as_ref().map(|((wide, narrow), len)| {
                    (wide.as_ref().map(|g| g.slice(..*len)), narrow.as_ref().map(|g| g.slice(..*len)))
                });
                let wide = target.0.as_mut().map(|target| target.slice_mut(..p.len()));
                ((wide, target.1.as_mut().map(|target| target.slice_mut(..p.len()))), gradient)
            })
            .collect();
        let mut updates: Vec<Update<'_>> = views
            .iter_mut()
            .zip(&self.ids)
            .filter_map(|((target, gradient), id)| {
                let gradient: Tensor<'_> = match gradient.as_ref()? {
                    (Some(wide), _) => wide.into(),
                    (_, narrow) => narrow.as_ref()?.into(),
                };
                let target: TensorMut<'_> = match target {
                    (Some(wide), _) => wide.into(),
                    (_, narrow) => narrow.as_mut()?.into(),
                };
                Some(Update::new(*id, target, gradient))
            })
            .collect();
        self.optimizer.step(&mut updates)?;
        let result = self.optimizer.synchronize();
        for ((wide, narrow), p) in targets.iter().zip(&mut self.parameters) {
            let mut values = match (wide, narrow) {
                (Some(wide), _) => stream.clone_dtoh(wide).unwrap(),
                (_, narrow) => widened(&stream.clone_dtoh(narrow.as_ref().unwrap()).unwrap()),
            };
            values.pop();
            *p = values;
        }
        result
    }

    /// A step of all parameters, each with its f32 gradient.
    pub(crate) fn step(&mut self, gradients: &[&[f32]]) -> Report {
        assert_eq!(gradients.len(), self.parameters.len());
        let gradients: Vec<Option<Vec<f32>>> = gradients.iter().map(|g| Some(g.to_vec())).collect();
        self.try_step(&gradients).unwrap();
        self.report()
    }

    pub(crate) fn report(&mut self) -> Report {
        self.optimizer.report().unwrap()
    }

    pub(crate) fn state(&mut self, i: usize) -> State {
        self.optimizer.state(self.ids[i]).unwrap()
    }

    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let states = (0..self.ids.len())
            .map(|i| {
                let State { step, exp_avg, exp_avg_sq, max_exp_avg_sq, master, ema, remainder, .. } =
                    self.state(i);
                let [v_max, master, ema] = [max_exp_avg_sq, master, ema].map(Option::unwrap_or_default);
                (step, [exp_avg, exp_avg_sq, v_max, master, ema].map(|x| bits(&x)), remainder)
            })
            .collect();
        Snapshot { parameters: self.parameters.iter().map(|p| bits(p)).collect(), states }
    }
}

/// These tests in a process of its own, of which only one runs. `None`, with a word on why, where the processor for which
/// they are built is emulated: the system does not start such programs itself.
pub(crate) fn again(test: &str) -> Option<Command> {
    let program = std::env::current_exe().unwrap();
    let listed = Command::new(&program).arg("--list").output();
    if !listed.as_ref().is_ok_and(|output| output.status.success()) {
        assert_ne!(std::env::consts::ARCH, "x86_64", "{listed:?}");
        println!("skipped: the system does not start these tests by itself");
        return None;
    }
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]);
    Some(command)
}

/// Where models run.
pub(crate) fn device() -> Device {
    std::env::var("FADAM_TEST_DEVICE").map_or(Device::Cpu, |device| device.parse().unwrap())
}

impl<'a> From<&'a Gradient> for Tensor<'a> {
    fn from(gradient: &'a Gradient) -> Self {
        gradient.view()
    }
}

/// The three optimizers with every feature at work that has no reduction: what most promises are tried on.
pub(crate) fn algorithms() -> Vec<Algorithm> {
    use fadam::{Adam, FAdam, FisherAdam};
    vec![
        Adam { weight_decay: 0.1, ..Adam::default() }.into(),
        Adam { amsgrad: true, maximize: true, ..Adam::adamw() }.into(),
        FAdam { weight_decay: 0.01, decay_cap: Some(0.5), eps_decay: 0.1, ..FAdam::default() }.into(),
        FAdam { kappa: Some(0.5), ..FAdam::default() }.into(),
        FAdam { kappa: Some(1e3), ..FAdam::default() }.into(),
        FisherAdam::default().into(),
    ]
}
