//! The order of blocks and warps.

mod common;

use common::fixture::{WORDS, parameters, text};
use common::{device, download_u32, launch};
use fadam_emulator::ptx::Module;

/// Who took which ticket: `data[i]` of unit i, a block or a warp.
fn tickets(unit: &str, shape: (u32, u32), units: usize, seed: u64) -> Vec<u32> {
    let body = format!(
        "mov.u32 %w2, {unit};\nsetp.eq.u32 %p0, %w0, 0;\nmov.u32 %w3, %laneid;\nsetp.eq.u32 %p0, %w3, 0;\n\
         mul.wide.u32 %d3, %w2, 4;\nadd.s64 %d3, %d0, %d3;\n@%p0 atom.global.add.u32 %w4, [%d0+1020], 1;\n\
         @%p0 st.global.u32 [%d3], %w4;"
    );
    let module = Module::parse(&text(&body)).expect("right");
    let mut memory = device();
    let parameters = parameters(&mut memory);
    let (data, _) = memory.live()[0];
    memory.fill(data, 0, 4 * WORDS).expect("it is there");
    launch(&mut memory, &module, "k", shape, &parameters, seed).expect("no fault");
    download_u32(&memory, data, units)
}

#[test]
fn blocks_run_once_each_in_any_order() {
    for count in [1, 2, 3, 31, 64, 97, 210] {
        let ascending: Vec<u32> = (0..count).collect();
        let run = |seed| tickets("%ctaid.x", (count, 1), count as usize, seed);
        assert_eq!(run(0), ascending);
        let mut orders = Vec::new();
        for seed in 1..6 {
            let order = run(seed);
            assert_eq!(order, run(seed), "the same seed, another order");
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, ascending);
            orders.push(order);
        }
        orders.sort();
        orders.dedup();
        assert!(orders.len() > 3 || count < 31, "{} orders of {count} blocks", orders.len());
    }
}

#[test]
fn warps_take_turns_in_any_order() {
    let ascending: Vec<u32> = (0..32).collect();
    assert_eq!(tickets("%warpid", (1, 1024), 32, 0), ascending);
    let orders: Vec<Vec<u32>> = (1..6).map(|seed| tickets("%warpid", (1, 1024), 32, seed)).collect();
    assert!(orders.iter().all(|order| *order != ascending));
    assert!(orders.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The race check numbers what happens, and starts over when it has counted far.
#[test]
fn many_launches() {
    let four: String = (0..4).map(|i| format!("ld.global.u32 %w2, [%d0+{}];\n", 4 * i)).collect();
    let module = Module::parse(&text(&four)).expect("right");
    let writes = Module::parse(&text("ld.global.u32 %w2, [%d2];\nst.global.u32 [%d2], %w2;")).expect("right");
    let mut memory = device();
    let parameters = parameters(&mut memory);
    for _ in 0..2 {
        launch(&mut memory, &module, "k", (600_000, 1), &parameters, 0).expect("all read");
        launch(&mut memory, &writes, "k", (1, WORDS as u32), &parameters, 0).expect("each its own");
        let fault =
            launch(&mut memory, &writes, "k", (2, WORDS as u32), &parameters, 0).expect_err("two blocks");
        assert_eq!((fault.kind, fault.block), (fadam_emulator::exec::FaultKind::Race, [1, 0, 0]));
    }
}
