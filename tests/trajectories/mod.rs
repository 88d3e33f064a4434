//! Trajectories that several tests replay, and their inputs: every algorithm, flag and form, at lengths around lanes,
//! chunks and the limit between resident and streamed tensors. Only integer arithmetic makes the inputs, so that they,
//! and with them the recorded bits, are the same on every platform.

#![allow(dead_code, unreachable_pub)] // a module of several tests, none of which uses all of it

use fadam::{
    Adam, Algorithm, Builder, Coordinates, Dtype, Error, FAdam, FisherAdam, Group, Master, NonFinite,
    Optimizer, Rounding, Simd, State, Tensor, TensorMut, Update,
};
use half::bf16;
use std::ops::RangeInclusive;

/// Lengths of the tensors: 74 000 elements, more than the 65 536 from which a step goes parallel; an empty tensor,
/// one element, around 128 lanes and 4096 elements of a chunk, 8 chunks (resident) and 9 and a bit (streamed).
pub const LARGE: &[usize] = &[129, 0, 32_768, 36_993, 4097, 1];
/// 14 000 elements: stays on the calling thread. Around multiples of lanes and chunks.
pub const SMALL: &[usize] = &[1, 127, 128, 0, 4095, 4096, 129, 255, 5000, 384];
/// √74 000 = 272: in a first step ‖Δ‖₂ of [`LARGE`] is close to that, and Δ is applied speculatively from half of it on.
const KAPPA_FIRES: f64 = 140.0;
const KAPPA_IDLE: f64 = 1e6;
const KAPPA_TWO_SWEEPS: f64 = 10.0;

/// How parameters and gradients are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Magnitudes from 2^-8 to 1.
    Plain,
    /// Gradients from 2^-20 to 2^-12: RMS below 1e-3.
    SmallGradients,
    /// Every third tensor `SmallGradients`, the others `Plain`.
    SomeSmallGradients,
    /// A zero gradient.
    ZeroGradients,
    /// Finite at every magnitude whose square is finite; signed zeros and subnormals among them.
    Extreme,
    /// One element in eight from a list with infinities, NaN, zeros, subnormals, the largest and smallest f32.
    Wild,
}

/// The type of gradients or parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Types {
    F32,
    Bf16,
    /// By turns.
    Mixed,
}

/// How parameters and moments are kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub parameters: Types,
    pub master: Master,
    pub moments: Dtype,
    /// `None`: the library's default.
    pub rounding: Option<Rounding>,
    pub seed: u64,
    pub ema: Option<f64>,
    /// The step after which some parameters are overwritten and their masters reset.
    pub reset: Option<u64>,
}

const F32: Kept = Kept {
    parameters: Types::F32,
    master: Master::Remainder,
    moments: Dtype::F32,
    rounding: None,
    seed: 0,
    ema: None,
    reset: None,
};
const REMAINDER: Kept = Kept { parameters: Types::Bf16, ..F32 };
const MASTER: Kept = Kept { master: Master::F32, ..REMAINDER };
const BARE: Kept = Kept { master: Master::None, seed: 0x0123_4567_89ab_cdef, ..REMAINDER };
const BF16_MOMENTS: Kept = Kept { moments: Dtype::Bf16, seed: 7, ..F32 };
const ALL_BF16: Kept = Kept { moments: Dtype::Bf16, ..BARE };

