//! Loads and stores, shuffles, votes, atomics, barriers, branches and calls: what they do when used rightly. Expected
//! values: PTX ISA.

mod common;

use common::fixture::{WORDS, text};
use common::{Bytes, device, download_u32, download_u64, launch, upload};
use fadam_emulator::exec::{Launch, run};
use fadam_emulator::ptx::Module;

/// Runs a body, then the words of `data`.
fn after(body: &str, shape: (u32, u32), seed: u64) -> Vec<u32> {
    let module = Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error} of {body}"));
    let mut memory = device();
    let parameters = common::fixture::parameters(&mut memory);
    launch(&mut memory, &module, "k", shape, &parameters, seed)
        .unwrap_or_else(|fault| panic!("{fault} of {body}"));
    let (data, _) = memory.live()[0];
    download_u32(&memory, data, WORDS)
}

/// What a warp's threads leave in `%w2`.
fn warp(body: &str) -> Vec<u32> {
    after(&format!("{body}\nst.global.u32 [%d2], %w2;"), (1, 32), 0)[..32].to_vec()
}

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shuffles() {
    let shuffle = |how: &str| warp(&format!("shfl.sync.{how}, -1;"));
    assert_eq!(shuffle("down.b32 %w2, %w0, 3, 31"), lanes(|i| if i + 3 < 32 { i + 3 } else { i }));
    assert_eq!(shuffle("up.b32 %w2, %w0, 3, 0"), lanes(|i| if i >= 3 { i - 3 } else { i }));
    assert_eq!(shuffle("bfly.b32 %w2, %w0, 5, 31"), lanes(|i| i ^ 5));
    assert_eq!(shuffle("idx.b32 %w2, %w0, 9, 31"), lanes(|_| 9));
    // Segments of eight: the mask of c is 11000, in bits 8 to 12.
    assert_eq!(shuffle("down.b32 %w2, %w0, 3, 0x181f"), lanes(|i| if i % 8 + 3 < 8 { i + 3 } else { i }));
    assert_eq!(shuffle("up.b32 %w2, %w0, 3, 0x1800"), lanes(|i| if i % 8 >= 3 { i - 3 } else { i }));
    assert_eq!(shuffle("idx.b32 %w2, %w0, 2, 0x181f"), lanes(|i| i / 8 * 8 + 2));
    assert_eq!(shuffle("bfly.b32 %w2, %w0, 9, 0x181f"), lanes(|i| if i >> 3 & 1 != 0 { i ^ 9 } else { i }));
    // Whether the source was in range.
    let valid = warp("shfl.sync.down.b32 %w3|%p0, %w0, 3, 31, -1;\nselp.b32 %w2, 1, 0, %p0;");
    assert_eq!(valid, lanes(|i| u32::from(i + 3 < 32)));
    // The amount may differ from lane to lane; only its low five bits count.
    assert_eq!(
        warp("add.s32 %w3, %w0, 33;\nshfl.sync.idx.b32 %w2, %w0, %w3, 31, -1;"),
        lanes(|i| (i + 1) % 32)
    );
}

#[test]
fn votes_and_masks() {
    let few = "setp.lt.u32 %p0, %w0, 5;\n";
    assert_eq!(warp(&format!("{few}vote.sync.ballot.b32 %w2, %p0, -1;")), lanes(|_| 0x1f));
    assert_eq!(warp(&format!("{few}vote.sync.ballot.b32 %w2, !%p0, -1;")), lanes(|_| !0x1f));
    for (how, few_agree, none, all) in [("any", 1, 0, 1), ("all", 0, 0, 1), ("uni", 0, 1, 1)] {
        for (bound, expected) in [(5, few_agree), (0, none), (32, all)] {
            let body = format!(
                "setp.lt.u32 %p0, %w0, {bound};\nvote.sync.{how}.pred %p1, %p0, -1;\nselp.b32 %w2, 1, 0, %p1;"
            );
            assert_eq!(warp(&body), lanes(|_| expected), "{how} {bound}");
        }
    }
    let within = warp(&format!("{few}mov.u32 %w2, 0;\n@%p0 activemask.b32 %w2;"));
    assert_eq!(within, lanes(|i| if i < 5 { 0x1f } else { 0 }));
}

