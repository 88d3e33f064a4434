//! Vectors that the system may refuse: of whatever grows with elements, parameters, groups or a file. `Vec` itself ends the
//! process there. What stays small however large a model is (a message, a name, a task for a thread) is allocated as usual.

use crate::Error;

/// Room for so many more; `what` says in the error what it was for.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, additional: usize, what: &str) -> Result<(), Error> {
    vec.try_reserve(additional).map_err(|_| refused::<T>(vec.len().saturating_add(additional), what))
}

/// As `Vec::push`.
pub(crate) fn push<T>(vec: &mut Vec<T>, value: T, what: &str) -> Result<(), Error> {
    reserve(vec, 1, what)?;
    vec.push(value);
    Ok(())
}

/// As `Vec::with_capacity`.
pub(crate) fn with_capacity<T>(capacity: usize, what: &str) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| refused::<T>(capacity, what))?;
    Ok(vec)
}

/// So many copies of a value.
pub(crate) fn filled<T: Clone>(value: T, len: usize, what: &str) -> Result<Vec<T>, Error> {
    let mut vec = with_capacity(len, what)?;
    vec.resize(len, value);
    Ok(vec)
}

/// As `Iterator::collect`.
pub(crate) fn collected<T>(items: impl ExactSizeIterator<Item = T>, what: &str) -> Result<Vec<T>, Error> {
    let mut vec = with_capacity(items.len(), what)?;
    vec.extend(items);
    Ok(vec)
}

/// Of so many of them.
pub(crate) fn refused<T>(len: usize, what: &str) -> Error {
    Error::OutOfMemory { name: what.into(), bytes: len.saturating_mul(size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        let beyond_miri = if cfg!(miri) { usize::MAX } else { 1 << 50 }; // it has no allocation that fails
        for len in [beyond_miri, usize::MAX / 8, usize::MAX] {
            let error = filled(0.0_f64, len, "sums").unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes >= 1 << 53), "{error:?}");
            let mut vec = vec![1_u64];
            reserve(&mut vec, len, "sums").unwrap_err();
            assert_eq!(vec, [1]);
        }
        assert_eq!(filled(7, 3, "").unwrap(), [7; 3]);
        assert_eq!(collected([1, 2].into_iter(), "").unwrap(), [1, 2]);
    }
}