impl Types {
    fn is_bf16(self, odd: bool) -> bool {
        match self {
            Self::F32 => false,
            Self::Bf16 => true,
            Self::Mixed => !odd,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Trajectory {
    pub name: &'static str,
    pub algorithm: Algorithm,
    pub lengths: &'static [usize],
    pub steps: u64,
    pub values: Values,
    pub gradients: Types,
    /// Some parameters take no part in some steps.
    pub missing: bool,
    /// The step in which one gradient holds a NaN.
    pub poisoned: Option<u64>,
    pub max_grad_norm: Option<f64>,
    pub non_finite: NonFinite,
    pub norms: bool,
    /// By turns, one a step.
    pub grad_scales: &'static [f64],
    /// By turns, one a step; empty: the algorithm's.
    pub lrs: &'static [f64],
    /// Tensor i is in group i mod (number of these + 1), 0 being the default group.
    pub groups: &'static [Group],
    pub kept: Kept,
}

/// Every trajectory. Names are unique: the recorded bits go by them.
pub fn all() -> Vec<Trajectory> {
    let mut all = adam();
    all.extend(fadam());
    all.extend(fisher_adam());
    all.extend(bf16());
    all
}

const GROUPS: &[Group] = &[
    Group { weight_decay: Some(0.0), betas: None, eps: None, lr: None },
    Group { lr: Some(3e-3), betas: Some((0.3, 0.7)), eps: Some(1e-6), weight_decay: Some(0.3) },
];

pub fn adam() -> Vec<Trajectory> {
    let plain = Adam::default();
    let l2 = Adam { weight_decay: 0.1, ..plain };
    let w = Adam::adamw();
    vec![
        t("adam", plain),
        t("adam_l2", l2),
        t("adamw", w),
        t("adam_amsgrad", Adam { amsgrad: true, ..plain }),
        t("adamw_amsgrad_maximize", Adam { amsgrad: true, maximize: true, ..w }),
        t("adam_l2_maximize", Adam { maximize: true, ..l2 }),
        t("adam_betas_below_half", Adam { betas: (0.3, 0.4), ..plain }),
        t("adamw_beta1_below_half", Adam { betas: (0.2, 0.999), ..w }),
        t("adam_l2_beta2_below_half", Adam { betas: (0.9, 0.3), ..l2 }),
        t("adam_betas_zero_amsgrad", Adam { betas: (0.0, 0.0), amsgrad: true, ..plain }),
        Trajectory { lengths: SMALL, steps: 20, ..t("adamw_long", Adam { amsgrad: true, ..w }) },
        Trajectory {
            values: Values::ZeroGradients,
            ..t("adamw_eps_zero_no_gradient", Adam { eps: 0.0, ..w })
        },
        Trajectory { max_grad_norm: Some(1.0), grad_scales: &[3.0, 1024.0], ..t("adamw_clip_grad_scale", w) },
        Trajectory { max_grad_norm: Some(1e6), norms: true, ..t("adam_clip_idle_norms", l2) },
        Trajectory { gradients: Types::Bf16, ..t("adam_bf16", plain) },
        Trajectory { gradients: Types::Mixed, norms: true, ..t("adamw_mixed_norms", w) },
        Trajectory {
            non_finite: NonFinite::Propagate,
            norms: true,
            grad_scales: &[7.0],
            ..t("adam_norms_without_check", plain)
        },
        Trajectory { missing: true, steps: 5, ..t("adamw_missing", w) },
        Trajectory { poisoned: Some(2), ..t("adam_skip", plain) },
        Trajectory { poisoned: Some(2), non_finite: NonFinite::Error, ..t("adam_error", plain) },
        Trajectory { groups: GROUPS, lrs: &[1e-3, 0.0, 5e-2], ..t("adamw_groups_lr", w) },
        Trajectory { values: Values::Extreme, ..t("adam_l2_extreme", Adam { amsgrad: true, ..l2 }) },
        Trajectory { values: Values::Wild, ..t("adam_wild_skipped", plain) },
        wild(t("adam_l2_wild", l2)),
        wild(t("adamw_amsgrad_wild", Adam { amsgrad: true, maximize: true, ..w })),
        Trajectory {
            gradients: Types::Bf16,
            ..wild(t("adam_betas_below_half_wild_bf16", Adam { betas: (0.1, 0.2), amsgrad: true, ..plain }))
        },
        Trajectory { max_grad_norm: Some(1.0), norms: true, ..wild(t("adamw_clip_wild", w)) },
    ]
}

pub fn fadam() -> Vec<Trajectory> {
    let plain = FAdam::default();
    let decay = FAdam { weight_decay: 0.1, ..plain };
    let cap = FAdam { decay_cap: Some(1e-3), ..decay }; // binds where d < ηλ/1e-3 = 0.1
    let full = FAdam { eps0: 1e-3, eps_decay: 0.5, kappa: Some(KAPPA_TWO_SWEEPS), ..cap };
    let fires = FAdam { kappa: Some(KAPPA_FIRES), ..plain };
    vec![
        t("fadam", plain),
        t("fadam_decay", decay),
        t("fadam_decay_cap", cap),
        t("fadam_eps_decay", FAdam { eps0: 1e-2, eps_decay: 0.1, ..plain }),
        t("fadam_betas_below_half", FAdam { betas: (0.3, 0.4), ..cap }),
        t("fadam_betas_zero", FAdam { betas: (0.0, 0.0), ..plain }),
        t("fadam_kappa_two_sweeps", FAdam { kappa: Some(KAPPA_TWO_SWEEPS), ..plain }),
        t(
            "fadam_kappa_two_sweeps_idle",
            FAdam { kappa: Some(KAPPA_IDLE), betas: (0.9, 0.5), ..decay }, // no bound on Δ, so no speculation
        ),
        t("fadam_kappa_speculates_idle", FAdam { kappa: Some(KAPPA_IDLE), ..plain }),
        t("fadam_kappa_speculates_fires", fires),
        t("fadam_kappa_speculates_fires_decay", FAdam { kappa: Some(KAPPA_FIRES), ..cap }),
        Trajectory {
            lengths: SMALL,
            steps: 20,
            ..t("fadam_long", FAdam { kappa: Some(60.0), eps_decay: 0.5, ..cap }) // √14 000 / 2 = 59
        },
        t("fadam_all", full),
        Trajectory { norms: true, ..t("fadam_norms", plain) },
        Trajectory { norms: true, ..t("fadam_all_norms", full) },
        Trajectory {
            norms: true,
            non_finite: NonFinite::Propagate,
            grad_scales: &[7.0],
            ..t("fadam_all_norms_without_check", full)
        },
        Trajectory {
            norms: true,
            non_finite: NonFinite::Propagate,
            ..t("fadam_speculates_norms_without_check", fires)
        },
        Trajectory { max_grad_norm: Some(1.0), grad_scales: &[3.0], ..t("fadam_clip_grad_scale", full) },
        Trajectory { gradients: Types::Bf16, ..t("fadam_all_bf16", full) },
        Trajectory { gradients: Types::Mixed, ..t("fadam_speculates_mixed", fires) },
        Trajectory { missing: true, steps: 5, ..t("fadam_all_missing", full) },
        Trajectory { missing: true, steps: 5, ..t("fadam_speculates_missing", fires) },
        Trajectory { poisoned: Some(1), ..t("fadam_skip", full) },
        Trajectory { groups: GROUPS, lrs: &[1e-3, 0.0, 5e-2], ..t("fadam_speculates_groups_lr", fires) },
        Trajectory { groups: GROUPS, lrs: &[1e-3, 0.0, 5e-2], ..t("fadam_all_groups_lr", full) },
        Trajectory {
            values: Values::ZeroGradients,
            ..t("fadam_eps_zero_no_gradient", FAdam { eps0: 0.0, ..full })
        },
        Trajectory { values: Values::Extreme, ..t("fadam_extreme", FAdam { eps0: 1e-8, ..full }) },
        Trajectory {
            values: Values::Extreme,
            ..t("fadam_decay_eps_zero_extreme", FAdam { eps0: 0.0, ..decay })
        },
        wild(t("fadam_wild", cap)),
        wild(t("fadam_kappa_wild", full)),
        wild(t("fadam_speculates_wild", fires)),
    ]
}

pub fn fisher_adam() -> Vec<Trajectory> {
    let plain = FisherAdam::default();
    let no_decay = FisherAdam { weight_decay: 0.0, ..plain };
    // ε̂ = ε down to RMS(g) = ε/ε2 = 0.1: right for `Plain` (0.3), a mistake for `SmallGradients`.
    let damped = FisherAdam { eps: 1e-3, ..plain };
    let unchecked = |t| Trajectory { non_finite: NonFinite::Propagate, ..t };
    vec![
        t("fisher_adam", plain),
        t("fisher_adam_no_decay", no_decay),
        t("fisher_adam_clip_tight", FisherAdam { clip: 0.1, ..plain }),
        t("fisher_adam_clip_idle", FisherAdam { clip: 1e6, ..damped }),
        t("fisher_adam_betas_below_half", FisherAdam { betas: (0.3, 0.4), ..plain }),
        t("fisher_adam_betas_zero", FisherAdam { betas: (0.0, 0.0), ..plain }),
        t("fisher_adam_rho_quarter", FisherAdam { rho: 0.25, ..damped }),
        t("fisher_adam_rho_one", FisherAdam { rho: 1.0, ..no_decay }),
        unchecked(t("fisher_adam_rho_three_quarters_speculates", FisherAdam { rho: 0.75, ..damped })),
        unchecked(t("fisher_adam_speculates_right", damped)),
        unchecked(t("fisher_adam_no_decay_speculates_right", no_decay)),
        Trajectory {
            values: Values::SmallGradients,
            ..unchecked(t("fisher_adam_speculates_mistaken", damped))
        },
        Trajectory {
            values: Values::SomeSmallGradients,
            norms: true,
            ..unchecked(t("fisher_adam_speculates_sometimes_norms", damped))
        },
        Trajectory {
            values: Values::SomeSmallGradients,
            grad_scales: &[3.0, 0.01],
            gradients: Types::Mixed,
            ..unchecked(t("fisher_adam_speculates_grad_scale_mixed", FisherAdam { rho: 0.3, ..damped }))
        },
        Trajectory { values: Values::SmallGradients, ..t("fisher_adam_small_gradients", damped) },
        Trajectory { lengths: SMALL, steps: 20, ..t("fisher_adam_long", damped) },
        Trajectory {
            max_grad_norm: Some(1.0),
            grad_scales: &[3.0, 1024.0],
            ..t("fisher_adam_clip_grad_scale", damped)
        },
        Trajectory { norms: true, ..t("fisher_adam_norms", plain) },
        Trajectory { gradients: Types::Bf16, ..t("fisher_adam_bf16", plain) },
        Trajectory { missing: true, steps: 5, ..t("fisher_adam_missing", plain) },
        unchecked(Trajectory { missing: true, steps: 5, ..t("fisher_adam_speculates_missing", damped) }),
        Trajectory { poisoned: Some(3), ..t("fisher_adam_skip", plain) },
        Trajectory { groups: GROUPS, lrs: &[1e-3, 0.0, 5e-2], ..t("fisher_adam_groups_lr", plain) },
        Trajectory {
            values: Values::ZeroGradients,
            ..t("fisher_adam_eps_zero_no_gradient", FisherAdam { eps: 0.0, ..plain })
        },
        Trajectory { values: Values::Extreme, ..t("fisher_adam_extreme", plain) },
        Trajectory { values: Values::Extreme, ..unchecked(t("fisher_adam_speculates_extreme", damped)) },
        wild(t("fisher_adam_wild", plain)),
        wild(t("fisher_adam_rho_wild", FisherAdam { rho: 0.7, betas: (0.4, 0.2), ..damped })),
    ]
}

fn t(name: &'static str, algorithm: impl Into<Algorithm>) -> Trajectory {
    Trajectory {
        name,
        algorithm: algorithm.into(),
        lengths: LARGE,
        steps: 3,
        values: Values::Plain,
        gradients: Types::F32,
        missing: false,
        poisoned: None,
        max_grad_norm: None,
        non_finite: NonFinite::Skip,
        norms: false,
        grad_scales: &[1.0],
        lrs: &[],
        groups: &[],
        kept: F32,
    }
}

/// What is kept otherwise than as f32 alone, by every algorithm and form that writes it.
pub fn bf16() -> Vec<Trajectory> {
    let adam = Adam { weight_decay: 0.1, ..Adam::default() };
    let w = Adam::adamw();
    let fadam = FAdam { weight_decay: 0.1, decay_cap: Some(1e-3), ..FAdam::default() };
    let two_sweeps = FAdam { kappa: Some(KAPPA_TWO_SWEEPS), ..fadam };
    let fires = FAdam { kappa: Some(KAPPA_FIRES), ..fadam };
    let fisher_adam = FisherAdam { eps: 1e-3, ..FisherAdam::default() };
    let nearest = |kept| Kept { rounding: Some(Rounding::Nearest), ..kept };
    let mixed = |kept| Kept { parameters: Types::Mixed, ..kept };
    let ema = |kept| Kept { ema: Some(0.9), ..kept };
    let reset = |kept| Kept { reset: Some(2), ..kept };
    let kept = |t, kept| Trajectory { kept, gradients: Types::Mixed, ..t };
    vec![
        kept(t("adamw_remainder", w), REMAINDER),
        kept(t("adamw_master", w), MASTER),
        kept(t("adamw_bare", w), BARE),
        kept(t("adamw_bare_nearest", w), nearest(BARE)),
        kept(t("adamw_bf16_moments", w), BF16_MOMENTS),
        kept(t("adamw_bf16_moments_nearest", w), nearest(BF16_MOMENTS)),
        kept(t("adamw_all_bf16", w), ALL_BF16),
        kept(t("adamw_remainder_bf16_moments", w), Kept { moments: Dtype::Bf16, ..REMAINDER }),
        kept(t("adamw_master_bf16_moments", w), Kept { moments: Dtype::Bf16, ..mixed(MASTER) }),
        kept(t("adamw_ema", w), ema(F32)),
        kept(t("adamw_remainder_mixed_ema_reset", w), ema(reset(mixed(REMAINDER)))),
        kept(t("adam_l2_master_reset", adam), reset(MASTER)),
        Trajectory {
            norms: true,
            ..kept(t("adam_l2_amsgrad_all_bf16_norms", Adam { amsgrad: true, ..adam }), ALL_BF16)
        },
        Trajectory { lengths: SMALL, steps: 20, ..kept(t("adamw_all_bf16_long", w), mixed(ALL_BF16)) },
        Trajectory { missing: true, steps: 5, ..kept(t("adam_l2_bare_missing", adam), BARE) },
        Trajectory { poisoned: Some(1), ..kept(t("adamw_master_ema_skip", w), ema(MASTER)) },
        Trajectory { max_grad_norm: Some(1.0), ..kept(t("adamw_remainder_clip", w), REMAINDER) },
        wild(kept(t("adam_l2_remainder_wild", adam), REMAINDER)),
        wild(kept(t("adam_l2_master_wild", adam), ema(MASTER))),
        wild(kept(t("adam_l2_all_bf16_wild", adam), ALL_BF16)),
        wild(kept(t("adam_l2_all_bf16_nearest_wild", adam), nearest(ALL_BF16))),
        kept(t("fadam_remainder", fadam), REMAINDER),
        kept(t("fadam_two_sweeps_bare", two_sweeps), mixed(BARE)),
        kept(t("fadam_two_sweeps_remainder_ema", two_sweeps), ema(REMAINDER)),
        kept(t("fadam_two_sweeps_all_bf16", two_sweeps), ALL_BF16),
        kept(t("fadam_speculates_remainder_ema", fires), ema(mixed(REMAINDER))),
        kept(t("fadam_speculates_master_reset_ema", fires), ema(reset(MASTER))),
        kept(t("fadam_bare_does_not_speculate", fires), BARE),
        kept(t("fadam_bf16_moments_do_not_speculate", fires), BF16_MOMENTS),
        Trajectory { norms: true, ..kept(t("fadam_speculates_master_norms", fires), MASTER) },
        kept(t("fisher_adam_remainder_ema", fisher_adam), ema(REMAINDER)),
        kept(t("fisher_adam_bare", fisher_adam), BARE),
        kept(t("fisher_adam_master", fisher_adam), mixed(MASTER)),
        kept(t("fisher_adam_all_bf16", fisher_adam), ALL_BF16),
        Trajectory {
            values: Values::SomeSmallGradients,
            norms: true,
            non_finite: NonFinite::Propagate,
            ..kept(t("fisher_adam_all_bf16_speculates", fisher_adam), nearest(ALL_BF16))
        },
        wild(kept(t("fisher_adam_all_bf16_wild", fisher_adam), ALL_BF16)),
    ]
}

fn wild(trajectory: Trajectory) -> Trajectory {
    Trajectory { values: Values::Wild, non_finite: NonFinite::Propagate, ..trajectory }
}

/// splitmix64's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A random word for a place in a trajectory: a function of its arguments alone.
fn random(stream: u64, tensor: usize, element: usize) -> u64 {
    mix(mix(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ tensor as u64).wrapping_add(element as u64))
}

/// 2^low ≤ |x| < 2^high with random sign and mantissa; exponent −127 is that of zero and the subnormals.
fn float(random: u64, low: i32, high: i32) -> f32 {
    let span = (high - low) as u64;
    let exponent = (low + ((random >> 32) % span) as i32 + 127) as u32;
    f32::from_bits((random as u32 & 0x807f_ffff) | exponent << 23)
}

const SPECIAL: [f32; 15] = [
    0.0,
    f32::from_bits(1),
    f32::from_bits(0x007f_ffff),
    f32::MIN_POSITIVE,
    1e-38,
    1e-30,
    1e-23,
    3e-20,
    1.0,
    1e15,
    1.8e19,
    1.9e19,
    f32::MAX,
    f32::INFINITY,
    f32::NAN,
];

impl Values {
    fn draw(self, random: u64, tensor: usize, gradient: bool) -> f32 {
        match self {
            Self::SmallGradients if gradient => float(random, -20, -12),
            Self::SomeSmallGradients if gradient && tensor.is_multiple_of(3) => float(random, -20, -12),
            Self::ZeroGradients if gradient => 0.0,
            Self::Extreme if random >> 61 == 0 => f32::from_bits(random as u32 & 0x8000_0000),
            // 74 000 squares of 2^100 at most: far from the largest f64, and a chunk's 4096 from the largest f32.
            Self::Extreme => float(random, -127, 50),
            Self::Wild if random >> 61 == 0 => {
                let special = SPECIAL[(random >> 40) as usize % SPECIAL.len()];
                f32::from_bits(special.to_bits() | (random as u32 & 0x8000_0000))
            }
            _ => float(random, -8, 0),
        }
    }
}

pub enum Gradient {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

/// What a trajectory starts from and is fed with.
pub struct Inputs {
    pub parameters: Vec<Vec<f32>>,
    /// By step, then by tensor; `None`: the parameter takes no part.
    pub gradients: Vec<Vec<Option<Gradient>>>,
}

impl Trajectory {
    pub fn inputs(&self) -> Inputs {
        let tensors = || self.lengths.iter().copied().enumerate();
        let draw = |stream, tensor, len, gradient| -> Vec<f32> {
            (0..len).map(|i| self.values.draw(random(stream, tensor, i), tensor, gradient)).collect()
        };
        let gradient = |step: u64, tensor: usize, len: usize| {
            if self.missing && random(step, tensor, usize::MAX).is_multiple_of(3) {
                return None;
            }
            let mut values = draw(step, tensor, len, true);
            if self.poisoned == Some(step) && tensor == 3 {
                values[len / 2] = f32::NAN;
            }
            let odd = !tensor.is_multiple_of(2);
            Some(if self.gradients.is_bf16(odd) {
                Gradient::Bf16(high_halves(&values))
            } else {
                Gradient::F32(values)
            })
        };
        Inputs {
            parameters: tensors().map(|(i, len)| draw(0, i, len, false)).collect(),
            gradients: (1..=self.steps)
                .map(|s| tensors().map(|(i, len)| gradient(s, i, len)).collect())
                .collect(),
        }
    }

    pub fn has_bf16_parameter(&self, tensor: usize) -> bool {
        self.kept.parameters.is_bf16(tensor % 4 >= 2)
    }

    pub fn keeps_masters(&self) -> bool {
        self.kept.parameters != Types::F32 && self.kept.master != Master::None
    }

    /// What a tensor is overwritten with after this step, if it is.
    pub fn overwritten(&self, inputs: &Inputs, tensor: usize, step: u64) -> Option<Vec<f32>> {
        let due = self.kept.reset == Some(step) && tensor != 0;
        due.then(|| inputs.parameters[tensor].iter().map(|p| p * 0.5).collect())
    }

    /// The group of a tensor, 0 being the default one.
    pub fn group(&self, tensor: usize) -> usize {
        tensor % (self.groups.len() + 1)
    }

    pub fn grad_scale(&self, step: u64) -> f64 {
        self.grad_scales[(step - 1) as usize % self.grad_scales.len()]
    }

    pub fn lr(&self, step: u64) -> Option<f64> {
        let lrs = self.lrs;
        (!lrs.is_empty()).then(|| lrs[(step - 1) as usize % lrs.len()])
    }

    /// Runs the library over the trajectory on the CPU, each tensor `offset` elements into an allocation.
    pub fn replay(&self, inputs: &Inputs, simd: Simd, offset: usize) -> Outcome {
        self.replay_on(&Host { simd }, inputs, offset)
    }

    /// Runs the library over the trajectory where `home` is.
    pub fn replay_on<H: Home>(&self, home: &H, inputs: &Inputs, offset: usize) -> Outcome {
        let mut outcome = Outcome::default();
        let begin = (inputs.parameters.clone(), offset);
        let (mut optimizer, _) = self.part(home, inputs, begin, 1..=self.steps, |_| (), &mut outcome);
        outcome.states(&mut optimizer);
        outcome
    }

    /// The same in two parts, each with an optimizer of its own, between which `hand_over` carries the state.
    pub fn replay_in_parts(
        &self,
        (first, second): (&impl Home, &impl Home),
        inputs: &Inputs,
        split: u64,
        hand_over: impl FnOnce(Optimizer, &mut Optimizer),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let begin = (inputs.parameters.clone(), 0);
        let (old, parameters) = self.part(first, inputs, begin, 1..=split, |_| (), &mut outcome);
        let load = |new: &mut Optimizer| hand_over(old, new);
        let rest = split + 1..=self.steps;
        let (mut optimizer, _) = self.part(second, inputs, (parameters, 0), rest, load, &mut outcome);
        outcome.states(&mut optimizer);
        outcome
    }

    /// Some of the steps, by a new optimizer. The optimizer, and the parameters after them.
    fn part<H: Home>(
        &self,
        home: &H,
        inputs: &Inputs,
        (parameters, offset): (Vec<Vec<f32>>, usize),
        steps: RangeInclusive<u64>,
        load: impl FnOnce(&mut Optimizer),
        outcome: &mut Outcome,
    ) -> (Optimizer, Vec<Vec<f32>>) {
        let mut builder =
            home.builder(Optimizer::builder(self.algorithm).non_finite(self.non_finite).norms(self.norms));
        let Kept { master, moments, rounding, seed, ema, .. } = self.kept;
        builder = builder.master(master).moments(moments).seed(seed);
        if let Some(max) = self.max_grad_norm {
            builder = builder.max_grad_norm(max);
        }
        if let Some(rounding) = rounding {
            builder = builder.rounding(rounding);
        }
        if let Some(decay) = ema {
            builder = builder.ema(decay);
        }
        let mut optimizer = builder.build().unwrap();
        let groups: Vec<_> = self.groups.iter().map(|&group| optimizer.add_group(group).unwrap()).collect();
        let ids: Vec<_> = (self.lengths.iter().enumerate())
            .map(|(tensor, &len)| {
                let dtype = if self.has_bf16_parameter(tensor) { Dtype::Bf16 } else { Dtype::F32 };
                let name = tensor.to_string();
                match (self.group(tensor), dtype) {
                    (0, Dtype::F32) => optimizer.register(name, len),
                    (0, _) => optimizer.register_bf16(name, len),
                    (group, dtype) => optimizer.register_in(groups[group - 1], name, len, dtype),
                }
                .unwrap()
            })
            .collect();
        load(&mut optimizer);
        let place = |tensor: usize, values: &[f32]| {
            if self.has_bf16_parameter(tensor) {
                Placed::Bf16(home.bf16(&high_halves(values), offset))
            } else {
                Placed::F32(home.f32(values, offset))
            }
        };
        let read = |parameter: &Placed<H>| match parameter {
            Placed::F32(wide) => home.read(wide, offset),
            Placed::Bf16(narrow) => home.read_bf16(narrow, offset).iter().map(|p| p.to_f32()).collect(),
        };
        let mut parameters: Vec<Placed<H>> =
            parameters.iter().enumerate().map(|(i, p)| place(i, p)).collect();
        for step in steps {
            optimizer.set_grad_scale(self.grad_scale(step)).unwrap();
            if let Some(lr) = self.lr(step) {
                optimizer.set_learning_rate(lr).unwrap();
            }
            let gradients: Vec<_> = (inputs.gradients[step as usize - 1].iter())
                .map(|gradient| {
                    gradient.as_ref().map(|gradient| match gradient {
                        Gradient::F32(g) => Placed::<H>::F32(home.f32(g, offset)),
                        Gradient::Bf16(g) => Placed::Bf16(home.bf16(g, offset)),
                    })
                })
                .collect();
            let mut updates: Vec<_> = (ids.iter().zip(&mut parameters).zip(&gradients))
                .filter_map(|((&id, parameter), gradient)| {
                    let gradient = match gradient.as_ref()? {
                        Placed::F32(wide) => home.f32_gradient(wide, offset),
                        Placed::Bf16(narrow) => home.bf16_gradient(narrow, offset),
                    };
                    let parameter = match parameter {
                        Placed::F32(wide) => home.parameter(wide, offset),
                        Placed::Bf16(narrow) => home.bf16_parameter(narrow, offset),
                    };
                    Some(Update::new(id, parameter, gradient))
                })
                .collect();
            let mut refused = optimizer.step(&mut updates).is_err();
            // A GPU tells of it here, once.
            let report = optimizer.report().or_else(|error| {
                assert!(matches!(error, Error::NonFinite { .. }), "{error}");
                refused = true;
                optimizer.report()
            });
            let report = report.unwrap();
            outcome.report(
                step,
                refused,
                report.skipped,
                report.skipped_steps,
                [report.grad_norm, report.clip_coefficient, report.update_norm],
            );
            assert_eq!(report.step, step);
            outcome.counts(format!("step {step}"), report.coordinates);
            let clips = vec![report.update_clip.map_or(0, bits), report.clipped_updates];
            outcome.1.push((format!("clipping of step {step} (by kappa; so far)"), clips));
            for (tensor, parameter) in parameters.iter().enumerate() {
                let values = read(parameter);
                outcome.floats(format!("parameter {tensor} after step {step}"), &values);
            }
            for (tensor, &id) in ids.iter().enumerate().filter(|_| self.norms) {
                let norms = optimizer.norms_of(id).unwrap();
                outcome
                    .counts(format!("{tensor} after step {step}"), norms.and_then(|norms| norms.coordinates));
                outcome.norms(tensor, step, norms.map(|norms| [norms.grad, norms.update, norms.parameter]));
            }
            for (tensor, &id) in ids.iter().enumerate() {
                if let Some(values) = self.overwritten(inputs, tensor, step) {
                    parameters[tensor] = place(tensor, &values);
                    optimizer.reset_master(id).unwrap();
                }
            }
        }
        (optimizer, parameters.iter().map(read).collect())
    }
}

/// Where a trajectory's tensors live, each `offset` elements into an allocation.
pub trait Home {
    type F32;
    type Bf16;
    /// The builder for an optimizer there.
    fn builder(&self, builder: Builder) -> Builder;
    fn f32(&self, values: &[f32], offset: usize) -> Self::F32;
    fn bf16(&self, values: &[bf16], offset: usize) -> Self::Bf16;
    fn parameter<'a>(&self, tensor: &'a mut Self::F32, offset: usize) -> TensorMut<'a>;
    fn f32_gradient<'a>(&self, tensor: &'a Self::F32, offset: usize) -> Tensor<'a>;
    fn bf16_gradient<'a>(&self, tensor: &'a Self::Bf16, offset: usize) -> Tensor<'a>;
    fn bf16_parameter<'a>(&self, tensor: &'a mut Self::Bf16, offset: usize) -> TensorMut<'a>;
    fn read(&self, tensor: &Self::F32, offset: usize) -> Vec<f32>;
    fn read_bf16(&self, tensor: &Self::Bf16, offset: usize) -> Vec<bf16>;
}

