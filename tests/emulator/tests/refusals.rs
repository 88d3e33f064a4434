//! Text that must be refused, with its line; and what looks odd and is right.

mod common;

use common::fixture::text;
use fadam_emulator::ptx::Module;

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn refused(text: &str, line: usize, part: &str) {
    let error = Module::parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
    assert_eq!(error.line, line, "{error} of {text}");
    assert!(error.message.contains(part), "{error}: not {part:?}");
}

/// An instruction, in line 18 of a kernel that is right but for it.
fn instruction(instruction: &str, part: &str) {
    refused(&text(instruction), 18, part);
}

fn taken(body: &str) {
    if let Err(error) = Module::parse(&text(body)) {
        panic!("{error} of {body}");
    }
}

#[test]
fn heads() {
    refused("", 1, ".version");
    refused(".target sm_80\n", 1, ".version");
    refused(".version 8.0\n.target compute_80\n", 2, "compute_80");
    refused(".version 8.0\n.target sm_80, debug\n.address_size 64\n", 2, ".address_size");
    refused(".version 8.0\n.target sm_80\n.address_size 32\n", 3, "64");
    let module = Module::parse(".version 9.4\n.target sm_90a\n.address_size 64\n").expect("right");
    assert_eq!((module.version, module.target, module.kernels.len()), ((9, 4), 90, 0));
}

#[test]
fn directives() {
    refused(&format!("{HEAD}.section .debug_info {{}}\n"), 4, ".section");
    refused(&format!("{HEAD}.visible .entry k()\n.cluster_dim 2\n{{ ret; }}"), 5, ".cluster_dim");
    refused(&format!("{HEAD}.visible .entry k(.reg .b32 x)\n{{ ret; }}"), 4, ".param");
    refused(&format!("{HEAD}.visible .entry k(.param .b24 x)\n{{ ret; }}"), 4, ".b24");
    refused(&format!("{HEAD}.visible .entry k()\n{{ ret; }}\n.visible .entry k()\n{{ ret; }}"), 6, "second");
    refused(&format!("{HEAD}.visible .entry k()\n{{ ret;"), 5, "expected");
    refused(&format!("{HEAD}.global .align 3 .b32 x;\n"), 4, "alignment");
    refused(&format!("{HEAD}.const .b8 x[2] = {{1, 2, 3}};\n"), 4, "room");
    refused(&format!("{HEAD}.const .b8 x = 256;\n"), 4, "fit");
    instruction(".pragma \"unroll\";", "pragma");
    instruction(".pragma \"used_bytes_mask all\";", "pragma");
    instruction(".reg .b128 %q;", ".b128");
    instruction(".reg .b32 %w<3>;", "%w0 is declared twice");
    instruction("mov.u32 %w2, #1;", "'#'");
    taken(
        ".pragma \"nounroll\";\n.pragma \"used_bytes_mask 0x0fff\";\n.pragma \"used_bytes_mask 15\";\n.loc 1 2 3\n{ .reg .b32 %t; mov.u32 %t, 1; }\n/* two\nlines */",
    );
}

