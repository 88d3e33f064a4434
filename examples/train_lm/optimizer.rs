//! The optimizers to compare, and the hyper-parameters that suit this model.

use candle_core::DType;
use clap::ValueEnum;
use fadam::{Adam, Algorithm, FAdam, FisherAdam, Master};
use std::fmt;

/// Gradients are scaled down to at most this norm, by the optimizer.
pub(crate) const MAX_GRAD_NORM: f64 = 1.0;

/// The peak learning rate: of those tried, from 2 to 10 thousandths, the best for each of them.
pub(crate) const LEARNING_RATE: f64 = 4e-3;

/// β2 = 0.999 would average squared gradients over as many steps as a run has.
const BETAS: (f64, f64) = (0.9, 0.99);

/// An algorithm by the name it has on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Choice {
    #[value(name = "adamw")]
    AdamW,
    #[value(name = "fadam")]
    FAdam,
    FisherAdam,
}

/// What the weights are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    F32,
    Bf16(Master),
}

impl Weights {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16(_) => DType::BF16,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16(Master::F32) => "bf16, f32 masters",
            Self::Bf16(Master::Remainder) => "bf16, remainders",
            Self::Bf16(Master::None) => "bf16, rounded by chance",
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AdamW => "adamw",
            Self::FAdam => "fadam",
            Self::FisherAdam => "fisher_adam",
        })
    }
}

impl Choice {
    /// The algorithm with peak learning rate `lr`.
    pub(crate) fn algorithm(self, lr: f64) -> Algorithm {
        match self {
            Self::AdamW => Adam { lr, betas: BETAS, weight_decay: 0.05, ..Adam::adamw() }.into(),
            Self::FAdam => FAdam {
                lr,
                betas: BETAS,
                // ‖Δ‖₂ starts near √507904 ≈ 713, where every coordinate moves by the full learning rate, and settles
                // at a fraction of it; this bounds the start.
                kappa: Some(500.0),
                weight_decay: 1e-5,
                // Bytes that the text never uses have no gradient, so that the decay alone would divide by almost 0.
                decay_cap: Some(1e-3),
                ..FAdam::default()
            }
            .into(),
            // Its decay gradient has a root mean square of up to 1, as an update has: the usual 0.1 is much for a short run.
            Self::FisherAdam => {
                FisherAdam { lr, betas: BETAS, weight_decay: 0.01, ..FisherAdam::default() }.into()
            }
        }
    }
}
