//! The plots of the comparison.

use crate::canvas::{self, Axis, BLACK, BLUE, GREEN, GREY, ORANGE, PINK, Panel, RED, Series};
use crate::plan::{LEARNING_RATES, Plan};
use crate::results::{Results, Row, Swept};
use crate::run::Outcome;
use crate::stats::Estimate;
use crate::table::between;
use crate::variant::{ADAM, BASELINE, FADAM, FISHER_ADAM, SWEEPS};
use anyhow::Result;
use plotters::prelude::{RGBColor, SeriesLabelPosition};
use std::path::Path;

/// Pixels of a panel.
const WIDTH: u32 = 520;
const HEIGHT: u32 = 420;
/// Effects beyond this many per cent are drawn at the edge.
const EFFECT: f64 = 12.0;
/// Losses of a curve that are higher than those after this part of it are left out: all optimizers leave them in no time.
const BEGINNING: f64 = 0.15;

/// The optimizers of which curves are drawn, their colours and dashes: so that curves that coincide are all seen.
const SHOWN: [(&str, RGBColor, canvas::Dashes); 4] = [
    (BASELINE, BLUE, None),
    (ADAM, GREEN, Some((3, 6))),
    (FADAM, ORANGE, Some((14, 14))),
    (FISHER_ADAM, BLACK, Some((4, 10))),
];

/// Of tasks.
const COLOURS: [RGBColor; 6] = [BLUE, ORANGE, GREEN, RED, PINK, GREY];

/// A plot's file, and how to draw it.
type Plot = (&'static str, fn(&Plan<'_>, &Results, &Path) -> Result<()>);

pub(crate) const PLOTS: [Plot; 4] =
    [("effects.png", effects), ("curves.png", curves), ("rates.png", rates), ("settings.png", settings)];

/// Test losses against the baseline's, with intervals; a panel a task.
fn effects(plan: &Plan<'_>, results: &Results, path: &Path) -> Result<()> {
    let names: Vec<&str> =
        plan.variants.iter().map(|variant| &*variant.name).filter(|&name| name != BASELINE).rev().collect();
    let mut panels = Vec::new();
    for (task, about) in plan.tasks.iter().enumerate() {
        let x = Axis::numbers(format!("test loss against {BASELINE}'s, %"), (-EFFECT, EFFECT));
        let first = task == 0;
        let labels = names.iter().map(|&name| if first { name.to_owned() } else { String::new() }).collect();
        let mut panel = Panel::new(about.name(), x, Axis::names("", labels));
        panel.y_label_area = if first { 190 } else { 10 };
        panel.x_marks = vec![0.0];
        let mut of = [Series::new("better", BLUE), Series::new("undecided", GREY), Series::new("worse", RED)];
        for (y, name) in names.iter().enumerate() {
            let Some(found) = between(results, task, (name, BASELINE))? else { continue };
            let kind = match found.is_certain() {
                false => 1,
                true if found.mean < 0.0 => 0,
                true => 2,
            };
            let (y, within) = (y as f64, |x: f64| x.clamp(-EFFECT, EFFECT));
            of[kind].points.push((within(found.mean), y));
            let ends = [found.mean - found.half_width, found.mean + found.half_width];
            of[kind].whiskers.push(ends.map(|x| (within(x), y)));
        }
        panel.series = of.into();
        panels.push(panel);
    }
    if let Some(panel) = panels.last_mut() {
        panel.legend = Some(SeriesLabelPosition::LowerLeft);
    }
    canvas::draw(path, (380 * panels.len() as u32 + 100, 640), "", &[panels])
}

/// Training losses, and below them how they compare with the baseline's; a column a task.
fn curves(plan: &Plan<'_>, results: &Results, path: &Path) -> Result<()> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for (task, about) in plan.tasks.iter().enumerate() {
        let base = results.row(task, BASELINE)?;
        let steps = plan.steps(&**about) as f64;
        let (mut losses, mut changes) = (Vec::new(), Vec::new());
        for (name, color, dashes) in SHOWN {
            let row = results.row(task, name)?;
            let at = |i: usize, count: usize| (i as f64 + 0.5) / count as f64 * steps;
            let mut loss = Series { dashes, ..Series::new(name, color) };
            let mut change = loss.clone();
            let count = row.runs.iter().map(|run| run.training.len()).min().unwrap_or(0);
            for i in 0..count {
                let values = training(row, i);
                let Some(mean) = Estimate::of(&values.iter().copied().flatten().collect::<Vec<_>>()) else {
                    continue;
                };
                loss.line.push((at(i, count), mean.mean));
                let Some(found) = Estimate::change(&values, &training(base, i)) else { continue };
                change.line.push((at(i, count), found.mean));
                if name != BASELINE {
                    let (low, high) = (found.mean - found.half_width, found.mean + found.half_width);
                    change.band.push((at(i, count), low, high));
                }
            }
            losses.push(loss);
            changes.push(change);
        }
        let x = Axis::numbers("step", (0.0, steps));
        let high = losses[0]
            .line
            .get((losses[0].line.len() as f64 * BEGINNING) as usize)
            .map_or(1.0, |point| point.1);
        let all = || losses.iter().flat_map(|series| &series.line).map(|point| point.1);
        let (low, high) =
            (all().fold(f64::INFINITY, f64::min).min(high), high.max(all().fold(f64::INFINITY, f64::min)));
        let room = 0.05 * (high - low).max(1e-6);
        let range = (low - room, high + room);
        for series in &mut losses {
            series.line.retain(|point| point.1 <= range.1);
        }
        let mut panel = Panel::new(about.name(), x.clone(), Axis::numbers("training loss", range));
        panel.series = losses;
        panel.legend = (task == 0).then_some(SeriesLabelPosition::UpperRight);
        above.push(panel);
        let ends = changes.iter().flat_map(|series| series.line.iter().map(|point| point.1.abs()));
        let reach = (1.6 * ends.fold(0.0, f64::max)).clamp(0.5, 60.0);
        for series in &mut changes {
            series.line.retain(|point| point.1.abs() <= reach);
            for (_, low, high) in &mut series.band {
                (*low, *high) = (low.clamp(-reach, reach), high.clamp(-reach, reach));
            }
        }
        let y = Axis::numbers(format!("against {BASELINE}'s, %"), (-reach, reach));
        let mut panel = Panel::new("", x, y);
        panel.series = changes;
        below.push(panel);
    }
    canvas::draw(path, (WIDTH * above.len() as u32, 2 * HEIGHT), "", &[above, below])
}

