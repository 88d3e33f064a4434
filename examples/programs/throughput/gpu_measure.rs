//! Step and ceiling on a GPU, in turns, timed by the device's own events.

use crate::case::{Access, Array, Case, Sweep};
use crate::gpu::{self, OnGpu, Values};
use crate::measure::{Measured, Medians, median};
use crate::step::{algorithm, builder, values};
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::sys::CUevent_flags;
use fadam::cuda::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use fadam::cuda::cudarc::nvrtc::compile_ptx;
use fadam::{Device, Dtype, Optimizer, ParameterId, Update};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LEAST_ROUNDS: usize = 5;
/// Steps between two events: an event is then nothing beside them.
const STEPS: usize = 4;

/// Reads, writes, or does both with, whole 16-byte words and nothing else: what it computes keeps the compiler from leaving the
/// accesses out.
const TOUCH: &str = r#"
#define READ 0
#define WRITE 2
extern "C" __global__ void touch(float4 *array, unsigned long long words, int access, float one, float *never) {
    float sum = 0.0f;
    unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) {
        float4 word = make_float4(one, one, one, one);
        if (access != WRITE) word = array[i];
        word.x *= one;
        if (access != READ) array[i] = word; else sum += word.x + word.y + word.z + word.w;
    }
    if (one == 0.0f) *never = sum;
}
"#;

/// # Errors
/// No memory, or hyper-parameters that the library refuses.
pub(crate) fn measure(case: &Case, ordinal: usize, time: Duration) -> Result<Measured> {
    let mut step = Step::new(case, ordinal)?;
    step.run()?;
    let norm = step.optimizer.report()?.update_norm;
    let kappa_acts = case.kappa.zip(norm).is_some_and(|(kappa, norm)| norm > kappa);
    let sweeps = case.sweeps(kappa_acts, true);
    let ceiling = Ceiling::new(case, &sweeps, step.stream.clone())?;
    let (mut steps, mut ceilings) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while steps.len() < LEAST_ROUNDS || begin.elapsed() < time {
        let stream = step.stream.clone();
        steps.push(timed(&stream, || step.run())?);
        ceilings.push(timed(&stream, || ceiling.run())?);
    }
    let shares: Vec<f64> = ceilings.iter().zip(&steps).map(|(ceiling, step)| ceiling / step).collect();
    let tensors = case.shape.tensors();
    Ok(Measured {
        params: tensors.iter().sum(),
        tensors: tensors.len(),
        bytes_per_param: case.bytes(&sweeps),
        medians: Medians {
            step: median(&steps),
            ceiling: median(&ceilings),
            share: median(&shares),
            busy: false,
        },
    })
}

/// Seconds for one of them.
fn timed(stream: &Arc<CudaStream>, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let event =
        || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).context("cannot record an event");
    let before = event()?;
    (0..STEPS).try_for_each(|_| run())?;
    let milliseconds = before.elapsed_ms(&event()?).context("cannot read an event")?;
    Ok(f64::from(milliseconds) * 1e-3 / STEPS as f64)
}

struct Step {
    optimizer: Optimizer,
    stream: Arc<CudaStream>,
    tensors: Vec<(ParameterId, OnGpu, OnGpu)>,
}

impl Step {
    fn new(case: &Case, ordinal: usize) -> Result<Self> {
        let mut optimizer = builder(case, algorithm(case)).device(Device::Cuda(ordinal)).build()?;
        let stream = gpu::stream(ordinal)?;
        let mut tensors = Vec::new();
        for (index, &len) in case.shape.tensors().iter().enumerate() {
            let name = format!("tensor{index}");
            let id = match case.param {
                Dtype::F32 => optimizer.register(name, len)?,
                _ => optimizer.register_bf16(name, len)?,
            };
            let copy = |dtype| OnGpu::of(&stream, &Values::of(values().take(len).collect(), dtype));
            let [parameter, gradient] = [case.param, case.grad].map(copy);
            tensors.push((id, parameter?, gradient?));
        }
        stream.synchronize().context("cannot fill the tensors")?;
        Ok(Self { optimizer, stream, tensors })
    }

    fn run(&mut self) -> Result<()> {
        let mut views: Vec<_> = (self.tensors.iter_mut())
            .map(|(id, parameter, gradient)| (*id, parameter.view_mut(), gradient.view()))
            .collect();
        let updates = views
            .iter_mut()
            .map(|(id, parameter, gradient)| Update::new(*id, parameter.tensor(), gradient.tensor()));
        Ok(self.optimizer.step(&mut updates.collect::<Vec<_>>())?)
    }
}

/// The reads and writes of a case's sweeps, over arrays of the same size.
struct Ceiling {
    stream: Arc<CudaStream>,
    touch: CudaFunction,
    blocks: u32,
    /// In the order of `Array::ALL`, in 16-byte words.
    arrays: [CudaSlice<[f32; 4]>; Array::ALL.len()],
    never: CudaSlice<f32>,
    accesses: Vec<(Array, Access)>,
}

const THREADS: u32 = 256;

impl Ceiling {
    fn new(case: &Case, sweeps: &[Sweep], stream: Arc<CudaStream>) -> Result<Self> {
        let elements: usize = case.shape.tensors().iter().sum();
        let array = |array: Array| {
            let words = (elements * case.width(array)).div_ceil(16).max(1);
            stream.alloc_zeros::<[f32; 4]>(words).context("no memory for the ceiling")
        };
        let ptx = compile_ptx(TOUCH).context("cannot compile the ceiling")?;
        let module = stream.context().load_module(ptx).context("cannot load the ceiling")?;
        let touch = module.load_function("touch")?;
        let resident = touch.occupancy_max_active_blocks_per_multiprocessor(THREADS, 0, None)?;
        let attribute =
            fadam::cuda::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = stream.context().attribute(attribute)?;
        let [parameter, master, gradient, exp_avg, exp_avg_sq] = Array::ALL.map(array);
        Ok(Self {
            touch,
            blocks: resident.max(1) * multiprocessors.max(1) as u32,
            arrays: [parameter?, master?, gradient?, exp_avg?, exp_avg_sq?],
            never: stream.alloc_zeros(1)?,
            accesses: sweeps.iter().flat_map(|sweep| case.accesses(sweep)).collect(),
            stream,
        })
    }

    fn run(&self) -> Result<()> {
        for &(array, access) in &self.accesses {
            self.touch(&self.arrays[array as usize], access)?;
        }
        Ok(())
    }

    fn touch(&self, array: &CudaSlice<[f32; 4]>, access: Access) -> Result<()> {
        let (words, one, access) = (array.len() as u64, 1.0_f32, access as i32);
        let (address, _read) = array.device_ptr(&self.stream);
        let config =
            LaunchConfig { grid_dim: (self.blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        let mut launch = self.stream.launch_builder(&self.touch);
        let launch = launch.arg(&address).arg(&words).arg(&access).arg(&one).arg(&self.never);
        // SAFETY: the kernel stays within `words` words of the array, which only this stream uses.
        unsafe { launch.launch(config) }.context("cannot launch the ceiling")?;
        Ok(())
    }
}
