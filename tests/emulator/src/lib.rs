//! An emulated `libcuda.so.1`: it executes NVRTC's PTX on the CPU, checks it harder than hardware would, is adversarial
//! about order, injects faults and counts. A test instrument; no library depends on it.
//!
//! ```text
//! ptx      text → Module: strict, an unknown word is a load error with its line
//! lanes    what an instruction computes, on the 32 lanes of a warp
//! memory   one device's memory: allocations, poison, which bytes are initialised
//! exec     a launch: warps in SIMT, checks, counters
//! driver   the C functions that cudarc and NVRTC look up: contexts, streams, events, graphs, faults, control
//! ```

pub mod exec;
pub mod memory;
pub mod ptx;

mod driver;
mod lanes;