#[test]
fn special_registers() {
    let body = "mov.u32 %w3, %tid.y;\nmov.u32 %w4, %ntid.x;\nmad.lo.u32 %w5, %w3, %w4, %w0;\nmov.u32 %w6, %nctaid.x;\n\
                mov.u32 %w7, %laneid;\nmov.u32 %w8, %warpid;\nmul.lo.u32 %w9, %w8, 32;\nadd.u32 %w9, %w9, %w7;\n\
                sub.u32 %w9, %w9, %w5;\nmov.u32 %w10, %nwarpid;\nmad.lo.u32 %w9, %w9, 1000, %w10;\nmad.lo.u32 %w9, %w6, 100, %w9;\n\
                mov.u32 %w11, %ctaid.y;\nsetp.eq.s32 %p0, %w11, 1;\n\
                mul.wide.u32 %d3, %w5, 4;\nadd.s64 %d3, %d0, %d3;\n@%p0 st.global.u32 [%d3], %w9;";
    let module = Module::parse(&text(body)).expect("right");
    let mut memory = device();
    let parameters = common::fixture::parameters(&mut memory);
    let kernel = module.kernel("k").expect("there");
    let mut launch = Launch {
        module: &module,
        kernel,
        grid: [1, 3, 1],
        block: [8, 9, 1],
        dynamic_shared: 0,
        parameters: &parameters,
        seed: 0,
        blocks: None,
    };
    let counts = run(&mut memory, &launch).expect("no fault");
    let (data, _) = memory.live()[0];
    // 72 threads are three warps; grid.x is 1; lane and warp number the threads.
    assert_eq!(download_u32(&memory, data, 73), [vec![103; 72], vec![72]].concat());
    assert_eq!(
        (counts.blocks, counts.bytes_written, counts.requests_written, counts.sectors_written),
        (3, 288, 3, 9)
    );
    launch.blocks = Some((1, 2));
    assert_eq!(run(&mut memory, &launch).expect("no fault").blocks, 1);
    assert_eq!(warp("mov.u32 %w2, %lanemask_lt;"), lanes(|i| (1 << i) - 1));
    assert_eq!(warp("mov.u32 %w2, %lanemask_eq;"), lanes(|i| 1 << i));
    assert_eq!(warp("mov.u32 %w2, %lanemask_ge;"), lanes(|i| !0 << i));
}

