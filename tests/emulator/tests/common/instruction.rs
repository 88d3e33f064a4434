//! One instruction in a kernel of its own. The kernels run unchanged on a GPU.

use super::{Bytes, device, download_u64, launch, upload};
use fadam_emulator::ptx::Module;

const OPERANDS: usize = 4;

/// The kernel for an opcode. `kinds` are letters, inputs before `>`, then the output: `b`yte in a word, `h`alf, `w`ord,
/// `d`ouble, `p`redicate, or a literal between quotes.
pub fn kernel(opcode: &str, kinds: &str) -> String {
    let (inputs, output) = kinds.split_once('>').expect("an output");
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{\n\
         .reg .pred %p<6>;\n.reg .b16 %h<6>;\n.reg .b32 %w<6>;\n.reg .b64 %d<6>;\n.reg .b64 %a<4>;\n.reg .b32 %i;\n\
         mov.u32 %i, %tid.x;\nld.param.u64 %a0, [in];\nmul.wide.u32 %a2, %i, 32;\nadd.s64 %a0, %a0, %a2;\n\
         ld.param.u64 %a1, [out];\nmul.wide.u32 %a2, %i, 8;\nadd.s64 %a1, %a1, %a2;\n",
    );
    let mut operands = Vec::new();
    for (i, kind) in inputs.split(',').enumerate() {
        let at = 8 * i;
        match kind {
            "h" => text += &format!("ld.global.u16 %h{i}, [%a0+{at}];\n"),
            "b" | "w" => text += &format!("ld.global.u32 %w{i}, [%a0+{at}];\n"),
            "d" => text += &format!("ld.global.u64 %d{i}, [%a0+{at}];\n"),
            "p" => text += &format!("ld.global.u32 %w{i}, [%a0+{at}];\nsetp.ne.s32 %p{i}, %w{i}, 0;\n"),
            literal => {
                operands.push(literal.to_string());
                continue;
            }
        }
        operands.push(format!("%{}{i}", kind.replace('b', "w")));
    }
    text += &format!("{opcode} %{}5, {};\n", output.replace('b', "w"), operands.join(", "));
    text += match output {
        "h" => "cvt.u64.u16 %d5, %h5;\n",
        "b" | "w" => "cvt.u64.u32 %d5, %w5;\n",
        "p" => "selp.b64 %d5, 1, 0, %p5;\n",
        _ => "",
    };
    text + "st.global.u64 [%a1], %d5;\nret;\n}\n"
}

/// Runs an opcode on each case: in a warp that is not full, and in full ones.
pub fn results(opcode: &str, kinds: &str, cases: &[&[u64]]) -> Vec<u64> {
    let module = Module::parse(&kernel(opcode, kinds)).unwrap_or_else(|error| panic!("{opcode}: {error}"));
    let run = |threads: usize| {
        let mut memory = device();
        let mut values = vec![0_u64; threads * OPERANDS];
        for (i, row) in values.chunks_mut(OPERANDS).enumerate() {
            let case = cases[i % cases.len()];
            row[..case.len()].copy_from_slice(case);
        }
        let input = upload(&mut memory, &values);
        let output = memory.allocate(8 * threads).expect("room");
        let parameters = [input.bytes(), output.bytes()].concat();
        launch(&mut memory, &module, "k", (1, threads as u32), &parameters, 0)
            .unwrap_or_else(|fault| panic!("{opcode}: {fault}"));
        download_u64(&memory, output, threads)
    };
    let few = run(cases.len());
    let full = run(cases.len().next_multiple_of(32));
    for (i, result) in full.iter().enumerate() {
        assert_eq!(*result, few[i % cases.len()], "{opcode} in a full warp");
    }
    few
}

/// Each case is its operands and, last, what must come out.
pub fn check(opcode: &str, kinds: &str, cases: &[&[u64]]) {
    let inputs: Vec<&[u64]> = cases.iter().map(|case| &case[..case.len() - 1]).collect();
    for (case, result) in cases.iter().zip(results(opcode, kinds, &inputs)) {
        let (expected, operands) = case.split_last().expect("a result");
        assert_eq!(result, *expected, "{opcode} {operands:x?} is {result:#x}, must be {expected:#x}");
    }
}
