//! `loss.png`: held-out and training loss of every optimizer over the steps.

use crate::canvas::{self, Axis, BLACK, BLUE, Dashes, ORANGE, Panel, Series};
use crate::optimizer::Choice;
use crate::train::Run;
use anyhow::Result;
use plotters::prelude::{RGBColor, SeriesLabelPosition};

const SIZE: (u32, u32) = (1200, 750);
/// A training loss is drawn as a mean over this part of the steps around it: one batch says little.
const SMOOTHING: f64 = 0.03;

type Curve = Vec<(f64, f64)>;

/// What a choice's curves look like: the dashes so that curves that coincide are all seen.
const fn style(choice: Choice) -> (RGBColor, Dashes) {
    match choice {
        Choice::AdamW => (BLUE, None),
        Choice::FAdam => (ORANGE, Some((14, 14))),
        Choice::FisherAdam => (BLACK, Some((4, 10))),
    }
}

/// The plot, as a PNG file has it.
pub(crate) fn plot(runs: &[Run]) -> Result<Vec<u8>> {
    let steps = runs.iter().filter_map(|run| run.points.last()).map(|point| point.step).max().unwrap_or(1);
    let (low, high) = range(runs);
    let x = Axis::numbers("step", (0.0, steps as f64));
    let y = Axis::numbers("loss (nats per byte)", (low, high));
    let mut panel = Panel::new("Loss of a byte-level transformer, by optimizer", x, y);
    for run in runs {
        let (color, dashes) = style(run.choice);
        let label = format!("{}, training (smoothed)", run.choice);
        let line = training(run);
        panel.series.push(Series { line, thin: true, ..Series::new(label, color) });
        let line = held_out(run);
        let label = format!("{}, held-out", run.choice);
        panel.series.push(Series { dashes, points: line.clone(), line, ..Series::new(label, color) });
    }
    panel.legend = Some(SeriesLabelPosition::UpperRight);
    canvas::draw(SIZE, &[vec![panel]])
}

fn held_out(run: &Run) -> Curve {
    run.points.iter().filter_map(|point| Some((point.step as f64, point.held_out?))).collect()
}

fn training(run: &Run) -> Curve {
    let losses: Curve =
        run.points.iter().filter_map(|point| Some((point.step as f64, point.training?))).collect();
    let reach = (losses.len() as f64 * SMOOTHING / 2.0) as usize;
    let smooth = |i: usize| {
        let near = &losses[i.saturating_sub(reach)..losses.len().min(i + reach + 1)];
        (losses[i].0, near.iter().map(|loss| loss.1).sum::<f64>() / near.len() as f64)
    };
    (0..losses.len()).map(smooth).collect()
}

/// From the lowest of the losses to the highest, that before the first step.
fn range(runs: &[Run]) -> (f64, f64) {
    let curves: Vec<Curve> = runs.iter().flat_map(|run| [training(run), held_out(run)]).collect();
    let low = curves.iter().flatten().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = curves.iter().flatten().map(|point| point.1).fold(low, f64::max);
    let room = 0.05 * (high - low).max(0.1);
    (low - room, high + room)
}
