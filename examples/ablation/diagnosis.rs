//! What a step's report tells of a run with FAdam: how long the natural gradient is and how often κ fires, where ε is felt,
//! and how close the decay comes to its limit. The same few lines watch any run of one's own.

use crate::canvas::{self, Axis, BLUE, GREEN, ORANGE, PINK, Panel, RED, Series};
use crate::run;
use crate::table::markdown;
use crate::task::Task;
use crate::variant::Variant;
use crate::weights::generator;
use anyhow::{Context, Result};
use candle_nn::Optimizer as _;
use fadam::candle::Optimizer;
use fadam::{Coordinates, Report};
use plotters::prelude::SeriesLabelPosition;
use std::fmt::Write;

/// The reports of a run, one a step.
pub(crate) struct Diagnosis {
    task: &'static str,
    /// √N.
    root: f64,
    /// κ/√N.
    kappa: f64,
    reports: Vec<Report>,
}

/// Trains, and keeps every step's report.
pub(crate) fn diagnose(task: &dyn Task, variant: &Variant, lr: f64, steps: usize) -> Result<Diagnosis> {
    let model = task.model(&mut generator(0, 0))?;
    let mut batches = generator(0, 1);
    let builder = run::builder(&*model, variant, lr, steps).norms(true);
    let mut optimizer = Optimizer::from_varmap(model.weights(), builder)?;
    let mut reports = Vec::with_capacity(steps);
    for _ in 0..steps {
        optimizer.step(&model.loss(&mut batches)?.backward()?)?;
        reports.push(optimizer.report()?);
    }
    let coordinates =
        reports.first().and_then(|report| report.coordinates).context("no step was reported")?;
    let kappa = variant.kappa.context("without κ there is no bound to watch")?;
    Ok(Diagnosis { task: task.name(), root: (coordinates.count as f64).sqrt(), kappa, reports })
}

impl Diagnosis {
    /// A row a step: ‖Δ‖/√N, whether κ fired, and shares of the coordinates.
    pub(crate) fn csv(&self) -> String {
        let mut csv = String::from(
            "step,update_norm_over_root_n,kappa_fired,eps_over_half,eps_over_10th,eps_over_100th,eps_over_1000th,\
             decay_at_limit,decay_over_10th,decay_over_100th\n",
        );
        for report in &self.reports {
            let fired = u32::from(report.update_clip.is_some_and(|clip| clip < 1.0));
            let shares = eps(report).into_iter().chain(decay(report)).map(|share| share.to_string());
            let shares = shares.collect::<Vec<_>>().join(",");
            // A `String` takes everything.
            let _ = writeln!(csv, "{},{},{fired},{shares}", report.step, self.length(report));
        }
        csv
    }

    fn length(&self, report: &Report) -> f64 {
        report.update_norm.unwrap_or(f64::NAN) / self.root
    }

    /// How often κ fired, and how many coordinates were near a limit in the middle of the run.
    pub(crate) fn table(&self) -> String {
        let (steps, fired) =
            (self.reports.len(), self.reports.last().map_or(0, |report| report.clipped_updates));
        let middle = &self.reports[steps / 2];
        let per_cent = |share: f64| format!("{:.2} %", 100.0 * share);
        let heading = [format!("in a run of {} with FAdam", self.task), String::new()];
        let rows = [
            ("steps in which κ fired", format!("{fired} of {steps}")),
            ("‖Δ‖/√N at half time", format!("{:.3}", self.length(middle))),
            ("coordinates where ε_t is more than half of d, at half time", per_cent(eps(middle)[0])),
            ("where it is more than 1/1000", per_cent(eps(middle)[3])),
            ("coordinates at the decay limit, at half time", per_cent(decay(middle)[0])),
            ("above a tenth of it", per_cent(decay(middle)[1])),
        ];
        let rows = rows.map(|(what, figure)| vec![what.to_owned(), figure]);
        markdown(&[heading.into()].into_iter().chain(rows).collect())
    }

    pub(crate) fn plot(&self) -> Result<Vec<u8>> {
        let steps = self.reports.len() as f64;
        let x = Axis::numbers("step", (0.0, steps));
        let panel = |title: &str, y: Axis| Panel::new(title, x.clone(), y);

        let mut length = panel("Natural gradient", Axis::numbers("|Δ|₂ / √N, before κ", (0.0, 1.1)));
        let mut curve = Series::new("|Δ|₂ / √N", BLUE);
        let mut fired = Series::new("κ fires", RED);
        for report in &self.reports {
            let point = (report.step as f64, self.length(report));
            curve.line.push(point);
            if report.update_clip.is_some_and(|clip| clip < 1.0) {
                fired.points.push(point);
            }
        }
        length.series = vec![curve, fired];
        length.y_marks = vec![self.kappa];

        let mut near_eps =
            panel("ε_t in d = √ŝ + ε_t", Axis::numbers("share of coordinates, %", (-2.0, 102.0)));
        near_eps.series = shares(&self.reports, eps, &["> 1/2", "> 1/10", "> 1/100", "> 1/1000"]);
        let mut near_limit =
            panel("decay ηλ/d, limit: decay_cap", Axis::numbers("share of coordinates, %", (-2.0, 102.0)));
        near_limit.series = shares(&self.reports, decay, &["at the limit", "> 1/10 of it", "> 1/100 of it"]);
        length.legend = Some(SeriesLabelPosition::UpperRight);
        near_eps.legend = Some(SeriesLabelPosition::UpperRight);
        near_limit.legend = Some(SeriesLabelPosition::LowerMiddle);
        canvas::draw((1800, 480), &[vec![length, near_eps, near_limit]])
    }
}

/// Of the coordinates, the shares in which ε_t is more than 1/2, 1/10, 1/100, 1/1000 of d.
fn eps(report: &Report) -> [f64; 4] {
    let Coordinates { count, near_eps, .. } = report.coordinates.unwrap_or_default();
    near_eps.map(|near| near as f64 / count as f64)
}

/// Those whose decay is at its limit, above a tenth and above a hundredth of it.
fn decay(report: &Report) -> [f64; 3] {
    let Coordinates { count, near_decay_limit, .. } = report.coordinates.unwrap_or_default();
    near_decay_limit.map(|near| near as f64 / count as f64)
}

fn shares<const N: usize>(
    reports: &[Report],
    of: fn(&Report) -> [f64; N],
    labels: &[&str; N],
) -> Vec<Series> {
    let curve = |(i, (label, color)): (usize, (&&str, _))| {
        let point = |report: &Report| (report.step as f64, 100.0 * of(report)[i]);
        Series { line: reports.iter().map(point).collect(), ..Series::new(*label, color) }
    };
    labels.iter().zip([RED, ORANGE, GREEN, PINK]).enumerate().map(curve).collect()
}
