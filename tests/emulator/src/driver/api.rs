//! The way in: every C function goes through [`call`], and its pointers through the wrappers below.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::errors::{Code, Result};
use super::{Driver, lock};

/// An object of the driver as C sees it: an id, never an address.
pub(super) type Handle = *mut c_void;

/// The pointer that carries an id.
pub(super) fn handle(id: u64) -> Handle {
    std::ptr::without_provenance_mut(id as usize)
}

/// The id that a pointer carries.
pub(super) fn id(handle: Handle) -> u64 {
    handle.addr() as u64
}

/// Declares C functions. A body answers `Result<()>` and sees the locked driver.
macro_rules! api {
    ($($(#[$doc:meta])* fn $name:ident($driver:ident $(, $argument:ident: $type:ty)* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::driver::api::call(
                    stringify!($name),
                    |$driver: &mut $crate::driver::Driver| -> $crate::driver::errors::Result<()> { $body },
                )
            }
        )*

        /// The functions declared here, for `cuGetProcAddress`.
        pub(super) const SYMBOLS: &[(&str, $crate::driver::api::Symbol)] =
            &[$((stringify!($name), $crate::driver::api::Symbol($name as *const std::ffi::c_void))),*];
    };
}
pub(super) use api;

/// The address of a C function.
#[derive(Clone, Copy)]
pub(super) struct Symbol(pub(super) *const c_void);

// SAFETY: the address of a function, which any thread may read and call.
unsafe impl Sync for Symbol {}

/// Runs the body of a C function: counted, perhaps made to fail, under the lock, and never unwinding into C.
pub(super) fn call(name: &'static str, body: impl FnOnce(&mut Driver) -> Result<()>) -> u32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = lock();
        driver.enter(name)?;
        body(&mut driver)
    }));
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => {
            eprintln!("fadam-emulator: {name} panicked; this is a bug of the emulator");
            Code::UNKNOWN.0
        }
    }
}

/// Where a C caller wants an answer.
///
/// Only C callers make one (this crate has no constructor): null, or a place that can be written.
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the answer. Null is refused.
    pub(super) fn put(&self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and then the C caller's contract says that a `T` can be written here.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the answer, if one is wanted.
    pub(super) fn put_optional(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, and then the C caller's contract says that a `T` can be written here.
            unsafe { self.0.write(value) };
        }
    }

    /// What is there now, for arguments that are both read and written.
    pub(super) fn get(&self) -> Result<T>
    where
        T: Copy,
    {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and then the C caller's contract for an in-out argument says that it holds a `T`.
        Ok(unsafe { self.0.read() })
    }

    /// Writes the first values of an array whose length the caller gave.
    pub(super) fn put_array(&self, values: &[T])
    where
        T: Copy,
    {
        if !self.0.is_null() {
            // SAFETY: the C caller's contract: an array of the length it gave, to which `values` was cut.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// A C string that a caller passes in. Only C callers make one.
#[repr(transparent)]
pub(super) struct Text(*const c_char);

impl Text {
    /// The string; null or not UTF-8 is refused.
    pub(super) fn get(&self) -> Result<&str> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and then the C caller's contract says that it is NUL-terminated and stays for the call.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Code::INVALID_VALUE)
    }
}

/// A caller's buffer for text.
pub(super) fn put_text(buffer: &Out<c_char>, len: usize, text: &str) {
    if len == 0 {
        return;
    }
    let mut bytes: Vec<c_char> =
        text.bytes().filter(|byte| *byte != 0).take(len - 1).map(|byte| byte as c_char).collect();
    bytes.push(0);
    buffer.put_array(&bytes);
}