#[test]
fn widths_and_spaces() {
    // Signs, and registers wider than the data.
    assert_eq!(
        warp("st.shared.u8 [shared], 0x80;\nbar.warp.sync -1;\nld.shared.s8 %w2, [shared];")[0],
        0xffff_ff80
    );
    assert_eq!(
        warp("st.shared.u16 [shared], 0x8000;\nbar.warp.sync -1;\nld.shared.u16 %w2, [shared];")[0],
        0x8000
    );
    assert_eq!(
        warp(
            "st.local.s32 [local], -2;\nld.local.s32 %d3, [local];\nshr.u64 %d3, %d3, 32;\ncvt.u32.u64 %w2, %d3;"
        )[0],
        !0
    );
    // Vectors: the first element lies first.
    let body = "mul.wide.u32 %d3, %w0, 12;\nadd.s64 %d3, %d2, %d3;\nmov.u64 %d4, 0x0004000300020001;\n\
                mov.b64 {%h0, %h1, %h2, %h3}, %d4;\nst.global.v4.u16 [%d3], {%h3, %h2, %h1, %h0};\nadd.s32 %w3, %w0, 7;\n\
                st.global.v2.u32 [%d3+8], {%w0, %w3};\n";
    let data = after(body, (1, 32), 0);
    assert_eq!(data[4..8], [0x0003_0004, 0x0001_0002, 1, 8]);
    // Generic addresses of three spaces in one instruction.
    let body = "st.local.u32 [local+4], 11;\nst.shared.u32 [shared+4], 22;\nbar.warp.sync -1;\n\
                mov.u64 %d3, local;\ncvta.local.u64 %d3, %d3;\nmov.u64 %d4, shared;\ncvta.shared.u64 %d4, %d4;\n\
                rem.u32 %w3, %w0, 3;\nsetp.eq.s32 %p0, %w3, 0;\nsetp.eq.s32 %p1, %w3, 1;\n\
                selp.b64 %d5, %d3, %d4, %p0;\nadd.s64 %d6, %d0, 400;\nselp.b64 %d5, %d6, %d5, %p1;\nld.u32 %w2, [%d5+4];";
    assert_eq!(warp(body), lanes(|i| [11, 101, 22][i as usize % 3]));
    assert_eq!(
        warp(
            "mov.u64 %d3, shared;\ncvta.shared.u64 %d3, %d3;\ncvta.to.shared.u64 %d4, %d3;\ncvt.u32.u64 %w2, %d4;"
        )[0],
        0
    );
    // Parameters by an address that is computed.
    let body = "and.b32 %w3, %w0, 3;\nmul.wide.u32 %d3, %w3, 4;\nmov.u64 %d4, array;\nadd.s64 %d4, %d4, %d3;\nld.param.u32 %w2, [%d4];";
    assert_eq!(warp(body), lanes(|i| 1 + i % 4));
}

#[test]
fn atomics() {
    let total = |body: &str| after(body, (3, 64), 5)[0];
    assert_eq!(total("atom.global.add.u32 %w2, [%d0], 1;"), 192);
    assert_eq!(total("red.global.add.s32 [%d0], -1;"), 192_u32.wrapping_neg());
    assert_eq!(total("atom.global.max.s32 %w2, [%d0], %w0;"), 63);
    assert_eq!(total("sub.s32 %w3, %w0, 40;\natom.global.min.s32 %w2, [%d0], %w3;"), (-40_i32) as u32);
    assert_eq!(total("sub.s32 %w3, %w0, 40;\natom.global.max.u32 %w2, [%d0], %w3;"), u32::MAX);
    assert_eq!(total("atom.global.or.b32 %w2, [%d0], %w0;"), 63);
    assert_eq!(total("atom.global.xor.b32 %w2, [%d0], 1;"), 0);
    assert_eq!(total("atom.global.and.b32 %w2, [%d0+4], 2;\natom.global.exch.b32 %w3, [%d0], 9;"), 9);
    assert_eq!(total("atom.global.inc.u32 %w2, [%d0], 99;"), 92); // modulo 100
    assert_eq!(total("atom.global.dec.u32 %w2, [%d0], 99;"), 8);
    assert_eq!(total("atom.global.add.f32 %w2, [%d0], 0f3F800000;"), 192.0_f32.to_bits());
    assert_eq!(total("atom.relaxed.gpu.global.cas.b32 %w2, [%d0], 0, 5;\natom.add.u32 %w3, [%d0+4], 1;"), 5);
    // What was there before comes back, another number to each.
    let mut old =
        after("atom.global.add.u32 %w2, [%d0], 1;\nbar.sync 0;\nst.global.u32 [%d2], %w2;", (1, 64), 3)[..64]
            .to_vec();
    old.sort_unstable();
    assert_eq!(old, (0..64).collect::<Vec<u32>>());
    // Shared memory.
    let body = "setp.eq.s32 %p0, %w0, 0;\n@%p0 st.shared.u32 [shared], 0;\nbar.sync 0;\nmov.u64 %d3, shared;\n\
                cvt.u32.u64 %w3, %d3;\natom.shared.add.u32 %w2, [%w3], 2;\nbar.sync 0;\nld.shared.u32 %w4, [shared];\n\
                st.global.u32 [%d2], %w4;";
    assert_eq!(after(body, (1, 96), 4)[..96], [192; 96]);
}

