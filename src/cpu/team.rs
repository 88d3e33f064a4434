//! The threads of a sweep: the caller works through all pieces, and idle threads of its rayon pool help.
//!
//! Not by `rayon::join`, nor by `par_iter`. Who waits for those runs other jobs of the pool meanwhile, and who calls them from
//! outside the pool waits until one of its threads is free. A step over candle's variables holds their locks: such a job, or
//! what occupies the pool's threads, may be waiting for one of them, and then both wait for ever. Here the caller depends on
//! nobody. It claims pieces until none is left, and waits for those helpers alone that have come in, each in the midst of
//! arithmetic. A helper that comes late finds the door closed. So a sweep ends whatever the pool's threads do; also where
//! they cannot be started, or are another process's (in a forked child).
//!
//! The pieces are cut into one span for each thread. A thread begins with a span of its own, so that in turn after turn it
//! tends to find in its cache what it left there, and then goes on to the others' spans.

use crate::environment::with_default_environment;
use rayon::ThreadPoolBuilder;
use std::cell::UnsafeCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

/// Of `Team::door`: nobody comes in. The other bits count the helpers inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The caller and its helpers. It outlives the calls: a helper may arrive when its call has ended, and helps with the next.
struct Team {
    door: AtomicUsize,
    /// Helpers that the pool has not run yet: so many that a pool that is busy for long holds no more than one call needs.
    coming: AtomicUsize,
    /// Threads that have taken a span of their own.
    placed: AtomicUsize,
    failed: AtomicBool,
    /// Written by the caller while the door is closed and nobody inside; read by those who have come in.
    job: UnsafeCell<Job>,
}

struct Job {
    work: *const (dyn Fn(usize) + Sync),
    spans: Vec<Span>,
}

/// Pieces that nobody has claimed yet: from `next` to `end`.
struct Span {
    next: AtomicUsize,
    end: usize,
}

// SAFETY: `job` is the only field that is not `Send` and `Sync` by itself; the door orders its accesses, and `work` points to
// something `Sync` that outlives the time for which the door is open.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

thread_local! {
    /// Of one thread, hence for one pool: a thread of a pool never leaves it, and all others use the global one.
    static TEAM: Arc<Team> = Arc::new(Team::new());
}

/// How many threads may work on a sweep, the caller among them; 1 where the system allows the pool no threads.
pub(super) fn threads() -> usize {
    static GLOBAL_POOL: OnceLock<bool> = OnceLock::new();
    let outside = rayon::current_thread_index().is_none();
    if outside && !*GLOBAL_POOL.get_or_init(start_global_pool) { 1 } else { rayon::current_num_threads() }
}

/// Rayon starts its pool at the first use and panics if that fails.
fn start_global_pool() -> bool {
    match ThreadPoolBuilder::new().build_global() {
        Ok(()) => true,
        Err(error) if error.source().is_some() => false, // a thread that could not be started
        Err(_) => catch_unwind(rayon::current_num_threads).is_ok(), // there is one, or others have failed to start it
    }
}

/// Calls `work` for each of `0..pieces`, on the calling thread and on at most `threads - 1` of its pool. Which thread takes
/// which piece is not defined.
pub(super) fn share(pieces: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
    let threads = threads.min(pieces);
    // Without a team while the thread ends: its locals are gone then.
    let team = if threads > 1 { TEAM.try_with(Arc::clone).ok() } else { None };
    match team {
        Some(team) => team.share(pieces, threads, work),
        None => (0..pieces).for_each(work),
    }
}

impl Team {
    fn new() -> Self {
        let nothing: &(dyn Fn(usize) + Sync) = &|_| ();
        Self {
            door: AtomicUsize::new(CLOSED),
            coming: AtomicUsize::new(0),
            placed: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            job: UnsafeCell::new(Job { work: nothing, spans: Vec::new() }),
        }
    }