/// A tensor of either type.
enum Placed<H: Home> {
    F32(H::F32),
    Bf16(H::Bf16),
}

/// bf16 of the same sign and magnitude, not rounded.
pub fn high_halves(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|x| bf16::from_bits((x.to_bits() >> 16) as u16)).collect()
}

pub struct Host {
    pub simd: Simd,
}

impl Home for Host {
    type F32 = Vec<f32>;
    type Bf16 = Vec<bf16>;

    fn builder(&self, builder: Builder) -> Builder {
        builder.simd(self.simd)
    }
    fn f32(&self, values: &[f32], offset: usize) -> Vec<f32> {
        shifted(values, offset, 0.0)
    }
    fn bf16(&self, values: &[bf16], offset: usize) -> Vec<bf16> {
        shifted(values, offset, bf16::ZERO)
    }
    fn parameter<'a>(&self, tensor: &'a mut Vec<f32>, offset: usize) -> TensorMut<'a> {
        (&mut tensor[offset..]).into()
    }
    fn f32_gradient<'a>(&self, tensor: &'a Vec<f32>, offset: usize) -> Tensor<'a> {
        (&tensor[offset..]).into()
    }
    fn bf16_gradient<'a>(&self, tensor: &'a Vec<bf16>, offset: usize) -> Tensor<'a> {
        (&tensor[offset..]).into()
    }
    fn bf16_parameter<'a>(&self, tensor: &'a mut Vec<bf16>, offset: usize) -> TensorMut<'a> {
        (&mut tensor[offset..]).into()
    }
    fn read(&self, tensor: &Vec<f32>, offset: usize) -> Vec<f32> {
        tensor[offset..].to_vec()
    }
    fn read_bf16(&self, tensor: &Vec<bf16>, offset: usize) -> Vec<bf16> {
        tensor[offset..].to_vec()
    }
}

