//! Modules.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use crate::ptx;

use super::Driver;
use super::api::{Handle, Out, Text, api, handle, id};
use super::errors::{Code, Result, name};
use super::function::{Body, Function};
use super::image::{Image, Refusal, check_header, cubin_fits};

/// A module.
pub(super) struct Module {
    pub(super) context: u64,
    contents: Contents,
}

enum Contents {
    Ptx(Arc<ptx::Module>),
    /// PTX that a lazy driver finds out about when a function is looked up.
    Refused(Refusal),
    /// Names of functions, which cannot be executed.
    Cubin(Vec<String>),
}

/// `CUjit_option`.
const INFO_LOG_BUFFER: u32 = 3;
const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;

fn tell((code, why): &Refusal) {
    eprintln!("fadam-emulator: module refused, {}: {why}", name(code.0));
}

impl Driver {
    fn load(&mut self, context: u64, image: *const c_void) -> std::result::Result<u64, Refusal> {
        let device = self.device_of(context).map_err(|code| (code, String::new()))?;
        let device = self.devices[device].capability;
        let contents = match Image::read(image)? {
            Image::Ptx(text) => match self.compile(&text, device) {
                Ok(module) => Contents::Ptx(Arc::new(module)),
                Err(refusal) if self.config.lazy => Contents::Refused(refusal),
                Err(refusal) => return Err(refusal),
            },
            Image::Cubin { .. } if !self.config.cubin_loads => {
                return Err((
                    Code::INVALID_IMAGE,
                    "CUBINs are refused until FADAM_EMULATOR_CUBIN or set_cubin_loads".into(),
                ));
            }
            Image::Cubin { arch, .. } if !cubin_fits(arch, device) => {
                return Err((Code::NO_BINARY_FOR_GPU, format!("a CUBIN of sm_{arch} on sm_{device}")));
            }
            Image::Cubin { functions, .. } => Contents::Cubin(functions),
        };
        Ok(self.modules.insert(Module { context, contents }))
    }

    fn compile(&self, ptx: &str, device: u32) -> std::result::Result<ptx::Module, Refusal> {
        if let Some(code) = self.config.jit {
            return Err((code, "no PTX is compiled".into()));
        }
        check_header(ptx, self.config.version, device)?;
        ptx::Module::parse(ptx)
            .map_err(|error| (Code::INVALID_PTX, format!("line {}: {}", error.line, error.message)))
    }

    fn load_and_tell(&mut self, image: *const c_void) -> std::result::Result<u64, Refusal> {
        let context = self.current().map_err(|code| (code, String::new()))?;
        self.unsafe_in_capture().map_err(|code| (code, String::new()))?;
        self.load(context, image).inspect_err(tell)
    }

    /// A module of the current context.
    fn module(&self, module: Handle) -> Result<&Module> {
        let context = self.current()?;
        let module = self.modules.get(id(module))?;
        if module.context == context { Ok(module) } else { Err(Code::INVALID_HANDLE) }
    }

    fn function(&mut self, module: Handle, name: &str) -> Result<u64> {
        let found = self.module(module)?;
        let body = match &found.contents {
            Contents::Ptx(code) => {
                let kernel = code.kernels.iter().position(|kernel| kernel.name == name);
                Body::Ptx { module: Arc::clone(code), kernel: kernel.ok_or(Code::NOT_FOUND)? }
            }
            Contents::Refused(refusal) => {
                tell(refusal);
                return Err(refusal.0);
            }
            Contents::Cubin(names) => {
                names.iter().find(|found| *found == name).ok_or(Code::NOT_FOUND)?;
                Body::Sass { name: name.to_owned() }
            }
        };
        let module = id(module);
        let same = |f: &Function| f.module == module && f.body.name() == name;
        if let Some((found, _)) = self.functions.iter().find(|(_, function)| same(function)) {
            return Ok(found);
        }
        let context = self.modules.get(module)?.context;
        Ok(self.functions.insert(Function::new(context, module, body)))
    }
}

/// The log buffers of `cuModuleLoadDataEx`.
struct Logs {
    options: *const u32,
    values: *mut *mut c_void,
    len: usize,
}

impl Logs {
    fn find(&self, option: u32) -> Option<*mut *mut c_void> {
        if self.options.is_null() || self.values.is_null() {
            return None;
        }
        // SAFETY: not null, and then the C caller passes this many options.
        let at = (0..self.len).find(|i| unsafe { self.options.add(*i).read() } == option)?;
        // SAFETY: as many values as options.
        Some(unsafe { self.values.add(at) })
    }

    /// Fills a buffer and says how much of it is filled.
    fn fill(&self, buffer: u32, size: u32, text: &str) {
        let (Some(buffer), Some(size)) = (self.find(buffer), self.find(size)) else { return };
        // SAFETY: `find` answers places in the caller's array of values.
        let (at, room) = unsafe { (buffer.read().cast::<c_char>(), size.read().addr() & 0xffff_ffff) };
        if at.is_null() || room == 0 {
            return;
        }
        let len = text.len().min(room - 1);
        // SAFETY: the caller's buffer has `room` bytes, the value of the size option says; `len` leaves one for NUL. The
        // size's place takes the number of bytes filled.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), at.cast(), len);
            at.add(len).write(0);
            size.write(std::ptr::without_provenance_mut(len + 1));
        }
    }
}

api! {
    fn cuModuleLoadData(driver, module: Out<Handle>, image: *const c_void) {
        let id = driver.load_and_tell(image).map_err(|(code, _)| code)?;
        module.put(handle(id))
    }
    fn cuModuleLoadDataEx(
        driver,
        module: Out<Handle>,
        image: *const c_void,
        len: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) {
        let logs = Logs { options, values, len: len as usize };
        let (answer, log) = match driver.load_and_tell(image) {
            Ok(id) => (module.put(handle(id)), String::new()),
            Err((code, why)) => (Err(code), format!("ptxas application ptx input, {why}")),
        };
        logs.fill(INFO_LOG_BUFFER, INFO_LOG_BUFFER_SIZE_BYTES, "");
        logs.fill(ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES, &log);
        answer
    }
    /// As hardware does, waits for everything first: the code may still be needed.
    fn cuModuleUnload(driver, module: Handle) {
        let (context, answer) = driver.current_to_release()?;
        let module = id(module);
        if driver.modules.get(module)?.context != context {
            return Err(Code::INVALID_HANDLE);
        }
        driver.unsafe_in_capture()?;
        let tails = driver.queue.tails(context);
        let waited = answer.and_then(|()| driver.synchronize(context, &tails));
        driver.functions.retain(|function| function.module != module);
        driver.modules.remove(module)?;
        waited
    }
    fn cuModuleGetFunction(driver, function: Out<Handle>, module: Handle, name: Text) {
        function.put(handle(driver.function(module, name.get()?)?))
    }
    /// Variables of modules are not emulated: none is found.
    fn cuModuleGetGlobal_v2(driver, _address: Out<u64>, _bytes: Out<usize>, module: Handle, name: Text) {
        driver.module(module)?;
        name.get()?;
        Err(Code::NOT_FOUND)
    }
}
