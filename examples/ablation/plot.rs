//! The plots of the comparison.

use crate::canvas::{self, Axis, BLACK, BLUE, GREEN, GREY, ORANGE, PINK, Panel, RED, Series};
use crate::plan::{LEARNING_RATES, Plan, SEEDS};
use crate::results::{Results, Row};
use crate::run::Outcome;
use crate::stats::Estimate;
use crate::table::between;
use crate::variant::{ADAM, BASELINE, FADAM, FADAM_ADVISED, FISHER_ADAM, SWEEPS};
use anyhow::Result;
use plotters::prelude::{RGBColor, SeriesLabelPosition};

/// Pixels of a panel.
const WIDTH: u32 = 520;
const HEIGHT: u32 = 420;
/// The axes of effects end here; beyond, they are arrows with numbers.
const EFFECT: f64 = 20.0;
/// A curve against the baseline's is drawn up to this many per cent.
const MOST: f64 = 60.0;
/// Losses that are higher than those after this part of a curve lie beyond the axes: all optimizers leave them in no time.
const BEGINNING: f64 = 0.15;

/// The optimizers of which curves are drawn, their colours and dashes: so that curves that coincide are all seen.
const SHOWN: [(&str, RGBColor, canvas::Dashes); 5] = [
    (BASELINE, BLUE, None),
    (ADAM, GREEN, Some((3, 6))),
    (FADAM, ORANGE, Some((14, 14))),
    (FADAM_ADVISED, RED, None),
    (FISHER_ADAM, BLACK, Some((4, 10))),
];

/// Of tasks.
const COLOURS: [RGBColor; 6] = [BLUE, ORANGE, GREEN, RED, PINK, GREY];

/// A plot's file, and how to draw it.
type Plot = (&'static str, fn(&Plan<'_>, &Results) -> Result<Vec<u8>>);

pub(crate) const PLOTS: [Plot; 5] = [
    ("summary.png", summary),
    ("effects.png", effects),
    ("curves.png", curves),
    ("rates.png", rates),
    ("settings.png", settings),
];

/// Test losses against the baseline's, with intervals; a panel a task.
fn effects(plan: &Plan<'_>, results: &Results) -> Result<Vec<u8>> {
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
            let y = y as f64;
            of[kind].points.push((found.mean, y));
            let ends = [found.mean - found.half_width, found.mean + found.half_width];
            of[kind].whiskers.push(ends.map(|x| (x, y)));
        }
        panel.series = of.into();
        panels.push(panel);
    }
    if let Some(panel) = panels.last_mut() {
        panel.legend = Some(SeriesLabelPosition::UpperLeft);
    }
    canvas::draw((380 * panels.len() as u32 + 100, 640), &[panels])
}

/// Training losses, and below them how they compare with the baseline's; a column a task.
fn curves(plan: &Plan<'_>, results: &Results) -> Result<Vec<u8>> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for task in 0..plan.tasks.len() {
        let mut panel = losses(plan, results, task)?;
        panel.legend = (task == 0).then_some(SeriesLabelPosition::UpperRight);
        above.push(panel);
        below.push(changes(plan, results, task)?);
    }
    canvas::draw((WIDTH * above.len() as u32, 2 * HEIGHT), &[above, below])
}

/// What a person looks at first: how the first task's loss falls, and what the whole optimizers reach on all tasks.
fn summary(plan: &Plan<'_>, results: &Results) -> Result<Vec<u8>> {
    let name = plan.tasks[0].name();
    let mut left = losses(plan, results, 0)?;
    left.title = format!("{name}: training loss over the steps");
    left.legend = Some(SeriesLabelPosition::UpperRight);
    let tasks = plan.tasks.iter().rev().map(|task| task.name().to_owned()).collect();
    let x = Axis::numbers(
        format!("test loss against {BASELINE}'s, %: further left is better"),
        (-EFFECT, EFFECT),
    );
    let mut right =
        Panel::new(format!("at the end, {} seeds, 95 % intervals", SEEDS.len()), x, Axis::names("", tasks));
    right.x_marks = vec![0.0];
    for (i, (name, color, dashes)) in SHOWN.into_iter().filter(|shown| shown.0 != BASELINE).enumerate() {
        let mut series = Series { dashes, ..Series::new(name, color) };
        for task in 0..plan.tasks.len() {
            let Some(found) = between(results, task, (name, BASELINE))? else { continue };
            let y = (plan.tasks.len() - 1 - task) as f64 + 0.18 * (1.5 - i as f64);
            series.points.push((found.mean, y));
            let ends = [found.mean - found.half_width, found.mean + found.half_width];
            series.whiskers.push(ends.map(|x| (x, y)));
        }
        right.series.push(series);
    }
    canvas::draw((1400, 520), &[vec![left, right]])
}

