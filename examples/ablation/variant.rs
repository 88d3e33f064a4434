//! The optimizers to compare: three whole ones, the corrections of the source one at a time, and all but one.

use fadam::{Adam, Algorithm, Builder, FAdam, FisherAdam};

/// β2 = 0.999 would average squared gradients over as many steps as a run has.
const BETAS: (f64, f64) = (0.9, 0.99);

// FAdam's corrections, where they are on: chosen by short runs on validation data before the comparison, which sweeps about them.

/// ε0, and how fast ε shrinks.
pub(crate) const EPS0: f64 = 1e-5;
pub(crate) const EPS_DECAY: f64 = 0.1;
/// κ in units of √N, N the number of parameters.
pub(crate) const CLIP: f64 = 0.5;
/// λ of the Riemannian decay.
pub(crate) const DECAY: f64 = 1e-5;
/// The largest ηλ/d: pixels at the border of an image, and bytes that a text never has, have no gradient.
const DECAY_CAP: f64 = 1e-3;

/// What the sweeps over settings advise: a larger ε that does not shrink, and a stronger decay.
const ADVISED: FAdam = FAdam {
    lr: 0.0, // each run has its own
    betas: BETAS,
    eps0: 1e-4,
    eps_decay: 0.0,
    kappa: None, // and this follows from the number of parameters
    weight_decay: 1e-4,
    decay_cap: Some(DECAY_CAP),
};

/// λ of AdamW: PyTorch's.
pub(crate) const ADAMW_DECAY: f64 = 0.01;
/// λ of FisherAdam. Its decay gradient has a root mean square of up to 1, as an update has: the usual 0.1 is much for a
/// short run.
pub(crate) const FISHER_DECAY: f64 = 0.01;
/// Switches off FisherAdam's clip (c), or the adaptive part of its ε (ε2).
const NEVER: f64 = 1e30;

/// An optimizer with everything but its learning rate.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// In tables, and where runs are kept.
    pub(crate) name: String,
    algorithm: Algorithm,
    /// κ/√N of FAdam.
    pub(crate) kappa: Option<f64>,
    /// Clips gradients, not the natural gradient.
    max_grad_norm: Option<f64>,
}

impl Variant {
    fn new(name: &str, algorithm: impl Into<Algorithm>) -> Self {
        Self { name: name.to_owned(), algorithm: algorithm.into(), kappa: None, max_grad_norm: None }
    }

    /// With this κ/√N.
    fn clipped(self, kappa: f64) -> Self {
        Self { kappa: Some(kappa), ..self }
    }

    /// The optimizer for `elements` parameters.
    pub(crate) fn builder(&self, lr: f64, elements: usize) -> Builder {
        let algorithm: Algorithm = match self.algorithm {
            Algorithm::FAdam(fadam) => {
                let kappa = self.kappa.map(|clip| clip * (elements as f64).sqrt());
                FAdam { lr, kappa, ..fadam }.into()
            }
            Algorithm::FisherAdam(fisher_adam) => FisherAdam { lr, ..fisher_adam }.into(),
            Algorithm::Adam(adam) => Adam { lr, ..adam }.into(),
            other => other,
        };
        let builder = fadam::Optimizer::builder(algorithm);
        match self.max_grad_norm {
            Some(norm) => builder.max_grad_norm(norm),
            None => builder,
        }
    }