/// A copy that begins `offset` elements into its allocation.
pub fn shifted<T: Copy>(values: &[T], offset: usize, filler: T) -> Vec<T> {
    let mut copy = vec![filler; offset];
    copy.extend_from_slice(values);
    copy
}

/// All result bits of a trajectory, with a label for each stretch. Every NaN is the same NaN. And what reports count on the
/// way, which is in no recorded hash, and nothing but the library counts.
#[derive(Debug, Default)]
pub struct Outcome(Vec<(String, Vec<u64>)>, Vec<(String, Vec<u64>)>);

fn bits(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }
}

impl Outcome {
    pub fn report(
        &mut self,
        step: u64,
        refused: bool,
        skipped: bool,
        skipped_steps: u64,
        figures: [Option<f64>; 3],
    ) {
        let mut words = vec![refused.into(), skipped.into(), skipped_steps];
        for figure in figures {
            words.extend([figure.is_some().into(), figure.map_or(0, bits)]);
        }
        self.0.push((
            format!(
                "report of step {step} (refused, skipped, skipped steps; gradient norm, clip, update norm)"
            ),
            words,
        ));
    }

    fn counts(&mut self, of: String, coordinates: Option<Coordinates>) {
        let words =
            coordinates.map_or(vec![], |Coordinates { count, near_eps, near_decay_limit, .. }| {
                [&[count], &near_eps[..], &near_decay_limit[..]].concat()
            });
        self.1.push((format!("coordinates of {of} (count; near eps; near the decay's limit)"), words));
    }

