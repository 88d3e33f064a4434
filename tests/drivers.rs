//! One promise: whatever is missing or broken of driver, device and NVRTC, there is no panic, only what lacks is named;
//! `best` is the CPU where there is no driver or no device, and an error where there is one that does not work.
#![cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Where a probe built with `panic = "abort"` is, as CI has one. Default: one that is built now.
const PROBE: &str = "FADAM_PROBE";
const REQUIRE: &str = "FADAM_REQUIRE_DEVICE";

fn probe() -> &'static Path {
    static PROBE_AT: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(path) = std::env::var_os(PROBE) {
            return path.into();
        }
        let build =
            Command::new(env!("CARGO")).args(["build", "--package", "fadam", "--example", "probe"]).status();
        assert!(build.unwrap().success());
        let test = std::env::current_exe().unwrap(); // target/PROFILE/deps/drivers-…
        test.ancestors().nth(3).unwrap().join("debug/examples/probe")
    });
    &PROBE_AT
}

/// A folder with these libraries (name, what it is a copy of), and nothing else to be found.
fn folder(name: &str, libraries: &[(&str, &Path)]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drivers-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (library, of) in libraries {
        fs::copy(of, folder.join(library)).unwrap();
    }
    folder
}

/// What the probe prints with this folder as the loader's path.
fn run(folder: &Path, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(probe());
    command.env("LD_LIBRARY_PATH", folder).envs(environment.iter().copied());
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", probe().display()));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !err.contains("panicked"), "{}\n{out}{err}", output.status);
    assert!(out.contains("cpu: works"), "{out}");
    out.into_owned()
}

#[track_caller]
fn says(out: &str, best: &str, cuda: &[&str]) {
    let line =
        |name: &str| out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_string();
    let (found, error) = (line("best: "), line("cuda: "));
    assert!(found.contains(best), "best: {found}, expected {best}");
    for word in cuda {
        assert!(error.contains(word), "cuda: {error}, expected {word}");
    }
}

/// A library of the loader's path, of the given file name.
fn library(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LD_LIBRARY_PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists())
}

fn garbage() -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("garbage");
    fs::write(&file, "no library at all").unwrap();
    file
}

/// A good library that is another one.
fn other() -> PathBuf {
    let folders = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib",
        "/usr/lib/aarch64-linux-gnu",
    ];
    folders
        .iter()
        .map(|folder| Path::new(folder).join("libm.so.6"))
        .find(|file| file.exists())
        .expect("a libm")
}

fn machine_has_a_driver() -> bool {
    let out = run(&folder("empty", &[]), &[]);
    !out.contains("no libcuda was found")
}

#[test]
fn without_a_driver_best_is_the_cpu() {
    if machine_has_a_driver() {
        println!("skipped: this machine has a driver of its own");
        return;
    }
    let (garbage, other) = (garbage(), other());
    let nvrtcs: [&[(&str, &Path)]; 3] = [&[], &[("libnvrtc.so.13", &garbage)], &[("libnvrtc.so.13", &other)]];
    for (i, nvrtc) in nvrtcs.into_iter().enumerate() {
        says(
            &run(&folder(&format!("none-{i}"), nvrtc), &[]),
            "cpu",
            &["NVIDIA driver", "not available", "install"],
        );
        let mut unloadable = nvrtc.to_vec();
        unloadable.push(("libcuda.so.1", &garbage));
        let out = run(&folder(&format!("garbage-{i}"), &unloadable), &[]);
        says(&out, "error: an NVIDIA driver that loads (", &["libcuda.so.1", "reinstall"]);
        let mut foreign = nvrtc.to_vec();
        foreign.push(("libcuda.so.1", &other));
        let out = run(&folder(&format!("other-{i}"), &foreign), &[]);
        says(&out, "error: the driver function cu", &["the driver function cu", "update the NVIDIA driver"]);
    }
}

/// A file that is there and no driver is never taken for a missing one, whatever the loader says, in whatever language.
#[test]
fn an_empty_file_and_a_link_to_nowhere_are_broken_drivers() {
    if machine_has_a_driver() {
        println!("skipped: this machine has a driver of its own");
        return;
    }
    let empty = folder("empty-file", &[]);
    fs::write(empty.join("libcuda.so.1"), "").unwrap();
    let link = folder("link", &[]);
    std::os::unix::fs::symlink("/nowhere/libcuda.so", link.join("libcuda.so.1")).unwrap();
    for locale in ["C", "de_DE.UTF-8", "ja_JP.UTF-8"] {
        let locale = [("LC_ALL", locale), ("LANGUAGE", locale)];
        says(
            &run(&empty, &locale),
            "error: an NVIDIA driver that loads (",
            &["libcuda.so.1", "is empty", "--gpus all"],
        );
        says(&run(&link, &locale), "error: an NVIDIA driver that loads (", &["libcuda.so.1", "reinstall"]);
        says(&run(&folder("nothing", &[]), &locale), "cpu", &["no libcuda was found"]);
    }
}

