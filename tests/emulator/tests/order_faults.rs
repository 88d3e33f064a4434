//! Races, barriers and warp-wide instructions that must be caught, and their correct twins.

mod common;

use common::fixture::{caught, passes};
use fadam_emulator::exec::FaultKind::{DivergentBarrier, InactiveLane, Race};

/// Each thread writes a word of shared memory and reads its neighbour's.
fn neighbours(between: &str, distance: u32, mark: &str) -> String {
    format!(
        "shl.b32 %w2, %w0, 2;\nst.shared.u32 [%w2], %w0;{}\n{between}\nxor.b32 %w3, %w0, {distance};\nshl.b32 %w3, %w3, 2;\n\
         ld.shared.u32 %w4, [%w3];{mark}\n",
        if mark.is_empty() { " // here" } else { "" }
    )
}

#[test]
fn no_barrier_between_warps() {
    // Warp 0 runs first and overwrites what warp 1 has not read yet.
    let body = "shl.b32 %w2, %w0, 2;\nst.shared.u32 [%w2], %w0;\nbar.sync 0;\nxor.b32 %w3, %w0, 32;\nshl.b32 %w3, %w3, 2;\n\
                ld.shared.u32 %w4, [%w3]; // here\n";
    let again = format!("{body}st.shared.u32 [%w2], %w4;");
    let fault = caught(&again, (1, 64), Race, 0, 32);
    assert!(fault.detail.contains("thread 0 of this block"), "{fault}");
    passes(&format!("{body}bar.sync 0;\nst.shared.u32 [%w2], %w4;"), (1, 64));
    passes(body, (2, 64));
}

#[test]
fn no_order_within_a_warp() {
    caught(&neighbours("", 1, " // here"), (1, 32), Race, 0, 0);
    passes(&neighbours("bar.warp.sync -1;", 1, " "), (1, 32));
    passes(&neighbours("bar.sync 0;", 1, " "), (1, 32));
    passes(&neighbours("shfl.sync.idx.b32 %w5, %w0, 0, 31, -1;", 1, " "), (1, 32));
    passes(&neighbours("setp.eq.u32 %p0, %w0, 0;\nvote.sync.any.pred %p1, %p0, -1;", 1, " "), (1, 32));
    // Half the warp has met the other half of its half, not the other half.
    let halves = "setp.lt.u32 %p0, %w0, 16;\nselp.b32 %w6, 0xffff, 0xffff0000, %p0;\nbar.warp.sync %w6;";
    passes(&neighbours(halves, 1, " "), (1, 32));
    caught(&neighbours(halves, 16, " // here"), (1, 32), Race, 0, 0);
    // Lanes 0 to 15 with 8 to 23 in between: an order through others.
    let chain = "setp.lt.u32 %p0, %w0, 16;\n@%p0 bar.warp.sync 0xffff;\nsetp.ge.u32 %p1, %w0, 8;\nsetp.lt.and.u32 %p2, %w0, 24, %p1;\n\
                 @%p2 bar.warp.sync 0xffff00;\nsetp.ge.u32 %p3, %w0, 16;\nsetp.lt.and.u32 %p4, %w0, 24, %p3;\n";
    let read = "shl.b32 %w2, %w0, 2;\nst.shared.u32 [%w2], %w0;\n";
    let back = "sub.s32 %w3, %w0, 16;\nshl.b32 %w3, %w3, 2;\n@%p4 ld.shared.u32 %w4, [%w3];\n";
    passes(&format!("{read}{chain}{back}"), (1, 32));
    caught(
        &format!(
            "{read}{}{}",
            chain.replace("@%p0 bar.warp.sync 0xffff;\n", ""),
            back.replace(";\n", "; // here\n").replace("16; // here", "16;").replace("2; // here", "2;")
        ),
        (1, 32),
        Race,
        0,
        16,
    );
    // The lane itself needs no order.
    passes(&neighbours("", 0, " "), (1, 32));
}

