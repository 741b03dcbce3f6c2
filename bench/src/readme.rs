//! The README's section on performance, made from the record.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::{Row, machine};

/// The line before the section.
pub const BEGIN: &str = "<!-- bench:begin -->";

/// The line after it.
pub const END: &str = "<!-- bench:end -->";

/// Subcommands in the order of the section, what they say, and the figures of theirs that are shown: all where none is
/// named. The record has the others.
const TITLES: [(&str, &str, &[&str]); 13] = [
    (
        "throughput",
        "Frames a second, from pictures in memory to pictures in memory (N steps, F frames entering together, frames on so many lanes at once)",
        &["speed"],
    ),
    (
        "gpu",
        "A card, from pictures in the host's memory to pictures there: N steps and guidance",
        &[
            "speed",
            "picture to picture",
            "end to end",
            "outside the networks",
            "networks over matmul",
            "energy of a picture",
            "memory of the card",
        ],
    ),
    ("startup", "From the start of a process to its first picture", &["first frame"]),
    (
        "latency",
        "From the capture of a live frame to its picture",
        &["end to end", "end to end, last tenth", "dropped"],
    ),
    (
        "prompts",
        "Live frames while the prompt stays, and while it changes every few frames to one never seen before",
        &["end to end", "worst", "late by more than a frame"],
    ),
    ("overhead", "`run` on a file over the bare networks called back to back", &[]),
    ("compare", "Python's time over ours, on the same weights: over 1, ours is faster", &[]),
    (
        "rcfg",
        "Full guidance over residual guidance: the denoising alone, and whole frames with the VAE that both need",
        &["full over self", "full over initialize", "frame, full over self", "frame, full over initialize"],
    ),
    ("stream-batch", "N calls of the U-Net over one call of N rows", &["sequential over batched"]),
    ("ablation", "Speed without one part, over that with all", &[]),
    ("similarity", "What the similarity filter saves", &[]),
    ("scaling", "Several streams in one process", &[]),
    ("roofline", "The networks over matrix multiplications in the same run", &[]),
];

/// Providers that no figure is written for unless one was recorded.
const GPUS: [&str; 2] = ["cuda", "tensorrt"];

/// Card and driver, processor and cores, model and size.
type Machine<'a> = ((&'a str, &'a str), &'a str, usize, &'a str, &'a str);

/// The text between the marks: for every machine and model, the last recorded figure of each case.
pub fn section(rows: &[Row]) -> String {
    let mut machines: BTreeMap<Machine<'_>, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        machines.entry(((&row.card, &row.driver), &row.cpu, row.cores, &row.model, &row.size)).or_default().push(row);
    }
    let mut text = String::new();
    for ((card, cpu, cores, model, size), rows) in &machines {
        let machine = machine(*card, cpu, *cores);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "**{machine}; model `{model}` at {size}**\n");
        for (command, title, shown) in TITLES {
            let is_shown = |row: &&Row| shown.is_empty() || shown.contains(&row.figure.as_str());
            let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.command == command).filter(is_shown).collect();
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
    let day = |row: &Row| row.date.split('T').next().unwrap_or_default().to_owned();
    // Figures of other days or commits are of other programs.
    let same: Vec<&Row> =
        rows.iter().copied().filter(|row| day(row) == day(last) && row.commit == last.commit).collect();
    let mut latest: Vec<&Row> = Vec::new();
    for row in same {
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
        day(last),
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
        let why = row.note.strip_prefix("not measured: ").unwrap_or(&row.note);
        let note = if row.p50.is_none() { format!(": {why}") } else { String::new() };
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
        // What ran on a card is apart from what ran beside it.
        let on_card = Context {
            card: "Card".into(),
            driver: "13.0".into(),
            provider: "cuda".into(),
            ..context("2026-01-03T00:00:00Z", "new")
        };
        let speed = Figure::value("N=1 none", "speed", "fps", 100.0);
        let text = section(&[rows[1].clone(), Row::new("gpu", &on_card, &speed)]);
        let (cpu, card) = text.split_once("**Card, CUDA 13.0; CPU, 2 cores").unwrap();
        assert!(cpu.contains("| N=1 | full over self |") && card.contains("| N=1 none | speed | 100 fps |"), "{text}");
        assert!(text.contains("Not measured: GPUs (tensorrt)"), "{text}");
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&readme, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert_eq!(replace("nothing", ""), None);
    }
}
