//! Integer instructions, each in a kernel of its own. Expected values: PTX ISA, integer arithmetic, logic and shift,
//! comparison and selection; by hand.

mod common;

use common::instruction::check;

const MIN32: u64 = 0x8000_0000;
const MAX32: u64 = 0x7fff_ffff;
const ALL32: u64 = 0xffff_ffff;
const MIN64: u64 = 1 << 63;
const ALL64: u64 = u64::MAX;

#[test]
fn add_and_subtract() {
    check("add.s32", "w,w>w", &[&[1, 2, 3], &[ALL32, 1, 0], &[MAX32, 1, MIN32]]);
    check("add.u32", "w,w>w", &[&[ALL32, 2, 1]]);
    check("add.s32", "w,-5>w", &[&[3, 0, 0xffff_fffe]]);
    check("add.s64", "d,d>d", &[&[ALL32, 1, 1 << 32], &[ALL64, 1, 0]]);
    check("add.u64", "d,d>d", &[&[1 << 63, 1 << 63, 0]]);
    check("add.s16", "h,h>h", &[&[0xffff, 2, 1]]);
    check("sub.s32", "w,w>w", &[&[1, 2, ALL32], &[MIN32, 1, MAX32]]);
    check("sub.u64", "d,d>d", &[&[0, 1, ALL64]]);
    check("sub.s64", "d,d>d", &[&[5, 7, ALL64 - 1]]);
    check("sub.u16", "h,h>h", &[&[0, 1, 0xffff]]);
    check("neg.s32", "w>w", &[&[1, ALL32], &[MIN32, MIN32]]);
    check("neg.s64", "d>d", &[&[1, ALL64], &[0, 0]]);
    check("neg.s16", "h>h", &[&[1, 0xffff]]);
    check("abs.s32", "w>w", &[&[ALL32, 1], &[MIN32, MIN32], &[7, 7]]);
    check("abs.s64", "d>d", &[&[ALL64, 1]]);
    check("sad.u32", "w,w,w>w", &[&[3, 10, 100, 107], &[10, 3, 1, 8]]);
    check("sad.s32", "w,w,w>w", &[&[ALL32, 1, 0, 2]]);
}

#[test]
fn multiply() {
    check("mul.lo.s32", "w,w>w", &[&[0x1_0001, 0x1_0001, 0x2_0001], &[ALL32, 3, 0xffff_fffd]]);
    check("mul.lo.u32", "w,w>w", &[&[MIN32, 2, 0]]);
    check("mul.lo.s64", "d,d>d", &[&[1 << 40, 1 << 23, 1 << 63], &[ALL64, ALL64, 1]]);
    check("mul.lo.u64", "d,d>d", &[&[3, 5, 15]]);
    check("mul.lo.s16", "h,h>h", &[&[300, 300, 90000 & 0xffff]]);
    check("mul.hi.u32", "w,w>w", &[&[ALL32, ALL32, 0xffff_fffe], &[1 << 16, 1 << 16, 1]]);
    check("mul.hi.s32", "w,w>w", &[&[ALL32, ALL32, 0], &[ALL32, 1, ALL32]]);
    check("mul.hi.u64", "d,d>d", &[&[ALL64, ALL64, ALL64 - 1]]);
    check("mul.hi.s64", "d,d>d", &[&[ALL64, 1, ALL64], &[MIN64, 2, ALL64]]);
    check("mul.wide.u32", "w,w>d", &[&[ALL32, ALL32, 0xffff_fffe_0000_0001]]);
    check("mul.wide.s32", "w,w>d", &[&[ALL32, ALL32, 1], &[ALL32, 5, 0u64.wrapping_sub(5)]]);
    check("mul.wide.u16", "h,h>w", &[&[0xffff, 0xffff, 0xfffe_0001]]);
    check("mul.wide.s16", "h,h>w", &[&[0xffff, 2, 0xffff_fffe]]);
    check("mad.lo.s32", "w,w,w>w", &[&[3, 4, 5, 17], &[ALL32, 2, 1, ALL32]]);
    check("mad.lo.u32", "w,w,w>w", &[&[1 << 31, 2, 9, 9]]);
    check("mad.lo.s64", "d,d,d>d", &[&[72, 1000, 8, 72008]]);
    check("mad.lo.u16", "h,h,h>h", &[&[256, 256, 3, 3]]);
    check("mad.hi.u32", "w,w,w>w", &[&[ALL32, ALL32, 2, 0]]);
    check("mad.hi.s32", "w,w,w>w", &[&[ALL32, 1, 1, 0]]);
    check("mad.wide.u32", "w,w,d>d", &[&[ALL32, 2, 1, 0x1_ffff_ffff]]);
    check("mad.wide.s32", "w,w,d>d", &[&[ALL32, 2, 5, 3]]);
    check("mad.wide.u16", "h,h,w>w", &[&[0xffff, 2, 2, 0x2_0000]]);
    check("mad.wide.s16", "h,h,w>w", &[&[0xffff, 2, 2, 0]]);
}

