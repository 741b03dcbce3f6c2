//! What a measurement found, on its way to the terminal, to scripts and to the record.

use std::path::Path;

use livediffusion_bench::record::{self, Context, Figure, Row};
use serde_json::{Map, Value, json};

use super::args::OutputArgs;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::round;

/// Findings under one context.
pub(crate) struct Section {
    pub(crate) context: Context,
    pub(crate) figures: Vec<Figure>,
    /// Keys that scripts read.
    pub(crate) body: Value,
}

/// All that a subcommand found. Several sections are printed as one JSON object a line.
pub(crate) struct Findings(pub(crate) Vec<Section>);

impl Findings {
    pub(crate) fn of(body: Value, context: Context, figures: Vec<Figure>) -> Self {
        Self(vec![Section { context, figures, body }])
    }

    /// Prints the findings, and keeps them where that was asked for.
    pub(crate) fn hand_out(&self, command: &str, output: &OutputArgs) -> Outcome<()> {
        self.0.iter().try_for_each(|section| section.hand_out(command, output, self.0.len() == 1))
    }
}

impl Section {
    /// Prints it, and keeps it where that was asked for.
    pub(crate) fn hand_out(&self, command: &str, output: &OutputArgs, is_only: bool) -> Outcome<()> {
        if output.json {
            self.print_json(is_only);
        } else {
            self.print_table();
        }
        output.record.as_ref().map_or(Ok(()), |folder| keep(command, &self.context, &self.figures, folder))
    }

    fn print_json(&self, is_only: bool) {
        if is_only {
            say!("{:#}", self.json());
        } else {
            say!("{}", self.json());
        }
    }

    fn json(&self) -> Value {
        let Context {
            cpu,
            cores,
            card,
            driver,
            version,
            commit,
            onnxruntime,
            flavour,
            provider,
            precision,
            model,
            size,
            date,
        } = &self.context;
        let mut all = Map::new();
        if let Value::Object(body) = &self.body {
            all.extend(body.clone());
        }
        let figures: Vec<Value> = self.figures.iter().map(figure_json).collect();
        if let Value::Object(context) = json!({
            "size": size,
            "model": model,
            "provider": provider,
            "precision": precision,
            "machine": {"cpu": cpu, "cores": cores, "card": card, "driver": driver},
            "versions": {"livediffusion": version, "onnxruntime": onnxruntime, "flavour": flavour},
            "commit": commit,
            "date": date,
            "figures": figures,
        }) {
            all.extend(context);
        }
        Value::Object(all)
    }

    fn print_table(&self) {
        let width = |text: fn(&Figure) -> &String| {
            self.figures.iter().map(|figure| text(figure).chars().count()).max().unwrap_or(0)
        };
        let widths = (width(|figure| &figure.case), width(|figure| &figure.figure));
        print_head(&self.context, widths);
        print_rows(&self.figures, widths);
    }
}

/// A section that comes case by case: each is printed and kept when it is there, so that whoever is cut short has
/// what was measured until then.
pub(crate) struct Running<'a> {
    command: &'static str,
    output: &'a OutputArgs,
    section: Section,
    /// Characters of the longest names of a case and of a figure.
    widths: (usize, usize),
}

impl<'a> Running<'a> {
    pub(crate) fn new(command: &'static str, output: &'a OutputArgs, context: Context, widths: (usize, usize)) -> Self {
        let section = Section { context, figures: Vec::new(), body: Value::Null };
        Self { command, output, section, widths }
    }

    /// What a case found.
    pub(crate) fn add(&mut self, figures: Vec<Figure>) -> Outcome<()> {
        if !self.output.json {
            if self.section.figures.is_empty() {
                print_head(&self.section.context, self.widths);
            }
            print_rows(&figures, self.widths);
        }
        if let Some(folder) = &self.output.record {
            keep(self.command, &self.section.context, &figures, folder)?;
        }
        self.section.figures.extend(figures);
        Ok(())
    }

    /// No more comes: a script is given all at once. Gives what was found.
    pub(crate) fn end(mut self, body: Value, is_only: bool) -> Vec<Figure> {
        self.section.body = body;
        if self.output.json {
            self.section.print_json(is_only);
        }
        self.section.figures
    }
}

fn print_head(context: &Context, (case, name): (usize, usize)) {
    let Context { version, commit, onnxruntime, flavour, provider, precision, model, size, .. } = context;
    say!("{model} at {size} on {provider} {precision}; {}", context.machine());
    say!("livediffusion {version} ({commit}), ONNX Runtime {onnxruntime} ({flavour})");
    say!("{:case$}  {:name$}  {:>9}  {:>18}  {:>17}", "", "", "p50", "p95, p99", "range");
}

fn print_rows(figures: &[Figure], (case, name): (usize, usize)) {
    for figure in figures {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let pair = |a: Option<f64>, b: Option<f64>, between| match (a, b) {
            (Some(a), Some(b)) => format!("{a:.2}{between}{b:.2}"),
            _ => String::new(),
        };
        let paper = figure.paper.map_or_else(String::new, |paper| format!("  paper {paper:.2}"));
        let note = if figure.note.is_empty() { String::new() } else { format!("  ({})", figure.note) };
        let line = format!(
            "{:case$}  {:name$}  {:>9}  {:>18}  {:>17}  {}{paper}{note}",
            figure.case,
            figure.figure,
            number(figure.p50),
            pair(figure.p95, figure.p99, ", "),
            pair(figure.min, figure.max, " to "),
            figure.unit,
        );
        say!("{}", line.trim_end());
    }
}

fn keep(command: &str, context: &Context, figures: &[Figure], folder: &Path) -> Outcome<()> {
    let path = record::file_of(folder, context);
    let rows: Vec<Row> = figures.iter().map(|figure| Row::new(command, context, &rounded(figure))).collect();
    record::append(&path, &rows).map_err(|error| {
        Failure::new(RUNNING, format!("{}: {error}", path.display()))
            .with_hint(Some("give --record a folder that you may write to".into()))
    })
}

fn rounded(figure: &Figure) -> Figure {
    let Figure { p50, p95, p99, min, max, .. } = *figure;
    let [p50, p95, p99, min, max] = [p50, p95, p99, min, max].map(|value| value.map(round));
    Figure { p50, p95, p99, min, max, ..figure.clone() }
}

/// A figure without the places that it has no use for.
fn figure_json(figure: &Figure) -> Value {
    let mut value = json!(rounded(figure));
    if let Value::Object(map) = &mut value {
        map.retain(|key, value| key == "p50" || !(value.is_null() || value == ""));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_kept_when_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let output = OutputArgs { json: true, record: Some(folder.path().to_owned()) };
        let context = Context { date: "2026-01-31T12:00:00Z".into(), cpu: "a processor".into(), ..Context::default() };
        let file = record::file_of(folder.path(), &context);
        let rows = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count().saturating_sub(1));
        let mut running = Running::new("gpu", &output, context, (0, 0));
        for kept in 1..=3 {
            running.add(vec![Figure::value(&format!("N={kept}"), "speed", "fps", 1.0)]).unwrap();
            assert_eq!(rows(), kept);
        }
        let found = running.end(json!({ "cases": [] }), true);
        assert_eq!((found.len(), rows()), (3, 3));
    }
}
