//! What the programs' plots have in common: a font, colours, and panels of curves and points.
#![allow(dead_code)] // each program uses its part

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

/// The name our font is registered by: the machine may have none.
const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(20, 20, 20);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Of a line in a legend, in pixels.
const LEGEND_LINE: i32 = 48;

// Of Okabe and Ito's palette, which colour-blind people can tell apart.
pub(crate) const BLACK: RGBColor = RGBColor(0, 0, 0);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const RED: RGBColor = RGBColor(213, 94, 0);
pub(crate) const PINK: RGBColor = RGBColor(204, 121, 167);
pub(crate) const GREY: RGBColor = RGBColor(150, 150, 150);

/// Dash and gap in pixels; `None` is a line without gaps.
pub(crate) type Dashes = Option<(u32, u32)>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A white area of these pixels.
fn open(pixels: &mut [u8], size: (u32, u32)) -> Result<Area<'_>> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the plot's font does not parse"))?;
    let area = BitMapBackend::with_buffer(pixels, size).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

/// A line without gaps is one dash that is longer than any plot.
fn dash_and_gap(dashes: Dashes) -> (u32, u32) {
    dashes.unwrap_or((1 << 14, 0))
}

/// What runs along a side of a panel.
#[derive(Clone, Default)]
pub(crate) struct Axis {
    pub(crate) description: String,
    pub(crate) range: (f64, f64),
    /// Of 0, 1, 2, ...; where there are none, numbers are written.
    pub(crate) names: Vec<String>,
}

/// A curve with its spread, or points with theirs. What lies beyond the axes is not drawn as if it lay at the edge: lines and
/// bands leave the panel, and a point or the end of a whisker is an arrow at the edge, with its number, the end's in parentheses.
#[derive(Clone)]
pub(crate) struct Series {
    /// In the legend; empty: not there.
    pub(crate) label: String,
    pub(crate) color: RGBColor,
    pub(crate) dashes: Dashes,
    /// A line that stands behind others.
    pub(crate) thin: bool,
    pub(crate) line: Vec<(f64, f64)>,
    /// x, and from where to where y goes.
    pub(crate) band: Vec<(f64, f64, f64)>,
    pub(crate) points: Vec<(f64, f64)>,
    /// Lines from here to there.
    pub(crate) whiskers: Vec<[(f64, f64); 2]>,
}

/// A plot among others.
#[derive(Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// Lines at these values, across the whole panel.
    pub(crate) x_marks: Vec<f64>,
    pub(crate) y_marks: Vec<f64>,
    pub(crate) legend: Option<SeriesLabelPosition>,
    /// Pixels that are left for the names along y.
    pub(crate) y_label_area: u32,
}

impl Series {
    pub(crate) fn new(label: impl Into<String>, color: RGBColor) -> Self {
        Self {
            label: label.into(),
            color,
            dashes: None,
            thin: false,
            line: Vec::new(),
            band: Vec::new(),
            points: Vec::new(),
            whiskers: Vec::new(),
        }
    }
}

impl Panel {
    pub(crate) fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            x,
            y,
            series: Vec::new(),
            x_marks: Vec::new(),
            y_marks: Vec::new(),
            legend: None,
            y_label_area: 80,
        }
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 24).into_font().color(&TEXT))
            .margin(12)
            .margin_right(24)
            .x_label_area_size(if self.x.names.is_empty() { 54 } else { 60 })
            .y_label_area_size(self.y_label_area)
            .build_cartesian_2d(self.x.range.0..self.x.range.1, self.y.range.0..self.y.range.1)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.description)
            .y_desc(&self.y.description)
            .x_labels(self.x.labels(7))
            .y_labels(self.y.labels(7))
            .x_label_formatter(&|value| self.x.label(*value))
            .y_label_formatter(&|value| self.y.label(*value))
            .label_style((FONT, 18).into_font().color(&TEXT))
            .axis_desc_style((FONT, 20).into_font().color(&TEXT))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(TEXT)
            .draw()?;
        for &at in &self.x_marks {
            let ends = [(at, self.y.range.0), (at, self.y.range.1)];
            chart.draw_series([PathElement::new(ends, TEXT.stroke_width(1))])?;
        }
        for &at in &self.y_marks {
            let ends = [(self.x.range.0, at), (self.x.range.1, at)];
            chart.draw_series([PathElement::new(ends, TEXT.stroke_width(1))])?;
        }
        let axes = (self.x.range, self.y.range);
        for series in &self.series {
            series.draw(&mut chart, axes)?;
        }
        let mut taken = Taken::new();
        for series in &self.series {
            for (point, is_end) in series.beyond(axes) {
                draw_arrow(&mut chart, axes, point, is_end, series.color, &mut taken)?;
            }
        }
        if let Some(position) = &self.legend {
            chart
                .configure_series_labels()
                .position(position.clone())
                .margin(12)
                .legend_area_size(LEGEND_LINE + 10)
                .label_font((FONT, 18).into_font().color(&TEXT))
                .background_style(WHITE.mix(0.9))
                .border_style(GRID)
                .draw()?;
        }
        Ok(())
    }
}

