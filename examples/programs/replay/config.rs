//! The metadata `optimizer` of a recording: which optimizer, with which hyper-parameters.

use crate::keys::{Domain, Keys, wrong};
use anyhow::{Result, bail, ensure};
use fadam::{Adam, Algorithm, Decay, Dtype, FAdam, FisherAdam, Master, NonFinite, Rounding};
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
    pub(crate) storage: Storage,
}

/// How bf16 parameters and moments are kept; none is the library's default.
#[derive(Clone, Copy)]
pub(crate) struct Storage {
    pub(crate) master: Option<Master>,
    pub(crate) moments: Option<Dtype>,
    pub(crate) rounding: Option<Rounding>,
    pub(crate) seed: Option<u64>,
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
        let storage = storage(&mut keys)?;
        refuse_others(&keys, which)?;
        storage.check()?;
        Ok(Self {
            algorithm,
            schedule,
            max_grad_norm,
            grad_scale,
            non_finite: non_finite.unwrap_or_default(),
            storage,
        })
    }

    /// What the file's tensors decide: its `steps`.
    pub(crate) fn check(&self, steps: usize) -> Result<()> {
        if let Some(schedule) = &self.schedule {
            let found = schedule.len();
            ensure!(found == steps, "key `lr` lists {found} numbers, expected {steps}: one for each step");
        }
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

impl Storage {
    /// `rounding` says how a value is rounded to bf16 for good. Where a master keeps the rest and moments are f32 none is,
    /// and a key that cannot act is refused: its author expects something that will not happen. (An f32 parameter has no
    /// master; the rule is one of keys, the same for every file.)
    fn check(&self) -> Result<()> {
        let master = self.master.unwrap_or_default();
        let rounds = master == Master::None || self.moments == Some(Dtype::Bf16);
        ensure!(
            rounds || self.rounding.is_none(),
            "key `rounding`: with an fp32 master (`master` \"f32\" or \"remainder\") and f32 moments nothing is rounded, \
             expected no such key, or `master` \"none\", or `moments` \"bf16\""
        );
        Ok(())
    }
}

fn storage(keys: &mut Keys) -> Result<Storage> {
    let masters = [("f32", Master::F32), ("remainder", Master::Remainder), ("none", Master::None)];
    let roundings = [("nearest", Rounding::Nearest), ("stochastic", Rounding::Stochastic)];
    Ok(Storage {
        master: keys.choice("master", &masters)?,
        moments: keys.choice("moments", &[("f32", Dtype::F32), ("bf16", Dtype::Bf16)])?,
        rounding: keys.choice("rounding", &roundings)?,
        seed: keys.whole("seed")?,
    })
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
