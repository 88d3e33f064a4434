//! Floating-point instructions and conversions, each in a kernel of its own. Expected values: IEEE 754 and the PTX ISA, by
//! hand; NaN of f32 arithmetic is what hardware makes, 0x7fffffff.

mod common;

use common::instruction::{check, results};

const NAN: u64 = 0x7fff_ffff;
const QUIET: u64 = 0x7fc0_0000;
const INF: u64 = 0x7f80_0000;
const ONE: u64 = 0x3f80_0000;
const TWO: u64 = 0x4000_0000;
const MAX: u64 = 0x7f7f_ffff;
const MINUS: u64 = 0x8000_0000;
const TINY: u64 = 1; // the smallest subnormal
const NORMAL: u64 = 0x0080_0000; // the smallest normal number

const ONE64: u64 = 0x3ff0_0000_0000_0000;
const INF64: u64 = 0x7ff0_0000_0000_0000;
const MINUS64: u64 = 1 << 63;

fn d(x: f64) -> u64 {
    x.to_bits()
}

#[test]
fn add_subtract_multiply() {
    for opcode in ["add.f32", "add.rn.f32"] {
        check(
            opcode,
            "w,w>w",
            &[
                &[ONE, ONE, TWO],
                &[TINY, TINY, 2],
                &[NORMAL, MINUS | TINY, NORMAL - 1],
                &[ONE, 0x3380_0000, ONE],         // 1 + 2^-24: the tie goes to even
                &[ONE | 1, 0x3380_0000, ONE | 2], // and here up
                &[ONE, 0x3380_0001, ONE | 1],     // beyond the tie
                &[MAX, MAX, INF],
                &[INF, INF | MINUS, NAN],
                &[QUIET, ONE, NAN],
                &[MINUS, MINUS, MINUS],
                &[0, MINUS, 0],
            ],
        );
    }
    check("sub.rn.f32", "w,w>w", &[&[ONE, ONE, 0], &[NORMAL, TINY, NORMAL - 1], &[INF, INF, NAN]]);
    check("sub.f32", "w,w>w", &[&[TWO, ONE, ONE]]);
    check(
        "mul.rn.f32",
        "w,w>w",
        &[
            &[TWO, TWO, 0x4080_0000],
            &[NORMAL, 0x3f00_0000, NORMAL / 2],
            &[TINY, 0x3f00_0000, 0], // half of the smallest: the tie goes to even
            &[TINY, 0x3f00_0001, TINY],
            &[3, 0x3f00_0000, 2],
            &[0, INF, NAN],
            &[MINUS, ONE, MINUS],
            &[0x7f00_0000, TWO, INF],
        ],
    );
    check("mul.f32", "w,w>w", &[&[ONE, TWO, TWO]]);
    check(
        "add.ftz.f32",
        "w,w>w",
        &[&[TINY, TINY, 0], &[NORMAL, MINUS | TINY, NORMAL], &[MINUS | 1, MINUS, MINUS]],
    );
    check("mul.ftz.f32", "w,w>w", &[&[NORMAL, 0x3f00_0000, 0]]);
    check(
        "add.rn.f64",
        "d,d>d",
        &[&[d(0.1), d(0.2), d(0.300_000_000_000_000_04)], &[1, 1, 2], &[INF64, ONE64, INF64]],
    );
    check("sub.rn.f64", "d,d>d", &[&[ONE64, ONE64, 0]]);
    check("mul.rn.f64", "d,d>d", &[&[d(3.0), d(7.0), d(21.0)], &[1, d(0.5), 0], &[MINUS64, ONE64, MINUS64]]);
    let nan = results("sub.rn.f64", "d,d>d", &[&[INF64, INF64]])[0];
    assert!(f64::from_bits(nan).is_nan());
}

#[test]
fn fused() {
    check(
        "fma.rn.f32",
        "w,w,w>w",
        &[
            &[TWO, TWO, ONE, 0x40a0_0000],
            // (1 + 2^-23)(1 - 2^-23) - 1 = -2^-46: 0 if the product were rounded.
            &[ONE | 1, 0x3f7f_fffe, 0xbf80_0000, 0xa880_0000],
            &[0, INF, ONE, NAN],
            &[INF, ONE, INF | MINUS, NAN],
            &[TINY, ONE, TINY, 2],
            &[MAX, TWO, MAX | MINUS, MAX],
        ],
    );
    check(
        "fma.rn.f64",
        "d,d,d>d",
        &[
            &[d(2.0), d(3.0), d(4.0), d(10.0)],
            &[ONE64 | 1, 0x3fef_ffff_ffff_fffe, d(-1.0), d(-(2.0_f64.powi(-104)))],
            &[1, ONE64, 1, 2],
        ],
    );
}

