//! A step on one thread allocates nothing, whatever the algorithm and the options. In a pool each call for a helper is a small
//! box of rayon's.
//!
//! The allocator is the process's, so this file has one test.

mod common;

use common::{algorithms, noise};
use fadam::{Dtype, LossScale, Master, NonFinite, Optimizer, Schedule, Tensor, TensorMut, Update};
use half::bf16;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Steps over tensors of these lengths; how often any thread allocated in the four after the first.
fn steps(builder: fadam::Builder, bf16_parameters: bool, lengths: &[usize]) -> usize {
    let mut optimizer = builder.build().unwrap();
    let values = |i: usize, len: usize| noise(len, i as u64);
    let mut parameters: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(i, &len)| {
            let id = match bf16_parameters {
                false => optimizer.register(format!("p{i}"), len),
                true => optimizer.register_bf16(format!("p{i}"), len),
            };
            let narrow: Vec<bf16> = values(i, len).into_iter().map(bf16::from_f32).collect();
            (id.unwrap(), values(i, len), narrow)
        })
        .collect();
    let wide: Vec<Vec<f32>> = lengths.iter().map(|&len| noise(len, 7)).collect();
    let narrow: Vec<Vec<bf16>> =
        wide.iter().map(|g| g.iter().map(|&g| bf16::from_f32(g)).collect()).collect();
    let mut updates: Vec<Update<'_>> = parameters
        .iter_mut()
        .enumerate()
        .map(|(i, (id, p, q))| {
            let g: Tensor<'_> = if i % 2 == 0 { (&wide[i]).into() } else { (&narrow[i]).into() };
            let p: TensorMut<'_> = if bf16_parameters { q.into() } else { p.into() };
            Update::new(*id, p, g)
        })
        .collect();
    optimizer.step(&mut updates).unwrap();
    let some = updates.len() / 2;
    allocations(|| {
        for _ in 0..2 {
            updates.reverse();
            optimizer.step(&mut updates).unwrap();
            optimizer.step(&mut updates[..some]).unwrap(); // another subset
            optimizer.report().unwrap();
        }
    })
}

#[test]
fn a_step_on_one_thread_allocates_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1]))) > 0, "the allocator does not count");
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    // Threads allocate when they start, and when they steal for the first time: let each have done so.
    one.broadcast(|_| std::thread::yield_now());
    pool.broadcast(|_| std::thread::yield_now());
    pool.install(|| (0..100).for_each(|_| drop(rayon::join(|| noise(1000, 1), || noise(1000, 2)))));
    // Of four steps with at most four sweeps, two helpers each; some of rayon's queues grow, too.
    const MOST: usize = 2 * 4 * 4 * 2;
    for algorithm in algorithms() {
        for norms in [false, true] {
            for policy in [NonFinite::Skip, NonFinite::Propagate] {
                let builder = || Optimizer::builder(algorithm).norms(norms).non_finite(policy);
                assert_eq!(steps(builder(), false, &[7, 0, 300, 5000]), 0, "{algorithm:?}");
                assert_eq!(steps(builder().max_grad_norm(0.1), false, &[7, 0, 300]), 0, "{algorithm:?}");
                let large = || steps(builder().max_grad_norm(0.1), false, &[70_000, 3, 40_000, 4096]);
                assert_eq!(one.install(large), 0, "{algorithm:?} in a pool of one");
                assert!(pool.install(large) <= MOST, "{algorithm:?} in a pool");
                if policy == NonFinite::Skip {
                    let adapting =
                        builder().schedule(Schedule::cosine(1, 9, 0.1)).loss_scale(LossScale::default());
                    assert_eq!(steps(adapting, false, &[7, 0, 300]), 0, "{algorithm:?}, scheduled");
                }
                for master in [Master::F32, Master::Remainder, Master::None] {
                    for moments in [Dtype::F32, Dtype::Bf16] {
                        let builder = || builder().master(master).moments(moments).ema(0.9);
                        let what = format!("{algorithm:?}, {master:?}, {moments} moments");
                        assert_eq!(steps(builder(), true, &[7, 0, 300, 5000]), 0, "{what}");
                    }
                }
                let large = || steps(builder().master(Master::None).moments(Dtype::Bf16), true, &[70_000, 3]);
                assert_eq!(one.install(large), 0, "{algorithm:?} in bf16 in a pool of one");
                assert!(pool.install(large) <= MOST, "{algorithm:?} in bf16 in a pool");
            }
        }
    }
}
