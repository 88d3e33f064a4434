//! Order through fences, and through operations that acquire or release: patterns that are right, and each way to get them
//! wrong. The PTX ISA's memory consistency model says which is which.

mod common;

use common::compiled::{Compiled, compiled};
use common::fixture::{caught, passes};
use common::{Bytes, download_u32, upload};
use fadam_emulator::exec::FaultKind::Race;

/// Blocks of one thread: each writes its word of `data`, from the second one on, and counts itself in the first one. Which
/// finds that all others are there reads all words.
struct LastBlock {
    before: &'static str,
    write: &'static str,
    release: &'static str,
    count: &'static str,
    behind: &'static str,
    /// How many must have been there.
    others: u32,
    acquire: &'static str,
}

const WRITE: &str = "st.global.u32 [%d3+4], 7;";
const COUNT: &str = "atom.global.add.u32 %w3, [%d0], 1;";
const FENCE: &str = "membar.gl;";

const RIGHT: LastBlock = LastBlock {
    before: "",
    write: WRITE,
    release: FENCE,
    count: COUNT,
    behind: "",
    others: BLOCKS - 1,
    acquire: FENCE,
};

const BLOCKS: u32 = 5;

impl LastBlock {
    /// With a mark at the first read, or where the text has one.
    fn text(&self) -> String {
        let Self { before, write, release, count, behind, others, acquire } = self;
        let mut text = format!(
            "mul.wide.u32 %d3, %w1, 4;\nadd.s64 %d3, %d0, %d3;\n{before}\n{write}\n{release}\n{count}\n{behind}\n\
             setp.ne.u32 %p0, %w3, {others};\n@%p0 ret;\n{acquire}\n"
        );
        let mark = if text.contains("// here") { "" } else { " // here" };
        for block in 1..=BLOCKS {
            let mark = if block == 1 { mark } else { "" };
            text += &format!("ld.global.u32 %w4, [%d0+{}];{mark}\n", 4 * block);
        }
        text
    }

    fn passes(&self) {
        passes(&self.text(), (BLOCKS, 1));
    }

    /// The last block reads what another one wrote.
    fn caught(&self) {
        let fault = caught(&self.text(), (BLOCKS, 1), Race, BLOCKS - 1, 0);
        assert!(fault.detail.contains("thread 0 of another block was there at line"), "{fault}");
    }
}

#[test]
fn fences_around_an_atomic() {
    for fence in [
        "membar.gl;",
        "membar.sys;",
        "fence.sc.gpu;",
        "fence.sc.sys;",
        "fence.acq_rel.gpu;",
        "fence.acq_rel.sys;",
    ] {
        LastBlock { release: fence, acquire: fence, ..RIGHT }.passes();
    }
    LastBlock { release: "fence.release.gpu;", acquire: "fence.acquire.gpu;", ..RIGHT }.passes();
    for count in [
        "atom.relaxed.gpu.global.add.u32 %w3, [%d0], 1;",
        "atom.add.relaxed.sys.u32 %w3, [%d0], 1;",
        "atom.inc.u32 %w3, [%d0], 99;",
    ] {
        LastBlock { count, ..RIGHT }.passes();
    }
    // An earlier fence is enough, and what a thread writes again after another one.
    LastBlock { release: "membar.gl;\nmembar.cta;", ..RIGHT }.passes();
    LastBlock { write: "st.global.u32 [%d3+4], 7;\nmembar.gl;\nst.global.u32 [%d3+4], 8;", ..RIGHT }.passes();
}

#[test]
fn a_fence_that_is_missing() {
    LastBlock { release: "", ..RIGHT }.caught();
    LastBlock { acquire: "", ..RIGHT }.caught();
    // Each orders in one direction.
    LastBlock { release: "fence.acquire.gpu;", ..RIGHT }.caught();
    LastBlock { acquire: "fence.release.gpu;", ..RIGHT }.caught();
    // Within a block only.
    for fence in ["membar.cta;", "fence.acq_rel.cta;", "fence.sc.cta;"] {
        LastBlock { release: fence, ..RIGHT }.caught();
        LastBlock { acquire: fence, ..RIGHT }.caught();
    }
}