/// Towards minus infinity.
#[test]
fn fused_down() {
    check(
        "fma.rm.f32",
        "w,w,w>w",
        &[
            &[TWO, TWO, ONE, 0x40a0_0000],
            &[ONE, ONE, 0x3300_0000, ONE],          // 1 + 2^-25
            &[ONE, ONE, 0xb300_0000, 0x3f7f_ffff],  // 1 - 2^-25: the number below 1
            &[ONE, ONE, MINUS | TINY, 0x3f7f_ffff], // 1 - 2^-149, beyond f64
            &[0xbf80_0000, ONE, MINUS | TINY, 0xbf80_0001],
            &[MAX, TWO, 0, MAX],
            &[MAX | MINUS, TWO, 0, INF | MINUS],
            &[ONE, ONE, 0xbf80_0000, MINUS], // an exact zero is -0
            &[0, ONE, 0, 0],
            &[INF, 0, ONE, NAN],
            &[TINY, 0x3f00_0000, 0, 0],
            &[MINUS | TINY, 0x3f00_0000, 0, MINUS | TINY],
        ],
    );
}

#[test]
fn divide_and_root() {
    check(
        "div.rn.f32",
        "w,w>w",
        &[
            &[ONE, 0x4040_0000, 0x3eaa_aaab],
            &[NORMAL, TWO, NORMAL / 2],
            &[TINY, TWO, 0],
            &[3, TWO, 2],
            &[ONE, 0, INF],
            &[ONE, MINUS, INF | MINUS],
            &[0, 0, NAN],
            &[INF, INF, NAN],
            &[ONE, INF, 0],
        ],
    );
    check("rcp.rn.f32", "w>w", &[&[0x4040_0000, 0x3eaa_aaab], &[0, INF], &[0x7f00_0000, 0x0040_0000]]);
    check(
        "sqrt.rn.f32",
        "w>w",
        &[
            &[TWO, 0x3fb5_04f3],
            &[0x4080_0000, TWO],
            &[MINUS, MINUS],
            &[0xbf80_0000, NAN],
            &[INF, INF],
            &[2, 0x1a80_0000], // sqrt(2^-148) = 2^-74
        ],
    );
    check(
        "div.rn.f64",
        "d,d>d",
        &[&[ONE64, d(3.0), 0x3fd5_5555_5555_5555], &[ONE64, 0, INF64], &[1, d(2.0), 0]],
    );
    check("rcp.rn.f64", "d>d", &[&[d(3.0), 0x3fd5_5555_5555_5555]]);
    check("sqrt.rn.f64", "d>d", &[&[d(2.0), 0x3ff6_a09e_667f_3bcd], &[MINUS64, MINUS64]]);
}

#[test]
fn signs_and_extremes() {
    check("neg.f32", "w>w", &[&[ONE, ONE | MINUS], &[MINUS, 0]]);
    check("abs.f32", "w>w", &[&[ONE | MINUS, ONE], &[MINUS, 0]]);
    check("neg.f64", "d>d", &[&[0, MINUS64]]);
    check("abs.f64", "d>d", &[&[d(-2.0), d(2.0)]]);
    check("copysign.f32", "w,w>w", &[&[MINUS, ONE, ONE | MINUS], &[ONE, TWO | MINUS, TWO]]);
    check("copysign.f64", "d,d>d", &[&[MINUS64, ONE64, d(-1.0)]]);
    // One NaN: the other operand. Two: the canonical one. -0 < +0.
    check(
        "min.f32",
        "w,w>w",
        &[&[ONE, TWO, ONE], &[QUIET, TWO, TWO], &[ONE, QUIET, ONE], &[QUIET, QUIET, NAN], &[0, MINUS, MINUS]],
    );
    check(
        "max.f32",
        "w,w>w",
        &[&[ONE, TWO, TWO], &[QUIET, TWO, TWO], &[QUIET, QUIET, NAN], &[MINUS, 0, 0], &[0, MINUS, 0]],
    );
    check(
        "min.f64",
        "d,d>d",
        &[&[ONE64, d(2.0), ONE64], &[d(f64::NAN), ONE64, ONE64], &[0, MINUS64, MINUS64]],
    );
    check("max.f64", "d,d>d", &[&[ONE64, d(2.0), d(2.0)], &[ONE64, d(f64::NAN), ONE64], &[MINUS64, 0, 0]]);
}

