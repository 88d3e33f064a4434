//! The metadata `optimizer` of a recording: which optimizer, with which hyper-parameters.

use crate::keys::{Domain, Keys, wrong};
use anyhow::{Result, bail, ensure};
use fadam::{Adam, Algorithm, Decay, FAdam, FisherAdam, NonFinite};
use serde_json::Value;

const ALGORITHMS: [&str; 3] = ["adam", "fadam", "fisher_adam"];
/// The keys that one algorithm has for its own.
const OWN_KEYS: [&[&str]; 3] = [
    &["eps", "decay", "amsgrad", "maximize"],
    &["eps0", "eps_decay", "kappa", "decay_cap"],
    &["eps", "eps2", "rho", "clip"],
];

pub(crate) struct Config {
    /// With the learning rate of the first step, where the recording has a list.
    pub(crate) algorithm: Algorithm,
    /// One learning rate a step.
    pub(crate) schedule: Option<Vec<f64>>,
    pub(crate) max_grad_norm: Option<f64>,
    pub(crate) grad_scale: f64,
    pub(crate) non_finite: NonFinite,
    rounding_given: bool,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut keys = Keys::parse(text)?;
        let words = [(ALGORITHMS[0], 0), (ALGORITHMS[1], 1), (ALGORITHMS[2], 2)];
        let Some(which) = keys.choice("algorithm", &words)? else {
            bail!("key `algorithm` is missing, expected \"adam\" or \"fadam\" or \"fisher_adam\"")
        };
        let schedule = schedule(&mut keys)?;
        let algorithm = match which {
            0 => adam(&mut keys, schedule.as_deref())?,
            1 => fadam(&mut keys, schedule.as_deref())?,
            _ => fisher_adam(&mut keys, schedule.as_deref())?,
        };
        let max_grad_norm = keys.nullable("max_grad_norm", Domain::Positive, None)?;
        let grad_scale = keys.number("grad_scale", Domain::Positive, 1.0)?;
        let non_finite = keys.choice(
            "non_finite",
            &[("skip", NonFinite::Skip), ("error", NonFinite::Error), ("propagate", NonFinite::Propagate)],
        )?;
        // For bf16 parameters; an f32 parameter is its own master and draws no random numbers.
        keys.choice("master", &[("f32", ()), ("remainder", ()), ("none", ())])?;
        keys.whole("seed")?;
        let rounding = keys.choice("rounding", &[("nearest", ()), ("stochastic", ())])?;
        let bf16_moments = keys.choice("moments", &[("f32", false), ("bf16", true)])?.unwrap_or(false);
        refuse_others(&keys, which)?;
        ensure!(!bf16_moments, "key `moments`: \"bf16\" is not supported yet by this version, use \"f32\"");
        Ok(Self {
            algorithm,
            schedule,
            max_grad_norm,
            grad_scale,
            non_finite: non_finite.unwrap_or_default(),
            rounding_given: rounding.is_some(),
        })
    }

    /// What the file's tensors decide: its `steps`, and that its parameters are all f32.
    ///
    /// `rounding` says how a value is rounded to bf16. Where parameters and moments are f32 nothing ever is, whatever
    /// `master` says, and a key that cannot act is refused: its author expects something that will not happen.
    pub(crate) fn check(&self, steps: usize) -> Result<()> {
        if let Some(schedule) = &self.schedule {
            let found = schedule.len();
            ensure!(found == steps, "key `lr` lists {found} numbers, expected {steps}: one for each step");
        }
        ensure!(
            !self.rounding_given,
            "key `rounding`: nothing is rounded to bf16 where parameters and moments are F32, expected no such key"
        );
        Ok(())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Adam(_) => ALGORITHMS[0],
            Algorithm::FAdam(_) => ALGORITHMS[1],
            _ => ALGORITHMS[2],
        }
    }
}