fn training(row: &Row, i: usize) -> Vec<Option<f64>> {
    row.runs
        .iter()
        .map(|Outcome { training, validation, .. }| validation.and(training.get(i).copied()))
        .collect()
}

/// Validation losses by learning rate; a panel a task.
fn rates(plan: &Plan<'_>, results: &Results, path: &Path) -> Result<()> {
    let mut panels = Vec::new();
    for (task, about) in plan.tasks.iter().enumerate() {
        let names = LEARNING_RATES.iter().map(|lr| (lr * 1e3).to_string()).collect();
        let mut series = Vec::new();
        for (name, color, dashes) in SHOWN {
            let rates = &results.row(task, name)?.rates;
            let points = rates.iter().enumerate().map(|(i, &loss)| (i as f64, loss));
            let line: Vec<_> = points.filter(|point| point.1.is_finite()).collect();
            series.push(Series { dashes, points: line.clone(), line, ..Series::new(name, color) });
        }
        let all = || series.iter().flat_map(|series| &series.line).map(|point| point.1);
        let low = all().fold(f64::INFINITY, f64::min);
        // Up to the worst loss at twice or half the best rate, whichever optimizer's; what lies above is out of the question.
        let high = all().fold(low, f64::max).min(1.6 * low);
        let room = 0.05 * (high - low).max(1e-6);
        for series in &mut series {
            series.line.retain(|point| point.1 <= high);
            series.points.retain(|point| point.1 <= high);
        }
        let y = Axis::numbers("validation loss", (low - room, high + room));
        let mut panel = Panel::new(about.name(), Axis::names("learning rate, thousandths", names), y);
        panel.series = series;
        panel.legend = (task == 0).then_some(SeriesLabelPosition::UpperMiddle);
        panels.push(panel);
    }
    canvas::draw(path, (WIDTH * panels.len() as u32, HEIGHT), "", &[panels])
}

/// Validation losses by setting, against the preset's; a panel a setting, a curve a task.
fn settings(plan: &Plan<'_>, results: &Results, path: &Path) -> Result<()> {
    const REACH: f64 = 15.0;
    let mut panels = Vec::new();
    for sweep in &SWEEPS {
        let of_it = |swept: &&Swept| swept.sweep.name == sweep.name && swept.sweep.of == sweep.of;
        let swept: Vec<_> = results.swept.iter().filter(of_it).collect();
        let names = swept[0].points.iter().map(|point| format!("{}", point.0)).collect();
        let y = Axis::numbers("validation loss against the preset's, %", (-REACH, REACH));
        let x = Axis::names(format!("{} (preset: {})", sweep.name, sweep.preset), names);
        let mut panel = Panel::new(format!("{}: {}", sweep.of, sweep.name), x, y);
        panel.y_marks = vec![0.0];
        for (found, color) in swept.iter().zip(COLOURS) {
            let mut series = Series::new(plan.tasks[found.task].name(), color);
            let base = found.points.iter().find(|point| point.0 == sweep.preset);
            for (i, (_, losses)) in found.points.iter().enumerate() {
                let change = base.and_then(|(_, base)| Estimate::change(losses, base));
                let Some(change) = change.filter(|change| change.mean.abs() < REACH) else { continue };
                // Side by side.
                let x = i as f64 + 0.08 * (found.task as f64 - (plan.tasks.len() - 1) as f64 / 2.0);
                let within = |y: f64| (x, y.clamp(-REACH, REACH));
                series.line.push((x, change.mean));
                series.points.push((x, change.mean));
                series
                    .whiskers
                    .push([within(change.mean - change.half_width), within(change.mean + change.half_width)]);
            }
            panel.series.push(series);
        }
        panels.push(panel);
    }
    panels[0].legend = Some(SeriesLabelPosition::UpperLeft);
    let rows: Vec<Vec<Panel>> = panels.chunks(3).map(<[_]>::to_vec).collect();
    canvas::draw(path, (640 * 3, 480 * rows.len() as u32), "", &rows)
}