#[test]
fn comparisons() {
    // (1, 2), (2, 1), (1, 1), (NaN, 1), (0, -0)
    for (how, expected) in [
        ("eq", [0, 0, 1, 0, 1]),
        ("ne", [1, 1, 0, 0, 0]),
        ("lt", [1, 0, 0, 0, 0]),
        ("le", [1, 0, 1, 0, 1]),
        ("gt", [0, 1, 0, 0, 0]),
        ("ge", [0, 1, 1, 0, 1]),
        ("equ", [0, 0, 1, 1, 1]),
        ("neu", [1, 1, 0, 1, 0]),
        ("ltu", [1, 0, 0, 1, 0]),
        ("leu", [1, 0, 1, 1, 1]),
        ("gtu", [0, 1, 0, 1, 0]),
        ("geu", [0, 1, 1, 1, 1]),
        ("num", [1, 1, 1, 0, 1]),
        ("nan", [0, 0, 0, 1, 0]),
    ] {
        let e = expected;
        check(
            &format!("setp.{how}.f32"),
            "w,w>p",
            &[
                &[ONE, TWO, e[0]],
                &[TWO, ONE, e[1]],
                &[ONE, ONE, e[2]],
                &[QUIET, ONE, e[3]],
                &[0, MINUS, e[4]],
            ],
        );
        let nan = d(f64::NAN);
        check(
            &format!("setp.{how}.f64"),
            "d,d>p",
            &[
                &[ONE64, d(2.0), e[0]],
                &[d(2.0), ONE64, e[1]],
                &[ONE64, ONE64, e[2]],
                &[nan, ONE64, e[3]],
                &[0, MINUS64, e[4]],
            ],
        );
    }
}

#[test]
fn conversions_of_integers() {
    check("cvt.u64.u32", "w>d", &[&[0xffff_ffff, 0xffff_ffff]]);
    check("cvt.s64.s32", "w>d", &[&[0xffff_ffff, u64::MAX]]);
    check("cvt.u32.u64", "d>w", &[&[0x1_2345_6789, 0x2345_6789]]);
    check("cvt.u32.u16", "h>w", &[&[0xffff, 0xffff]]);
    check("cvt.s32.s16", "h>w", &[&[0xffff, 0xffff_ffff]]);
    check("cvt.s32.s8", "b>w", &[&[0x1ff, 0xffff_ffff], &[0x17f, 0x7f]]);
    check("cvt.u32.u8", "b>w", &[&[0x1ff, 0xff]]);
    check("cvt.u16.u32", "w>h", &[&[0x1_2345, 0x2345]]);
    check("cvt.u8.u32", "w>b", &[&[0x1ff, 0xff]]);
    check("cvt.s8.s32", "w>b", &[&[0x1ff, 0xffff_ffff]]);
    check("cvt.rn.f32.s32", "w>w", &[&[0xffff_ffff, 0xbf80_0000], &[0x0100_0001, 0x4b80_0000]]);
    check("cvt.rn.f32.u32", "w>w", &[&[0xffff_ffff, 0x4f80_0000]]);
    check(
        "cvt.rn.f64.u64",
        "d>d",
        &[&[(1 << 53) + 1, d(9_007_199_254_740_992.0)], &[u64::MAX, d(18_446_744_073_709_551_616.0)]],
    );
    check("cvt.rn.f64.s64", "d>d", &[&[u64::MAX, d(-1.0)]]);
    check("cvt.rn.f64.u32", "w>d", &[&[0xffff_ffff, d(4_294_967_295.0)]]);
    check("cvt.rn.f64.s32", "w>d", &[&[0xffff_ffff, d(-1.0)]]);
    check("cvt.rn.f64.s16", "h>d", &[&[0xffff, d(-1.0)]]);
}

