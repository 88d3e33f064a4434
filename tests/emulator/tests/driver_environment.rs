//! What the environment asks for, each in a process of its own.

mod driver_common;
use driver_common::*;
use std::process::Command;

/// Runs the ignored test of this name with these variables.
fn with(test: &str, variables: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn each_variable() {
    for none in ["", "none"] {
        with("no_device", &[("FADAM_EMULATOR_DEVICES", none)]);
    }
    with("stub", &[("FADAM_EMULATOR_STUB", "1")]);
    with("failing", &[("FADAM_EMULATOR_FAIL", "cuInit:2:101,cuMemAlloc:1:2")]);
    with(
        "settings",
        &[
            ("FADAM_EMULATOR_DEVICES", "90,103"),
            ("FADAM_EMULATOR_SMS", "5"),
            ("FADAM_EMULATOR_SEED", "0"),
            ("FADAM_EMULATOR_DRIVER", "12060"),
        ],
    );
}

#[test]
#[ignore = "run by each_variable"]
fn no_device() {
    assert_eq!(cuInit(0), 100);
    let mut count = 9;
    assert_eq!(call!(cuDeviceGetCount(&raw mut count)), NOT_INITIALIZED);
}

#[test]
#[ignore = "run by each_variable"]
fn stub() {
    assert_eq!(cuInit(0), 34);
}

#[test]
#[ignore = "run by each_variable"]
fn failing() {
    assert_eq!((cuInit(0), cuInit(0), cuInit(0)), (SUCCESS, 101, SUCCESS));
    context(0);
    let mut at = 0;
    assert_eq!(call!(cuMemAlloc_v2(&raw mut at, 4)), OUT_OF_MEMORY);
}

#[test]
#[ignore = "run by each_variable"]
fn settings() {
    assert_eq!((cuInit(0), get!(cuDriverGetVersion())), (SUCCESS, 12060));
    let count: i32 = get!(cuDeviceGetCount());
    let attribute = |wanted| -> i32 { get!(cuDeviceGetAttribute(wanted, 1)) };
    assert_eq!((count, attribute(16), attribute(75), attribute(76)), (2, 5, 10, 3));
}