#[test]
fn divide() {
    check("div.u32", "w,w>w", &[&[7, 2, 3], &[ALL32, 1, ALL32]]);
    check("div.s32", "w,w>w", &[&[0xffff_fff9, 2, 0xffff_fffd]]); // -7 / 2 = -3
    check("div.u64", "d,d>d", &[&[ALL64, 10, 1_844_674_407_370_955_161]]);
    check("div.s64", "d,d>d", &[&[ALL64 - 6, 2, ALL64 - 2]]);
    check("div.u16", "h,h>h", &[&[1000, 7, 142]]);
    check("div.s16", "h,h>h", &[&[0xffff, 1, 0xffff]]);
    check("rem.u32", "w,w>w", &[&[7, 4, 3]]);
    check("rem.s32", "w,w>w", &[&[0xffff_fff9, 4, 0xffff_fffd]]); // the dividend's sign
    check("rem.u64", "d,d>d", &[&[1 << 40, 7, (1 << 40) % 7]]);
    check("rem.s64", "d,d>d", &[&[ALL64, 2, ALL64]]);
    check("rem.u16", "h,h>h", &[&[9, 4, 1]]);
}

#[test]
fn smaller_and_larger() {
    check("min.u32", "w,w>w", &[&[ALL32, 1, 1]]);
    check("min.s32", "w,w>w", &[&[ALL32, 1, ALL32]]);
    check("min.u64", "d,d>d", &[&[ALL64, 1, 1]]);
    check("min.s64", "d,d>d", &[&[ALL64, 1, ALL64]]);
    check("max.u32", "w,w>w", &[&[ALL32, 1, ALL32]]);
    check("max.s32", "w,w>w", &[&[ALL32, 1, 1]]);
    check("max.u64", "d,d>d", &[&[ALL64, 1, ALL64]]);
    check("max.s64", "d,d>d", &[&[ALL64, 1, 1]]);
    check("min.u16", "h,h>h", &[&[0xffff, 1, 1]]);
    check("max.s16", "h,h>h", &[&[0xffff, 1, 1]]);
}

#[test]
fn logic() {
    check("and.b32", "w,w>w", &[&[0b1100, 0b1010, 0b1000]]);
    check("or.b32", "w,w>w", &[&[0b1100, 0b1010, 0b1110]]);
    check("xor.b32", "w,w>w", &[&[0b1100, 0b1010, 0b0110]]);
    check("not.b32", "w>w", &[&[0, ALL32]]);
    check("and.b64", "d,d>d", &[&[ALL64, 1 << 63, 1 << 63]]);
    check("or.b64", "d,d>d", &[&[1, 1 << 63, 1 << 63 | 1]]);
    check("xor.b64", "d,d>d", &[&[ALL64, 1, ALL64 - 1]]);
    check("not.b64", "d>d", &[&[1, ALL64 - 1]]);
    check("and.b16", "h,h>h", &[&[0x1ff, 255, 255]]);
    check("or.b16", "h,h>h", &[&[1, 2, 3]]);
    check("xor.b16", "h,h>h", &[&[1, 3, 2]]);
    check("not.b16", "h>h", &[&[1, 0xfffe]]);
    for (opcode, table) in [("and.pred", 0b1000), ("or.pred", 0b1110), ("xor.pred", 0b0110)] {
        for case in 0..4_u64 {
            check(opcode, "p,p>p", &[&[case >> 1, case & 1, table >> case & 1]]);
        }
    }
    check("not.pred", "p>p", &[&[0, 1], &[1, 0]]);
    check("mov.pred", "p>p", &[&[0, 0], &[1, 1]]);
    // PTX ISA, predicate constants: "zero values are False and non-zero values are True".
    for (constant, value) in [("0", 0), ("1", 1), ("-1", 1), ("2", 1)] {
        check("mov.pred", &format!("{constant}>p"), &[&[value]]);
        check("and.pred", &format!("p,{constant}>p"), &[&[1, value], &[0, 0]]);
    }
    // PTX ISA, lop3: the table of a function F is F(0xF0, 0xCC, 0xAA).
    check("lop3.b32", "w,w,w,0x80>w", &[&[0b1110, 0b1011, 0b0111, 0b0010]]);
    check("lop3.b32", "w,w,w,0x96>w", &[&[0b1110, 0b1011, 0b0111, 0b0010]]);
    check("lop3.b32", "w,w,w,0xb8>w", &[&[0b1100, 0b1010, 0b0110, lop3_b8()]]);
}