#[test]
fn conversions_of_floats() {
    let f = |x: f32| u64::from(x.to_bits());
    check("cvt.f64.f32", "w>d", &[&[ONE, ONE64], &[TINY, d(2.0_f64.powi(-149))], &[INF, INF64]]);
    check(
        "cvt.rn.f32.f64",
        "d>w",
        &[
            &[d(1.0 + 2.0_f64.powi(-24)), ONE],
            &[d(1.0 + 2.0_f64.powi(-23) + 2.0_f64.powi(-24)), ONE | 2],
            &[d(1e300), INF],
            &[d(2.0_f64.powi(-150)), 0],
            &[d(2.0_f64.powi(-149)), TINY],
            &[d(f64::NAN), NAN],
        ],
    );
    check(
        "cvt.rz.f32.f64",
        "d>w",
        &[&[d(1.0 + 2.0_f64.powi(-23) * 0.99), ONE], &[d(1e300), MAX], &[d(-0.1), 0xbdcc_cccc]],
    );
    check(
        "cvt.rzi.s32.f32",
        "w>w",
        &[&[f(-1.9), 0xffff_ffff], &[f(3e9), 0x7fff_ffff], &[QUIET, 0], &[f(-3e9), MINUS]],
    );
    check("cvt.rni.s32.f32", "w>w", &[&[f(2.5), 2], &[f(3.5), 4], &[f(-0.5), 0]]);
    check("cvt.rmi.s32.f32", "w>w", &[&[f(-0.5), 0xffff_ffff]]);
    check("cvt.rpi.s32.f32", "w>w", &[&[f(0.5), 1]]);
    check("cvt.rzi.u32.f32", "w>w", &[&[f(-5.0), 0], &[f(5e9), 0xffff_ffff]]);
    check("cvt.rzi.u32.f64", "d>w", &[&[d(4.9), 4], &[d(-1.0), 0]]);
    check("cvt.rzi.s64.f64", "d>d", &[&[d(-4.9), 0u64.wrapping_sub(4)], &[d(1e30), i64::MAX as u64]]);
    check("cvt.rni.s64.f64", "d>d", &[&[d(0.5), 0], &[d(1.5), 2]]);
    // NaN: 0, or the highest bit alone where either side has 64 bits.
    check("cvt.rzi.u32.f32", "w>w", &[&[QUIET, 0]]);
    check("cvt.rzi.s64.f32", "w>d", &[&[QUIET, MINUS64], &[f(-2.5), 0u64.wrapping_sub(2)]]);
    check("cvt.rzi.u64.f32", "w>d", &[&[QUIET, MINUS64], &[f(3e19), u64::MAX]]);
    check("cvt.rzi.s32.f64", "d>w", &[&[d(f64::NAN), MINUS], &[d(-7.9), 0xffff_fff9]]);
    check("cvt.rzi.u32.f64", "d>w", &[&[d(f64::NAN), MINUS]]);
    check("cvt.rzi.u64.f64", "d>d", &[&[d(f64::NAN), MINUS64], &[d(7.9), 7]]);
    check("cvt.rzi.f32.f32", "w>w", &[&[f(-1.9), f(-1.0)]]);
    check("cvt.rni.f32.f32", "w>w", &[&[f(2.5), f(2.0)]]);
    check("cvt.rmi.f32.f32", "w>w", &[&[f(-0.1), f(-1.0)]]);
    check("cvt.rpi.f32.f32", "w>w", &[&[f(0.1), ONE]]);
    check("cvt.rzi.f64.f64", "d>d", &[&[d(1.9), ONE64]]);
    check("cvt.rni.f64.f64", "d>d", &[&[d(2.5), d(2.0)]]);
    check("cvt.sat.f32.f32", "w>w", &[&[f(1.5), ONE], &[f(-1.0), 0], &[QUIET, 0], &[f(0.25), f(0.25)]]);
    check("cvt.f32.bf16", "h>w", &[&[0x3f80, ONE], &[0x8001, 0x8001_0000]]);
    check(
        "cvt.rn.bf16.f32",
        "w>h",
        &[
            &[ONE, 0x3f80],
            &[0x3f80_8000, 0x3f80], // the tie goes to even
            &[0x3f81_8000, 0x3f82],
            &[0x3f80_8001, 0x3f81],
            &[MAX, 0x7f80],
            &[QUIET, 0x7fff],
        ],
    );
    check("cvt.rn.bf16x2.f32", "w,w>w", &[&[ONE, TWO, 0x3f80_4000]]);
}

