//! One pass over the chunks of all tensors together, on several threads where the work is not small.

use super::chunk::CHUNK;
use super::team::{self, share};
use std::ops::Range;
use std::slice;

/// Elements below which waking a second thread costs more than it saves.
const PARALLEL: usize = if cfg!(miri) { 1 << 13 } else { 1 << 16 }; // miri is slow, and is to see threads
/// Chunks that a thread takes at the least.
const GRAIN: usize = if cfg!(miri) { 1 } else { 4 };
/// Pieces a thread's share is cut into, so that an idle thread finds some to take over.
const PIECES: usize = 16;

/// A tensor of the sweep: where its chunks begin.
pub(super) trait Chunked {
    fn chunks(&self) -> Range<usize>;
}

/// A tensor that is nothing else.
impl Chunked for Range<usize> {
    fn chunks(&self) -> Range<usize> {
        self.clone()
    }
}

/// Calls `work(tensor, chunk)` for every chunk, `chunk` counted within its tensor. Which thread calls it and in which
/// order is not defined: each call must touch its own chunk and its own partial sums alone.
pub(super) fn sweep<T: Chunked + Sync>(tensors: &[T], elements: usize, work: &(impl Fn(&T, usize) + Sync)) {
    let chunks = tensors.last().map_or(0, |tensor| tensor.chunks().end);
    let threads = if elements < PARALLEL { 1 } else { team::threads() };
    let grain = if threads == 1 { chunks.max(1) } else { (chunks / (threads * PIECES)).max(GRAIN) };
    share(chunks.div_ceil(grain), threads, &|piece| {
        let start = piece * grain;
        walk(tensors, start..(start + grain).min(chunks), work);
    });
}

/// Calls `work(start, part)` for every chunk of one array, `start` being the chunk's first element; `elements` is what all
/// of it reads.
pub(super) fn sweep_array<T: Send>(
    array: &mut [T],
    elements: usize,
    work: &(impl Fn(usize, &mut [T]) + Sync),
) {
    struct Array<T>(*mut T);
    // SAFETY: each element is handed to one thread, as `&mut T`.
    unsafe impl<T: Send> Sync for Array<T> {}

    let (base, len) = (&Array(array.as_mut_ptr()), array.len());
    let whole = 0..len.div_ceil(CHUNK);
    sweep(slice::from_ref(&whole), elements, &|_: &Range<usize>, chunk| {
        let start = chunk * CHUNK;
        // SAFETY: a part of the array, which is borrowed for as long, and of no other call: each chunk is visited once.
        work(start, unsafe { slice::from_raw_parts_mut(base.0.add(start), (len - start).min(CHUNK)) });
    });
}

/// A range of chunks, which may begin and end within a tensor.
fn walk<T: Chunked>(tensors: &[T], chunks: Range<usize>, work: &impl Fn(&T, usize)) {
    let first = tensors.partition_point(|tensor| tensor.chunks().end <= chunks.start);
    for tensor in &tensors[first..] {
        let own = tensor.chunks();
        if own.start >= chunks.end {
            break;
        }
        for chunk in own.start.max(chunks.start)..own.end.min(chunks.end) {
            work(tensor, chunk - own.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_chunk_is_visited_once() {
        let lengths = [1, 0, 300, 0, 0, 7, 1, 64, 0];
        let tensors: Vec<Range<usize>> = lengths
            .iter()
            .scan(0, |start, &len| {
                let range = *start..*start + len;
                *start = range.end;
                Some(range)
            })
            .collect();
        for elements in [0, usize::MAX] {
            let visits: Vec<AtomicU32> = (0..373).map(|_| AtomicU32::new(0)).collect();
            sweep(&tensors, elements, &|tensor: &Range<usize>, chunk| {
                assert!(chunk < tensor.len());
                visits[tensor.start + chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(visits.iter().all(|visit| visit.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn an_array_is_cut_into_chunks() {
        let mut array: Vec<usize> = vec![0; 3 * CHUNK + 5];
        sweep_array(&mut array, usize::MAX, &|start, part| {
            for (i, element) in part.iter_mut().enumerate() {
                *element += start + i;
            }
        });
        assert!(array.iter().enumerate().all(|(i, &element)| element == i));
    }

    #[test]
    fn no_tensors_is_legal() {
        sweep(&[] as &[Range<usize>], usize::MAX, &|_, _| panic!("there is no chunk"));
    }
}
