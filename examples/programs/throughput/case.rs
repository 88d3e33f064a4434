//! One case: an optimizer over the tensors of a shape, and the memory traffic that it needs.

use crate::shapes::Shape;
use clap::ValueEnum;
use fadam::{Adam, Dtype, FAdam, FisherAdam, Master, Rounding};
use std::fmt;

/// An algorithm as `--algorithm` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// Adam, L2 decay
    Adam,
    /// Adam, decoupled decay
    Adamw,
    /// Momentum, then preconditioning
    Fadam,
    /// Hwang's Fisher Adam
    FisherAdam,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Adam => "adam",
            Self::Adamw => "adamw",
            Self::Fadam => "fadam",
            Self::FisherAdam => "fisher_adam",
        })
    }
}

impl Algorithm {
    pub(crate) fn default_weight_decay(self) -> f64 {
        match self {
            Self::Adam => Adam::default().weight_decay,
            Self::Adamw => Adam::adamw().weight_decay,
            Self::Fadam => FAdam::default().weight_decay,
            Self::FisherAdam => FisherAdam::default().weight_decay,
        }
    }
}

/// What is measured in one row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) algorithm: Algorithm,
    pub(crate) shape: Shape,
    pub(crate) param: Dtype,
    pub(crate) grad: Dtype,
    /// Of bf16 parameters.
    pub(crate) master: Option<Master>,
    pub(crate) moments: Dtype,
    /// Of what is kept in bf16 without the rest of its bits.
    pub(crate) rounding: Option<Rounding>,
    pub(crate) weight_decay: f64,
    /// Global gradient clipping and the finite check.
    pub(crate) clip: bool,
    pub(crate) kappa: Option<f64>,
}

/// The arrays of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Array {
    Parameter,
    /// Or the remainder.
    Master,
    Gradient,
    ExpAvg,
    ExpAvgSq,
}

impl Array {
    pub(crate) const ALL: [Self; 5] =
        [Self::Parameter, Self::Master, Self::Gradient, Self::ExpAvg, Self::ExpAvgSq];
}

/// What a sweep does with an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Update,
    Write,
}

/// One pass over all elements: what it only reads, and what it reads and writes. A parameter stands for its master too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    read: &'static [Array],
    updated: &'static [Array],
}

use Array::{ExpAvg, ExpAvgSq, Gradient, Parameter};

const NORM: Sweep = Sweep { read: &[Gradient], updated: &[] };
const WHOLE: Sweep = Sweep { read: &[Gradient], updated: &[Parameter, ExpAvg, ExpAvgSq] };
const FADAM_MOMENTS: Sweep = Sweep { read: &[Gradient], updated: &[ExpAvg, ExpAvgSq] };
/// Also the correction that a speculative step makes when κ acts.
const FADAM_APPLY: Sweep = Sweep { read: &[ExpAvg, ExpAvgSq], updated: &[Parameter] };
const FISHER_SUMS: Sweep = Sweep { read: &[Gradient, Parameter], updated: &[ExpAvgSq] };
const FISHER_SUMS_NO_DECAY: Sweep = Sweep { read: &[Gradient], updated: &[ExpAvgSq] };
const FISHER_APPLY: Sweep = Sweep { read: &[Gradient, ExpAvgSq], updated: &[Parameter, ExpAvg] };

impl Case {
    /// Bytes of one element of an array; 0 of one that is not kept.
    pub(crate) fn width(&self, array: Array) -> usize {
        match (array, self.master) {
            (Array::Parameter, _) => self.param.size(),
            (Array::Gradient, _) => self.grad.size(),
            (Array::Master, Some(Master::F32)) => Dtype::F32.size(),
            (Array::Master, Some(Master::Remainder)) => Dtype::Bf16.size(),
            (Array::Master, _) => 0,
            (Array::ExpAvg | Array::ExpAvgSq, _) => self.moments.size(),
        }
    }

    /// What a sweep does with each array. An f32 master is the parameter: the bf16 value is only written.
    pub(crate) fn accesses(&self, sweep: &Sweep) -> Vec<(Array, Access)> {
        let read = sweep.read.iter().map(|&array| (array, Access::Read));
        let updated = sweep.updated.iter().map(|&array| (array, Access::Update));
        let kept = |(array, access)| match (array, self.master, access) {
            (Parameter, Some(Master::F32), Access::Read) => vec![(Array::Master, access)],
            (Parameter, Some(Master::F32), _) => vec![(Parameter, Access::Write), (Array::Master, access)],
            (Parameter, Some(Master::Remainder), _) => vec![(Parameter, access), (Array::Master, access)],
            _ => vec![(array, access)],
        };
        read.chain(updated).flat_map(kept).collect()
    }