#[test]
fn a_fence_in_another_place() {
    LastBlock { release: "", behind: FENCE, ..RIGHT }.caught();
    LastBlock { write: "", release: "membar.gl;\nst.global.u32 [%d3+4], 7;", ..RIGHT }.caught();
    LastBlock { behind: "st.global.u32 [%d3+4], 8;", ..RIGHT }.caught();
    LastBlock { before: FENCE, release: "", ..RIGHT }.caught();
    // What follows the fence is a write to another location, which nobody reads; or which the last block reads.
    let elsewhere = "membar.gl;\nred.global.add.u32 [%d0+1000], 1;";
    LastBlock { release: "", behind: elsewhere, ..RIGHT }.caught();
    let elsewhere = "membar.gl;\natom.global.add.u32 %w5, [%d0+1000], 1;";
    LastBlock { release: "", behind: elsewhere, ..RIGHT }.passes();
}

#[test]
fn who_is_not_the_last() {
    // The last one writes what was read already.
    let early = LastBlock { write: "st.global.u32 [%d3+4], 7; // here", others: BLOCKS - 2, ..RIGHT };
    let fault = caught(&early.text(), (BLOCKS, 1), Race, BLOCKS - 1, 0);
    assert!(fault.detail.contains("of another block"), "{fault}");
}

#[test]
fn atomics_that_release_and_acquire() {
    let count = |count: &'static str| LastBlock { count, release: "", acquire: "", ..RIGHT };
    for right in [
        "atom.acq_rel.gpu.global.add.u32 %w3, [%d0], 1;",
        "atom.acq_rel.sys.add.u32 %w3, [%d0], 1;",
        "atom.add.acq_rel.gpu.u32 %w3, [%d0], 1;",
        "atom.acq_rel.global.add.u32 %w3, [%d0], 1;",
    ] {
        count(right).passes();
    }
    // What a thread writes behind its release is not released.
    let behind = "st.global.u32 [%d3+4], 8;";
    LastBlock { behind, ..count("atom.acq_rel.gpu.global.add.u32 %w3, [%d0], 1;") }.caught();
    LastBlock { behind, acquire: FENCE, ..count("atom.release.gpu.global.add.u32 %w3, [%d0], 1;") }.caught();
    count("atom.relaxed.gpu.global.add.u32 %w3, [%d0], 1;").caught();
    count("atom.release.gpu.global.add.u32 %w3, [%d0], 1;").caught();
    count("atom.acquire.gpu.global.add.u32 %w3, [%d0], 1;").caught();
    // With a fence at the other side.
    LastBlock { acquire: FENCE, ..count("atom.release.gpu.global.add.u32 %w3, [%d0], 1;") }.passes();
    LastBlock { release: FENCE, ..count("atom.acquire.gpu.global.add.u32 %w3, [%d0], 1;") }.passes();
    // A reduction, and a load of what it left.
    let load = "red.release.gpu.global.add.u32 [%d0], 1;\nld.acquire.gpu.global.u32 %w3, [%d0];";
    LastBlock { others: BLOCKS, ..count(load) }.passes();
    let load = "red.relaxed.gpu.global.add.u32 [%d0], 1;\nld.acquire.gpu.global.u32 %w3, [%d0];";
    LastBlock { others: BLOCKS, ..count(load) }.caught();
    let load = "red.release.gpu.global.add.u32 [%d0], 1;\nld.relaxed.gpu.global.u32 %w3, [%d0];";
    LastBlock { others: BLOCKS, ..count(load) }.caught();
    LastBlock { others: BLOCKS, acquire: FENCE, ..count(load) }.passes();
    let load = "red.release.gpu.global.add.u32 [%d0], 1;\nld.volatile.global.u32 %w3, [%d0];";
    LastBlock { others: BLOCKS, acquire: FENCE, ..count(load) }.passes();
    // The read of a reduction is no part of an acquire pattern.
    let reduction = "red.release.gpu.global.add.u32 [%d0], 1;\nmembar.gl;\natom.global.add.u32 %w3, [%d0+1000], 1;\nsub.u32 %w3, %w3, 250;";
    LastBlock { ..count(reduction) }.caught();
    let atomic = "atom.release.gpu.global.add.u32 %w5, [%d0], 1;\nmembar.gl;\natom.global.add.u32 %w3, [%d0+1000], 1;\nsub.u32 %w3, %w3, 250;";
    LastBlock { ..count(atomic) }.passes();
}