/// Table 0xb8 on a = 1100, b = 1010, c = 0110, bit by bit: index 4a + 2b + c of 10111000.
fn lop3_b8() -> u64 {
    let bit = |index: u64| 0xb8 >> index & 1;
    // From bit 4 up all inputs are 0.
    bit(6) << 3 | bit(5) << 2 | bit(3) << 1 | bit(0) | if bit(0) == 1 { 0xffff_fff0 } else { 0 }
}

#[test]
fn shifts_clamp() {
    check("shl.b32", "w,w>w", &[&[1, 31, MIN32], &[1, 32, 0], &[1, ALL32, 0]]);
    check("shl.b64", "d,w>d", &[&[1, 63, MIN64], &[1, 64, 0]]);
    check("shl.b16", "h,w>h", &[&[1, 15, 0x8000], &[1, 16, 0]]);
    check("shr.u32", "w,w>w", &[&[MIN32, 31, 1], &[MIN32, 32, 0]]);
    check("shr.s32", "w,w>w", &[&[MIN32, 31, ALL32], &[MIN32, 99, ALL32], &[MAX32, 99, 0]]);
    check("shr.u64", "d,w>d", &[&[MIN64, 63, 1], &[MIN64, 64, 0]]);
    check("shr.s64", "d,w>d", &[&[MIN64, 63, ALL64], &[MIN64, 200, ALL64]]);
    check("shr.b32", "w,w>w", &[&[MIN32, 4, 0x800_0000]]);
    check("shr.u16", "h,w>h", &[&[0x8000, 15, 1], &[0x8000, 16, 0]]);
    check("shr.s16", "h,w>h", &[&[0x8000, 20, 0xffff]]);
    check("shf.l.wrap.b32", "w,w,w>w", &[&[MIN32, 1, 1, 3], &[5, 6, 32, 6]]);
    check("shf.r.wrap.b32", "w,w,w>w", &[&[2, 1, 1, MIN32 | 1], &[5, 6, 32, 5]]);
    check("shf.l.clamp.b32", "w,w,w>w", &[&[5, 6, 40, 5]]);
    check("shf.r.clamp.b32", "w,w,w>w", &[&[5, 6, 40, 6]]);
}

#[test]
fn bits() {
    check("popc.b32", "w>w", &[&[ALL32, 32], &[0, 0], &[0x101, 2]]);
    check("popc.b64", "d>w", &[&[ALL64, 64]]);
    check("clz.b32", "w>w", &[&[0, 32], &[1, 31], &[ALL32, 0]]);
    check("clz.b64", "d>w", &[&[0, 64], &[1, 63]]);
    check("brev.b32", "w>w", &[&[1, MIN32]]);
    check("brev.b64", "d>d", &[&[1, MIN64]]);
    check("bfind.u32", "w>w", &[&[0, ALL32], &[1, 0], &[MIN32, 31]]);
    check("bfind.shiftamt.u32", "w>w", &[&[1, 31], &[MIN32, 0], &[0, ALL32]]);
    check("bfe.u32", "w,w,w>w", &[&[0x1234_5678, 8, 8, 0x56], &[ALL32, 28, 8, 0xf], &[ALL32, 0, 0, 0]]);
    check("bfe.s32", "w,w,w>w", &[&[0x80, 4, 4, 0xffff_fff8], &[MIN32, 28, 8, 0xffff_fff8]]);
    check("bfe.u64", "d,w,w>d", &[&[0x1234_5678_9abc_def0, 32, 16, 0x5678]]);
    check("bfe.s64", "d,w,w>d", &[&[1 << 63, 60, 4, ALL64 - 7]]);
    check("bfi.b32", "w,w,w,w>w", &[&[0xab, ALL32, 8, 8, 0xffff_abff], &[1, 7, 3, 0, 7]]);
    check("bfi.b64", "d,d,w,w>d", &[&[0xdead, 0xbeef_0001, 32, 32, 0xdead_beef_0001]]);
    check(
        "prmt.b32",
        "w,w,w>w",
        &[&[0x3322_1100, 0x7766_5544, 0x5410, 0x5544_1100], &[0x8000_0000, 0, 0x000b, 0x0000_00ff]],
    );
}

#[test]
fn selection_and_moves() {
    check("selp.b32", "w,w,p>w", &[&[1, 2, 1, 1], &[1, 2, 0, 2]]);
    check("selp.b64", "d,d,p>d", &[&[1 << 40, 2, 1, 1 << 40], &[1, 2, 0, 2]]);
    check("selp.u16", "h,h,p>h", &[&[1, 2, 1, 1], &[1, 2, 0, 2]]);
    check("selp.f32", "0f3F800000,0fBF800000,p>w", &[&[0, 0, 1, 0x3f80_0000], &[0, 0, 0, 0xbf80_0000]]);
    check("mov.b32", "w>w", &[&[ALL32, ALL32]]);
    check("mov.b64", "d>d", &[&[ALL64, ALL64]]);
    check("mov.u16", "h>h", &[&[0xffff, 0xffff]]);
    check("mov.f32", "0fC0490FDB>w", &[&[0, 0xc049_0fdb]]);
    check("mov.f64", "0d400921FB54442D18>d", &[&[0, 0x4009_21fb_5444_2d18]]);
}