/// Errors that the PTX ISA admits.
#[test]
fn approximations() {
    let f = |x: f32| u64::from(x.to_bits());
    let near = |opcode: &str, x: f32, expected: f64, error: f64| {
        let bits = results(opcode, "w>w", &[&[f(x)]])[0];
        let result = f64::from(f32::from_bits(bits as u32));
        assert!((result - expected).abs() <= error, "{opcode} {x}: {result}, not {expected}");
    };
    near("ex2.approx.f32", 0.5, 2.0_f64.sqrt(), 2.0_f64.sqrt() * 2.0_f64.powi(-22));
    near("ex2.approx.ftz.f32", -1.0, 0.5, 2.0_f64.powi(-23));
    near("lg2.approx.f32", 3.0, 3.0_f64.log2(), 2.0_f64.powi(-21));
    near("lg2.approx.ftz.f32", 8.0, 3.0, 2.0_f64.powi(-20));
    near("rcp.approx.ftz.f32", 3.0, 1.0 / 3.0, 2.0_f64.powi(-24));
    near("rsqrt.approx.f32", 2.0, 0.5_f64.sqrt(), 2.0_f64.powi(-22));
    near("rsqrt.approx.ftz.f32", 4.0, 0.5, 2.0_f64.powi(-22));
    near("sqrt.approx.f32", 2.0, 2.0_f64.sqrt(), 2.0_f64.powi(-22));
    near("sin.approx.f32", 0.5, 0.5_f64.sin(), 2.0_f64.powi(-20));
    near("cos.approx.f32", 0.5, 0.5_f64.cos(), 2.0_f64.powi(-20));
    near("tanh.approx.f32", 0.5, 0.5_f64.tanh(), 2.0_f64.powi(-11));
    check("rcp.approx.ftz.f32", "w>w", &[&[TINY, INF], &[INF, 0]]);
    check("ex2.approx.ftz.f32", "w>w", &[&[f(-140.0), 0], &[INF, INF]]);
    check("div.approx.f32", "w,w>w", &[&[ONE, TWO, 0x3f00_0000]]);
    // The lower half of the result is zero, the relative error 2^-20 at most.
    let third = results("rcp.approx.ftz.f64", "d>d", &[&[d(3.0)]])[0];
    assert_eq!(third & 0xffff_ffff, 0);
    assert!((f64::from_bits(third) * 3.0 - 1.0).abs() <= 2.0_f64.powi(-20));
    check("rcp.approx.ftz.f64", "d>d", &[&[0, INF64], &[1, INF64], &[INF64, 0]]);
}

/// Other names of instructions.
#[test]
fn further_names() {
    check("add.f64", "d,d>d", &[&[ONE64, ONE64, d(2.0)]]);
    check("sub.f64", "d,d>d", &[&[ONE64, d(3.0), d(-2.0)]]);
    check("mul.f64", "d,d>d", &[&[d(3.0), d(-2.0), d(-6.0)]]);
    check("mov.f64", "d>d", &[&[MINUS64, MINUS64]]);
    check("add.rn.ftz.f32", "w,w>w", &[&[TINY, ONE, ONE], &[TINY, TINY, 0]]);
    check("mul.rn.ftz.f32", "w,w>w", &[&[TINY, 0x7f00_0000, 0]]);
    check("rcp.approx.f32", "w>w", &[&[TWO, 0x3f00_0000], &[MINUS, INF | MINUS]]);
    check("div.full.f32", "w,w>w", &[&[ONE, TWO, 0x3f00_0000]]);
    check("div.full.ftz.f32", "w,w>w", &[&[ONE, TWO, 0x3f00_0000], &[TINY, TWO, 0]]);
    check("div.approx.ftz.f32", "w,w>w", &[&[ONE, TWO, 0x3f00_0000], &[TINY, TWO, 0]]);
    check("sqrt.approx.ftz.f32", "w>w", &[&[0x4080_0000, TWO], &[TINY, 0]]);
}
