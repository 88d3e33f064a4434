//! Functions, their attributes and occupancy.

use std::ffi::{CString, c_char};
use std::sync::Arc;

use crate::ptx;

use super::Driver;
use super::api::{Handle, Out, api, id};
use super::device::{BLOCKS_PER_MULTIPROCESSOR, REGISTERS, SHARED, THREADS, THREADS_PER_MULTIPROCESSOR};
use super::errors::{Code, Result};

/// A function.
pub(super) struct Function {
    pub(super) context: u64,
    pub(super) module: u64,
    pub(super) body: Body,
    /// As C reads it.
    name: CString,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`, if it was set.
    dynamic_shared: Option<usize>,
}

/// What there is of it.
pub(super) enum Body {
    Ptx { module: Arc<ptx::Module>, kernel: usize },
    Sass { name: String },
}

/// Registers of a thread. Nothing here allocates registers; the kernels of the library have about as many.
const REGISTERS_PER_THREAD: u32 = 48;
/// Threads that are scheduled together.
const WARP: u32 = 32;

impl Body {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Ptx { module, kernel } => &module.kernels[*kernel].name,
            Self::Sass { name } => name,
        }
    }

    /// The most threads of a block.
    pub(super) fn max_threads(&self) -> u32 {
        match self {
            Self::Ptx { module, kernel } => module.kernels[*kernel].max_threads(),
            Self::Sass { .. } => THREADS,
        }
    }

    fn local_bytes(&self) -> usize {
        match self {
            Self::Ptx { module, kernel } => module.kernels[*kernel].local_bytes(),
            Self::Sass { .. } => 0,
        }
    }

    fn static_shared(&self) -> usize {
        match self {
            Self::Ptx { module, kernel } => module.kernels[*kernel].static_shared,
            Self::Sass { .. } => 0,
        }
    }
}

impl Function {
    pub(super) fn new(context: u64, module: u64, body: Body) -> Self {
        let name = CString::new(body.name()).unwrap_or_default(); // PTX and ELF names hold no NUL
        Self { context, module, body, name, dynamic_shared: None }
    }

    /// Dynamic shared memory that a launch may ask for.
    pub(super) fn most_dynamic_shared(&self) -> usize {
        self.dynamic_shared.unwrap_or_else(|| SHARED.saturating_sub(self.body.static_shared()))
    }
}

/// `CUfunction_attribute`.
mod attribute {
    pub(super) const MAX_THREADS_PER_BLOCK: i32 = 0;
    pub(super) const SHARED_SIZE_BYTES: i32 = 1;
    pub(super) const CONST_SIZE_BYTES: i32 = 2;
    pub(super) const LOCAL_SIZE_BYTES: i32 = 3;
    pub(super) const NUM_REGS: i32 = 4;
    pub(super) const PTX_VERSION: i32 = 5;
    pub(super) const BINARY_VERSION: i32 = 6;
    pub(super) const CACHE_MODE_CA: i32 = 7;
    pub(super) const MAX_DYNAMIC_SHARED_SIZE_BYTES: i32 = 8;
    pub(super) const PREFERRED_SHARED_MEMORY_CARVEOUT: i32 = 9;
}

impl Driver {
    /// A function of the current context.
    pub(super) fn function_of(&self, function: Handle) -> Result<&Function> {
        let context = self.current()?;
        let function = self.functions.get(id(function))?;
        if function.context == context { Ok(function) } else { Err(Code::INVALID_HANDLE) }
    }

    fn function_attribute(&self, wanted: i32, function: Handle) -> Result<i32> {
        use attribute::*;
        let function = self.function_of(function)?;
        let capability = self.devices[self.device_of(function.context)?].capability;
        Ok(match wanted {
            MAX_THREADS_PER_BLOCK => function.body.max_threads() as i32,
            LOCAL_SIZE_BYTES => function.body.local_bytes() as i32,
            SHARED_SIZE_BYTES => function.body.static_shared() as i32,
            NUM_REGS => REGISTERS_PER_THREAD as i32,
            PTX_VERSION => match &function.body {
                Body::Ptx { module, .. } => module.target as i32,
                Body::Sass { .. } => capability as i32,
            },
            BINARY_VERSION => capability as i32,
            MAX_DYNAMIC_SHARED_SIZE_BYTES => function.most_dynamic_shared() as i32,
            CONST_SIZE_BYTES | CACHE_MODE_CA => 0,
            PREFERRED_SHARED_MEMORY_CARVEOUT => -1,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn set_function_attribute(&mut self, function: Handle, attribute: i32, value: i32) -> Result<()> {
        let found = self.function_of(function)?;
        let most = self.devices[self.device_of(found.context)?].shared_opt_in();
        match attribute {
            attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                let value = usize::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
                if value + found.body.static_shared() > most {
                    return Err(Code::INVALID_VALUE);
                }
                self.functions.get_mut(id(function))?.dynamic_shared = Some(value);
                Ok(())
            }
            attribute::PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// What threads, blocks, registers and shared memory of a multiprocessor admit.
    fn occupancy(&self, function: Handle, threads: i32, dynamic_shared: usize) -> Result<i32> {
        let function = self.function_of(function)?;
        let device = &self.devices[self.device_of(function.context)?];
        let threads = u32::try_from(threads).map_err(|_| Code::INVALID_VALUE)?;
        if threads == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if threads > function.body.max_threads() || dynamic_shared > function.most_dynamic_shared() {
            return Ok(0);
        }
        let threads = threads.next_multiple_of(WARP);
        // 1 KiB of each block is the system's.
        let shared = function.body.static_shared() + dynamic_shared + (1 << 10);
        let by_shared = (device.shared_per_multiprocessor() / shared) as u32;
        Ok((THREADS_PER_MULTIPROCESSOR / threads)
            .min(BLOCKS_PER_MULTIPROCESSOR)
            .min(REGISTERS / (REGISTERS_PER_THREAD * threads))
            .min(by_shared) as i32)
    }
}

api! {
    fn cuFuncGetAttribute(driver, value: Out<i32>, attribute: i32, function: Handle) {
        value.put(driver.function_attribute(attribute, function)?)
    }
    /// The name lives as long as the function.
    fn cuFuncGetName(driver, name: Out<*const c_char>, function: Handle) {
        name.put(driver.function_of(function)?.name.as_ptr())
    }
    fn cuFuncSetAttribute(driver, function: Handle, attribute: i32, value: i32) {
        driver.set_function_attribute(function, attribute, value)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        driver,
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic_shared: usize,
    ) {
        blocks.put(driver.occupancy(function, threads, dynamic_shared)?)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        driver,
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic_shared: usize,
        _flags: u32,
    ) {
        blocks.put(driver.occupancy(function, threads, dynamic_shared)?)
    }
}