#[test]
fn comparisons() {
    for (how, signed, unsigned) in [
        ("lt", [1, 0, 0], [0, 1, 0]),
        ("le", [1, 0, 1], [0, 1, 1]),
        ("gt", [0, 1, 0], [1, 0, 0]),
        ("ge", [0, 1, 1], [1, 0, 1]),
        ("eq", [0, 0, 1], [0, 0, 1]),
        ("ne", [1, 1, 0], [1, 1, 0]),
    ] {
        // (-1, 1), (1, -1), (1, 1)
        let cases = |expected: [u64; 3], all: u64| {
            [[all, 1, expected[0]], [1, all, expected[1]], [1, 1, expected[2]]]
        };
        for (kind, register, all) in [("16", "h", 0xffff), ("32", "w", ALL32), ("64", "d", ALL64)] {
            let kinds = format!("{register},{register}>p");
            for (sign, expected) in [("s", signed), ("u", unsigned)] {
                let cases = cases(expected, all);
                let cases: Vec<&[u64]> = cases.iter().map(|case| case.as_slice()).collect();
                check(&format!("setp.{how}.{sign}{kind}"), &kinds, &cases);
                if matches!(how, "eq" | "ne") {
                    check(&format!("setp.{how}.b{kind}"), &kinds, &cases);
                }
            }
        }
    }
    check("setp.lo.u32", "w,w>p", &[&[1, 2, 1], &[2, 1, 0]]);
    check("setp.ls.u32", "w,w>p", &[&[2, 2, 1]]);
    check("setp.hi.u32", "w,w>p", &[&[2, 1, 1]]);
    check("setp.hs.u32", "w,w>p", &[&[2, 2, 1]]);
    check("setp.lt.and.u32", "w,w,p>p", &[&[1, 2, 0, 0], &[1, 2, 1, 1], &[2, 1, 1, 0]]);
    check("setp.lt.or.u32", "w,w,p>p", &[&[1, 2, 0, 1], &[2, 1, 1, 1], &[2, 1, 0, 0]]);
    check("setp.lt.xor.u32", "w,w,p>p", &[&[1, 2, 1, 0], &[2, 1, 1, 1]]);
}

/// Names of one instruction, and widths that NVRTC seldom uses.
#[test]
fn further_names() {
    for kind in ["b", "u", "s"] {
        check(&format!("mov.{kind}16"), "h>h", &[&[0xfedc, 0xfedc]]);
        check(&format!("mov.{kind}32"), "w>w", &[&[ALL32, ALL32]]);
        check(&format!("mov.{kind}64"), "d>d", &[&[MIN64, MIN64]]);
        check(&format!("selp.{kind}16"), "h,h,p>h", &[&[1, 2, 1, 1], &[1, 2, 0, 2]]);
        check(&format!("selp.{kind}32"), "w,w,p>w", &[&[ALL32, 2, 1, ALL32], &[1, 2, 0, 2]]);
        check(&format!("selp.{kind}64"), "d,d,p>d", &[&[ALL64, 2, 1, ALL64], &[1, 2, 0, 2]]);
    }
    check("selp.f64", "d,d,p>d", &[&[MIN64, 2, 1, MIN64], &[1, MIN64, 0, MIN64]]);
    check("shr.b16", "h,w>h", &[&[0x8000, 4, 0x800]]);
    check("shr.b64", "d,w>d", &[&[MIN64, 4, MIN64 >> 4]]);
    check("sub.s16", "h,h>h", &[&[0, 1, 0xffff]]);
    check("abs.s16", "h>h", &[&[0xfffe, 2], &[0x8000, 0x8000]]);
    check("mul.lo.u16", "h,h>h", &[&[0xffff, 0xffff, 1]]);
    check("mul.hi.u16", "h,h>h", &[&[0xffff, 0xffff, 0xfffe]]);
    check("mul.hi.s16", "h,h>h", &[&[0xffff, 0xffff, 0], &[0xffff, 1, 0xffff]]);
    check("mad.lo.s16", "h,h,h>h", &[&[0xffff, 2, 3, 1]]);
    check("mad.lo.u64", "d,d,d>d", &[&[1 << 40, 1 << 30, 5, 5]]);
    check("rem.s16", "h,h>h", &[&[0xfff9, 4, 0xfffd]]);
    check("min.s16", "h,h>h", &[&[0xffff, 1, 0xffff]]);
    check("max.u16", "h,h>h", &[&[0xffff, 1, 0xffff]]);
}
