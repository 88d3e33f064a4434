//! The floating-point environment: rounding mode, and whether subnormal numbers count.
//!
//! It belongs to a thread, and threads inherit it. A shared library that was linked with `-ffast-math` sets flush-to-zero when
//! it is loaded, and other code changes the rounding mode and forgets it; either changes the bits of a step. So whatever
//! computes here does so in the default environment and gives the thread its own back afterwards. Rust assumes the default
//! environment everywhere, so this is a defence, tested on what the compiler makes of it, and no guarantee of the language:
//! the computation is a call that is not inlined, so that none of it moves beyond the two instructions.

/// Runs `body` with rounding to nearest, subnormal numbers and no traps.
pub(crate) fn with_default_environment<T>(body: impl FnOnce() -> T) -> T {
    let _restored = enter();
    apart(body)
}

#[inline(never)]
fn apart<T>(body: impl FnOnce() -> T) -> T {
    body()
}

/// What the thread gets back.
struct Restored {
    control: Option<Control>,
}

fn enter() -> Restored {
    let found = read();
    if is_default(found) {
        return Restored { control: None };
    }
    write(DEFAULT);
    Restored { control: Some(found) }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(control) = self.control {
            write(control);
        }
    }
}

use control::{Control, DEFAULT, is_default, read, write};

/// MXCSR.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod control {
    use std::arch::asm;

    pub(super) type Control = u32;
    /// All exceptions masked.
    pub(super) const DEFAULT: Control = 0x1f80;
    /// The exceptions that have occurred.
    const FLAGS: Control = 0x3f;

    pub(super) fn is_default(control: Control) -> bool {
        control & !FLAGS == DEFAULT
    }

    pub(super) fn read() -> Control {
        let mut control: Control = 0;
        // SAFETY: it writes four bytes to a variable that has them.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags)) };
        control
    }

    pub(super) fn write(control: Control) {
        // SAFETY: a value that the register has had, or its default; no code that assumes another one runs meanwhile.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack)) };
    }
}

/// FPCR.
#[cfg(all(target_arch = "aarch64", not(miri)))]
mod control {
    use std::arch::asm;

    pub(super) type Control = u64;
    pub(super) const DEFAULT: Control = 0;

    pub(super) fn is_default(control: Control) -> bool {
        control == DEFAULT
    }

    pub(super) fn read() -> Control {
        let control: Control;
        // SAFETY: it reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack, preserves_flags)) };
        control
    }

    pub(super) fn write(control: Control) {
        // SAFETY: a value that the register has had, or its default; no code that assumes another one runs meanwhile.
        unsafe { asm!("msr fpcr, {}", in(reg) control, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere the environment is the caller's.
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
mod control {
    pub(super) type Control = ();
    pub(super) const DEFAULT: Control = ();

    pub(super) fn is_default((): Control) -> bool {
        true
    }

    pub(super) fn read() -> Control {}

    pub(super) fn write((): Control) {}
}
