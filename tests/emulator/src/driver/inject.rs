//! Calls that are made to fail, and the count of all calls.

use std::collections::BTreeMap;

use super::Driver;
use super::errors::{Code, Result, name};

/// Fail the `remaining`-th call from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    function: String,
    remaining: u64,
    code: Code,
}

impl Failure {
    pub(super) fn new(function: &str, nth: u64, code: u32) -> Self {
        Self { function: function.to_owned(), remaining: nth, code: Code(code) }
    }

    /// "function:nth:code,…". What cannot be read ends the process: a test must not pass because of a typing error.
    pub(super) fn list(text: &str) -> Vec<Self> {
        let read = |item: &str| {
            let mut fields = item.trim().split(':');
            let function = fields.next().filter(|name| !name.is_empty())?;
            let nth = fields.next()?.parse().ok().filter(|nth| *nth > 0)?;
            let code = fields.next()?.parse().ok()?;
            fields.next().is_none().then(|| Self::new(function, nth, code))
        };
        text.split(',')
            .filter(|item| !item.trim().is_empty())
            .map(|item| {
                read(item).unwrap_or_else(|| {
                    eprintln!("fadam-emulator: cannot read FADAM_EMULATOR_FAIL={item}");
                    std::process::abort()
                })
            })
            .collect()
    }
}

/// `cuMemAlloc` stands for `cuMemAlloc_v2` as well.
pub(super) fn is_named(function: &str, asked: &str) -> bool {
    function == asked
        || function.strip_prefix(asked).is_some_and(|rest| {
            rest.strip_prefix("_v")
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        })
}

/// Calls since the last reset.
pub(super) type Calls = BTreeMap<&'static str, u64>;

/// What may be called before `cuInit`.
const BEFORE_INIT: [&str; 7] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetExportTable",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
];

impl Driver {
    /// The start of every call: counts it, fails it if a test asked for that, refuses it before `cuInit`.
    pub(super) fn enter(&mut self, function: &'static str) -> Result<()> {
        *self.calls.entry(function).or_insert(0) += 1;
        let mut injected = None;
        self.config.failures.retain_mut(|failure| {
            if !is_named(function, &failure.function) {
                return true;
            }
            failure.remaining -= 1;
            if failure.remaining == 0 {
                injected = Some(failure.code);
            }
            failure.remaining > 0
        });
        if let Some(code) = injected {
            eprintln!("fadam-emulator: {function} is made to fail with {}", name(code.0));
            if code.is_sticky()
                && let Ok(context) = self.current()
            {
                self.kill(context, code, format!("injected into {function}: {}", name(code.0)));
            }
            return Err(code);
        }
        if self.initialised || BEFORE_INIT.contains(&function) { Ok(()) } else { Err(Code::NOT_INITIALIZED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_named("cuMemAlloc_v2", "cuMemAlloc"));
        assert!(is_named("cuMemAlloc_v2", "cuMemAlloc_v2"));
        assert!(!is_named("cuMemAllocAsync", "cuMemAlloc"));
        assert!(!is_named("cuMemAlloc_v2", "cuMemAlloc_v"));
        assert_eq!(Failure::list("a:1:2, b:3:4"), [Failure::new("a", 1, 2), Failure::new("b", 3, 4)]);
    }
}
