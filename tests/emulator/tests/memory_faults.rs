//! Accesses that must be caught, and their correct twins.

mod common;

use common::fixture::{WORDS, caught, parameters, passes, text};
use common::{device, launch};
use fadam_emulator::exec::FaultKind::{
    Launch, Misaligned, OutOfBounds, Race, Trap, Uninitialised, UseAfterFree,
};
use fadam_emulator::ptx::Module;

const ALL: u32 = WORDS as u32;

#[test]
fn beyond_the_end_of_global_memory() {
    let last = ALL - 1;
    caught(&format!("st.global.u32 [%d2+4], %w0; // here\n//{last}"), (1, ALL), OutOfBounds, 0, last);
    passes(&format!("setp.ge.u32 %p0, %w0, {last};\n@!%p0 st.global.u32 [%d2+4], 0;"), (1, ALL));
    caught("ld.global.u32 %w2, [%d2+-4]; // here", (1, ALL), OutOfBounds, 0, 0);
    // A whole warp, one behind the other, the last one over the edge.
    caught("ld.global.v2.u32 {%w2, %w3}, [%d0+1024]; // here", (1, 32), OutOfBounds, 0, 0);
    caught("add.s64 %d3, %d2, 900;\nld.global.u32 %w2, [%d3]; // here", (1, 32), OutOfBounds, 0, 31);
    passes("add.s64 %d3, %d2, 896;\nld.global.u32 %w2, [%d3];", (1, 32));
    caught("ld.u32 %w2, [%d2+1024]; // here", (1, 32), OutOfBounds, 0, 0);
    caught("mov.u64 %d3, 0;\nld.global.u32 %w2, [%d3]; // here", (1, 1), OutOfBounds, 0, 0);
    caught("mov.u64 %d3, -4;\nld.global.u32 %w2, [%d3]; // here", (1, 1), OutOfBounds, 0, 0);
    caught("atom.global.add.u32 %w2, [%d2+4], 1; // here", (1, ALL), OutOfBounds, 0, last);
}

#[test]
fn beyond_the_end_of_shared_memory() {
    caught("mul.lo.u32 %w2, %w0, 4;\nst.shared.u32 [%w2+4], %w0; // here", (1, 128), OutOfBounds, 0, 127);
    passes("mul.lo.u32 %w2, %w0, 4;\nst.shared.u32 [%w2], %w0;", (1, 128));
    caught("st.shared.u32 [shared+512], %w0; // here", (1, 1), OutOfBounds, 0, 0);
    passes("st.shared.u32 [shared+508], %w0;", (1, 1));
    caught("cvta.shared.u64 %d3, 510;\nst.u32 [%d3+2], %w0; // here", (1, 1), OutOfBounds, 0, 0);
    caught("mov.u32 %w3, 512;\natom.shared.add.u32 %w2, [%w3], 1; // here", (1, 1), OutOfBounds, 0, 0);
}

/// A register of 32 bits and an offset are added modulo 2³²; one of 64 bits is not cut.
#[test]
fn addresses_wrap_at_32_bits() {
    let shape = (1, 64);
    // Thread t has -4t in %w3, so that 252 is the first word of 64 that count down; 16 of them fit in local memory.
    let down = "mul.lo.u32 %w3, %w0, -4;\n";
    let store = |offset: i32| format!("{down}st.shared.u32 [%w3+{offset}], %w0;");
    passes(&store(252), shape);
    caught(&(store(248) + " // here"), shape, OutOfBounds, 0, 63);
    caught(&(store(512) + " // here"), shape, OutOfBounds, 0, 0);
    caught(&(store(-4) + " // here"), shape, OutOfBounds, 0, 0);
    caught(&(store(254) + " // here"), shape, Misaligned, 0, 0);
    let store = |offset: i32| format!("{down}st.local.u32 [%w3+{offset}], %w0;");
    passes(&(store(60) + "\nld.local.u32 %w4, [%w3+60];"), (1, 16));
    caught(&(store(60) + " // here"), (1, 17), OutOfBounds, 0, 16);
    caught(&(store(64) + " // here"), (1, 16), OutOfBounds, 0, 0);
    let written = format!("{down}st.shared.u32 [%w3+252], %w0;\nbar.sync 0;\n");
    for access in [
        "ld.shared.u32 %w4, [%w3+AT];",
        "atom.shared.add.u32 %w4, [%w3+AT], 1;",
        "red.shared.add.u32 [%w3+AT], 1;",
    ] {
        let access = |offset: i32| format!("{written}{}", access.replace("AT", &offset.to_string()));
        passes(&access(252), shape);
        caught(&(access(248) + " // here"), shape, OutOfBounds, 0, 63);
        caught(&(access(256) + " // here"), shape, Uninitialised, 0, 0);
    }
    // 2³² is not 0 in a register of 64 bits.
    let wide = "mov.u64 %d3, 0xfffffffc;\n";
    caught(&format!("{wide}st.shared.u32 [%d3+4], 1; // here"), (1, 1), OutOfBounds, 0, 0);
    caught(&format!("{wide}st.global.u32 [%d3+4], 1; // here"), (1, 1), OutOfBounds, 0, 0);
    caught("cvta.shared.u64 %d3, 0xfffffffc;\nst.u32 [%d3+4], 1; // here", (1, 1), OutOfBounds, 0, 0);
}