impl Axis {
    pub(crate) fn numbers(description: impl Into<String>, range: (f64, f64)) -> Self {
        Self { description: description.into(), range, names: Vec::new() }
    }

    pub(crate) fn names(description: impl Into<String>, names: Vec<String>) -> Self {
        Self { description: description.into(), range: (-0.5, names.len() as f64 - 0.5), names }
    }

    /// How many labels to ask for: of names, more than there are, so that none is passed over.
    fn labels(&self, numbers: usize) -> usize {
        if self.names.is_empty() { numbers } else { 2 * self.names.len() }
    }

    fn label(&self, value: f64) -> String {
        if !self.names.is_empty() {
            let near = (value - value.round()).abs() < 1e-6 && value > -0.5;
            let name = near.then(|| self.names.get(value.round() as usize)).flatten();
            return name.cloned().unwrap_or_default();
        }
        let width = self.range.1 - self.range.0;
        let digits = (1.0 - width.log10()).ceil().clamp(0.0, 5.0) as usize;
        let text = format!("{value:.digits$}");
        if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
            text.trim_start_matches('-').to_owned()
        } else {
            text
        }
    }
}

impl Series {
    /// Points and ends of whiskers (`true`) that lie beyond the axes; of a point and its whisker's end beyond the same edge the
    /// point.
    fn beyond(&self, axes: Axes) -> Vec<((f64, f64), bool)> {
        let outside = |point: &&(f64, f64)| !contains(axes, **point);
        let mut all: Vec<_> = self.points.iter().filter(outside).map(|&point| (point, false)).collect();
        for &end in self.whiskers.iter().flatten().filter(outside) {
            if !all.iter().any(|&(point, _)| edge(axes, point) == edge(axes, end)) {
                all.push((end, true));
            }
        }
        all
    }

    fn draw(&self, chart: &mut Chart<'_, '_>, axes: Axes) -> Result<()> {
        let color = self.color;
        let style = if self.thin { color.mix(0.5).stroke_width(1) } else { color.stroke_width(3) };
        if !self.band.is_empty() {
            let within = |y: f64| y.clamp(axes.1.0, axes.1.1);
            let there = self.band.iter().map(|&(x, low, _)| (x, within(low)));
            let back = self.band.iter().rev().map(|&(x, _, high)| (x, within(high)));
            chart.draw_series([Polygon::new(there.chain(back).collect::<Vec<_>>(), color.mix(0.15))])?;
        }
        let whiskers = self.whiskers.iter().filter_map(|&ends| clip(ends, axes));
        chart.draw_series(whiskers.map(|ends| PathElement::new(ends, color.stroke_width(2))))?;
        let inside = self.points.iter().filter(|&&point| contains(axes, point));
        chart.draw_series(inside.map(|&point| Circle::new(point, 4, color.filled())))?;
        let (dash, gap) = dash_and_gap(self.dashes);
        let mut lines = connected(&self.line, axes).into_iter();
        let first = lines.next().unwrap_or_default();
        let line = chart.draw_series(DashedLineSeries::new(first, dash, gap, style))?;
        if !self.label.is_empty() {
            line.label(&self.label).legend(move |(x, y)| {
                DashedPathElement::new([(x, y), (x + LEGEND_LINE, y)], dash, gap, style)
            });
        }
        for more in lines {
            chart.draw_series(DashedLineSeries::new(more, dash, gap, style))?;
        }
        Ok(())
    }
}

/// From where to where x and y go.
type Axes = ((f64, f64), (f64, f64));

fn contains(((left, right), (low, high)): Axes, (x, y): (f64, f64)) -> bool {
    (left..=right).contains(&x) && (low..=high).contains(&y)
}

