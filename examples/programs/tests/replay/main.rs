//! The program `replay`, run as its users run it: against the recorded trajectories of other libraries, bit for bit at
//! every instruction set and thread count, and on everything that it has to refuse.

#![allow(missing_docs)]

mod bounded;
mod definition;
mod file;
mod golden;
mod narrow;
mod program;
mod refusals;
mod same_bits;
mod state;
#[path = "../../../../tests/common/thorough.rs"]
mod thorough;