#[test]
fn beyond_the_end_of_local_memory_and_parameters() {
    let address = "mul.wide.u32 %d3, %w0, 4;\nmov.u64 %d4, local;\nadd.s64 %d4, %d4, %d3;\n";
    caught(&format!("{address}st.local.u32 [%d4], %w0; // here"), (1, 17), OutOfBounds, 0, 16);
    passes(&format!("{address}st.local.u32 [%d4], %w0;\nld.local.u32 %w2, [%d4];"), (1, 16));
    let address = "mul.wide.u32 %d3, %w0, 4;\nmov.u64 %d4, array;\nadd.s64 %d4, %d4, %d3;\n";
    caught(&format!("{address}ld.param.u32 %w2, [%d4]; // here"), (1, 5), OutOfBounds, 0, 4);
    passes(&format!("{address}ld.param.u32 %w2, [%d4];\nst.global.u32 [%d2], %w2;"), (1, 4));
}

#[test]
fn misaligned() {
    caught("ld.global.v4.u32 {%w2, %w3, %w4, %w5}, [%d2]; // here", (1, 4), Misaligned, 0, 1);
    passes("ld.global.v4.u32 {%w2, %w3, %w4, %w5}, [%d0+16];", (1, 4));
    caught("ld.global.u64 %d3, [%d2]; // here", (1, 32), Misaligned, 0, 1);
    caught("st.global.u16 [%d0+1], %w0; // here", (1, 1), Misaligned, 0, 0);
    caught("mov.u32 %w2, 2;\nst.shared.u32 [%w2], %w0; // here", (1, 1), Misaligned, 0, 0);
    caught("st.local.u32 [local+2], %w0; // here", (1, 1), Misaligned, 0, 0);
    caught("atom.global.add.u64 %d3, [%d0+4], 1; // here", (1, 1), Misaligned, 0, 0);
    // Lanes that take no part may have any address.
    passes("and.b32 %w2, %w0, 1;\nsetp.eq.s32 %p0, %w2, 0;\n@%p0 ld.global.u64 %d3, [%d2];", (1, 32));
}

#[test]
fn after_free() {
    let body = "ld.global.u32 %w2, [%d2];";
    let module = Module::parse(&text(body)).expect("correct");
    let mut memory = device();
    let parameters = parameters(&mut memory);
    launch(&mut memory, &module, "k", (1, 64), &parameters, 0).expect("it is there");
    let (data, _) = memory.live()[0];
    memory.free(data).expect("it is there");
    let fault = launch(&mut memory, &module, "k", (1, 64), &parameters, 0).expect_err("it is gone");
    assert_eq!((fault.kind, fault.thread), (UseAfterFree, [0, 0, 0]));
    assert!(fault.detail.contains(&format!("{data:#x}")), "{fault}");
}

