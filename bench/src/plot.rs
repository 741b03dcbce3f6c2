//! The record as pictures: one SVG for each subcommand and unit, the last figure of each case as a bar.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::record::{Row, slug};

/// A bar: its label, its value, and the range that it was found in.
struct Bar {
    label: String,
    value: f64,
    range: Option<(f64, f64)>,
}

/// Pixels that a bar takes, with its space.
const BAR: u32 = 22;

/// Pixels left of the bars for their labels.
const LABELS: u32 = 420;

/// Draws the record into `folder` and gives the files.
///
/// # Errors
/// A folder that cannot be written, or a drawing that fails.
pub fn draw(rows: &[Row], folder: &Path) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    let mut groups: Vec<(String, String, Vec<Bar>)> = Vec::new();
    for row in rows {
        let Some(value) = row.p50 else { continue };
        let title = format!("{} {} {} {}", row.command, row.model, row.size, row.unit);
        let on = row.device();
        let label = [&row.case, &row.figure, &row.provider, &row.precision].map(String::as_str).join(" ");
        let range = row.min.zip(row.max).or(row.p95.map(|p95| (value, p95)));
        let bar = Bar { label: label.trim().to_owned(), value, range };
        let index = groups.iter().position(|group| group.0 == title && group.1 == on).unwrap_or_else(|| {
            groups.push((title, on, Vec::new()));
            groups.len() - 1
        });
        let bars = &mut groups[index].2;
        match bars.iter_mut().find(|known| known.label == bar.label) {
            Some(known) => *known = bar,
            None => bars.push(bar),
        }
    }
    let mut files = Vec::new();
    for (title, on, bars) in &groups {
        let file = folder.join(slug(on)).with_extension("").join(format!("{}.svg", slug(title)));
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        draw_bars(&file, &format!("{title} — {on}"), bars)?;
        files.push(file);
    }
    Ok(files)
}

fn draw_bars(file: &Path, title: &str, bars: &[Bar]) -> Result<(), Box<dyn std::error::Error>> {
    let size = (1000, 60 + BAR * bars.len() as u32);
    let highest = bars.iter().map(|bar| bar.range.map_or(bar.value, |(_, high)| high.max(bar.value)));
    let highest = highest.fold(f64::MIN_POSITIVE, f64::max);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(title.to_owned(), (10, 10), ("sans-serif", 16)))?;
    let scale = f64::from(size.0 - LABELS - 90) / highest;
    for (index, bar) in bars.iter().enumerate() {
        let top = (40 + BAR * index as u32) as i32;
        let left = LABELS as i32;
        let at = |value: f64| left + (value * scale) as i32;
        let (height, middle) = (BAR as i32 - 6, BAR as i32 / 2 - 3);
        area.draw(&Text::new(bar.label.clone(), (10, top + 2), ("sans-serif", 12)))?;
        area.draw(&Rectangle::new([(left, top), (at(bar.value), top + height)], BLUE.mix(0.5).filled()))?;
        let mut end = at(bar.value);
        if let Some((low, high)) = bar.range {
            area.draw(&PathElement::new([(at(low), top + middle), (at(high), top + middle)], BLACK))?;
            end = end.max(at(high));
        }
        area.draw(&Text::new(format!("{:.2}", bar.value), (end + 6, top + 2), ("sans-serif", 12)))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Context, Figure};

    #[test]
    fn every_unit_gets_a_picture_with_its_last_figures() {
        let folder = tempfile::tempdir().unwrap();
        let row = |figure: &Figure| Row::new("rcfg", &Context { cpu: "CPU".into(), ..Context::default() }, figure);
        let rows = [
            row(&Figure::value("N=1", "full over self", "ratio", 7.25)),
            row(&Figure::value("N=1", "full over self", "ratio", 1.5)),
            row(&Figure::value("N=1", "full", "ms", 12.0)),
            row(&Figure::absent("N=2", "full", "ms", "no time")),
        ];
        let files = draw(&rows, folder.path()).unwrap();
        assert_eq!(files.len(), 2);
        let text = std::fs::read_to_string(&files[0]).unwrap();
        assert!(text.contains("full over self") && text.contains("1.50") && !text.contains("7.25"), "{text}");
    }
}