#[test]
fn blocks_have_no_order() {
    let write = "setp.eq.s32 %p0, %w0, 0;\n";
    let fault = caught(&format!("{write}@%p0 st.global.u32 [%d0], 7; // here"), (2, 32), Race, 1, 0);
    assert!(fault.detail.contains("of another block"), "{fault}");
    passes(&format!("{write}@%p0 atom.global.add.u32 %w2, [%d0], 7;"), (5, 32));
    passes(&format!("{write}@%p0 red.global.add.u32 [%d0], 7;"), (5, 32));
    // One writes, all read.
    let first = "setp.eq.s32 %p0, %w1, 0;\n";
    caught(
        &format!("{first}@%p0 st.global.u32 [%d2], 7;\nld.global.u32 %w2, [%d0]; // here"),
        (2, 1),
        Race,
        1,
        0,
    );
    caught(
        "ld.global.u32 %w2, [%d0];\nsetp.eq.s32 %p0, %w1, 2;\n@%p0 st.global.u32 [%d2], 7; // here",
        (3, 1),
        Race,
        2,
        0,
    );
    // The writer reads last before it writes: the other reader is still known.
    passes("ld.global.u32 %w2, [%d0];", (3, 32));
    // An atomic does not protect a plain access.
    caught("atom.global.add.u32 %w2, [%d0], 1; // here\nld.global.u32 %w3, [%d0];", (2, 1), Race, 1, 0);
    let reader = "setp.eq.s32 %p0, %w1, 2;\n@%p0 ld.global.u32 %w3, [%d0]; // here\n";
    caught(&format!("{reader}@!%p0 atom.global.add.u32 %w2, [%d0], 1;"), (3, 1), Race, 2, 0);
    caught("ld.global.u32 %w3, [%d0]; // here\natom.global.add.u32 %w2, [%d0], 1;", (2, 1), Race, 1, 0);
    passes("atom.global.add.u32 %w2, [%d0], 1;\nld.global.u32 %w3, [%d0];", (1, 1));
}

#[test]
fn bytes_are_told_apart() {
    let address = "cvt.u64.u32 %d3, %w0;\nadd.s64 %d3, %d0, %d3;\n";
    passes(&format!("{address}st.global.u8 [%d3], %w0;\nld.global.u8 %w2, [%d3];"), (1, 64));
    let address = "mul.wide.u32 %d3, %w0, 2;\nadd.s64 %d3, %d0, %d3;\n";
    passes(&format!("{address}st.global.u16 [%d3], %w0;"), (1, 64));
    caught(
        &format!("{address}st.global.u16 [%d3], %w0;\nld.global.u8 %w2, [%d0+3]; // here"),
        (1, 2),
        Race,
        0,
        0,
    );
    // The byte that one lane writes and another one reads.
    let byte =
        "setp.eq.s32 %p0, %w0, 0;\n@%p0 st.global.u8 [%d0+1], 7;\n@!%p0 ld.global.u8 %w2, [%d0+1]; // here";
    caught(byte, (1, 2), Race, 0, 1);
    passes(&byte.replace("%w2, [%d0+1]", "%w2, [%d0+2]"), (1, 2));
    // Not whole warps.
    passes(&format!("{address}st.global.u16 [%d3], %w0;"), (1, 31));
    let address = "cvt.u64.u32 %d3, %w0;\nadd.s64 %d3, %d0, %d3;\n";
    passes(&format!("{address}st.global.u8 [%d3], %w0;\nld.global.u8 %w2, [%d3];"), (1, 5));
    passes(&format!("{address}st.global.u8 [%d3], %w0;\nbar.sync 0;\nld.global.u32 %w2, [%d0];"), (1, 5));
    caught(
        &format!("{address}st.global.u8 [%d3+1], %w0;\nld.global.u32 %w2, [%d0]; // here"),
        (1, 5),
        Race,
        0,
        0,
    );
    let address = "mul.wide.u32 %d3, %w0, 2;\nadd.s64 %d3, %d0, %d3;\n";
    // A page that was read by words, then by halves.
    caught(
        &format!("ld.global.u32 %w3, [%d2];\n{address}st.global.u16 [%d3], %w0; // here"),
        (1, 32),
        Race,
        0,
        1,
    );
}