#[test]
fn never_written() {
    let address = "mul.wide.u32 %d3, %w0, 4;\nadd.s64 %d3, %d1, %d3;\n";
    caught(&format!("{address}ld.global.u32 %w2, [%d3]; // here"), (1, 32), Uninitialised, 0, 0);
    // Only the last lane's bytes are missing.
    let but_last = "setp.lt.u32 %p0, %w0, 31;\n@%p0 st.global.u32 [%d3], %w0;\n";
    caught(&format!("{address}{but_last}ld.global.u32 %w2, [%d3]; // here"), (1, 32), Uninitialised, 0, 31);
    passes(&format!("{address}st.global.u32 [%d3], %w0;\nld.global.u32 %w2, [%d3];"), (1, 32));
    // Lane by lane.
    caught(&format!("{address}ld.global.u32 %w2, [%d3]; // here"), (1, 31), Uninitialised, 0, 0);
    let but_last = "setp.lt.u32 %p0, %w0, 30;\n@%p0 st.global.u32 [%d3], %w0;\n";
    caught(&format!("{address}{but_last}ld.global.u32 %w2, [%d3]; // here"), (1, 31), Uninitialised, 0, 30);
    // One byte of four.
    caught(
        &format!(
            "{address}st.global.u16 [%d3], %w0;\nst.global.u8 [%d3+2], %w0;\nld.global.u32 %w2, [%d3]; // here"
        ),
        (1, 32),
        Uninitialised,
        0,
        0,
    );
    caught(&format!("{address}atom.global.add.u32 %w2, [%d3], 1; // here"), (1, 1), Uninitialised, 0, 0);
    caught("ld.shared.u32 %w2, [shared]; // here", (1, 32), Uninitialised, 0, 0);
    // Shared memory of the block before does not count.
    let first = "setp.eq.s32 %p0, %w1, 0;\n@%p0 st.shared.u32 [shared], 1;\n";
    caught(&format!("{first}ld.shared.u32 %w2, [shared]; // here"), (2, 1), Uninitialised, 1, 0);
    caught("ld.local.u32 %w2, [local]; // here", (1, 1), Uninitialised, 0, 0);
    caught("add.s32 %w2, %w3, 1; // here", (1, 1), Uninitialised, 0, 0);
    caught(
        "setp.lt.u32 %p0, %w0, 5;\n@%p0 mov.u32 %w3, 1;\nadd.s32 %w2, %w3, 1; // here",
        (1, 32),
        Uninitialised,
        0,
        5,
    );
    passes("setp.lt.u32 %p0, %w0, 5;\n@%p0 mov.u32 %w3, 1;\n@%p0 add.s32 %w2, %w3, 1;", (1, 32));
    // A copy is no use of the value; what is done with the copy is.
    caught("mov.u32 %w3, %w4;\nst.global.u32 [%d2], %w3; // here", (1, 1), Uninitialised, 0, 0);
    passes("mov.u32 %w3, %w4;", (1, 1));
    caught("@%p3 mov.u32 %w3, 1; // here", (1, 1), Uninitialised, 0, 0);
    caught("st.global.u32 [%d5], %w0; // here", (1, 1), Uninitialised, 0, 0);
}

#[test]
fn different_values_at_once() {
    caught("st.global.u32 [%d0], %w0; // here", (1, 32), Race, 0, 1);
    passes("st.global.u32 [%d0], 7;", (1, 32));
    caught("st.shared.u32 [shared], %w0; // here", (1, 2), Race, 0, 1);
    passes("st.shared.u32 [shared], %w1;", (1, 2));
}

#[test]
fn traps() {
    caught("setp.eq.u32 %p0, %w0, 3;\n@%p0 trap; // here", (1, 32), Trap, 0, 3);
    passes("setp.eq.u32 %p0, %w0, 32;\n@%p0 trap;", (1, 32));
    let fault = common::fixture::run("$again:\nbra $again; // here", (1, 1), 0).expect_err("for ever");
    assert_eq!((fault.kind, fault.thread), (Trap, [0, 0, 0]));
}

#[test]
fn launches_that_the_kernel_does_not_admit() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x)\n.maxntid 64, 1, 1\n\
                { ret; }\n.visible .entry exact(.param .u64 x)\n.reqntid 32, 2\n{ ret; }\n";
    let module = Module::parse(text).expect("correct");
    let mut memory = device();
    let mut go = |kernel: &str, shape, parameters: usize| {
        launch(&mut memory, &module, kernel, shape, &vec![0; parameters], 0).map_err(|fault| fault.kind)
    };
    assert_eq!(go("k", (1, 64), 8).map(|counts| counts.blocks), Ok(1));
    assert_eq!(go("k", (1, 65), 8), Err(Launch));
    assert_eq!(go("k", (0, 64), 8), Err(Launch));
    assert_eq!(go("k", (1, 0), 8), Err(Launch));
    assert_eq!(go("k", (1, 64), 7), Err(Launch));
    assert_eq!(go("exact", (1, 64), 8), Err(Launch));
}