#[test]
fn opcodes_and_modifiers() {
    for text in [
        "frob.u32 %w2, %w0;",
        "add %w2, %w0, %w0;",
        "add.u8 %w2, %w0, %w0;",
        "add.sat.s32 %w2, %w0, %w0;",
        "add.cc.u32 %w2, %w0, %w0;",
        "add.rz.f32 %w2, %w0, %w0;",
        "add.rn.sat.f32 %w2, %w0, %w0;",
        "div.f32 %w2, %w0, %w0;",
        "fma.f32 %w2, %w0, %w0, %w0;",
        "fma.rn.ftz.f32 %w2, %w0, %w0, %w0;",
        "sqrt.f32 %w2, %w0;",
        "cvt.f32.f64 %w2, %d0;",
        "cvt.f32.u32 %w2, %w0;",
        "cvt.u32.f32 %w2, %w0;",
        "cvt.rn.u32.f32 %w2, %w0;",
        "setp.lt.f16 %p0, %h0, %h0;",
        "setp.lt.b32 %p0, %w0, %w0;",
        "setp.ltu.s32 %p0, %w0, %w0;",
        "setp.lt.nand.s32 %p0, %w0, %w0, %p1;",
        "shfl.down.b32 %w2, %w0, 1, 31;",
        "vote.any.pred %p0, %p1;",
        "bar.arrive 0, 32;",
        "membar.gpu;",
        "membar.cluster;",
        "fence.gpu;",
        "fence.acq_rel;",
        "fence.acq_rel.cluster;",
        "fence.sc.device;",
        "fence.relaxed.gpu;",
        "fence.proxy.async;",
        "fence.acquire.sync_restrict::shared::cluster.cluster;",
        "fence.acq_rel.gpu.global;",
        "atom.acq_rel.cluster.global.add.u32 %w2, [%d0], 1;",
        "atom.sc.gpu.global.add.u32 %w2, [%d0], 1;",
        "atom.acq_rel.relaxed.global.add.u32 %w2, [%d0], 1;",
        "atom.gpu.cta.global.add.u32 %w2, [%d0], 1;",
        "atom.local.add.u32 %w2, [%d0], 1;",
        "atom.global.add.u32.gpu %w2, [%d0], 1;",
        "atom.add.u32.acquire %w2, [%d0], 1;",
        "red.acquire.gpu.global.add.u32 [%d0], 1;",
        "red.acq_rel.gpu.global.add.u32 [%d0], 1;",
        "red.async.add.u32 [%d0], 1;",
        "mov.u32 %w2, %clock;",
        "atom.global.add.u16 %h0, [%d0], %h0;",
        "red.global.exch.b32 [%d0], %w0;",
        "brx.idx %w0, t;",
    ] {
        let what = if text.contains("%clock") {
            "%clock"
        } else {
            text.split(' ').next().expect("an opcode").trim_end_matches(';')
        };
        instruction(text, what);
    }
    for (text, part) in [
        ("ld.global.evict.u32 %w2, [%d0];", "evict"),
        ("ld.nc.u32 %w2, [%d0];", "nc"),
        ("ld.shared.nc.u32 %w2, [%w0];", "nc"),
        ("ld.acquire.global.u32 %w2, [%d0];", "acquire"),
        ("ld.acquire.cluster.global.u32 %w2, [%d0];", "acquire"),
        ("ld.release.gpu.global.u32 %w2, [%d0];", "release"),
        ("ld.acq_rel.gpu.global.u32 %w2, [%d0];", "acq_rel"),
        ("ld.weak.relaxed.gpu.global.u32 %w2, [%d0];", "relaxed"),
        ("ld.volatile.acquire.gpu.global.u32 %w2, [%d0];", "acquire"),
        ("ld.acquire.gpu.param.u64 %d2, [fresh];", "Param memory"),
        ("ld.relaxed.gpu.local.u32 %w2, [local];", "Local memory"),
        ("ld.relaxed.gpu.global.nc.u32 %w2, [%d0];", "nc"),
        ("ld.acquire.gpu.global.ca.u32 %w2, [%d0];", "ca"),
        ("ld.mmio.relaxed.sys.global.u32 %w2, [%d0];", "mmio"),
        ("st.acquire.gpu.global.u32 [%d0], %w0;", "acquire"),
        ("st.release.global.u32 [%d0], %w0;", "release"),
        ("st.release.gpu.global.wb.u32 [%d0], %w0;", "wb"),
        ("st.async.u32 [%d0], %w0;", "async"),
        ("ld.global.cg.ca.u32 %w2, [%d0];", "ca"),
        ("ld.global.wb.u32 %w2, [%d0];", "wb"),
        ("st.global.ca.u32 [%d0], %w0;", "ca"),
        ("ld.global.f16 %h0, [%d0];", "f16"),
        ("ld.shared.v4.b64 {%d2, %d3, %d4, %d5}, [%w0];", "v4"),
    ] {
        instruction(text, part);
    }
    taken(
        "ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%w2, %w3, _, %w4}, [%d0];\nld.volatile.global.u32 %w2, [%d0];\nld.volatile.local.u32 %w2, [local];",
    );
}