#[test]
fn many_readers_and_a_writer() {
    // All lanes read a word, one of them writes it: the others' reads are not forgotten.
    let read = "ld.global.u32 %w2, [%d0];\n";
    for writer in [0, 1, 31] {
        let write = format!("setp.eq.s32 %p0, %w0, {writer};\n@%p0 st.global.u32 [%d0], 7;");
        caught(&format!("{read}{write} // here"), (1, 32), Race, 0, writer);
        passes(&format!("{read}bar.warp.sync -1;\n{write}"), (1, 32));
    }
    // Two warps.
    let write = "setp.eq.s32 %p0, %w0, 32;\n@%p0 st.global.u32 [%d0], 7;";
    caught(&format!("{read}bar.warp.sync -1;\n{write} // here"), (1, 64), Race, 0, 32);
    passes(&format!("{read}bar.sync 0;\n{write}"), (1, 64));
    // Two lanes of the writer's warp read first, with an order to it; then another warp, without one.
    let long = "add.s32 %w3, %w0, 1;\n".repeat(300);
    let write = "setp.eq.s32 %p0, %w0, 0;\n@%p0 st.global.u32 [%d0], 7;";
    for seed in 1..20 {
        let fault = common::fixture::run(&format!("{read}bar.warp.sync -1;\n{long}{write}"), (1, 64), seed);
        assert_eq!(fault.map_err(|fault| fault.kind), Err(Race));
    }
}

/// What whole warps touch at once is judged as a whole.
#[test]
fn rows() {
    let row = "mov.u32 %w3, %laneid;\nmul.wide.u32 %d3, %w3, 4;\nadd.s64 %d3, %d0, %d3;\nsetp.ge.u32 %p0, %w0, 32;\n";
    let (read, write) = ("ld.global.u32 %w2, [%d3];", "st.global.u32 [%d3], %w0;");
    caught(&format!("{row}{read}\n@%p0 {write} // here"), (1, 64), Race, 0, 32);
    passes(&format!("{row}{read}\nbar.sync 0;\n@%p0 {write}"), (1, 64));
    caught(&format!("{row}@!%p0 {write}\n@%p0 {read} // here"), (1, 64), Race, 0, 32);
    caught(&format!("{row}{write} // here"), (2, 32), Race, 1, 0);
    passes(&format!("{row}{read}\n{write}\n{read}\n{write}"), (1, 32));
    // The neighbour has read it too.
    let neighbour =
        "xor.b32 %w4, %w3, 1;\nmul.wide.u32 %d4, %w4, 4;\nadd.s64 %d4, %d0, %d4;\nld.global.u32 %w5, [%d4];";
    caught(&format!("{row}{read}\n{neighbour}\n{write} // here"), (1, 32), Race, 0, 0);
    passes(&format!("{row}{read}\n{neighbour}\nbar.warp.sync -1;\n{write}"), (1, 32));
    // Vectors of two and four.
    for (vector, registers, size) in [("v2", "{%w4, %w5}", 8), ("v4", "{%w4, %w5, %w6, %w7}", 16)] {
        let mine = format!(
            "mul.wide.u32 %d3, %w0, {size};\nadd.s64 %d3, %d0, %d3;\nld.global.{vector}.u32 {registers}, [%d3];\n"
        );
        let store = format!("st.global.{vector}.u32 [%d3], {registers};");
        passes(&format!("{mine}{store}"), (1, 32));
        caught(&format!("{mine}add.s64 %d3, %d3, {size};\n{store} // here"), (1, 32), Race, 0, 0);
    }
}

#[test]
fn barriers_that_not_all_reach() {
    let branch = "setp.lt.u32 %p0, %w0, 32;\n@%p0 bra $skip;\nbar.sync 0; // here\n$skip:\nmov.u32 %w2, 0;";
    let fault = caught(branch, (1, 64), DivergentBarrier, 0, 32);
    assert!(fault.detail.contains("thread [0, 0, 0] has exited"), "{fault}");
    let within = "setp.lt.u32 %p0, %w0, 16;\n@%p0 bra $other;\nbar.sync 0;\nbra $end;\n$other:\nbar.sync 0;\n$end:\nmov.u32 %w2, 0;";
    let fault = common::fixture::run(within, (1, 32), 0).expect_err("two barriers in a warp");
    assert_eq!(fault.kind, DivergentBarrier);
    let exit = "setp.lt.u32 %p0, %w0, 5;\n@%p0 ret;\nbar.sync 0; // here";
    caught(exit, (1, 32), DivergentBarrier, 0, 5);
    caught("setp.lt.u32 %p0, %w0, 5;\n@%p0 bar.sync 0; // here", (1, 32), DivergentBarrier, 0, 0);
    let numbers = "setp.lt.u32 %p0, %w0, 32;\n@%p0 bar.sync 0; // here\n@!%p0 bar.sync 1;";
    caught(numbers, (1, 64), DivergentBarrier, 0, 0);
    passes("setp.lt.u32 %p0, %w0, 64;\n@%p0 bar.sync 0;", (1, 64));
    passes("bar.sync 0;\nbar.sync 1;\nbarrier.sync 3;", (3, 64));
    // Warps may come to one barrier from different places.
    passes(
        "setp.lt.u32 %p0, %w0, 32;\n@%p0 bra $other;\nbar.sync 0;\nbra $end;\n$other:\nbar.sync 0;\n$end:\nmov.u32 %w2, 0;",
        (1, 64),
    );
}