    /// The sweeps that the algorithm needs when no array stays in cache from one to the next. `kappa_acts`: the norm of
    /// FAdam's update is above κ. On a GPU FisherAdam reads the gradients first, checked or not.
    pub(crate) fn sweeps(&self, kappa_acts: bool, on_gpu: bool) -> Vec<Sweep> {
        let mut sweeps = Vec::new();
        if self.clip || on_gpu && self.algorithm == Algorithm::FisherAdam {
            sweeps.push(NORM);
        }
        match self.algorithm {
            Algorithm::FisherAdam if self.weight_decay != 0.0 => sweeps.extend([FISHER_SUMS, FISHER_APPLY]),
            Algorithm::FisherAdam => sweeps.extend([FISHER_SUMS_NO_DECAY, FISHER_APPLY]),
            Algorithm::Fadam if !self.speculates() => sweeps.extend([FADAM_MOMENTS, FADAM_APPLY]),
            Algorithm::Fadam if kappa_acts => sweeps.extend([WHOLE, FADAM_APPLY]),
            _ => sweeps.push(WHOLE),
        }
        sweeps
    }

    /// Whether FAdam applies its update before the norm is known: the library's rule, at its default betas.
    fn speculates(&self) -> bool {
        let elements = self.shape.tensors().iter().sum::<usize>() as f64;
        let exact = self.moments == Dtype::F32 && self.master != Some(Master::None);
        self.kappa.is_none_or(|kappa| exact && kappa >= 0.5 * elements.sqrt())
    }

    /// Bytes that these sweeps move for one parameter.
    pub(crate) fn bytes(&self, sweeps: &[Sweep]) -> usize {
        let accesses = sweeps.iter().flat_map(|sweep| self.accesses(sweep));
        accesses.map(|(array, access)| self.width(array) * (1 + usize::from(access == Access::Update))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        algorithm: Algorithm::Adamw,
        shape: Shape::Elements(100),
        param: Dtype::F32,
        grad: Dtype::F32,
        master: None,
        moments: Dtype::F32,
        rounding: None,
        weight_decay: 0.1,
        clip: false,
        kappa: None,
    };

    fn bytes(case: Case, kappa_acts: bool) -> usize {
        case.bytes(&case.sweeps(kappa_acts, false))
    }

    #[test]
    fn the_sweeps_move_the_known_bytes() {
        let fadam = Case { algorithm: Algorithm::Fadam, ..CASE };
        let fisher = Case { algorithm: Algorithm::FisherAdam, ..CASE };
        assert_eq!(bytes(CASE, false), 28);
        assert_eq!(bytes(Case { clip: true, ..CASE }, false), 32);
        assert_eq!(bytes(Case { grad: Dtype::Bf16, ..CASE }, false), 26);
        assert_eq!(bytes(fadam, false), 28);
        assert_eq!(bytes(Case { kappa: Some(4.0), ..fadam }, false), 36);
        assert_eq!(bytes(Case { kappa: Some(6.0), ..fadam }, false), 28);
        assert_eq!(bytes(Case { kappa: Some(6.0), ..fadam }, true), 44);
        assert_eq!(bytes(Case { clip: true, ..fisher }, false), 44);
        assert_eq!(bytes(Case { clip: true, weight_decay: 0.0, ..fisher }, false), 40);
        assert_eq!(bytes(fisher, false), 40);
        assert_eq!(fisher.bytes(&fisher.sweeps(false, true)), 44);
        let bf16 = |master, moments| Case {
            param: Dtype::Bf16,
            grad: Dtype::Bf16,
            master: Some(master),
            moments,
            ..CASE
        };
        assert_eq!(bytes(bf16(Master::F32, Dtype::F32), false), 28);
        assert_eq!(bytes(bf16(Master::Remainder, Dtype::F32), false), 26);
        assert_eq!(bytes(bf16(Master::None, Dtype::F32), false), 22);
        assert_eq!(bytes(bf16(Master::Remainder, Dtype::Bf16), false), 18);
        assert_eq!(bytes(bf16(Master::None, Dtype::Bf16), false), 14);
        let bare = bf16(Master::None, Dtype::F32);
        let fadam = Case { algorithm: Algorithm::Fadam, kappa: Some(6.0), ..bare };
        assert_eq!(bytes(fadam, false), 18 + 12); // does not speculate
    }
}