#[test]
fn operands() {
    for (text, part) in [
        ("add.s32 %w2, %w0;", "3 operands"),
        ("add.s32 %w2, %w0, %w0, %w0;", "3 operands"),
        ("add.s32 %w2, %w0, %d0;", "64 bits"),
        ("add.s32 %d2, %w0, %w0;", "64 bits"),
        ("add.s64 %d2, %d0, %w0;", "32 bits"),
        ("add.s32 5, %w0, %w0;", "target"),
        ("add.s32 %w2, %w0, %nothing;", "%nothing"),
        ("add.s32 %w2, %w0, shared;", "shared"),
        ("add.s32 %w2, %w0, 0x100000000;", "fit"),
        ("add.s32 %w2, %w0, -2147483649;", "fit"),
        ("add.s32 %w2, %w0, 017;", "017"),
        ("add.f32 %w2, %w0, 1;", "Float"),
        ("add.f32 %w2, %w0, 1.0;", "1.0"),
        ("add.f32 %w2, %w0, 0d3FF0000000000000;", "Double"),
        ("add.f32 %w2, %w0, 0f3F8000;", "0f3F8000"),
        ("add.rn.f64 %d2, %d0, 0f3F800000;", "Float"),
        ("mov.u64 %d2, %tid.x;", "%tid.x"),
        ("mov.b64 {%w2, %w3, %w4}, %d0;", "3 parts"),
        ("ld.global.v2.u32 %w2, [%d0];", "one element"),
        ("ld.global.v2.u32 {%w2, %w3, %w4}, [%d0];", "3 elements"),
        ("ld.global.u32 {%w2}, [%d0];", "elements"),
        ("ld.global.u32 %w2, %d0;", "address"),
        ("ld.global.u32 %w2, [%w0];", "32 bits"),
        ("ld.param.u32 %w2, [%w0];", "32 bits"),
        ("ld.shared.u32 %w2, [%w0+2147483648];", "the offset 2147483648"),
        ("ld.global.u32 %w2, [%d0+-2147483649];", "the offset -2147483649"),
        ("ld.global.f32 %d2, [%d0];", "64 bits"),
        ("ld.global.u64 %w2, [%d0];", "32 bits"),
        ("ld.param.u64 %d2, [fresh+4];", "not all there"),
        ("ld.param.u32 %w2, [array+-4];", "not all there"),
        ("ld.local.u64 %d2, [local+60];", "not all there"),
        ("ld.global.u32 %w2, [shared];", "another space"),
        ("st.param.u32 [array], %w0;", "parameters"),
        ("st.const.u32 [%d0], %w0;", "constant"),
        ("bra;", "label"),
        ("bra $nowhere;", "$nowhere"),
        ("$twice: $twice: ret;", "$twice"),
        ("@%w0 mov.u32 %w2, 1;", "predicate"),
        ("call.uni nothing, ();", "nothing"),
        ("bar.sync 16;", "16"),
        ("bar.sync %w0;", "literal"),
        ("bar.sync 0, 32;", "some threads"),
        ("atom.global.cas.b32 %w2, [%d0], %w0;", "four"),
        ("selp.b32 %w2, %w0, %w0, %w0;", "32 bits"),
        ("cvta.to.global.u64 %d2, %w0;", "32 bits"),
        ("ret %w0;", "ret"),
    ] {
        instruction(text, part);
    }
    refused(
        &format!(
            "{HEAD}.func f()\n{{\ncall.uni f, ();\nret;\n}}\n.visible .entry k()\n{{\ncall.uni f, ();\nret;\n}}"
        ),
        6,
        "too deep",
    );
}
