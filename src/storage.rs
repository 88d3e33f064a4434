//! How parameters and moments are kept: which master a bf16 parameter has, how bf16 is rounded.

use crate::{Dtype, Error};
use half::bf16;
use std::fmt;
use std::str::FromStr;

/// What an optimizer keeps beside a bf16 parameter, so that small updates are not lost: near 1.0, bf16 has steps of 1/128,
/// and an update of 1e-3 rounds to nothing.
///
/// ```
/// use fadam::{Adam, Master, Optimizer, Update};
/// use half::bf16;
/// let mut optimizer = Optimizer::builder(Adam::default()).master(Master::Remainder).build()?;
/// let w = optimizer.register_bf16("w", 1)?;
/// let mut weight = [bf16::ONE];
/// for _ in 0..100 {
///     optimizer.step(&mut [Update::new(w, &mut weight, &[bf16::ONE])])?; // 1e-3 down each
/// }
/// assert_eq!(weight[0], bf16::from_f32(0.9));
/// assert_eq!("remainder".parse::<Master>()?, Master::default());
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Master {
    /// The whole parameter in f32; the bf16 value is that, rounded to nearest, ties to even. With f32 moments and a bf16
    /// gradient a step moves 28 bytes a parameter.
    ///
    /// Once the master has begun, the bf16 value is only written: what somebody else writes to it (loaded weights, a clamp, a
    /// second optimizer) is overwritten by the next step, unless [`Optimizer::reset_master`](crate::Optimizer::reset_master) is
    /// called.
    F32,
    /// The 16 low bits of the f32 that the bf16 value is the high half of, as exact as `F32`: 26 bytes. The value is that
    /// f32 rounded to nearest, ties away from zero (see [`join`]). What somebody else writes to the value counts. The default.
    #[default]
    Remainder,
    /// Nothing; the new value is rounded by [`Rounding`]: 22 bytes.
    None,
}

impl Master {
    /// Every kind, the default first.
    pub const ALL: [Self; 3] = [Self::Remainder, Self::F32, Self::None];
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Remainder => "remainder",
            Self::None => "none",
        })
    }
}

/// `f32`, `remainder` or `none`.
impl FromStr for Master {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|master| master.to_string() == name).ok_or_else(|| Error::Unavailable {
            what: format!("master `{name}`"),
            remedy: "known are f32, remainder, none".into(),
        })
    }
}

/// How an f32 becomes a bf16 where no master keeps the rest: a parameter under [`Master::None`], and bf16 moments.
///
/// ```
/// use fadam::{Adam, Dtype, Optimizer, Rounding};
/// let optimizer = Optimizer::builder(Adam::default()).moments(Dtype::Bf16).rounding(Rounding::Nearest).build()?;
/// # Ok::<(), fadam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest, ties to even. Updates below half a step of bf16 are lost.
    Nearest,
    /// Stochastic rounding, unbiased: up with a probability equal to the truncated fraction. The random bits are
    /// Philox4x32-10's, of the seed, the parameter's own step count, its number in the order of registration and the
    /// element: a resumed run and every device draw the same. The default.
    #[default]
    Stochastic,
}

impl Rounding {
    /// Every kind, the default first.
    pub const ALL: [Self; 2] = [Self::Stochastic, Self::Nearest];
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Stochastic => "stochastic",
        })
    }
}

/// `nearest` or `stochastic`.
impl FromStr for Rounding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|rounding| rounding.to_string() == name).ok_or_else(|| {
            Error::Unavailable {
                what: format!("rounding `{name}`"),
                remedy: "known are nearest, stochastic".into(),
            }
        })
    }
}

/// The f32 that a bf16 value and a [`State::remainder`](crate::State::remainder) are together.
///
/// ```
/// use half::bf16;
/// assert_eq!(fadam::join(bf16::ONE, -1), f32::from_bits(0x3f7f_ffff));
/// ```
pub fn join(value: bf16, remainder: i16) -> f32 {
    f32::from_bits((u32::from(value.to_bits()) << 16).wrapping_add_signed(remainder.into()))
}

/// What an optimizer keeps of each parameter, fixed when it is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) master: Master,
    pub(crate) moments: Dtype,
    pub(crate) rounding: Rounding,
    pub(crate) seed: u64,
    /// The decay of the parameters' exponential moving average.
    pub(crate) ema: Option<f64>,
    pub(crate) amsgrad: bool,
}

impl Storage {
    /// Bytes of what is kept of a bf16 parameter's master, an element.
    pub(crate) fn master_size(&self, parameter: Dtype) -> Option<usize> {
        match (parameter, self.master) {
            (Dtype::F32, _) | (_, Master::None) => None,
            (Dtype::Bf16, Master::F32) => Some(size_of::<f32>()),
            (Dtype::Bf16, Master::Remainder) => Some(size_of::<i16>()),
        }
    }

    /// Whether anything may be rounded where it is stored.
    pub(crate) fn rounds(&self) -> bool {
        self.master == Master::None || self.moments == Dtype::Bf16
    }

    /// What a parameter's new value counts in its average.
    pub(crate) fn ema_weight(&self) -> f32 {
        self.ema.map_or(0.0, |decay| (1.0 - decay) as f32)
    }
}