/// The nearest point within.
fn edge(((left, right), (low, high)): Axes, (x, y): (f64, f64)) -> (f64, f64) {
    (x.clamp(left, right), y.clamp(low, high))
}

/// Where numbers stand already, in pixels: left, top, right, bottom.
type Taken = Vec<[i32; 4]>;

/// An arrow at the edge nearest to a point beyond it, with the coordinate that lies beyond: of a whisker's end in parentheses.
fn draw_arrow(
    chart: &mut Chart<'_, '_>,
    axes: Axes,
    point: (f64, f64),
    is_end: bool,
    color: RGBColor,
    taken: &mut Taken,
) -> Result<()> {
    const LENGTH: i32 = 12;
    const HEIGHT: i32 = 14; // of a number; a digit has half of it
    let at = edge(axes, point);
    let sideways = at.0 != point.0;
    // From the arrow's tip into the panel; pixels grow downwards.
    let (along, number) = match sideways {
        true => ((if point.0 > at.0 { -1 } else { 1 }, 0), point.0),
        false => ((0, if point.1 > at.1 { 1 } else { -1 }), point.1),
    };
    let corner = |side: i32| match sideways {
        true => (LENGTH * along.0, side),
        false => (side, LENGTH * along.1),
    };
    let text = match number.abs() {
        10_000.0.. => format!("{number:.0e}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    };
    let text = if is_end { format!("({text})") } else { text };
    let width = HEIGHT / 2 * text.chars().count() as i32;
    let mut place = match along {
        (1, _) => (LENGTH + 3, -HEIGHT / 2),
        (-1, _) => (-LENGTH - 3 - width, -HEIGHT / 2),
        (_, 1) => (7, 0),
        _ => (7, -HEIGHT),
    };
    let origin = chart.backend_coord(&at);
    let area = |place: (i32, i32)| {
        let (left, top) = (origin.0 + place.0, origin.1 + place.1);
        [left, top, left + width, top + HEIGHT]
    };
    let collides =
        |a: [i32; 4]| taken.iter().any(|b| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]);
    while collides(area(place)) {
        place = (place.0 + along.0 * (width + 3), place.1 + along.1 * HEIGHT);
    }
    taken.push(area(place));
    let paper = [place, (place.0 + width, place.1 + HEIGHT)];
    chart.draw_series([EmptyElement::at(at)
        + Polygon::new(vec![(0, 0), corner(5), corner(-5)], color.filled())
        + Rectangle::new(paper, WHITE.filled())
        + Text::new(text, place, (FONT, HEIGHT).into_font().color(&color))])?;
    Ok(())
}

/// The part of a line within the axes (Liang and Barsky 1984).
fn clip([from, to]: [(f64, f64); 2], ((left, right), (low, high)): Axes) -> Option<[(f64, f64); 2]> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut begin, mut end) = (0.0_f64, 1.0_f64);
    let sides = [(-dx, from.0 - left), (dx, right - from.0), (-dy, from.1 - low), (dy, high - from.1)];
    for (step, room) in sides {
        if step == 0.0 && room < 0.0 {
            return None;
        }
        let at = room / step;
        if step < 0.0 {
            begin = begin.max(at);
        } else if step > 0.0 {
            end = end.min(at);
        }
    }
    let point = |at: f64| if at == 1.0 { to } else { (from.0 + at * dx, from.1 + at * dy) };
    (begin <= end).then(|| [point(begin), point(end)])
}

/// A curve's parts within the axes.
fn connected(line: &[(f64, f64)], axes: Axes) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in line.windows(2) {
        let Some([from, to]) = clip([pair[0], pair[1]], axes) else { continue };
        match parts.last_mut().filter(|part| part.last() == Some(&from)) {
            Some(part) => part.push(to),
            None => parts.push(vec![from, to]),
        }
    }
    parts
}

/// Panels in rows, each row of the same number, as a PNG file has them.
pub(crate) fn draw(size: (u32, u32), rows: &[Vec<Panel>]) -> Result<Vec<u8>> {
    let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
    let area = open(&mut pixels, size)?;
    let columns = rows.first().map_or(1, Vec::len);
    let parts = area.split_evenly((rows.len(), columns));
    for (panel, part) in rows.iter().flatten().zip(&parts) {
        panel.draw(part)?;
    }
    drop((parts, area));
    png(&pixels, size)
}

fn png(pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_adaptive_filter(png::AdaptiveFilterType::Adaptive);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}
