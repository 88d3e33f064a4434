//! What a device keeps of each parameter for a file of state.

use crate::tensor::Dtype;

/// A tensor that an optimizer may keep of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    ExpAvg,
    ExpAvgSq,
    MaxExpAvgSq,
    Master,
    Remainder,
    Ema,
}

impl Slot {
    pub(crate) const ALL: [Self; 6] =
        [Self::ExpAvg, Self::ExpAvgSq, Self::MaxExpAvgSq, Self::Master, Self::Remainder, Self::Ema];

    /// What PyTorch has, too.
    pub(crate) const MOMENTS: [Self; 3] = [Self::ExpAvg, Self::ExpAvgSq, Self::MaxExpAvgSq];

    /// As files have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ExpAvg => "exp_avg",
            Self::ExpAvgSq => "exp_avg_sq",
            Self::MaxExpAvgSq => "max_exp_avg_sq",
            Self::Master => "master",
            Self::Remainder => "remainder",
            Self::Ema => "ema",
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
    const BF16: Self = Self { dtype: "BF16", size: 2 };
    const I16: Self = Self { dtype: "I16", size: 2 };

    /// How a slot is stored, where it is kept.
    pub(crate) fn of(slot: Slot, moments: Dtype) -> Self {
        match (slot, moments) {
            (Slot::ExpAvg | Slot::ExpAvgSq | Slot::MaxExpAvgSq, Dtype::Bf16) => Self::BF16,
            (Slot::Remainder, _) => Self::I16,
            _ => Self::F32,
        }
    }
}
