//! Devices.

use std::ffi::c_char;

use crate::memory::Memory;

use super::Driver;
use super::api::{Out, api, put_text};
use super::errors::{Code, Result};

/// A device.
pub(super) struct Device {
    /// 80 for `sm_80`.
    pub(super) capability: u32,
    pub(super) memory: Memory,
    /// The primary context and how often it is retained.
    pub(super) primary: Option<(u64, u64)>,
    /// Flags of the next primary context.
    pub(super) flags: u32,
}

/// Nominal memory of a device: room for four arrays of bf16 with more than 2³⁵ elements, which are windows.
const CAPACITY: usize = 512 << 30;
/// Each device has its addresses in a range of this many bytes, far from where the host's are.
const ADDRESSES: u64 = 1 << 42;

impl Device {
    pub(super) fn new(ordinal: usize, capability: u32) -> Self {
        let memory = Memory::new((ordinal as u64 + 1) * ADDRESSES, CAPACITY);
        Self { capability, memory, primary: None, flags: 0 }
    }

    /// Most shared memory of a block that `cuFuncSetAttribute` admits (CUDA C Programming Guide, compute capabilities).
    pub(super) fn shared_opt_in(&self) -> usize {
        match self.capability {
            90.. => 227 << 10,
            80 | 87 => 163 << 10,
            _ => 99 << 10,
        }
    }

    /// Shared memory of a multiprocessor: what a block may have and the 1 KiB that the system takes from each block.
    pub(super) fn shared_per_multiprocessor(&self) -> usize {
        self.shared_opt_in() + (1 << 10)
    }
}

/// Shared memory of a block without `cuFuncSetAttribute`.
pub(super) const SHARED: usize = 48 << 10;
/// Threads of a block.
pub(super) const THREADS: u32 = 1024;
/// Threads of a multiprocessor.
pub(super) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
/// Blocks of a multiprocessor.
pub(super) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
/// Registers of a multiprocessor, and of a block.
pub(super) const REGISTERS: u32 = 64 << 10;

impl Driver {
    pub(super) fn device(&self, ordinal: i32) -> Result<&Device> {
        usize::try_from(ordinal)
            .ok()
            .and_then(|ordinal| self.devices.get(ordinal))
            .ok_or(Code::INVALID_DEVICE)
    }

    /// The device whose range holds this address.
    pub(super) fn device_at(&self, address: u64) -> Option<usize> {
        let ordinal = usize::try_from(address / ADDRESSES).ok()?.checked_sub(1)?;
        (ordinal < self.devices.len()).then_some(ordinal)
    }

    /// `CUdevice_attribute`. A feature that is not emulated is absent (0).
    fn attribute(&self, attribute: i32, ordinal: i32) -> Result<i32> {
        let device = self.device(ordinal)?;
        Ok(match attribute {
            1..=3 => THREADS as i32,
            4 => 64,                                         // MAX_BLOCK_DIM_Z
            5 => i32::MAX,                                   // MAX_GRID_DIM_X
            6 | 7 => 65535,                                  // MAX_GRID_DIM_Y, _Z
            8 => SHARED as i32,                              // MAX_SHARED_MEMORY_PER_BLOCK
            9 => 64 << 10,                                   // TOTAL_CONSTANT_MEMORY
            10 => 32,                                        // WARP_SIZE
            11 => i32::MAX,                                  // MAX_PITCH
            12 | 82 => REGISTERS as i32,                     // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
            13 => 1_410_000,                                 // CLOCK_RATE, kHz
            14 => 512,                                       // TEXTURE_ALIGNMENT
            15 | 31 | 40 => 1, // GPU_OVERLAP, CONCURRENT_KERNELS, ASYNC_ENGINE_COUNT
            16 => self.config.multiprocessors, // MULTIPROCESSOR_COUNT
            32 => 1,           // ECC_ENABLED
            33 => ordinal + 1, // PCI_BUS_ID
            36 => 1_593_000,   // MEMORY_CLOCK_RATE, kHz
            37 => 5120,        // GLOBAL_MEMORY_BUS_WIDTH
            38 => 40 << 20,    // L2_CACHE_SIZE
            39 => THREADS_PER_MULTIPROCESSOR as i32, // MAX_THREADS_PER_MULTIPROCESSOR
            41 => 1,           // UNIFIED_ADDRESSING
            75 => (device.capability / 10) as i32, // COMPUTE_CAPABILITY_MAJOR
            76 => (device.capability % 10) as i32, // COMPUTE_CAPABILITY_MINOR
            78..=80 => 1,      // STREAM_PRIORITIES, GLOBAL_L1, LOCAL_L1
            81 => device.shared_per_multiprocessor() as i32, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            97 => device.shared_opt_in() as i32, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            106 => BLOCKS_PER_MULTIPROCESSOR as i32, // MAX_BLOCKS_PER_MULTIPROCESSOR
            111 => 1 << 10,    // RESERVED_SHARED_MEMORY_PER_BLOCK
            115 => self.config.pools.into(), // MEMORY_POOLS_SUPPORTED
            ..=0 | 162.. => return Err(Code::INVALID_VALUE),
            _ => 0,
        })
    }

    fn uuid(&self, ordinal: i32) -> Result<[u8; 16]> {
        self.device(ordinal)?;
        let mut uuid = *b"fadam-emulator\0\0";
        uuid[15] = ordinal as u8;
        Ok(uuid)
    }
}

api! {
    fn cuInit(driver, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if driver.config.stub {
            return Err(Code::STUB_LIBRARY);
        }
        if driver.config.devices.is_empty() {
            return Err(Code::NO_DEVICE);
        }
        if !driver.initialised {
            let devices = driver.config.devices.iter().enumerate();
            driver.devices = devices.map(|(ordinal, capability)| Device::new(ordinal, *capability)).collect();
            driver.initialised = true;
        }
        Ok(())
    }
    fn cuDriverGetVersion(driver, version: Out<i32>) {
        version.put(driver.config.version)
    }
    fn cuDeviceGetCount(driver, count: Out<i32>) {
        count.put(driver.devices.len() as i32)
    }
    fn cuDeviceGet(driver, device: Out<i32>, ordinal: i32) {
        driver.device(ordinal)?;
        device.put(ordinal)
    }
    fn cuDeviceGetName(driver, name: Out<c_char>, len: i32, device: i32) {
        let text = format!("fadam emulated sm_{}", driver.device(device)?.capability);
        if name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        put_text(&name, usize::try_from(len).map_err(|_| Code::INVALID_VALUE)?, &text);
        Ok(())
    }
    fn cuDeviceGetUuid(driver, uuid: Out<[u8; 16]>, device: i32) {
        uuid.put(driver.uuid(device)?)
    }
    fn cuDeviceGetUuid_v2(driver, uuid: Out<[u8; 16]>, device: i32) {
        uuid.put(driver.uuid(device)?)
    }
    fn cuDeviceTotalMem_v2(driver, bytes: Out<usize>, device: i32) {
        bytes.put(driver.device(device)?.memory.capacity())
    }
    fn cuDeviceGetAttribute(driver, value: Out<i32>, attribute: i32, device: i32) {
        value.put(driver.attribute(attribute, device)?)
    }
}