#[test]
fn barriers() {
    // A tree over 256 threads, under many orders.
    let body = "shl.b32 %w2, %w0, 2;\nst.shared.u32 [%w2], %w0;\nbar.sync 0;\nmov.u32 %w3, 64;\n$loop:\n\
                setp.ge.u32 %p0, %w0, %w3;\n@%p0 bra $skip;\nshl.b32 %w4, %w3, 2;\nadd.s32 %w4, %w2, %w4;\n\
                ld.shared.u32 %w5, [%w4];\nld.shared.u32 %w6, [%w2];\nadd.s32 %w5, %w5, %w6;\nst.shared.u32 [%w2], %w5;\n\
                $skip:\nbar.sync 0;\nshr.u32 %w3, %w3, 1;\nsetp.ne.s32 %p0, %w3, 0;\n@%p0 bra $loop;\n\
                ld.shared.u32 %w5, [shared];\nsetp.eq.s32 %p1, %w1, 1;\n@%p1 st.global.u32 [%d2], %w5;";
    for seed in 0..10 {
        assert_eq!(after(body, (2, 128), seed)[..128], [127 * 64; 128]);
    }
    let count = "setp.lt.u32 %p0, %w0, 40;\nbar.red.popc.u32 %w2, 0, %p0;\nst.global.u32 [%d2], %w2;";
    assert_eq!(after(count, (1, 64), 1)[..64], [40; 64]);
    for (how, bound, expected) in [("and", 40, 0), ("and", 64, 1), ("or", 1, 1), ("or", 0, 0)] {
        let body = format!(
            "setp.lt.u32 %p0, %w0, {bound};\nbar.red.{how}.pred %p1, 0, %p0;\nselp.b32 %w2, 1, 0, %p1;\nst.global.u32 [%d2], %w2;"
        );
        assert_eq!(after(&body, (1, 64), 1)[..64], [expected; 64]);
    }
}

#[test]
fn branches_meet_again() {
    // Each lane loops as often as its number, then all shuffle.
    let body = "mov.u32 %w3, 0;\nmov.u32 %w4, 0;\n$loop:\nsetp.ge.u32 %p0, %w3, %w0;\n@%p0 bra $done;\nadd.s32 %w4, %w4, %w3;\n\
                add.s32 %w3, %w3, 1;\nbra.uni $loop;\n$done:\nshfl.sync.idx.b32 %w2, %w4, 31, 31, -1;\nadd.s32 %w2, %w2, %w4;";
    assert_eq!(warp(body), lanes(|i| 31 * 30 / 2 + (0..i).sum::<u32>()));
    assert_eq!(
        warp("mov.u32 %w2, 7;\nsetp.lt.u32 %p0, %w0, 9;\n@!%p0 mov.u32 %w2, 8;"),
        lanes(|i| if i < 9 { 7 } else { 8 })
    );
}