#[test]
fn a_driver_that_does_not_work_is_named() {
    let (Some(driver), Some(nvrtc)) = (library("libcuda.so.1"), library("libnvrtc.so.13")) else {
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "{REQUIRE} is set, and LD_LIBRARY_PATH has no libcuda.so.1"
        );
        println!("skipped: no emulated driver and NVRTC on LD_LIBRARY_PATH");
        return;
    };
    let builtins = fs::read_dir(nvrtc.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let builtins =
        builtins.into_iter().find(|file| file.to_string_lossy().contains("libnvrtc-builtins")).unwrap();
    let builtins_name = builtins.file_name().unwrap().to_str().unwrap().to_string();
    let (garbage, other) = (garbage(), other());

    let whole = folder(
        "whole",
        &[("libcuda.so.1", &driver), ("libnvrtc.so.13", &nvrtc), (&builtins_name, &builtins)],
    );
    says(&run(&whole, &[]), "cuda:0", &["works"]);
    says(&run(&whole, &[("FADAM_EMULATOR_DEVICES", "none")]), "cpu", &["NVIDIA GPU", "CUDA_VISIBLE_DEVICES"]);
    let out = run(&whole, &[("FADAM_EMULATOR_STUB", "1")]);
    says(&out, "error: the NVIDIA driver", &["stub", "LD_LIBRARY_PATH"]);
    let out = run(&whole, &[("FADAM_EMULATOR_DRIVER", "11020")]);
    says(&out, "error: an NVIDIA driver for CUDA 11.4", &["update the NVIDIA driver"]);
    for code in ["999", "803", "46"] {
        let fail = format!("cuInit:1:{code}");
        let out = run(&whole, &[("FADAM_EMULATOR_FAIL", &fail)]);
        says(&out, &format!("error: the NVIDIA driver (cuInit failed with error {code})"), &["nvidia-smi"]);
    }
    let out = run(&whole, &[("FADAM_EMULATOR_FAIL", "cuDeviceGetCount:1:999")]);
    says(&out, "error: the NVIDIA driver (cuDeviceGetCount failed with error 999)", &["nvidia-smi"]);
    // A GPU without its compiler is never passed over.
    let remedy = ["NVRTC", "pip install nvidia-cuda-nvrtc", "LD_LIBRARY_PATH"];
    says(&run(&folder("no-nvrtc", &[("libcuda.so.1", &driver)]), &[]), "error: NVRTC", &remedy);
    for (name, nvrtc) in [("garbage-nvrtc", &garbage), ("other-nvrtc", &other)] {
        let folder = folder(name, &[("libcuda.so.1", &driver), ("libnvrtc.so.13", nvrtc)]);
        says(&run(&folder, &[]), "error: ", &remedy);
    }
    let builtins_missing = folder("no-builtins", &[("libcuda.so.1", &driver), ("libnvrtc.so.13", &nvrtc)]);
    says(&run(&builtins_missing, &[]), "cuda:0", &["NVRTC cannot compile", "builtins"]);
    // A device that the compiler has given up on.
    let out = run(&whole, &[("FADAM_EMULATOR_DEVICES", "60")]);
    says(&out, "error: NVRTC for compute capability 6.0", &["nvidia-cuda-nvrtc-cu12"]);
    // A driver older than the compiler: PTX is refused, and so is machine code.
    let out = run(&whole, &[("FADAM_EMULATOR_DRIVER", "12000")]);
    says(&out, "cuda:0", &["NVRTC 13.4 (that of CUDA 12.0 answers", "nvidia-cuda-nvrtc-cu12"]);
    // A driver without its compiler of PTX, which takes machine code; the emulated one cannot launch it.
    for lazy in ["0", "1"] {
        let mut environment = vec![("FADAM_EMULATOR_JIT", "221"), ("FADAM_EMULATOR_LAZY", lazy)];
        let out = run(&whole, &environment);
        says(&out, "cuda:0", &["JIT_COMPILER_NOT_FOUND", "libnvidia-ptxjitcompiler.so.1"]);
        environment.push(("FADAM_EMULATOR_CUBIN", "1"));
        says(&run(&whole, &environment), "cuda:0", &["CUDA_ERROR_NOT_SUPPORTED"]);
    }
}
