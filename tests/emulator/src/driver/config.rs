//! What the environment asks for. Read when the driver starts.
//!
//! ```text
//! FADAM_EMULATOR_DEVICES  compute capabilities, "80,90,100" by default; "" or "none": cuInit finds no device
//! FADAM_EMULATOR_SMS      multiprocessors of each device, 2 by default
//! FADAM_EMULATOR_POOLS    0: devices have no memory pools, so that cudarc allocates by cuMemAlloc
//! FADAM_EMULATOR_SEED     order of queued work, blocks and warps; 0: in order; 1 by default
//! FADAM_EMULATOR_DRIVER   the driver's version, 13040 by default; the PTX versions it accepts follow
//! FADAM_EMULATOR_JIT      221, say: the code that all PTX is refused with, as if the driver could not compile any; 0 by default: none
//! FADAM_EMULATOR_LAZY     1: PTX loads in any case, and what it is refused with is answered when a function is looked up
//! FADAM_EMULATOR_CUBIN    1: CUBINs of the device's architecture load; their functions are found and cannot be launched
//! FADAM_EMULATOR_FAIL     "function:nth:code,…": the nth call of a function answers this code
//! FADAM_EMULATOR_STUB     1: cuInit answers CUDA_ERROR_STUB_LIBRARY
//! FADAM_EMULATOR_LEAKS    1: print leaks when a context ends
//! ```

use super::errors::Code;
use super::inject::Failure;

/// Settings. Tests change some of them by the control functions.
pub(super) struct Config {
    /// 80 for `sm_80`.
    pub(super) devices: Vec<u32>,
    pub(super) multiprocessors: i32,
    pub(super) pools: bool,
    pub(super) seed: u64,
    /// 13040 for CUDA 13.4.
    pub(super) version: i32,
    /// What PTX is refused with.
    pub(super) jit: Option<Code>,
    /// PTX is refused when a function is looked up.
    pub(super) lazy: bool,
    pub(super) cubin_loads: bool,
    pub(super) failures: Vec<Failure>,
    pub(super) stub: bool,
    pub(super) print_leaks: bool,
}

impl Config {
    pub(super) fn from_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            devices: devices(variable("FADAM_EMULATOR_DEVICES").as_deref().unwrap_or("80,90,100")),
            multiprocessors: number(variable("FADAM_EMULATOR_SMS"), 2),
            pools: number(variable("FADAM_EMULATOR_POOLS"), 1) != 0,
            seed: number(variable("FADAM_EMULATOR_SEED"), 1),
            version: number(variable("FADAM_EMULATOR_DRIVER"), 13040),
            jit: jit(number(variable("FADAM_EMULATOR_JIT"), 0)),
            lazy: variable("FADAM_EMULATOR_LAZY").is_some_and(|value| value == "1"),
            cubin_loads: variable("FADAM_EMULATOR_CUBIN").is_some_and(|value| value == "1"),
            failures: variable("FADAM_EMULATOR_FAIL").map(|text| Failure::list(&text)).unwrap_or_default(),
            stub: variable("FADAM_EMULATOR_STUB").is_some_and(|value| value == "1"),
            print_leaks: variable("FADAM_EMULATOR_LEAKS").is_some_and(|value| value == "1"),
        }
    }
}

/// A malformed setting must not pass for the default: it ends the process.
fn refuse(what: &str) -> ! {
    eprintln!("fadam-emulator: cannot read {what}");
    std::process::abort()
}

fn number<T: std::str::FromStr>(value: Option<String>, default: T) -> T {
    value.map_or(default, |value| value.trim().parse().unwrap_or_else(|_| refuse(&value)))
}

/// 0: PTX is compiled.
pub(super) fn jit(code: u32) -> Option<Code> {
    (code != 0).then_some(Code(code))
}

fn devices(text: &str) -> Vec<u32> {
    let text = text.trim();
    if text.is_empty() || text == "none" {
        return Vec::new();
    }
    text.split(',').map(|item| number(Some(item.to_owned()), 0)).collect()
}

/// The newest PTX ISA that a driver of this version compiles (PTX ISA manual, release notes).
pub(super) fn ptx_isa(driver: i32) -> (u32, u32) {
    match driver {
        ..11000 => (6, 5),
        11000..12000 => (7, ((driver - 11000) / 10).min(8) as u32),
        12000..12060 => (8, ((driver - 12000) / 10) as u32),
        12060..12070 => (8, 5),
        12070..13000 => (8, ((driver - 12010) / 10).min(8) as u32),
        _ => (9, ((driver - 13000) / 10) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_overrides() {
        let config = Config::read(|_| None);
        assert_eq!(config.devices, [80, 90, 100]);
        assert_eq!((config.multiprocessors, config.seed, config.version), (2, 1, 13040));
        assert_eq!((config.jit, config.lazy, config.cubin_loads), (None, false, false));
        let config = Config::read(|name| {
            Some(
                match name {
                    "FADAM_EMULATOR_DEVICES" => "none",
                    "FADAM_EMULATOR_FAIL" => "cuMemAllocAsync:3:2,cuLaunchKernel:1:719",
                    "FADAM_EMULATOR_JIT" => "221",
                    _ => "1",
                }
                .to_owned(),
            )
        });
        assert!(config.devices.is_empty() && config.stub && config.print_leaks);
        assert_eq!((config.jit, config.lazy, config.cubin_loads), (Some(Code(221)), true, true));
        assert_eq!(config.failures.len(), 2);
        assert_eq!(devices("80, 90"), [80, 90]);
        assert_eq!(devices(""), []);
    }

    #[test]
    fn ptx_versions() {
        for (driver, isa) in [
            (11080, (7, 8)),
            (12000, (8, 0)),
            (12040, (8, 4)),
            (12050, (8, 5)),
            (12060, (8, 5)),
            (12080, (8, 7)),
            (12090, (8, 8)),
            (13000, (9, 0)),
            (13040, (9, 4)),
        ] {
            assert_eq!(ptx_isa(driver), isa, "{driver}");
        }
    }
}
