//! `Memory` by itself.

mod common;

use common::BASE;
use fadam_emulator::memory::{Memory, MemoryError, WINDOW, WINDOW_FROM};

#[test]
fn allocations_are_apart_and_never_come_back() {
    let mut memory = Memory::new(BASE + 1, 1 << 20);
    let a = memory.allocate(10).expect("room");
    let b = memory.allocate(1).expect("room");
    assert!(a.is_multiple_of(256) && b.is_multiple_of(256) && a > BASE && b >= a + 10 + 256);
    memory.free(a).expect("allocated");
    let c = memory.allocate(10).expect("room");
    assert!(c > b);
    assert_eq!(memory.live(), [(b, 1), (c, 10)]);
    assert_eq!(memory.used(), 11);
    assert_eq!(memory.free(a), Err(MemoryError::BadFree { address: a }));
    assert_eq!(memory.free(b + 1), Err(MemoryError::BadFree { address: b + 1 }));
}

#[test]
fn capacity() {
    let mut memory = Memory::new(BASE, 1000);
    let a = memory.allocate(600).expect("room");
    assert_eq!(memory.allocate(401), None);
    assert!(memory.allocate(400).is_some());
    assert_eq!(memory.used(), memory.capacity());
    memory.free(a).expect("allocated");
    assert!(memory.allocate(600).is_some());
}

#[test]
fn bounds() {
    let mut memory = Memory::new(BASE, 1 << 20);
    let a = memory.allocate(16).expect("room");
    memory.write(a, &[1; 16]).expect("it fits");
    let out =
        |result: Result<(), MemoryError>| assert!(matches!(result, Err(MemoryError::OutOfBounds { .. })));
    out(memory.write(a, &[1; 17]));
    out(memory.write(a + 16, &[1]));
    out(memory.write(a - 1, &[1]));
    out(memory.read(a + 8, &mut [0; 9]));
    out(memory.fill(a, 0, 17));
    out(memory.read(u64::MAX, &mut [0; 2]));
    out(memory.read(0, &mut [0; 2]));
    memory.free(a).expect("allocated");
    let late = Err(MemoryError::UseAfterFree { address: a + 4, len: 4 });
    assert_eq!(memory.read(a + 4, &mut [0; 4]), late);
    assert_eq!(memory.write(a + 4, &[0; 4]), late);
    assert_eq!(memory.fill(a + 4, 0, 4), late);
}

#[test]
fn only_what_was_written_is_read() {
    let mut memory = Memory::new(BASE, 1 << 20);
    let a = memory.allocate(1000).expect("room");
    let missing = |address| Err(MemoryError::Uninitialised { address });
    assert_eq!(memory.read(a, &mut [0; 1]), missing(a));
    memory.write(a, &[7; 100]).expect("it fits");
    memory.fill(a + 101, 9, 899).expect("it fits");
    assert_eq!(memory.read(a, &mut [0; 1000]), missing(a + 100));
    memory.write(a + 100, &[8]).expect("it fits");
    let mut all = [0; 1000];
    memory.read(a, &mut all).expect("all is there");
    assert!(all[..100] == [7; 100] && all[100] == 8 && all[101..] == [9; 899]);
}

#[test]
fn a_large_allocation_is_a_window() {
    let mut memory = Memory::new(BASE, 64 << 30);
    let size = 34_usize << 30;
    let a = memory.allocate(size).expect("room");
    assert_eq!(memory.used(), size);
    // The end of it, and across the end of a window.
    let near_end = a + size as u64 - 4;
    memory.write(near_end, &[1, 2, 3, 4]).expect("it fits");
    let mut four = [0; 4];
    memory.read(near_end, &mut four).expect("written");
    assert_eq!(four, [1, 2, 3, 4]);
    memory.read(a + WINDOW as u64 - 4, &mut four).expect("the same bytes");
    assert_eq!(four, [1, 2, 3, 4]);
    let across = a + 5 * WINDOW as u64 - 2;
    memory.write(across, &[5, 6, 7, 8]).expect("it fits");
    memory.read(across, &mut four).expect("written");
    assert_eq!(four, [5, 6, 7, 8]);
    assert_eq!(memory.read(a + 100, &mut four), Err(MemoryError::Uninitialised { address: a + 100 }));
    memory.fill(a, 3, size).expect("it fits");
    memory.read(a + 100, &mut four).expect("written");
    assert_eq!(four, [3; 4]);
    assert!(matches!(memory.write(near_end, &[0; 5]), Err(MemoryError::OutOfBounds { .. })));
    // One that is not larger than the limit is all there.
    let b = memory.allocate(WINDOW_FROM).expect("room");
    memory.write(b, &[1]).expect("it fits");
    assert!(memory.read(b + WINDOW as u64, &mut [0]).is_err());
}
