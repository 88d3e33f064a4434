//! One pass over the chunks of all tensors together: at most one fork, none where the work is small.

use std::ops::Range;

/// Elements below which waking a second thread costs more than it saves.
const PARALLEL: usize = if cfg!(miri) { 1 << 13 } else { 1 << 16 }; // miri is slow, and is to see threads
/// Chunks that a thread takes at the least.
const GRAIN: usize = if cfg!(miri) { 1 } else { 4 };
/// Pieces a thread's share is cut into, so that an idle thread finds work to steal.
const PIECES: usize = 16;

/// A tensor of the sweep: where its chunks begin.
pub(super) trait Chunked {
    fn chunks(&self) -> Range<usize>;
}

/// Calls `work(tensor, chunk)` for every chunk, `chunk` counted within its tensor. Which thread calls it and in which
/// order is not defined: each call must touch its own chunk and its own partial sums alone.
pub(super) fn sweep<T: Chunked + Sync>(tensors: &[T], elements: usize, work: &(impl Fn(&T, usize) + Sync)) {
    let chunks = tensors.last().map_or(0, |tensor| tensor.chunks().end);
    let threads = if elements < PARALLEL { 1 } else { rayon::current_num_threads() };
    let grain = if threads == 1 { chunks } else { (chunks / (threads * PIECES)).max(GRAIN) };
    split(tensors, 0..chunks, grain, work);
}

fn split<T: Chunked + Sync>(
    tensors: &[T],
    chunks: Range<usize>,
    grain: usize,
    work: &(impl Fn(&T, usize) + Sync),
) {
    if chunks.len() > grain {
        let middle = chunks.start + chunks.len() / 2;
        rayon::join(
            || split(tensors, chunks.start..middle, grain, work),
            || split(tensors, middle..chunks.end, grain, work),
        );
        return;
    }
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

    impl Chunked for Range<usize> {
        fn chunks(&self) -> Range<usize> {
            self.clone()
        }
    }

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
    fn no_tensors_is_legal() {
        sweep(&[] as &[Range<usize>], usize::MAX, &|_, _| panic!("there is no chunk"));
    }
}
