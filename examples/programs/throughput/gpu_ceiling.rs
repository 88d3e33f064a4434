//! The ceiling on a GPU: one kernel for each sweep, with the sweep's loads and stores and no arithmetic.

use crate::case::{Access, Array, Case, Sweep};
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::sys::CUdevice_attribute;
use fadam::cuda::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use std::fmt::Write;
use std::sync::Arc;

const THREADS: u32 = 256;
/// Threads that access memory together, 16 bytes each.
const WARP: usize = 32;
const WORD: usize = 16;

pub(crate) struct Ceiling {
    stream: Arc<CudaStream>,
    sweeps: Vec<Kernel>,
    /// In the order of `Array::ALL`, in 16-byte words.
    arrays: [CudaSlice<[u32; 4]>; Array::ALL.len()],
    never: CudaSlice<u32>,
    /// Of `elements_of_a_thread` elements each.
    items: u64,
}

struct Kernel {
    function: CudaFunction,
    blocks: u32,
}

impl Ceiling {
    /// # Errors
    /// No memory, or no NVRTC.
    pub(crate) fn new(case: &Case, sweeps: &[Sweep], stream: Arc<CudaStream>) -> Result<Self> {
        let elements: usize = case.shape.tensors().iter().sum();
        let each = elements_of_a_thread(case);
        let items = elements.div_ceil(each).next_multiple_of(WARP);
        let array = |array: Array| {
            let words = (items * each * case.width(array) / WORD).max(1);
            stream.alloc_zeros::<[u32; 4]>(words).context("no memory for the ceiling")
        };
        let names: Vec<String> = (0..sweeps.len()).map(|index| format!("sweep{index}")).collect();
        let source: String =
            sweeps.iter().zip(&names).map(|(sweep, name)| kernel(case, sweep, name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let module = fadam::cuda::compile(stream.context(), &source, &names)?;
        let multiprocessors =
            stream.context().attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let load = |name: &&str| {
            let function = module.load_function(name)?;
            let resident = function.occupancy_max_active_blocks_per_multiprocessor(THREADS, 0, None)?;
            Ok(Kernel { function, blocks: resident.max(1) * multiprocessors.max(1) as u32 })
        };
        let [parameter, master, gradient, exp_avg, exp_avg_sq] = Array::ALL.map(array);
        Ok(Self {
            sweeps: names.iter().map(load).collect::<Result<_>>()?,
            arrays: [parameter?, master?, gradient?, exp_avg?, exp_avg_sq?],
            never: stream.alloc_zeros(1)?,
            items: items as u64,
            stream,
        })
    }

    /// # Errors
    /// The driver's.
    pub(crate) fn run(&self) -> Result<()> {
        let addresses = self.arrays.each_ref().map(|array| array.device_ptr(&self.stream).0);
        let zero = 0_u32;
        for sweep in &self.sweeps {
            let (grid_dim, block_dim) = ((sweep.blocks, 1, 1), (THREADS, 1, 1));
            let mut launch = self.stream.launch_builder(&sweep.function);
            for address in &addresses {
                launch.arg(address);
            }
            launch.arg(&self.items).arg(&zero).arg(&self.never);
            // SAFETY: the kernel stays within `items` items of each array that it touches, which `new` has allocated and
            // only this stream uses.
            unsafe { launch.launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 }) }
                .context("cannot launch the ceiling")?;
        }
        Ok(())
    }
}

/// So many that every access is of 16 bytes or more.
fn elements_of_a_thread(case: &Case) -> usize {
    let widths = Array::ALL.map(|array| case.width(array));
    WORD / widths.into_iter().filter(|&width| width > 0).min().unwrap_or(WORD)
}

/// All loads first, then all stores. `zero` is 0, which the compiler does not know: so it can leave out neither.
fn kernel(case: &Case, sweep: &Sweep, name: &str) -> String {
    let each = elements_of_a_thread(case);
    let [mut loads, mut uses, mut stores] = [String::new(), String::new(), String::new()];
    for (array, access) in case.accesses(sweep) {
        let (array, width) = (array as usize, case.width(array));
        let words = each * width / WORD;
        for word in 0..words {
            let (value, place) =
                (format!("v{array}_{word}"), format!("a{array}[(i - lane) * {words} + {word} * 32 + lane]"));
            // Writing to a String cannot fail.
            let _ = match access {
                Access::Write => {
                    writeln!(loads, "        uint4 {value} = make_uint4(zero, zero, zero, zero);")
                }
                _ => writeln!(loads, "        uint4 {value} = {place};"),
            };
            let _ = match access {
                Access::Read => {
                    writeln!(uses, "        sum ^= {value}.x ^ {value}.y ^ {value}.z ^ {value}.w;")
                }
                _ => writeln!(stores, "        {value}.x ^= zero; {place} = {value};"),
            };
        }
    }
    format!(
        "extern \"C\" __global__ void __launch_bounds__({THREADS}) {name}(uint4 *a0, uint4 *a1, uint4 *a2, uint4 *a3, uint4 *a4,
        size_t items, unsigned zero, unsigned *never) {{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    unsigned sum = 0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < items; i += stride) {{
        size_t lane = i % 32;
{loads}{uses}{stores}    }}
    if (sum & zero) *never = sum;
}}
"
    )
}