#[test]
fn scopes_of_atomics() {
    // Another block's is outside: the two atomics themselves race.
    for count in [
        "atom.global.cta.add.u32 %w3, [%d0], 1; // here",
        "atom.acq_rel.cta.global.add.u32 %w3, [%d0], 1; // here",
    ] {
        caught(&LastBlock { count, ..RIGHT }.text(), (BLOCKS, 1), Race, 1, 0);
    }
    passes("atom.global.cta.add.u32 %w3, [%d0], 1;", (1, 64));
    // So do two of different sizes.
    let sizes = "setp.eq.u32 %p0, %w0, 0;\n@%p0 atom.global.add.u64 %d3, [%d0], 1;\n@!%p0 atom.global.add.u32 %w3, [%d0], 1; // here";
    caught(sizes, (1, 2), Race, 0, 1);
}

/// The first block to come stores a word and a flag, the others load both.
fn message(store: &str, load: &str) -> String {
    format!(
        "atom.global.add.u32 %w3, [%d0+1000], 1;\nsetp.ne.u32 %p0, %w3, 250;\n@%p0 bra $load;\nst.global.u32 [%d0+4], 7;\n\
         {store}\nret;\n$load:\n{load}\nsetp.ne.u32 %p0, %w4, 1;\n@%p0 ret;\nld.global.u32 %w5, [%d0+4]; // here\n"
    )
}

#[test]
fn flags() {
    let (store, load) = ("st.release.gpu.global.u32 [%d0], 1;", "ld.acquire.gpu.global.u32 %w4, [%d0];");
    let (fenced_store, fenced_load) = (
        "fence.acq_rel.gpu;\nst.relaxed.gpu.global.u32 [%d0], 1;",
        "ld.relaxed.gpu.global.u32 %w4, [%d0];\nfence.acq_rel.gpu;",
    );
    let (old_store, old_load) =
        ("membar.gl;\nst.volatile.global.u32 [%d0], 1;", "ld.volatile.global.u32 %w4, [%d0];\nmembar.gl;");
    for store in [store, fenced_store, old_store, "st.release.sys.u32 [%d0], 1;"] {
        for load in [load, fenced_load, old_load, "ld.acquire.sys.u32 %w4, [%d0];"] {
            passes(&message(store, load), (4, 1));
        }
    }
    for store in ["st.relaxed.gpu.global.u32 [%d0], 1;", "st.volatile.global.u32 [%d0], 1;"] {
        caught(&message(store, load), (4, 1), Race, 1, 0);
    }
    for load in ["ld.relaxed.gpu.global.u32 %w4, [%d0];", "ld.volatile.global.u32 %w4, [%d0];"] {
        caught(&message(store, load), (4, 1), Race, 1, 0);
    }
    // A store that does not release takes the place of one that does.
    let again = "st.release.gpu.global.u32 [%d0], 2;\natom.global.exch.b32 %w5, [%d0], 1;";
    passes(&message(again, load), (4, 1));
    let other = "setp.eq.u32 %p1, %w3, 251;\n@%p1 st.relaxed.gpu.global.u32 [%d0], 1;\n@%p1 ret;\n";
    caught(&message(store, &format!("{other}{load}")), (4, 1), Race, 2, 0);
    passes(&message(store, &format!("@%p1 ret;\n{load}").replace("@%p1 ret;\n", "")), (4, 1));
    // A plain flag is a race by itself.
    let plain =
        message("membar.gl;\nst.global.u32 [%d0], 1;", "ld.global.u32 %w4, [%d0]; // here\nmembar.gl;");
    caught(&plain.replacen("[%d0+4]; // here", "[%d0+4];", 1), (4, 1), Race, 1, 0);
}

/// One warp stores a word a lane, and then a flag; the other one waits for it. In shared memory.
fn handed_over(producer: u32, before: &str, store: &str, load: &str) -> String {
    let not = if producer == 0 { "" } else { "!" };
    format!(
        "and.b32 %w2, %w0, 31;\nshl.b32 %w3, %w2, 2;\nsetp.eq.u32 %p1, %w2, 0;\nsetp.eq.u32 %p2, %w0, 0;\n\
         @%p2 st.shared.u32 [shared+256], 0;\nbar.sync 0;\nsetp.ge.u32 %p0, %w0, 32;\n@{not}%p0 bra $wait;\n\
         st.shared.u32 [%w3], %w0;\n{before}\n@%p1 {store} [shared+256], 1;\nret;\n$wait:\n{load} %w4, [shared+256];\n\
         setp.eq.u32 %p3, %w4, 0;\n@%p3 bra $wait;\nxor.b32 %w3, %w3, 4;\nld.shared.u32 %w5, [%w3]; // here"
    )
}

