//! `loss.png`: held-out and training loss of every optimizer over the steps.

use crate::optimizer::Choice;
use crate::train::Run;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;

const SIZE: (u32, u32) = (1200, 750);
/// The name our font is registered by.
const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(20, 20, 20);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// A training loss is drawn as a mean over this part of the steps around it: one batch says little.
const SMOOTHING: f64 = 0.03;

type Curve = Vec<(f64, f64)>;

/// From Okabe and Ito's palette, which colour-blind people can tell apart.
const fn color(choice: Choice) -> RGBColor {
    match choice {
        Choice::AdamW => RGBColor(0, 114, 178),
        Choice::FAdam => RGBColor(213, 94, 0),
        Choice::FisherAdam => RGBColor(0, 158, 115),
    }
}

/// Draws the plot into a PNG file.
pub(crate) fn plot(runs: &[Run], path: &Path) -> Result<()> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the plot's font does not parse"))?;
    let area = BitMapBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let curves: Vec<_> = runs.iter().map(|run| (run.choice, training(run), held_out(run))).collect();
    let steps = runs.iter().flat_map(|run| run.points.last()).map(|point| point.step).max().unwrap_or(1);
    let (low, high) = range(&curves);
    let mut chart = ChartBuilder::on(&area)
        .caption("Loss of a byte-level transformer, by optimizer", (FONT, 30).into_font().color(&TEXT))
        .margin(20)
        .x_label_area_size(60)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..steps as f64, low..high)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (nats per byte)")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|loss| format!("{loss:.1}"))
        .label_style((FONT, 22).into_font().color(&TEXT))
        .axis_desc_style((FONT, 24).into_font().color(&TEXT))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(TEXT)
        .draw()?;
    for (choice, training, held_out) in curves {
        let color = color(choice);
        chart
            .draw_series(LineSeries::new(training, color.mix(0.6).stroke_width(1)))?
            .label(format!("{choice}, training (smoothed)"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 30, y)], color.mix(0.6).stroke_width(1)));
        chart
            .draw_series(LineSeries::new(held_out, color.filled().stroke_width(3)).point_size(4))?
            .label(format!("{choice}, held-out"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 30, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(20)
        .legend_area_size(40)
        .label_font((FONT, 22).into_font().color(&TEXT))
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .draw()?;
    area.present()?;
    Ok(())
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

/// The losses to show, with a little room.
fn range(curves: &[(Choice, Curve, Curve)]) -> (f64, f64) {
    let losses =
        || curves.iter().flat_map(|(_, training, held_out)| training.iter().chain(held_out)).map(|p| p.1);
    let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
    let room = 0.05 * (high - low).max(0.1);
    (low - room, high + room)
}
