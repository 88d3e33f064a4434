//! What a device keeps for a file of state: tensors of each parameter, and counts.

/// A tensor that an optimizer may keep of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    ExpAvg,
    ExpAvgSq,
    MaxExpAvgSq,
}

impl Slot {
    pub(crate) const ALL: [Self; 3] = [Self::ExpAvg, Self::ExpAvgSq, Self::MaxExpAvgSq];

    /// As files have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ExpAvg => "exp_avg",
            Self::ExpAvgSq => "exp_avg_sq",
            Self::MaxExpAvgSq => "max_exp_avg_sq",
        }
    }
}

/// How a slot's elements are stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// As safetensors calls it.
    pub(crate) dtype: &'static str,
    /// Bytes of one element.
    pub(crate) size: usize,
}

impl Stored {
    pub(crate) const F32: Self = Self { dtype: "F32", size: 4 };
}

/// What an optimizer counts besides the steps of each parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Calls of `step`, skipped ones included.
    pub(crate) step: u64,
    pub(crate) skipped_steps: u64,
}
