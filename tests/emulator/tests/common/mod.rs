//! A device, and launches on it.
#![allow(dead_code, unreachable_pub)] // each test uses its part

pub mod compiled;
pub mod fixture;
pub mod instruction;

use fadam_emulator::exec::{Counts, Fault, Launch, run};
use fadam_emulator::memory::Memory;
use fadam_emulator::ptx::Module;

/// Where the addresses of the tests' device begin.
pub const BASE: u64 = 0x7_0000_0000;

/// A device of 40 GB, which holds whatever is asked of it.
pub fn device() -> Memory {
    Memory::new(BASE, 40 << 30)
}

/// Bytes that a kernel is passed.
pub trait Bytes {
    /// Little-endian.
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! bytes {
    ($($t:ty),*) => {$(
        impl Bytes for $t {
            fn bytes(&self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        }
    )*};
}
bytes!(u8, u16, u32, i32, u64, i64, f32, f64);

/// Uploads a slice.
pub fn upload<T: Bytes>(memory: &mut Memory, values: &[T]) -> u64 {
    let bytes: Vec<u8> = values.iter().flat_map(Bytes::bytes).collect();
    let address = memory.allocate(bytes.len()).expect("room");
    memory.write(address, &bytes).expect("it is there");
    address
}

/// Downloads bytes.
pub fn download(memory: &Memory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(address, &mut bytes).expect("initialised");
    bytes
}

/// Downloads words.
pub fn download_u32(memory: &Memory, address: u64, len: usize) -> Vec<u32> {
    let bytes = download(memory, address, 4 * len);
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Downloads double words.
pub fn download_u64(memory: &Memory, address: u64, len: usize) -> Vec<u64> {
    let bytes = download(memory, address, 8 * len);
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// A launch along one axis.
pub fn launch(
    memory: &mut Memory,
    module: &Module,
    kernel: &str,
    (grid, block): (u32, u32),
    parameters: &[u8],
    seed: u64,
) -> Result<Counts, Fault> {
    run(
        memory,
        &Launch {
            module,
            kernel: module.kernel(kernel).expect("the kernel is there"),
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: 0,
            parameters,
            seed,
            blocks: None,
        },
    )
}
