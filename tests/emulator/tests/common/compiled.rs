//! Kernels with a mistake in them, as NVRTC compiles them for three architectures. Each takes an output, and whether to be
//! wrong; the line of the CUDA source that must be reported has the kernel's name in a comment.

use super::{device, launch};
use fadam_emulator::exec::{Fault, FaultKind};
use fadam_emulator::memory::Memory;
use fadam_emulator::ptx::Module;

/// A CUDA source, and its PTX.
pub struct Compiled {
    /// The CUDA source.
    pub source: &'static str,
    /// What NVRTC makes of it.
    pub ptx: [&'static str; 3],
}

#[allow(unused_macros)] // each test uses its part
/// `compiled!("shared")`: the fixture of that name.
macro_rules! compiled {
    ($name:literal) => {
        $crate::common::compiled::Compiled {
            source: include_str!(concat!("../fixtures/", $name, ".cu")),
            ptx: [
                include_str!(concat!("../fixtures/", $name, ".sm_80.ptx")),
                include_str!(concat!("../fixtures/", $name, ".sm_90.ptx")),
                include_str!(concat!("../fixtures/", $name, ".sm_100.ptx")),
            ],
        }
    };
}
#[allow(unused_imports)]
pub(crate) use compiled;

/// The line of the CUDA source that a line of the PTX is of.
fn source_line(ptx: &str, line: usize) -> usize {
    let before: Vec<&str> = ptx.lines().take(line).collect();
    let location = before.iter().rev().find_map(|line| line.trim().strip_prefix(".loc"));
    let location = location.expect("compiled with lines");
    location.split_whitespace().nth(1).and_then(|line| line.parse().ok()).expect("file, line, column")
}

impl Compiled {
    /// Runs a kernel in its right and its wrong form, with parameters and blocks of 64 threads, under many orders, for each
    /// architecture. The right form must pass, and leave what `check` says. The wrong one must fail like this under seed 0,
    /// in this block and thread, and with this kind under any.
    pub fn judge(
        &self,
        kernel: &str,
        blocks: u32,
        (kind, block, thread): (FaultKind, u32, u32),
        parameters: impl Fn(&mut Memory) -> Vec<u8>,
        check: impl Fn(&Memory),
    ) {
        let comment = format!("// {kernel}");
        let line = self.source.lines().position(|line| line.ends_with(&comment)).expect(&comment) + 1;
        for ptx in self.ptx {
            let module = Module::parse(ptx).expect("it is NVRTC's");
            let target = module.target;
            let run = |wrong: u32, seed: u64| -> Result<Memory, Fault> {
                let mut memory = device();
                let mut bytes = parameters(&mut memory);
                bytes.extend(wrong.to_le_bytes());
                launch(&mut memory, &module, kernel, (blocks, 64), &bytes, seed).map(|_| memory)
            };
            for seed in 0..20 {
                match run(0, seed) {
                    Ok(memory) => check(&memory),
                    Err(fault) => panic!("{fault}, though right, for sm_{target} under seed {seed}"),
                }
                let Err(fault) = run(1, seed) else {
                    panic!("{kernel} passes for sm_{target} under seed {seed}")
                };
                if seed == 0 {
                    println!("sm_{target}: {fault}");
                    let found = (source_line(ptx, fault.line), fault.block, fault.thread);
                    assert_eq!(found, (line, [block, 0, 0], [thread, 0, 0]), "{fault} for sm_{target}");
                }
                assert_eq!((fault.kind, fault.kernel.as_str()), (kind, kernel), "{fault} for sm_{target}");
            }
        }
    }
}
