//! Launches.

use std::ffi::c_void;
use std::sync::Arc;

use super::api::{Handle, api, id};
use super::device::THREADS;
use super::errors::{Code, Result};
use super::function::Body;
use super::work::{Prepared, Work};

/// The caller's array of pointers to parameters.
struct Parameters(*const *const c_void);

impl Parameters {
    /// Copies the parameters, whose offsets and sizes the kernel declares, into a block.
    fn read(&self, declared: &[(usize, usize)]) -> Result<Vec<u8>> {
        let len = declared.iter().map(|(offset, size)| offset + size).max().unwrap_or(0);
        if len > 0 && self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let mut block = vec![0; len];
        for (index, (offset, size)) in declared.iter().enumerate() {
            // SAFETY: not null, and `cuLaunchKernel`'s caller passes as many pointers as the kernel has parameters.
            let from = unsafe { self.0.add(index).read() };
            if from.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            // SAFETY: not null, and the caller's parameter has the size that the kernel declares; the block ends no
            // sooner than the parameter does.
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), block[*offset..].as_mut_ptr(), *size) };
        }
        Ok(block)
    }
}

/// Most blocks in y and in z, and most threads in z (CUDA C Programming Guide, technical specifications).
const GRID_YZ: u32 = 65535;
const BLOCK_Z: u32 = 64;

fn check_dimensions(grid: [u32; 3], block: [u32; 3]) -> Result<()> {
    let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
    let is_good = grid.iter().chain(&block).all(|n| *n > 0)
        && grid[0] <= i32::MAX as u32
        && grid[1] <= GRID_YZ
        && grid[2] <= GRID_YZ
        && block[0] <= THREADS
        && block[1] <= THREADS
        && block[2] <= BLOCK_Z
        && threads <= u64::from(THREADS);
    if is_good { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

api! {
    fn cuLaunchKernel(
        driver,
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        parameters: *const *const c_void,
        extra: *const *const c_void,
    ) {
        let stream = driver.stream(stream)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let found = driver.function_of(function)?;
        if driver.streams.get(stream)?.context != found.context {
            return Err(Code::INVALID_HANDLE);
        }
        check_dimensions(grid, block)?;
        if block.iter().product::<u32>() > found.body.max_threads() {
            return Err(Code::INVALID_VALUE);
        }
        let dynamic_shared = dynamic_shared as usize;
        if dynamic_shared > found.most_dynamic_shared() {
            return Err(Code::INVALID_VALUE);
        }
        let Body::Ptx { module, kernel } = &found.body else {
            eprintln!("fadam-emulator: {} is of a CUBIN, which cannot be executed", found.body.name());
            return Err(Code::NOT_SUPPORTED);
        };
        if !extra.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        let launch = Prepared {
            function: id(function),
            module_id: found.module,
            module: Arc::clone(module),
            kernel: *kernel,
            grid,
            block,
            dynamic_shared,
            parameters: Parameters(parameters).read(&module.kernels[*kernel].parameters)?,
        };
        let size = grid.iter().map(|&side| u64::from(side)).product::<u64>();
        let blocks = driver.blocks.filter(|&(first, _)| first < size);
        driver.submit(stream, Work::Launch { launch: Arc::new(launch), blocks })
    }
}
