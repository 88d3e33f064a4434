//! NVRTC, loaded by hand: its version need not be the one that cudarc's bindings are for.

use super::library::{Refused, open};
use crate::Error;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null_mut;
use std::sync::OnceLock;

type Program = *mut std::ffi::c_void;

/// The functions used, each as nvrtc.h declares it.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    architecture_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log_size: Size,
    log: Get,
    ptx_size: Size,
    ptx: Get,
    cubin_size: Size,
    cubin: Get,
}

type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The compiler.
pub(crate) struct Nvrtc {
    functions: Functions,
    /// Major and minor.
    pub(crate) version: (i32, i32),
    /// Compute capabilities that it compiles for, as 75, 80, …, ascending.
    architectures: Vec<c_int>,
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// For the driver to compile: fits every driver that knows this PTX version.
    Ptx,
    /// Machine code of one architecture, for drivers older than the compiler.
    Cubin,
}

const REMEDY: &str = "`pip install nvidia-cuda-nvrtc` (or nvidia-cuda-nvrtc-cu12 for a driver of CUDA 12) and put its \
                      lib folder on LD_LIBRARY_PATH, or install the CUDA toolkit";

/// Exact arithmetic, and no header is looked for. `--fmad=false` also keeps the assembler from fusing: it makes NVRTC
/// emit instructions that are rounded by name.
const OPTIONS: [&CStr; 5] =
    [c"--fmad=false", c"--prec-div=true", c"--prec-sqrt=true", c"--ftz=false", c"--std=c++17"];

/// The library's name without prefix and suffix. On Windows the version is part of it.
fn names() -> Vec<&'static str> {
    if cfg!(windows) { vec!["nvrtc64_130_0", "nvrtc64_120_0", "nvrtc64_112_0"] } else { vec!["nvrtc"] }
}

/// Major versions (11 is numbered otherwise) in the order of preference: the driver's own, earlier ones, which it knows too,
/// and later ones, whose output it may refuse.
fn versions() -> Vec<&'static str> {
    let driver = super::probe::version().map_or(0, |version| version / 1000);
    let all = [(11, "11.2"), (12, "12"), (13, "13"), (14, "14")];
    let known = all.iter().rev().filter(|(major, _)| *major <= driver);
    let later = all.iter().filter(|(major, _)| *major > driver);
    known.chain(later).map(|(_, name)| *name).collect()
}

