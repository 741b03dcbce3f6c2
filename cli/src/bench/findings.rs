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
        if !output.json {
            self.print_table();
        } else if is_only {
            say!("{:#}", self.json());
        } else {
            say!("{}", self.json());
        }
        output.record.as_ref().map_or(Ok(()), |folder| self.keep(command, folder))
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
        let Context { version, commit, onnxruntime, flavour, provider, precision, model, size, .. } = &self.context;
        say!("{model} at {size} on {provider} {precision}; {}", self.context.machine());
        say!("livediffusion {version} ({commit}), ONNX Runtime {onnxruntime} ({flavour})");
        let width = |text: fn(&Figure) -> &String| {
            self.figures.iter().map(|figure| text(figure).chars().count()).max().unwrap_or(0)
        };
        let (case, name) = (width(|figure| &figure.case), width(|figure| &figure.figure));
        say!("{:case$}  {:name$}  {:>9}  {:>18}  {:>17}", "", "", "p50", "p95, p99", "range");
        for figure in &self.figures {
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

    fn keep(&self, command: &str, folder: &Path) -> Outcome<()> {
        let path = record::file_of(folder, &self.context);
        let rows: Vec<Row> =
            self.figures.iter().map(|figure| Row::new(command, &self.context, &rounded(figure))).collect();
        record::append(&path, &rows).map_err(|error| {
            Failure::new(RUNNING, format!("{}: {error}", path.display()))
                .with_hint(Some("give --record a folder that you may write to".into()))
        })
    }
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