#[test]
fn a_warp_waits_for_another_one() {
    let (store, load) = ("st.release.cta.shared.u32", "ld.acquire.cta.shared.u32");
    for producer in [0, 1] {
        passes(&handed_over(producer, "bar.warp.sync -1;", store, load), (1, 64));
        passes(&handed_over(producer, "bar.warp.sync -1;", "st.release.gpu.shared.u32", load), (1, 64));
        // The reader is the first thread of the other warp.
        let (body, thread) =
            (|before, store, load| handed_over(producer, before, store, load), 32 - 32 * producer);
        caught(&body("", store, load), (1, 64), Race, 0, thread);
        caught(&body("bar.warp.sync -1;", "st.relaxed.cta.shared.u32", load), (1, 64), Race, 0, thread);
        caught(&body("bar.warp.sync -1;", store, "ld.relaxed.cta.shared.u32"), (1, 64), Race, 0, thread);
        passes(&body("bar.warp.sync -1;\nmembar.cta;", "st.volatile.shared.u32", load), (1, 64));
    }
}

/// Blocks of up to 64 threads: each thread writes a word, the first one counts, all threads of the last block read what the
/// others wrote, from that of thread `last` on.
fn by_whole_blocks(before: &str, fence: &str, after: &str, last: u32) -> String {
    format!(
        "shl.b32 %w2, %w1, 6;\nadd.u32 %w2, %w2, %w0;\nmul.wide.u32 %d3, %w2, 4;\nadd.s64 %d3, %d1, %d3;\nsetp.ne.u32 %p0, %w0, 0;\n\
         st.global.u32 [%d3], %w0;\n{before}\n@%p0 bra $wait;\n{fence}\natom.global.add.u32 %w3, [%d0], 1;\n{fence}\n\
         st.shared.u32 [shared], %w3;\n$wait:\nbar.sync 0;\nld.shared.u32 %w3, [shared];\nsetp.ne.u32 %p1, %w3, 2;\n@%p1 ret;\n\
         {after}\nxor.b32 %w4, %w0, {last};\nmul.wide.u32 %d3, %w4, 4;\nadd.s64 %d3, %d1, %d3;\n\
         ld.global.u32 %w5, [%d3]; // here\nld.global.u32 %w5, [%d3+256];\nld.global.u32 %w5, [%d3+512];\n"
    )
}

#[test]
fn fences_hand_on_what_came_before_a_barrier() {
    for fence in ["membar.gl;", "fence.acq_rel.gpu;"] {
        passes(&by_whole_blocks("bar.sync 0;", fence, "", 63), (3, 64));
        // Without it, the fence is for the first thread alone, and thread 63 of the last block reads what that wrote.
        caught(&by_whole_blocks("", fence, "", 63), (3, 64), Race, 2, 0);
        // Only its own warp.
        caught(&by_whole_blocks("bar.warp.sync -1;", fence, "", 63), (3, 64), Race, 2, 0);
        passes(&by_whole_blocks("bar.warp.sync -1;", fence, "", 31), (3, 32));
    }
    // Barriers of a warp do the same within it.
    let in_a_warp = |before, fence, after| {
        by_whole_blocks(before, fence, after, 31).replace("bar.sync 0;", "bar.warp.sync -1;")
    };
    passes(&in_a_warp("bar.sync 0;", "fence.acq_rel.gpu;", ""), (3, 32));
    passes(&in_a_warp("membar.gl;\nbar.sync 0;", "", "membar.gl;"), (3, 32));
    caught(&in_a_warp("bar.sync 0;", "", "membar.gl;"), (3, 32), Race, 2, 0);
    // Fences of all threads, with the barriers between them and the atomic: an order only if sequentially consistent.
    passes(&by_whole_blocks("membar.gl;\nbar.sync 0;", "", "membar.gl;", 63), (3, 64));
    passes(&by_whole_blocks("fence.sc.gpu;\nbar.sync 0;", "", "fence.sc.sys;", 63), (3, 64));
    let caught_with = |before, after| caught(&by_whole_blocks(before, "", after, 63), (3, 64), Race, 2, 0);
    caught_with("fence.acq_rel.gpu;\nbar.sync 0;", "fence.acq_rel.gpu;");
    caught_with("membar.gl;\nbar.sync 0;", "fence.acq_rel.gpu;");
    caught_with("membar.cta;\nbar.sync 0;", "membar.gl;");
    caught_with("membar.gl;\nbar.sync 0;", "membar.cta;");
    caught_with("membar.gl;\nbar.sync 0;", "");
    caught_with("bar.sync 0;", "membar.gl;");
    caught_with("membar.gl;", "membar.gl;");
}

