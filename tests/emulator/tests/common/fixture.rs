//! Kernels with a mistake in them. The line that must be reported has the comment `// here`.

use super::{Bytes, device, launch, upload};
use fadam_emulator::exec::{Fault, FaultKind};
use fadam_emulator::memory::Memory;
use fadam_emulator::ptx::Module;

/// Words of the buffer `data`.
pub const WORDS: usize = 256;

/// A kernel `k` of this body. `%d0` is `data`, of [`WORDS`] words, `%d1` is `fresh`, as long and never written, `%d2` the
/// address of this thread's word of `data`; `%w0` is `%tid.x`, `%w1` `%ctaid.x`.
pub fn text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 data, .param .u64 fresh, .param .align 4 .b8 array[16])\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %w<16>;\n.reg .b64 %d<16>;\n\
         .shared .align 16 .b8 shared[512];\n.local .align 16 .b8 local[64];\n\
         ld.param.u64 %d0, [data];\nld.param.u64 %d1, [fresh];\n\
         mov.u32 %w0, %tid.x;\nmov.u32 %w1, %ctaid.x;\n\
         mul.wide.u32 %d2, %w0, 4;\nadd.s64 %d2, %d0, %d2;\n{body}\nret;\n}}\n"
    )
}

/// The device and the parameters that these kernels are run with.
pub fn parameters(memory: &mut Memory) -> Vec<u8> {
    let values: Vec<u32> = (0..WORDS as u32).collect();
    let data = upload(memory, &values);
    let fresh = memory.allocate(4 * WORDS).expect("room");
    [data.bytes(), fresh.bytes(), 1_u32.bytes(), 2_u32.bytes(), 3_u32.bytes(), 4_u32.bytes()].concat()
}

/// Runs a kernel of this body.
pub fn run(body: &str, shape: (u32, u32), seed: u64) -> Result<(), Fault> {
    let module = Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error} of {}", text(body)));
    let mut memory = device();
    let parameters = parameters(&mut memory);
    launch(&mut memory, &module, "k", shape, &parameters, seed).map(|_| ())
}

/// The body must fail like this, under seed 0 in exactly this block and thread; under any order it must fail.
pub fn caught(body: &str, shape: (u32, u32), kind: FaultKind, block: u32, thread: u32) -> Fault {
    let line = text(body).lines().position(|line| line.contains("// here")).expect("a marked line") + 1;
    let fault = run(body, shape, 0).expect_err(body);
    println!("{fault}");
    let found = (fault.kind, fault.kernel.as_str(), fault.line, fault.block, fault.thread);
    assert_eq!(found, (kind, "k", line, [block, 0, 0], [thread, 0, 0]), "{fault} of {body}");
    for seed in 1..20 {
        assert_eq!(run(body, shape, seed).expect_err(body).kind, kind, "{body} under seed {seed}");
    }
    fault
}

/// The body must pass under any order.
pub fn passes(body: &str, shape: (u32, u32)) {
    for seed in 0..20 {
        if let Err(fault) = run(body, shape, seed) {
            panic!("{fault} of {body} under seed {seed}");
        }
    }
}
