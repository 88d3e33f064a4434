//! What an optimizer tells a device, and is told by it. No device in it.

use crate::error::Error;
use crate::tensor::Dtype;

/// An address that a step has borrowed, on whichever device. Meaningless outside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) *mut u8);

// SAFETY: a plain address; what it points to is `Tensor` and `TensorMut` memory, which is Send and Sync, and it is
// dereferenced within the step alone, whose `&mut [Update]` borrows that memory.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// One parameter's part in a step, checked: `len` elements at both addresses, of these types, no overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) group: usize,
    pub(crate) len: usize,
    pub(crate) parameter: Address,
    pub(crate) parameter_dtype: Dtype,
    pub(crate) gradient: Address,
    pub(crate) gradient_dtype: Dtype,
}

/// What an optimizer counts besides the progress of each parameter: plain numbers, all 0 at first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Calls of `step`, and how many of them were skipped.
    pub(crate) step: u64,
    pub(crate) skipped_steps: u64,
    pub(crate) clipped_updates: u64,
    /// The place in the schedule of the next step; counted without a schedule, too.
    pub(crate) schedule_step: u64,
    /// Of the next loss; 0 where the loss is not scaled.
    pub(crate) loss_scale: f64,
    /// In a row, since the loss scale last changed.
    pub(crate) good_steps: u64,
}

/// A step that a gradient kept from taking place; nothing has changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotFinite {
    /// The first parameter whose gradient it was.
    pub(crate) parameter: usize,
    /// The call of `step`, from 1.
    pub(crate) step: u64,
}

/// What an allocation is for, should it fail.
pub(crate) const STATE: &str = "a copy of the state";

/// A step that went wrong.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU has no such failure"))]
pub(crate) enum Failure {
    /// Before anything had changed.
    Untouched(Error),
    /// After some of it had changed: parameters and moments no longer belong together.
    Midway(Error),
}

/// The numbers of a natural-gradient step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NaturalGradient {
    pub(crate) neg_lr: f32,
    pub(crate) damping: f32,
    /// By √F̂.
    pub(crate) root: bool,
}

/// What an allocation is for, should it fail.
pub(crate) const PAIRS: &str = "the table of pairs";
/// As above.
pub(crate) const DIAGONAL: &str = "the Fisher diagonal";