    pub fn norms(&mut self, tensor: usize, step: u64, norms: Option<[f64; 3]>) {
        let words = norms.map_or(vec![], |norms| norms.map(bits).to_vec());
        self.0.push((format!("norms of {tensor} after step {step} (gradient, update, parameter)"), words));
    }

    /// Of each parameter of a trajectory's optimizer.
    fn states(&mut self, optimizer: &mut Optimizer) {
        let tensors = (0..).map_while(|tensor: usize| optimizer.parameter(&tensor.to_string()));
        for (tensor, id) in tensors.collect::<Vec<_>>().into_iter().enumerate() {
            self.state(tensor, &optimizer.state(id).unwrap());
        }
    }

    pub fn state(&mut self, tensor: usize, state: &State) {
        self.0.push((format!("step count of {tensor}"), vec![state.step]));
        self.floats(format!("first moment of {tensor}"), &state.exp_avg);
        self.floats(format!("second moment of {tensor}"), &state.exp_avg_sq);
        if let Some(vmax) = &state.max_exp_avg_sq {
            self.floats(format!("largest second moment of {tensor}"), vmax);
        }
        if let Some(master) = &state.master {
            self.floats(format!("master of {tensor}"), master);
        }
        if let Some(remainder) = &state.remainder {
            let words = remainder.iter().map(|&r| r as u16 as u64).collect();
            self.0.push((format!("remainder of {tensor}"), words));
        }
        if let Some(ema) = &state.ema {
            self.floats(format!("average of {tensor}"), ema);
        }
    }

