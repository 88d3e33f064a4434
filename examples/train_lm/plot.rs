//! `loss.png`: held-out and training loss of every optimizer over the steps.

use crate::optimizer::Choice;
use crate::train::Run;
use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;

const SIZE: (u32, u32) = (1200, 750);
/// The name our font is registered by.
const FONT: &str = "sans-serif";
/// Pixels.
const LEGEND_LINE: i32 = 48;
const TEXT: RGBColor = RGBColor(20, 20, 20);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// A training loss is drawn as a mean over this part of the steps around it: one batch says little.
const SMOOTHING: f64 = 0.03;

type Curve = Vec<(f64, f64)>;
type Chart<'a, 'b> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What a choice's curves look like: a colour from Okabe and Ito's palette, which colour-blind people can tell apart, and
/// the dash and gap of its line in pixels, so that curves that coincide are all seen.
const fn style(choice: Choice) -> (RGBColor, Option<(u32, u32)>) {
    match choice {
        Choice::AdamW => (RGBColor(0, 114, 178), None),
        Choice::FAdam => (RGBColor(230, 159, 0), Some((14, 14))),
        Choice::FisherAdam => (RGBColor(0, 0, 0), Some((4, 10))),
    }
}

/// Draws the plot into a PNG file.
pub(crate) fn plot(runs: &[Run], path: &Path) -> Result<()> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the plot's font does not parse"))?;
    let area = BitMapBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let steps = runs.iter().filter_map(|run| run.points.last()).map(|point| point.step).max().unwrap_or(1);
    let (low, high) = range(runs);
    let mut chart = ChartBuilder::on(&area)
        .caption("Loss of a byte-level transformer, by optimizer", (FONT, 30).into_font().color(&TEXT))
        .margin(20)
        .margin_right(40)
        .x_label_area_size(60)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..steps as f64, low..high)?;
    draw_mesh(&mut chart)?;
    for run in runs {
        draw_training(&mut chart, run.choice, below(high, training(run)))?;
        draw_held_out(&mut chart, run.choice, below(high, held_out(run)))?;
    }
    draw_legend(&mut chart)?;
    area.present()?;
    Ok(())
}

fn draw_mesh(chart: &mut Chart<'_, '_>) -> Result<()> {
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
    Ok(())
}

fn draw_training(chart: &mut Chart<'_, '_>, choice: Choice, curve: Curve) -> Result<()> {
    let style = style(choice).0.mix(0.5).stroke_width(1);
    chart
        .draw_series(LineSeries::new(curve, style))?
        .label(format!("{choice}, training (smoothed)"))
        .legend(move |(x, y)| PathElement::new([(x, y), (x + LEGEND_LINE, y)], style));
    Ok(())
}

fn draw_held_out(chart: &mut Chart<'_, '_>, choice: Choice, curve: Curve) -> Result<()> {
    let (color, dashes) = style(choice);
    let style = color.stroke_width(3);
    chart.draw_series(curve.iter().map(|&point| Circle::new(point, 4, color.filled())))?;
    // A line without gaps is one dash that is longer than the plot.
    let (dash, gap) = dashes.unwrap_or((SIZE.0 + SIZE.1, 0));
    chart
        .draw_series(DashedLineSeries::new(curve, dash, gap, style))?
        .label(format!("{choice}, held-out"))
        .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + LEGEND_LINE, y)], dash, gap, style));
    Ok(())
}

fn draw_legend<'a>(chart: &mut Chart<'a, 'a>) -> Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(20)
        .legend_area_size(LEGEND_LINE + 10)
        .label_font((FONT, 22).into_font().color(&TEXT))
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .draw()?;
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

/// The losses to show: not the first few, which all optimizers leave in no time, and which would flatten the rest.
fn range(runs: &[Run]) -> (f64, f64) {
    let curves: Vec<Curve> = runs.iter().flat_map(|run| [training(run), held_out(run)]).collect();
    let low = curves.iter().flatten().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let measured = runs.iter().flat_map(|run| held_out(run).into_iter().skip(1));
    let high = measured.map(|point| point.1).fold(low, f64::max);
    let room = 0.05 * (high - low).max(0.1);
    (low - room, high + room)
}

fn below(high: f64, curve: Curve) -> Curve {
    curve.into_iter().filter(|point| point.1 <= high).collect()
}