impl Nvrtc {
    /// # Errors
    /// [`Error::Unavailable`] where there is none, with the wheel that has it.
    pub(crate) fn get() -> Result<&'static Self, Error> {
        static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
        let nvrtc = NVRTC.get_or_init(|| {
            let library = open(&names(), &versions()).map_err(|refused| match refused {
                Refused::Absent => "NVRTC, which compiles the kernels,".to_string(),
                Refused::Broken { text, .. } => format!("an NVRTC that loads ({text})"),
            })?;
            Self::load(library)
        });
        nvrtc.as_ref().map_err(|what| Error::Unavailable { what: what.clone(), remedy: REMEDY.into() })
    }

    fn load(library: Library) -> Result<Self, String> {
        let library: &'static Library = Box::leak(Box::new(library)); // until the process ends, as the kernels do
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is that of nvrtc.h, unchanged since CUDA 11.2.
                *unsafe { library.get($name) }.map_err(|error| format!("a usable NVRTC ({error})"))?
            };
        }
        let functions = Functions {
            version: function!(b"nvrtcVersion"),
            architecture_count: function!(b"nvrtcGetNumSupportedArchs"),
            architectures: function!(b"nvrtcGetSupportedArchs"),
            create: function!(b"nvrtcCreateProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            destroy: function!(b"nvrtcDestroyProgram"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            ptx_size: function!(b"nvrtcGetPTXSize"),
            ptx: function!(b"nvrtcGetPTX"),
            cubin_size: function!(b"nvrtcGetCUBINSize"),
            cubin: function!(b"nvrtcGetCUBIN"),
        };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: each call gets room for what it writes.
        let architectures = unsafe {
            (functions.version)(&mut major, &mut minor);
            (functions.architecture_count)(&mut count);
            let mut architectures = vec![0; count.max(0) as usize];
            (functions.architectures)(architectures.as_mut_ptr());
            architectures
        };
        Ok(Self { functions, version: (major, minor), architectures })
    }

    /// The architecture to compile for on a device of this compute capability: the device's own, or the latest before; of
    /// the same major version where it is machine code.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the compiler has given up on so old a device, or does not know so new a one.
    pub(crate) fn architecture(&self, capability: c_int, output: Output) -> Result<c_int, Error> {
        let runs = |architecture: c_int| {
            architecture <= capability && (output == Output::Ptx || architecture / 10 == capability / 10)
        };
        let fits = self.architectures.iter().rev().find(|&&architecture| runs(architecture));
        fits.copied().ok_or_else(|| Error::Unavailable {
            what: format!(
                "NVRTC for compute capability {}.{} (version {}.{} does not compile for it)",
                capability / 10,
                capability % 10,
                self.version.0,
                self.version.1
            ),
            remedy: "for an old device, `pip install nvidia-cuda-nvrtc-cu12`; for a new one, update both NVRTC and driver".into(),
        })
    }

    /// Compiles `source` with these `headers` (name, text) and macro definitions.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log.
    pub(crate) fn compile(
        &self,
        (name, source): (&'static str, &str),
        headers: &[(&str, &str)],
        definitions: &[&str],
        architecture: c_int,
        output: Output,
    ) -> Result<Vec<u8>, Error> {
        let failed = |log: String| Error::Compile { source: name, log };
        let text = |text: &str| CString::new(text).map_err(|error| failed(error.to_string()));
        let (source, c_name) = (text(source)?, text(name)?);
        let mut names = Vec::new();
        let mut contents = Vec::new();
        for (name, content) in headers {
            names.push(text(name)?);
            contents.push(text(content)?);
        }
        let kind = if output == Output::Ptx { "compute" } else { "sm" };
        let mut options = vec![text(&format!("--gpu-architecture={kind}_{architecture}"))?];
        for definition in definitions {
            options.push(text(&format!("-D{definition}"))?);
        }
        options.extend(OPTIONS.map(CStr::to_owned));
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (names, contents, options) = (pointers(&names), pointers(&contents), pointers(&options));

        let functions = &self.functions;
        let mut program: Program = null_mut();
        // SAFETY: all strings outlive the program; the arrays have the lengths that are passed.
        let code = unsafe {
            let count = names.len() as c_int;
            (functions.create)(
                &mut program,
                source.as_ptr(),
                c_name.as_ptr(),
                count,
                contents.as_ptr(),
                names.as_ptr(),
            )
        };
        if code != 0 {
            return Err(failed(format!("nvrtcCreateProgram failed with error {code}")));
        }
        let fetch = |size: Size, get: Get| {
            let mut bytes = Vec::new();
            let mut len = 0;
            // SAFETY: the buffer has the size that NVRTC asks for.
            let ok = unsafe {
                size(program, &mut len) == 0 && {
                    bytes.resize(len, 0);
                    get(program, bytes.as_mut_ptr().cast()) == 0
                }
            };
            ok.then_some(bytes)
        };
        // SAFETY: the program was created above, and its options live until it is destroyed.
        let compiled = unsafe { (functions.compile)(program, options.len() as c_int, options.as_ptr()) };
        let result = if compiled == 0 {
            match output {
                Output::Ptx => fetch(functions.ptx_size, functions.ptx),
                Output::Cubin => fetch(functions.cubin_size, functions.cubin),
            }
            .ok_or_else(|| failed("NVRTC gives no output".into()))
        } else {
            let log = fetch(functions.log_size, functions.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_string();
            Err(failed(format!("error {compiled}: {log}")))
        };
        // SAFETY: created above, not used afterwards.
        unsafe { (functions.destroy)(&mut program) };
        result
    }
}