    /// All settings but the learning rate, in words.
    pub(crate) fn settings(&self) -> String {
        let mut words = match self.algorithm {
            Algorithm::Adam(Adam { betas, eps, weight_decay, .. }) => {
                format!("AdamW, β {betas:?}, ε {eps:e}, λ {weight_decay}")
            }
            Algorithm::FAdam(FAdam { betas, eps0, eps_decay, weight_decay, decay_cap, .. }) => {
                let cap = decay_cap.map(|cap| format!(" (ηλ/d ≤ {cap})")).unwrap_or_default();
                format!("FAdam, β {betas:?}, ε0 {eps0:e}, λ_ε {eps_decay}, λ {weight_decay:e}{cap}")
            }
            Algorithm::FisherAdam(FisherAdam { betas, eps, eps2, clip, weight_decay, .. }) => {
                let or_none = |x| if x == NEVER { "∞".to_owned() } else { format!("{x}") };
                let (eps2, clip) = (or_none(eps2), or_none(clip));
                format!("FisherAdam, β {betas:?}, ε {eps:e}, ε2 {eps2}, c {clip}, λ {weight_decay}")
            }
            other => format!("{other:?}"),
        };
        if let Some(kappa) = self.kappa {
            words += &format!(", κ {kappa}·√N");
        }
        if let Some(norm) = self.max_grad_norm {
            words += &format!(", max_grad_norm {norm}");
        }
        words
    }
}

fn adamw(weight_decay: f64) -> Adam {
    Adam { betas: BETAS, weight_decay, ..Adam::adamw() }
}

/// FAdam with its corrections on or off; with all off, it is Adam.
fn fadam(eps: bool, decay: bool) -> FAdam {
    let mut fadam = FAdam { betas: BETAS, ..FAdam::default() };
    if eps {
        (fadam.eps0, fadam.eps_decay) = (EPS0, EPS_DECAY);
    }
    if decay {
        (fadam.weight_decay, fadam.decay_cap) = (DECAY, Some(DECAY_CAP));
    }
    fadam
}

/// The source's algorithm with its corrections on or off; with all off, what is left is the order: the gradient is
/// preconditioned first, and momentum comes second.
fn fisher_adam(eps: bool, decay: bool, clip: bool) -> FisherAdam {
    let mut fisher_adam = FisherAdam { betas: BETAS, weight_decay: 0.0, ..FisherAdam::default() };
    if !eps {
        fisher_adam.eps2 = NEVER;
    }
    if decay {
        fisher_adam.weight_decay = FISHER_DECAY;
    }
    if !clip {
        fisher_adam.clip = NEVER;
    }
    fisher_adam
}

/// What everything else is compared with.
pub(crate) const BASELINE: &str = "AdamW";
/// The optimizer without any correction, and the two that have them all.
pub(crate) const ADAM: &str = "Adam";
pub(crate) const FADAM: &str = "FAdam";
pub(crate) const FISHER_ADAM: &str = "FisherAdam";
/// With other settings.
pub(crate) const FADAM_ADVISED: &str = "FAdam, as advised";

/// All of the comparison, in the order of the tables.
pub(crate) fn all() -> Vec<Variant> {
    vec![
        Variant::new(ADAM, fadam(false, false)),
        Variant::new(BASELINE, adamw(ADAMW_DECAY)),
        Variant { max_grad_norm: Some(1.0), ..Variant::new("AdamW + clip", adamw(ADAMW_DECAY)) },
        Variant::new(FADAM, fadam(true, true)).clipped(CLIP),
        Variant::new(FISHER_ADAM, fisher_adam(true, true, true)),
        Variant::new("AdamW, λ 0.1", adamw(0.1)),
        Variant::new(FADAM_ADVISED, ADVISED).clipped(CLIP),
        Variant::new("Adam + ε", fadam(true, false)),
        Variant::new("Adam + λ", fadam(false, true)),
        Variant::new("Adam + κ", fadam(false, false)).clipped(CLIP),
        Variant::new("Adam + order", fisher_adam(false, false, false)),
        Variant::new("FAdam − ε", fadam(false, true)).clipped(CLIP),
        Variant::new("FAdam − λ", fadam(true, false)).clipped(CLIP),
        Variant::new("FAdam − κ", fadam(true, true)),
        Variant::new("FisherAdam − ε", fisher_adam(false, true, true)),
        Variant::new("FisherAdam − λ", fisher_adam(true, false, true)),
        Variant::new("FisherAdam − clip", fisher_adam(true, true, false)),
    ]
}