/// All blocks read a word, and the last one writes it.
#[test]
fn readers_that_are_many() {
    let body = |late: &str| {
        format!(
            "ld.global.u32 %w2, [%d0+4];\nmembar.gl;\natom.global.add.u32 %w3, [%d0], 1;\n{late}\n\
             setp.ne.u32 %p0, %w3, 7;\n@%p0 ret;\nmembar.gl;\nst.global.u32 [%d0+4], 9; // here"
        )
    };
    passes(&body(""), (8, 1));
    for ticket in [0, 1, 2, 6] {
        let late = format!("setp.eq.u32 %p1, %w3, {ticket};\n@%p1 ld.global.u32 %w2, [%d0+4];");
        caught(&body(&late), (8, 1), Race, 7, 0);
        // By bytes.
        caught(&body(&late.replace("ld.global.u32", "ld.global.u8")), (8, 1), Race, 7, 0);
    }
    passes(&body("setp.eq.u32 %p1, %w3, 7;\n@%p1 ld.global.u32 %w2, [%d0+4];"), (8, 1));
    // Lanes of one warp that read one word, of which one does not pass the fence.
    let lanes = "ld.global.u32 %w2, [%d0+4];\nsetp.ne.u32 %p1, %w0, 5;\n@%p1 fence.acq_rel.gpu;\natom.global.add.u32 %w3, [%d0], 1;\n\
                 setp.ne.u32 %p0, %w3, 63;\n@%p0 ret;\nfence.acq_rel.gpu;\nst.global.u32 [%d0+4], 9; // here";
    caught(lanes, (2, 32), Race, 1, 31);
    passes(&lanes.replace("@%p1 fence", "fence"), (2, 32));
}

#[test]
fn the_counter_itself() {
    // Who has observed all others may store plainly; who has not may not.
    let reset = |who: &str| format!("{COUNT} // here\n{who}\n@%p0 st.global.u32 [%d0], 0;");
    passes(&reset("setp.eq.u32 %p0, %w3, 4;"), (5, 1));
    caught(&reset("setp.eq.u32 %p0, %w3, 3;"), (5, 1), Race, 4, 0);
    passes(&reset("setp.eq.u32 %p0, %w3, 4;\nmembar.gl;"), (5, 1));
    // What is stored plainly before atomics of other threads.
    let first = "setp.eq.u32 %p0, %w0, 0;\n@%p0 st.global.u32 [%d0], 0;\n";
    let atomic = "atom.global.add.u32 %w2, [%d0], 1;";
    caught(&format!("{first}{atomic} // here"), (1, 32), Race, 0, 1);
    passes(&format!("{first}bar.warp.sync -1;\n{atomic}"), (1, 32));
    caught(&format!("{first}bar.warp.sync -1;\n{atomic} // here"), (1, 64), Race, 0, 32);
    passes(&format!("{first}bar.sync 0;\n{atomic}"), (1, 64));
}

const COMPILED: Compiled = compiled!("order");

/// As NVRTC compiles it for three architectures: whole programs, with `__threadfence()` and CUDA's atomics.
#[test]
fn compiled_programs() {
    for (kernel, thread) in [
        ("no_fence_before", 0),
        ("no_fence_behind", 0),
        ("fence_of_a_block", 0),
        ("fence_after_the_atomic", 0),
        ("no_barrier_before_the_fence", 0),
        ("fences_of_all_threads", 0),
        ("atomic_relaxed", 0),
        ("load_relaxed", 0),
    ] {
        COMPILED.judge(
            kernel,
            4,
            (Race, 3, thread),
            |memory| {
                let addresses = [
                    upload(memory, &[0_u32; 2]),
                    upload(memory, &[9_u32; 4 * 64]),
                    memory.allocate(256).expect("room"),
                ];
                addresses.iter().flat_map(Bytes::bytes).collect()
            },
            |memory| {
                let (out, _) = memory.live()[2];
                let expected: Vec<u32> = (0..64).map(|t| 4 * (63 - t) + 6).collect();
                assert_eq!(download_u32(memory, out, 64), expected, "{kernel}");
            },
        );
    }
}
