//! The README's section on performance, made from the record.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Row;

/// The line before the section.
pub const BEGIN: &str = "<!-- bench:begin -->";

/// The line after it.
pub const END: &str = "<!-- bench:end -->";

/// Subcommands in the order of the section, with what they say.
const TITLES: [(&str, &str); 11] = [
    ("throughput", "Frames a second, from pictures in memory to pictures in memory (F: frames that enter together)"),
    ("startup", "From the start of a process to its first picture"),
    ("latency", "From the capture of a live frame to its picture"),
    ("overhead", "`run` on a file over the bare networks called back to back"),
    ("compare", "Against Python on the same weights (over 1: ours is faster)"),
    ("rcfg", "Full guidance over residual guidance"),
    ("stream-batch", "N calls of the U-Net over one call of N rows"),
    ("ablation", "Speed without one part, over that with all"),
    ("similarity", "What the similarity filter saves"),
    ("scaling", "Several streams in one process"),
    ("roofline", "The networks over matrix multiplications in the same run"),
];

/// Providers that no figure is written for unless one was recorded.
const GPUS: [&str; 2] = ["cuda", "tensorrt"];

/// The text between the marks: for every machine and model, the last recorded figure of each case.
pub fn section(rows: &[Row]) -> String {
    let mut machines: BTreeMap<(&str, usize, &str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        machines.entry((&row.cpu, row.cores, &row.model, &row.size)).or_default().push(row);
    }
    let mut text = String::new();
    for ((cpu, cores, model, size), rows) in &machines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "**{cpu}, {cores} cores; model `{model}` at {size}**\n");
        for (command, title) in TITLES {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.command == command).copied().collect();
            table(&mut text, command, title, &rows);
        }
    }
    let gpus: Vec<&str> =
        GPUS.into_iter().filter(|gpu| !rows.iter().any(|row| row.provider == *gpu && row.p50.is_some())).collect();
    if !gpus.is_empty() {
        let _ = writeln!(text, "Not measured: GPUs ({}).", gpus.join(", "));
    }
    text
}

/// The last rows of one subcommand, as a table; nothing where there are none.
fn table(text: &mut String, command: &str, title: &str, rows: &[&Row]) {
    let Some(last) = rows.last() else { return };
    // One run at a time: figures of different moments are not to be compared. Sections of one run differ by seconds.
    let run: Vec<&&Row> = rows
        .iter()
        .filter(|row| {
            row.date[..10.min(row.date.len())] == last.date[..10.min(last.date.len())] && row.commit == last.commit
        })
        .collect();
    let mut latest: Vec<&Row> = Vec::new();
    for row in run {
        match latest.iter_mut().find(|known| {
            (&known.case, &known.figure, &known.provider, &known.precision)
                == (&row.case, &row.figure, &row.provider, &row.precision)
        }) {
            Some(known) => *known = row,
            None => latest.push(row),
        }
    }
    let _ = writeln!(
        text,
        "{title} (`bench {command}`, {}, commit {}, ONNX Runtime {} {}):\n",
        &last.date[..10.min(last.date.len())],
        last.commit,
        last.onnxruntime,
        last.flavour
    );
    let _ = writeln!(text, "| case | figure | median | p95, p99 or range | on |\n|---|---|---|---|---|");
    for row in latest {
        let value =
            row.p50.map_or_else(|| "not measured".into(), |value| format!("{} {}", short(value), unit(&row.unit)));
        let range = match (row.p95, row.p99, row.min, row.max) {
            (Some(p95), Some(p99), _, _) => format!("{}, {}", short(p95), short(p99)),
            (_, _, Some(min), Some(max)) => format!("{} to {}", short(min), short(max)),
            _ => String::new(),
        };
        let paper = row.paper.map_or_else(String::new, |paper| format!(" (paper, RTX 4090: {paper:.2})"));
        let note = if row.p50.is_none() { format!(": {}", row.note) } else { String::new() };
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| {} | {} | {}{}{paper} | {range} | {} {} |",
            cell(&row.case),
            cell(&row.figure),
            value.trim(),
            cell(&note),
            row.provider,
            row.precision
        );
    }
    text.push('\n');
}

fn unit(unit: &str) -> &str {
    if unit == "ratio" || unit == "share" { "" } else { unit }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `text` with what lies between the marks replaced; `None` if it has no marks.
pub fn replace(text: &str, section: &str) -> Option<String> {
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text[begin..].find(END)?;
    Some(format!("{}\n{section}{}", &text[..begin], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Context, Figure};

    #[test]
    fn the_last_run_is_shown_and_what_is_missing_is_named() {
        let context = |date: &str, commit: &str| Context {
            date: date.into(),
            commit: commit.into(),
            cpu: "CPU".into(),
            cores: 2,
            model: "default".into(),
            ..Context::default()
        };
        let rows = [
            Row::new(
                "rcfg",
                &context("2026-01-01T00:00:00Z", "old"),
                &Figure::value("N=9", "full over self", "ratio", 9.0),
            ),
            Row::new(
                "rcfg",
                &context("2026-01-02T00:00:00Z", "new"),
                &Figure::value("N=1", "full over self", "ratio", 3.0),
            ),
            Row::new(
                "rcfg",
                &context("2026-01-02T00:01:00Z", "new"),
                &Figure::value("N=1", "full over self", "ratio", 1.5),
            ),
            Row::new(
                "compare",
                &context("2026-01-02T00:02:00Z", "new"),
                &Figure::absent("N=1", "torch", "ratio", "no torch"),
            ),
        ];
        let text = section(&rows);
        assert!(text.contains("| N=1 | full over self | 1.50 |") && !text.contains("N=9"), "{text}");
        assert!(
            text.contains("not measured: no torch") && text.contains("Not measured: GPUs (cuda, tensorrt)"),
            "{text}"
        );
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&readme, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert_eq!(replace("nothing", ""), None);
    }
}