/// A correction of the source, and what shows it.
pub(crate) struct Correction {
    pub(crate) name: &'static str,
    /// An optimizer with it, and what differs from that in this alone.
    pub(crate) pairs: &'static [(&'static str, &'static str)],
}

pub(crate) const CORRECTIONS: [Correction; 4] = [
    Correction {
        name: "adaptive ε",
        pairs: &[("Adam + ε", ADAM), (FADAM, "FAdam − ε"), (FISHER_ADAM, "FisherAdam − ε")],
    },
    Correction {
        name: "Riemannian decay",
        pairs: &[("Adam + λ", ADAM), (FADAM, "FAdam − λ"), (FISHER_ADAM, "FisherAdam − λ")],
    },
    Correction {
        name: "natural-gradient clipping",
        // Fisher Adam's clip bounds its decay, too: what it does to the gradient shows without decay.
        pairs: &[("Adam + κ", ADAM), (FADAM, "FAdam − κ"), ("FisherAdam − λ", "Adam + order")],
    },
    Correction { name: "preconditioning before momentum", pairs: &[("Adam + order", ADAM)] },
];

/// A setting, swept at the learning rate that its optimizer was found to like, all others as they are.
pub(crate) struct Sweep {
    pub(crate) name: &'static str,
    /// The optimizer that it belongs to.
    pub(crate) of: &'static str,
    /// Where it stands there; runs with it are that optimizer's own.
    pub(crate) preset: f64,
    values: &'static [f64],
    set: fn(&mut Variant, f64),
}

impl Sweep {
    /// The values other than the preset, and the optimizer with each.
    pub(crate) fn variants(&self, all: &[Variant]) -> Vec<(f64, Variant)> {
        let base = all.iter().find(|variant| variant.name == self.of);
        let others = self.values.iter().filter(|&&value| value != self.preset);
        let with = |(base, &value): (&Variant, &f64)| {
            let mut variant = base.clone();
            variant.name = format!("{}, {} {value:e}", self.of, self.name);
            (self.set)(&mut variant, value);
            (value, variant)
        };
        others.filter_map(|value| Some(with((base?, value)))).collect()
    }
}

fn set_fadam(variant: &mut Variant, set: impl Fn(&mut FAdam)) {
    if let Algorithm::FAdam(fadam) = &mut variant.algorithm {
        set(fadam);
    }
}

pub(crate) const SWEEPS: [Sweep; 6] = [
    Sweep {
        name: "ε0",
        of: FADAM,
        preset: EPS0,
        values: &[1e-8, 1e-6, 1e-5, 1e-4, 1e-3],
        set: |variant, eps0| set_fadam(variant, |fadam| fadam.eps0 = eps0),
    },
    Sweep {
        name: "λ_ε",
        of: FADAM,
        preset: EPS_DECAY,
        values: &[0.0, 0.01, 0.1, 1.0],
        set: |variant, eps_decay| set_fadam(variant, |fadam| fadam.eps_decay = eps_decay),
    },
    Sweep {
        name: "κ/√N",
        of: FADAM,
        preset: CLIP,
        values: &[0.1, 0.2, 0.3, 0.5, 1.0],
        set: |variant, clip| variant.kappa = Some(clip),
    },
    Sweep {
        name: "λ",
        of: FADAM,
        preset: DECAY,
        values: &[0.0, 1e-6, 1e-5, 1e-4, 1e-3],
        set: |variant, decay| set_fadam(variant, |fadam| fadam.weight_decay = decay),
    },
    Sweep {
        name: "λ",
        of: BASELINE,
        preset: ADAMW_DECAY,
        values: &[0.0, 0.01, 0.1, 0.3],
        set: |variant, decay| variant.algorithm = adamw(decay).into(),
    },
    Sweep {
        name: "λ",
        of: FISHER_ADAM,
        preset: FISHER_DECAY,
        values: &[0.0, 0.001, 0.01, 0.1],
        set: |variant, decay| {
            variant.algorithm = FisherAdam { weight_decay: decay, ..fisher_adam(true, true, true) }.into()
        },
    },
];
