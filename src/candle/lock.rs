//! The locks of a step: all of them at once, and never one waited for while another is held.
//!
//! Each candle tensor's storage has a read-write lock. candle's own operations take two or three of them in whatever order their
//! operands come, so no order in which a step could wait for its locks agrees with all of theirs: two waits in opposite orders
//! never end. Hence a step only *tries* its locks. Where one is taken it lets go of all others, waits for that one alone, as
//! candle's own operations wait, and tries again. Whoever waits for this step then waits for one that goes on. After some rounds
//! it gives up; the caller steps on copies instead (`step.rs`).

use super::VARIABLES;
use crate::Error;
use crate::allocation::with_capacity;
use candle_core::{Storage, Tensor};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Rounds, before a step works on copies. Each round begins with a lock that was just waited for, so one suffices where a
/// single other thread reads a variable at a time.
const ROUNDS: usize = 4;

/// A tensor's lock. Waits for a writer of the storage, if there is one.
pub(super) fn of(tensor: &Tensor) -> &RwLock<Storage> {
    RwLockReadGuard::rwlock(&tensor.storage_and_layout().0)
}

/// What tells storages apart.
pub(super) fn key(lock: &RwLock<Storage>) -> usize {
    std::ptr::from_ref(lock).addr()
}

/// A storage that a step needs.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    ToRead(&'a RwLock<Storage>),
    ToWrite(&'a RwLock<Storage>),
}

/// And has.
pub(super) enum Held<'a> {
    Read(RwLockReadGuard<'a, Storage>),
    Write(RwLockWriteGuard<'a, Storage>),
}

impl<'a> Wanted<'a> {
    fn try_take(self) -> Option<Held<'a>> {
        match self {
            Self::ToRead(lock) => lock.try_read_recursive().map(Held::Read),
            Self::ToWrite(lock) => lock.try_write().map(Held::Write),
        }
    }

    /// For a thread that holds no other lock, or where nobody else has the tensor.
    pub(super) fn take(self) -> Held<'a> {
        match self {
            Self::ToRead(lock) => Held::Read(lock.read_recursive()),
            Self::ToWrite(lock) => Held::Write(lock.write()),
        }
    }
}

/// All of them, in the order in which they are wanted, or `None` where others keep taking one or another. Counts the rounds
/// that did not succeed.
pub(super) fn take_all<'a>(wanted: &[Wanted<'a>], retries: &mut u64) -> Result<Option<Vec<Held<'a>>>, Error> {
    let mut held = with_capacity(wanted.len(), VARIABLES)?;
    let mut waited_for = None;
    for _ in 0..ROUNDS {
        match try_all(wanted, waited_for, &mut held) {
            Ok(()) => return Ok(Some(held)),
            Err(taken) => {
                *retries += 1;
                waited_for = Some((taken, wanted[taken].take())); // all others are released
            }
        }
    }
    Ok(None)
}

/// All of them, or the place of one that is taken: then none is held.
fn try_all<'a>(
    wanted: &[Wanted<'a>],
    waited_for: Option<(usize, Held<'a>)>,
    held: &mut Vec<Held<'a>>,
) -> Result<(), usize> {
    let mut waited_for = waited_for;
    for (place, wanted) in wanted.iter().enumerate() {
        let here = waited_for.take_if(|(waited, _)| *waited == place).map(|(_, held)| held);
        let Some(here) = here.or_else(|| wanted.try_take()) else {
            held.clear();
            return Err(place);
        };
        held.push(here);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn all_or_none() {
        let tensors = [1, 2, 3].map(|n| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap());
        let locks = tensors.each_ref().map(of);
        let wanted = [Wanted::ToWrite(locks[0]), Wanted::ToRead(locks[1]), Wanted::ToWrite(locks[2])];
        let mut retries = 0;
        drop(take_all(&wanted, &mut retries).unwrap().unwrap());
        assert_eq!(retries, 0);
        // One that is read cannot be written; the others are free again at once, also the one that comes after it.
        let reader = locks[2].read();
        let mut held = Vec::new();
        assert_eq!(try_all(&wanted, None, &mut held), Err(2));
        assert!(held.is_empty());
        assert!(locks.iter().take(2).all(|lock| lock.try_write().is_some()));
        drop(reader);
        // A reader may share what is only read, even while a writer waits.
        let reader = locks[1].read();
        assert!(take_all(&wanted, &mut retries).unwrap().is_some());
        drop(reader);
        // The one that was waited for is not let go in between.
        let waited_for = wanted[2].take();
        try_all(&wanted, Some((2, waited_for)), &mut held).unwrap();
        assert_eq!((held.len(), retries), (3, 0));
        assert!(locks[2].try_read().is_none());
    }
}