#[test]
fn masks() {
    let shuffle = |mask: &str, mark: &str| format!("shfl.sync.down.b32 %w2, %w0, 1, 31, {mask};{mark}");
    passes(&shuffle("-1", ""), (1, 32));
    caught(&shuffle("0x7fffffff", " // here"), (1, 32), InactiveLane, 0, 30);
    // Lane 15 reads from lane 16, which is not there.
    caught(
        &format!("setp.lt.u32 %p0, %w0, 16;\n@%p0 {}", shuffle("0xffff", " // here")),
        (1, 32),
        InactiveLane,
        0,
        15,
    );
    passes("setp.lt.u32 %p0, %w0, 16;\n@%p0 shfl.sync.down.b32 %w2, %w0, 1, 0x101f, 0xffff;", (1, 32));
    // Lanes that have exited, or were never there.
    let gone = "setp.ge.u32 %p0, %w0, 30;\n@%p0 ret;\n";
    let fault = caught(&format!("{gone}{}", shuffle("-1", " // here")), (1, 32), InactiveLane, 0, 0);
    assert!(fault.detail.contains("lane 30, which has exited"), "{fault}");
    let fault = caught(&shuffle("-1", " // here"), (1, 20), InactiveLane, 0, 0);
    assert!(fault.detail.contains("lane 20, which does not exist"), "{fault}");
    passes(&format!("{gone}shfl.sync.bfly.b32 %w2, %w0, 1, 31, 0x3fffffff;"), (1, 32));
    // Lanes that never come.
    let fault = caught(
        &format!(
            "setp.ge.u32 %p0, %w0, 16;\n@%p0 bra $wait;\n{}\nbra $end;\n$wait:\nbar.sync 0;\n$end:\nmov.u32 %w2, 0;",
            shuffle("-1", " // here")
        ),
        (1, 32),
        InactiveLane,
        0,
        0,
    );
    assert!(fault.detail.contains("names lane 16, which waits at line"), "{fault}");
    // Different masks.
    let two = "setp.lt.u32 %p0, %w0, 16;\nselp.b32 %w3, 0xffffffff, 0xffff0000, %p0;\n";
    let fault = caught(&format!("{two}{}", shuffle("%w3", " // here")), (1, 32), InactiveLane, 0, 0);
    assert!(fault.detail.contains("in lane 16"), "{fault}");
    // Two groups at one instruction.
    passes(
        "setp.lt.u32 %p0, %w0, 16;\nselp.b32 %w3, 0xffff, 0xffff0000, %p0;\nshfl.sync.bfly.b32 %w2, %w0, 1, 31, %w3;",
        (1, 32),
    );
    // Votes and bar.warp.sync.
    caught(
        "setp.lt.u32 %p0, %w0, 16;\nvote.sync.all.pred %p1, %p0, 0xffff; // here",
        (1, 32),
        InactiveLane,
        0,
        16,
    );
    caught("setp.lt.u32 %p0, %w0, 16;\n@%p0 bar.warp.sync -1; // here", (1, 32), InactiveLane, 0, 0);
    passes("setp.lt.u32 %p0, %w0, 16;\n@%p0 bar.warp.sync 0xffff;", (1, 32));
    // Lanes that come later, by another way.
    passes(
        &format!(
            "setp.lt.u32 %p0, %w0, 16;\n@%p0 bra $there;\nadd.s32 %w5, %w0, 1;\nbra $there;\n$there:\n{}",
            shuffle("-1", "")
        ),
        (1, 32),
    );
}
