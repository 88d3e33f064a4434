//! A step that panics leaves parameters and moments that no longer belong together: from then on everything is refused.
//!
//! The panic is rayon's own: a global pool whose threads cannot be started leaves none behind, and the first parallel
//! sweep panics. The pool is the process's, so this file has one test.

use fadam::{Adam, Error, Optimizer, Update};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn after_a_panic_in_a_step_the_optimizer_is_lost() {
    let refused = rayon::ThreadPoolBuilder::new()
        .spawn_handler(|_| Err(std::io::Error::other("no threads today")))
        .build_global();
    assert!(refused.is_err());
    let large = 1 << 17; // a smaller step stays on this thread
    let mut optimizer = Optimizer::builder(Adam::default()).norms(true).build().unwrap();
    let id = optimizer.register("p", large).unwrap();
    let (mut parameter, gradient) = (vec![1.0_f32; large], vec![1.0_f32; large]);
    let step =
        catch_unwind(AssertUnwindSafe(|| optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)])));
    assert!(step.is_err(), "the step was to panic");
    let lost = |error: Error| {
        assert!(matches!(error, Error::Lost), "{error:?}");
        assert!(error.to_string().contains("checkpoint"), "{error}");
    };
    lost(optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap_err());
    lost(optimizer.step(&mut []).unwrap_err());
    lost(optimizer.report().unwrap_err());
    lost(optimizer.norms_of(id).unwrap_err());
    lost(optimizer.state(id).unwrap_err());
    // Another optimizer is not concerned.
    let mut other = Optimizer::new(Adam::default()).unwrap();
    let id = other.register("p", 1).unwrap();
    other.step(&mut [Update::new(id, &mut [1.0_f32], &[1.0_f32])]).unwrap();
}