/// Training losses of the shown optimizers.
fn losses(plan: &Plan<'_>, results: &Results, task: usize) -> Result<Panel> {
    let mut all = Vec::new();
    for (name, color, dashes) in SHOWN {
        let row = results.row(task, name)?;
        let mut series = Series { dashes, ..Series::new(name, color) };
        for (i, step) in times(plan, row).into_iter().enumerate() {
            let values: Vec<f64> = training(row, i).into_iter().flatten().collect();
            series.line.extend(Estimate::of(&values).map(|found| (step, found.mean)));
        }
        all.push(series);
    }
    let begun = (all[0].line.len() as f64 * BEGINNING) as usize;
    let high = all[0].line.get(begun).map_or(1.0, |point| point.1);
    let low = all.iter().flat_map(|series| &series.line).map(|point| point.1).fold(high, f64::min);
    let room = 0.05 * (high - low).max(1e-6);
    let x = Axis::numbers("step", (0.0, plan.steps(&*plan.tasks[task]) as f64));
    let mut panel =
        Panel::new(plan.tasks[task].name(), x, Axis::numbers("training loss", (low - room, high + room)));
    panel.series = all;
    Ok(panel)
}

/// The same, against the baseline's.
fn changes(plan: &Plan<'_>, results: &Results, task: usize) -> Result<Panel> {
    let base = results.row(task, BASELINE)?;
    let mut all = Vec::new();
    for (name, color, dashes) in SHOWN {
        let row = results.row(task, name)?;
        let mut series = Series { dashes, ..Series::new(name, color) };
        for (i, step) in times(plan, row).into_iter().enumerate() {
            let Some(found) = Estimate::change(&training(row, i), &training(base, i)) else { continue };
            series.line.push((step, found.mean));
            series.band.push((step, found.mean - found.half_width, found.mean + found.half_width));
        }
        all.push(series);
    }
    let points = all.iter().flat_map(|series| &series.line).map(|point| point.1.abs());
    let reach = (1.6 * points.fold(0.0, f64::max)).clamp(0.5, MOST);
    let x = Axis::numbers("step", (0.0, plan.steps(&*plan.tasks[task]) as f64));
    let mut panel = Panel::new("", x, Axis::numbers(format!("against {BASELINE}'s, %"), (-reach, reach)));
    panel.series = all;
    Ok(panel)
}

/// The steps in the middle of the parts whose mean training losses are known.
fn times(plan: &Plan<'_>, row: &Row) -> Vec<f64> {
    let steps = plan.steps(&*plan.tasks[row.task]) as f64;
    let count = row.runs.iter().map(|run| run.training.len()).min().unwrap_or(0);
    (0..count).map(|i| (i as f64 + 0.5) / count as f64 * steps).collect()
}

fn training(row: &Row, i: usize) -> Vec<Option<f64>> {
    row.runs
        .iter()
        .map(|Outcome { training, validation, .. }| validation.and(training.get(i).copied()))
        .collect()
}

/// Validation losses by learning rate; a panel a task.
fn rates(plan: &Plan<'_>, results: &Results) -> Result<Vec<u8>> {
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
        // What lies above is out of the question.
        let high = all().fold(low, f64::max).min(1.6 * low);
        let room = 0.05 * (high - low).max(1e-6);
        let y = Axis::numbers("validation loss", (low - room, high + room));
        let mut panel = Panel::new(about.name(), Axis::names("learning rate, thousandths", names), y);
        panel.series = series;
        panel.legend = (task == 0).then_some(SeriesLabelPosition::UpperLeft);
        panels.push(panel);
    }
    canvas::draw((WIDTH * panels.len() as u32, HEIGHT), &[panels])
}

/// Validation losses by setting, against the preset's; a panel a setting, a curve a task.
fn settings(plan: &Plan<'_>, results: &Results) -> Result<Vec<u8>> {
    const REACH: f64 = 15.0;
    let mut panels = Vec::new();
    for sweep in &SWEEPS {
        let swept = results.swept(sweep);
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
                let Some(change) = change else { continue };
                // Side by side.
                let x = i as f64 + 0.08 * (found.task as f64 - (plan.tasks.len() - 1) as f64 / 2.0);
                series.line.push((x, change.mean));
                series.points.push((x, change.mean));
                let ends = [change.mean - change.half_width, change.mean + change.half_width];
                series.whiskers.push(ends.map(|y| (x, y)));
            }
            panel.series.push(series);
        }
        panels.push(panel);
    }
    panels[0].legend = Some(SeriesLabelPosition::UpperLeft);
    let rows: Vec<Vec<Panel>> = panels.chunks(3).map(<[_]>::to_vec).collect();
    canvas::draw((640 * 3, 480 * rows.len() as u32), &rows)
}
