//! The tables of the report, in Markdown.

use crate::plan::{LEARNING_RATES, Plan};
use crate::results::{Results, Swept};
use crate::stats::Estimate;
use crate::variant::{BASELINE, CORRECTIONS, SWEEPS, Sweep};
use crate::weights::{elements, generator};
use anyhow::Result;
use std::fmt::Write;

/// Changes above this many per cent are as good as a run that failed.
const ABSURD: f64 = 100.0;

/// Rows of cells; the first row is the heading.
type Cells = Vec<Vec<String>>;

/// All tables, each with the name by which a page asks for it.
pub(crate) fn all(plan: &Plan<'_>, results: &Results) -> Result<Vec<(String, String)>> {
    let mut tables = vec![
        ("tasks".to_owned(), markdown(&tasks(plan)?)),
        ("optimizers".to_owned(), markdown(&optimizers(plan))),
        ("effects".to_owned(), markdown(&effects(plan, results)?)),
        ("corrections".to_owned(), markdown(&corrections(plan, results)?)),
        ("rates".to_owned(), markdown(&rates(plan, results)?)),
        ("settings".to_owned(), markdown(&settings(plan, results)?)),
    ];
    for (index, task) in plan.tasks.iter().enumerate() {
        tables.push((format!("results {}", task.name()), markdown(&of_task(plan, results, index)?)));
    }
    Ok(tables)
}

/// The names of all tables that this plan will have.
pub(crate) fn names(plan: &Plan<'_>) -> Vec<String> {
    let common = ["tasks", "optimizers", "effects", "corrections", "rates", "settings", "diagnosis"];
    let mut names: Vec<String> = common.map(str::to_owned).into();
    names.extend(plan.tasks.iter().map(|task| format!("results {}", task.name())));
    if plan.pixels().is_some() {
        names.push("fisher".to_owned());
    }
    names
}

/// All tables, one after the other.
pub(crate) fn page(tables: &[(String, String)]) -> String {
    tables.iter().map(|(name, table)| format!("## {name}\n\n{table}\n")).collect()
}

/// The one to look at first.
pub(crate) fn headline(tables: &[(String, String)]) -> &str {
    tables.iter().find(|table| table.0 == "effects").map_or("", |table| &table.1)
}