    pub fn floats(&mut self, label: String, values: &[f32]) {
        let word = |x: &f32| u64::from(if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() });
        self.0.push((label, values.iter().map(word).collect()));
    }

    /// For a comparison with what counts nothing.
    pub fn without_counts(self) -> Self {
        Self(self.0, vec![])
    }

    /// # Panics
    /// Names the first bits that differ.
    pub fn assert_same_bits(&self, other: &Self, what: &str) {
        assert_eq!(self.0.len(), other.0.len(), "{what}: another number of results");
        let counts = self.1.iter().zip(&other.1);
        for ((label, here), (other_label, there)) in self.0.iter().zip(&other.0).chain(counts) {
            assert_eq!(label, other_label, "{what}");
            assert_eq!(here.len(), there.len(), "{what}: {label}");
            let different = here.iter().zip(there).filter(|(a, b)| a != b).count();
            if let Some(i) = here.iter().zip(there).position(|(a, b)| a != b) {
                panic!(
                    "{what}: {label}: {different} of {} differ, the first is [{i}]: {:#x} and {:#x}",
                    here.len(),
                    here[i],
                    there[i]
                );
            }
        }
    }

    /// FNV-1a (64 bits) of all words, little-endian.
    pub fn hash(&self) -> u64 {
        let bytes = self.0.iter().flat_map(|(_, words)| words).flat_map(|word| word.to_le_bytes());
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}