#[test]
fn functions_and_variables() {
    let module = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .global .align 4 .u32 counter = 5;\n.const .align 4 .f32 table[2] = {0f3F800000, 0f40000000};\n.extern .shared .align 16 .b8 dynamic[];\n\
        .func (.param .b32 result) twice(.param .b32 x);\n\
        .visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<8>;\n.reg .pred %p<2>;\n.reg .b64 %d<8>;\n\
        .shared .align 4 .b8 fixed[20];\nmov.u32 %r0, %tid.x;\n\
        { .param .b32 a; st.param.b32 [a+0], %r0; .param .b32 back; call.uni (back), twice, (a); ld.param.b32 %r1, [back+0]; }\n\
        { .param .b32 a; st.param.b32 [a+0], %r1; .param .b32 back; call.uni (back), twice, (a); ld.param.b32 %r1, [back+0]; }\n\
        ld.global.u32 %r2, [counter];\nadd.s32 %r1, %r1, %r2;\n\
        and.b32 %r3, %r0, 1;\nmul.wide.u32 %d1, %r3, 4;\nmov.u64 %d2, table;\nadd.s64 %d2, %d2, %d1;\nld.const.f32 %r4, [%d2];\n\
        cvt.rzi.u32.f32 %r4, %r4;\nmad.lo.u32 %r1, %r4, 1000, %r1;\n\
        shl.b32 %r5, %r0, 2;\nmov.u32 %r6, dynamic;\nadd.u32 %r5, %r5, %r6;\nst.shared.u32 [%r5], %r1;\nld.shared.u32 %r1, [%r5];\n\
        ld.param.u64 %d3, [out];\nmul.wide.u32 %d4, %r0, 4;\nadd.s64 %d3, %d3, %d4;\nst.global.u32 [%d3], %r1;\nret;\n}\n\
        .func (.param .b32 result) twice(.param .b32 x)\n{\n.reg .b32 %r<3>;\n.reg .pred %p<1>;\nld.param.u32 %r0, [x];\n\
        setp.gt.u32 %p0, %r0, 20;\n@%p0 bra $large;\nadd.s32 %r1, %r0, %r0;\nst.param.b32 [result+0], %r1;\nret;\n\
        $large:\nst.param.b32 [result+0], 99;\nret;\n}\n";
    let module = Module::parse(module).expect("right");
    let kernel = module.kernel("k").expect("there");
    assert_eq!((kernel.static_shared, kernel.parameters.as_slice()), (32, [(0, 8)].as_slice()));
    let mut memory = device();
    let out = memory.allocate(128).expect("room");
    let parameters = out.bytes();
    let mut launch = Launch {
        module: &module,
        kernel,
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_shared: 128,
        parameters: &parameters,
        seed: 0,
        blocks: None,
    };
    run(&mut memory, &launch).expect("no fault");
    let twice = |x: u32| if x > 20 { 99 } else { 2 * x };
    assert_eq!(download_u32(&memory, out, 32), lanes(|i| twice(twice(i)) + 5 + 1000 * (1 + i % 2)));
    assert_eq!(memory.live(), [(out, 128)]);
    launch.dynamic_shared = 124;
    let fault = run(&mut memory, &launch).expect_err("one word is missing");
    assert_eq!((fault.kind, fault.thread), (fadam_emulator::exec::FaultKind::OutOfBounds, [31, 0, 0]));
}

#[test]
fn large_tensors() {
    let body = "mad.lo.u32 %w3, %w1, 32, %w0;\nmul.wide.u32 %d3, %w3, 256;\nadd.s64 %d3, %d1, %d3;\nst.global.u64 [%d3], %d3;\n\
                ld.global.u64 %d4, [%d3];\nst.global.u64 [%d3+8], %d4;";
    let module = Module::parse(&text(body)).expect("right");
    let mut memory = device();
    let threads = 1_u64 << 27; // 34 GB at 256 bytes a thread
    let large = memory.allocate(256 * threads as usize).expect("room");
    let parameters = [0_u64.bytes(), large.bytes(), vec![0; 16]].concat();
    let blocks = threads / 32;
    let launch = Launch {
        module: &module,
        kernel: module.kernel("k").expect("there"),
        grid: [blocks as u32, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        parameters: &parameters,
        seed: 3,
        blocks: Some((blocks - 4, blocks)),
    };
    assert_eq!(run(&mut memory, &launch).expect("no fault").blocks, 4);
    let last = large + 256 * (threads - 1);
    assert_eq!(download_u64(&memory, last, 2), [last; 2]);
    let input = upload(&mut memory, &[1_u32]);
    assert!(input > last);
}