/// `lr` where it is a list; a number stays where it is.
fn schedule(keys: &mut Keys) -> Result<Option<Vec<f64>>> {
    let expected = Domain::NonNegative.expected();
    match keys.take("lr") {
        Some(Value::Array(list)) => {
            let number = |(i, value)| {
                let number = Domain::NonNegative.number(value);
                number.ok_or_else(|| wrong(&format!("lr[{i}]"), value, expected))
            };
            list.iter().enumerate().map(number).collect::<Result<_>>().map(Some)
        }
        Some(value) => match Domain::NonNegative.number(&value) {
            Some(_) => {
                keys.put("lr", value);
                Ok(None)
            }
            None => Err(wrong("lr", &value, &format!("{expected}, or a list of one for each step"))),
        },
        None => Ok(None),
    }
}

fn lr(keys: &mut Keys, schedule: Option<&[f64]>, default: f64) -> Result<f64> {
    match schedule {
        Some(schedule) => Ok(schedule.first().copied().unwrap_or(default)),
        None => keys.number("lr", Domain::NonNegative, default),
    }
}

fn betas(keys: &mut Keys, default: (f64, f64)) -> Result<(f64, f64)> {
    Ok((keys.number("beta1", Domain::Beta, default.0)?, keys.number("beta2", Domain::Beta, default.1)?))
}

fn adam(keys: &mut Keys, schedule: Option<&[f64]>) -> Result<Algorithm> {
    let decay = keys.choice("decay", &[("l2", Decay::L2), ("decoupled", Decay::Decoupled)])?;
    let default = match decay.unwrap_or_default() {
        Decay::L2 => Adam::default(),
        Decay::Decoupled => Adam::adamw(),
    };
    let adam = Adam {
        lr: lr(keys, schedule, default.lr)?,
        betas: betas(keys, default.betas)?,
        eps: keys.number("eps", Domain::NonNegative, default.eps)?,
        weight_decay: keys.number("weight_decay", Domain::NonNegative, default.weight_decay)?,
        decay: default.decay,
        amsgrad: keys.boolean("amsgrad", default.amsgrad)?,
        maximize: keys.boolean("maximize", default.maximize)?,
    };
    Ok(adam.into())
}

fn fadam(keys: &mut Keys, schedule: Option<&[f64]>) -> Result<Algorithm> {
    let default = FAdam::default();
    let fadam = FAdam {
        lr: lr(keys, schedule, default.lr)?,
        betas: betas(keys, default.betas)?,
        eps0: keys.number("eps0", Domain::NonNegative, default.eps0)?,
        eps_decay: keys.number("eps_decay", Domain::NonNegative, default.eps_decay)?,
        kappa: keys.nullable("kappa", Domain::Positive, default.kappa)?,
        weight_decay: keys.number("weight_decay", Domain::NonNegative, default.weight_decay)?,
        decay_cap: keys.nullable("decay_cap", Domain::Positive, default.decay_cap)?,
    };
    Ok(fadam.into())
}

fn fisher_adam(keys: &mut Keys, schedule: Option<&[f64]>) -> Result<Algorithm> {
    let default = FisherAdam::default();
    let fisher_adam = FisherAdam {
        lr: lr(keys, schedule, default.lr)?,
        betas: betas(keys, default.betas)?,
        eps: keys.number("eps", Domain::NonNegative, default.eps)?,
        eps2: keys.number("eps2", Domain::NonNegative, default.eps2)?,
        rho: keys.number("rho", Domain::Positive, default.rho)?,
        clip: keys.number("clip", Domain::Positive, default.clip)?,
        weight_decay: keys.number("weight_decay", Domain::NonNegative, default.weight_decay)?,
    };
    Ok(fisher_adam.into())
}

fn refuse_others(keys: &Keys, which: usize) -> Result<()> {
    let Some(key) = keys.left_over() else { return Ok(()) };
    let own = OWN_KEYS[which].join(", ");
    match OWN_KEYS.iter().position(|own| own.contains(&key)) {
        Some(other) => bail!(
            "key `{key}` belongs to {}; expected for {} are the common keys and {own}",
            ALGORITHMS[other],
            ALGORITHMS[which]
        ),
        None => bail!(
            "key `{key}` is unknown; expected for {} are algorithm, lr, beta1, beta2, weight_decay, max_grad_norm, \
             grad_scale, non_finite, master, rounding, moments, seed, {own}",
            ALGORITHMS[which]
        ),
    }
}