/// As Markdown.
pub(crate) fn markdown(cells: &Cells) -> String {
    let mut text = String::new();
    for (i, row) in cells.iter().enumerate() {
        // A `String` takes everything.
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if i == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}

fn heading(plan: &Plan<'_>, first: &str) -> Vec<String> {
    [first.to_owned()].into_iter().chain(plan.tasks.iter().map(|task| task.name().to_owned())).collect()
}

fn tasks(plan: &Plan<'_>) -> Result<Cells> {
    let mut cells = vec![["task", "what", "parameters", "steps"].map(str::to_owned).to_vec()];
    for task in plan.tasks {
        let model = task.model(&mut generator(0, 0))?;
        let parameters = elements(model.weights());
        let steps = plan.steps(&**task);
        cells.push(vec![task.name().to_owned(), task.about(), parameters.to_string(), steps.to_string()]);
    }
    Ok(cells)
}

fn optimizers(plan: &Plan<'_>) -> Cells {
    let mut cells = vec![["optimizer", "settings"].map(str::to_owned).to_vec()];
    cells.extend(plan.variants.iter().map(|variant| vec![variant.name.clone(), variant.settings()]));
    cells
}

/// A change in per cent; bold where 0 lies outside its interval.
fn change(change: Option<Estimate>) -> String {
    match change {
        Some(Estimate { mean: 0.0, half_width: 0.0 }) => "the same bits".to_owned(),
        Some(found) if found.mean > ABSURD => format!("more than +{ABSURD}"),
        Some(found) if found.is_certain() => format!("**{:+.2}** ± {:.2}", found.mean, found.half_width),
        Some(found) => format!("{:+.2} ± {:.2}", found.mean, found.half_width),
        None => "a run failed".to_owned(),
    }
}

/// Test losses against the baseline's.
fn effects(plan: &Plan<'_>, results: &Results) -> Result<Cells> {
    let mut cells = vec![heading(plan, &format!("test loss against {BASELINE}'s, %"))];
    for variant in plan.variants.iter().filter(|variant| variant.name != BASELINE) {
        let mut row = vec![variant.name.clone()];
        for task in 0..plan.tasks.len() {
            row.push(change(between(results, task, (&variant.name, BASELINE))?));
        }
        cells.push(row);
    }
    Ok(cells)
}

/// By how many per cent the first one's test loss lies above the second's.
pub(crate) fn between(
    results: &Results,
    task: usize,
    (with, without): (&str, &str),
) -> Result<Option<Estimate>> {
    Ok(Estimate::change(&results.row(task, with)?.test(0), &results.row(task, without)?.test(0)))
}

fn corrections(plan: &Plan<'_>, results: &Results) -> Result<Cells> {
    let mut cells = vec![heading(plan, "test loss with against without, %")];
    for correction in &CORRECTIONS {
        for &pair in correction.pairs {
            let mut row = vec![format!("{}: {} against {}", correction.name, pair.0, pair.1)];
            for task in 0..plan.tasks.len() {
                row.push(change(between(results, task, pair)?));
            }
            cells.push(row);
        }
    }
    Ok(cells)
}

/// The chosen learning rates, in thousandths; those at an end of the grid are marked.
fn rates(plan: &Plan<'_>, results: &Results) -> Result<Cells> {
    let mut cells = vec![heading(plan, "learning rate, thousandths")];
    for variant in plan.variants {
        let mut row = vec![variant.name.clone()];
        for task in 0..plan.tasks.len() {
            let lr = results.row(task, &variant.name)?.lr;
            let at_end = lr == LEARNING_RATES[0] || lr == LEARNING_RATES[LEARNING_RATES.len() - 1];
            row.push(format!("{}{}", lr * 1e3, if at_end { "*" } else { "" }));
        }
        cells.push(row);
    }
    Ok(cells)
}

/// Validation losses against the preset's.
fn settings(plan: &Plan<'_>, results: &Results) -> Result<Cells> {
    let mut cells = vec![heading(plan, "validation loss against the preset's, %")];
    for sweep in &SWEEPS {
        let Sweep { name, of, preset, .. } = sweep;
        let swept = results.swept(sweep);
        for (i, (value, _)) in swept[0].points.iter().enumerate() {
            let mut row = vec![format!("{of}, {name} = {value:e}")];
            for Swept { points, .. } in &swept {
                let base = points.iter().find(|point| point.0 == *preset);
                row.push(match base {
                    Some(_) if value == preset => "preset".to_owned(),
                    Some((_, base)) => change(Estimate::change(&points[i].1, base)),
                    None => String::new(),
                });
            }
            cells.push(row);
        }
    }
    Ok(cells)
}

/// A task's results in its own units.
fn of_task(plan: &Plan<'_>, results: &Results, task: usize) -> Result<Cells> {
    let measures = plan.tasks[task].measures();
    let mut heading = vec!["optimizer".to_owned(), "training loss".to_owned()];
    heading.extend(measures.iter().map(|measure| format!("test {}, {}", measure.name, measure.unit)));
    let mut cells = vec![heading];
    for variant in plan.variants {
        let found = results.row(task, &variant.name)?;
        let mut row = vec![variant.name.clone(), in_units(&found.training())];
        row.extend((0..measures.len()).map(|index| in_units(&found.test(index))));
        cells.push(row);
    }
    Ok(cells)
}

fn in_units(values: &[Option<f64>]) -> String {
    let known: Vec<f64> = values.iter().copied().flatten().collect();
    match Estimate::of(&known).filter(|_| known.len() == values.len()) {
        Some(Estimate { mean, half_width }) => format!("{mean:.5} ± {half_width:.5}"),
        None => format!("{} of {} runs failed", values.len() - known.len(), values.len()),
    }
}