    fn share(self: &Arc<Self>, pieces: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. `Open` closes the door and waits until nobody is inside before this returns or
        // unwinds, and behind a closed door nobody uses it.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        {
            // SAFETY: the door is closed and nobody inside: so `new` and `Open` have left it, and the team is this thread's.
            let job = unsafe { &mut *self.job.get() };
            job.work = work;
            let cut = |thread: usize| pieces * thread / threads;
            job.spans.clear();
            job.spans.extend((0..threads).map(|i| Span { next: AtomicUsize::new(cut(i)), end: cut(i + 1) }));
        }
        self.placed.store(0, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
        self.door.store(0, Ordering::Release);
        let open = Open(self);
        self.call(threads - 1);
        self.work();
        drop(open);
        assert!(!self.failed.load(Ordering::Relaxed), "a thread that helped with a sweep has panicked");
    }

    /// Sends for so many helpers, those among them that are on their way already.
    fn call(self: &Arc<Self>, helpers: usize) {
        while self.coming.load(Ordering::Relaxed) < helpers {
            self.coming.fetch_add(1, Ordering::Relaxed);
            let team = Arc::clone(self);
            rayon::spawn(move || team.help());
        }
    }

    fn help(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
        if !self.enter() {
            return;
        }
        let work = AssertUnwindSafe(|| with_default_environment(|| self.work()));
        if catch_unwind(work).is_err() {
            self.failed.store(true, Ordering::Relaxed); // the caller panics in its stead
        }
        self.door.fetch_sub(1, Ordering::Release);
    }

    /// Unless the door is closed.
    fn enter(&self) -> bool {
        let mut door = self.door.load(Ordering::Relaxed);
        while door & CLOSED == 0 {
            match self.door.compare_exchange_weak(door, door + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => door = now,
            }
        }
        false
    }

    /// Claims pieces and works on them until none is left. For those inside, and the caller while the door is open.
    fn work(&self) {
        // SAFETY: nobody writes it while the door is open or a helper inside.
        let Job { work, spans } = unsafe { &*self.job.get() };
        // SAFETY: the caller of `share` lends it for as long.
        let work = unsafe { &**work };
        let own = self.placed.fetch_add(1, Ordering::Relaxed) % spans.len();
        for span in spans[own..].iter().chain(&spans[..own]) {
            loop {
                let piece = span.next.fetch_add(1, Ordering::Relaxed);
                if piece >= span.end {
                    break;
                }
                work(piece);
            }
        }
    }
}

/// While it lives the door is open.
struct Open<'a>(&'a Team);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.door.fetch_or(CLOSED, Ordering::Relaxed);
        let mut rounds = 0_u32;
        while self.0.door.load(Ordering::Acquire) != CLOSED {
            // Each helper has a piece or less to go; one that the system has put to sleep needs the processor.
            if rounds < 100 {
                std::hint::spin_loop()
            } else {
                thread::yield_now()
            }
            rounds = rounds.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::ThreadPool;
    use std::sync::Barrier;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn every_piece_is_visited_once() {
        let (threads, turns) = if cfg!(miri) { (&[1, 3][..], 2) } else { (&[1, 2, 3, 8][..], 20) };
        for &threads in threads {
            pool(threads).install(|| {
                for pieces in [0, 1, 2, 3, 7, 8, 100] {
                    let visits: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                    for turn in 1..=turns {
                        share(pieces, threads, &|piece| {
                            visits[piece].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(visits.iter().all(|visit| visit.load(Ordering::Relaxed) == turn));
                    }
                }
            });
        }
    }

    /// The other threads wait for something that the caller does only afterwards.
    #[test]
    fn an_occupied_pool_is_not_waited_for() {
        let pool = pool(4);
        let free = Barrier::new(4);
        pool.in_place_scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|_| {
                    free.wait();
                });
            }
            scope.spawn(|_| {
                for _ in 0..if cfg!(miri) { 5 } else { 1000 } {
                    share(64, 4, &|_| ());
                }
                free.wait();
            });
        });
    }

    #[test]
    fn helpers_help() {
        // Two pieces, each of which ends when the other has begun.
        let pool = pool(2);
        pool.install(|| {
            let both = Barrier::new(2);
            share(2, 2, &|_| {
                both.wait();
            });
        });
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let pool = pool(2);
        for bad in [0, 1] {
            let result = pool.install(|| {
                let both = Barrier::new(2);
                catch_unwind(AssertUnwindSafe(|| {
                    share(2, 2, &|piece| {
                        both.wait();
                        assert_ne!(piece, bad);
                    });
                }))
            });
            assert!(result.is_err());
            pool.install(|| share(2, 2, &|_| ())); // it works again
        }
    }
}
