//! Figures with all that is needed to judge them later, and the CSV files that they are kept in.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use crate::summary::{Spread, Times};

/// What a figure was measured on and with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// When, in UTC: `2026-01-31T12:00:00Z`.
    pub date: String,
    /// The processor's name.
    pub cpu: String,
    /// Its physical cores.
    pub cores: usize,
    /// The card that the networks ran on; empty where that was none whose name is known.
    pub card: String,
    /// The CUDA version that its driver is for.
    pub driver: String,
    /// Version of livediffusion.
    pub version: String,
    /// Git commit, with `-dirty` where files differed from it; `unknown` outside a checkout.
    pub commit: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// What that library was built for.
    pub flavour: String,
    /// Execution provider.
    pub provider: String,
    /// Arithmetic of the networks.
    pub precision: String,
    /// Name of the model pack.
    pub model: String,
    /// Size of the pictures.
    pub size: String,
}

/// One figure. Times carry percentiles; what was repeated in rounds carries the range of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: `N=2 self lanes`, say; empty where there is but one case.
    pub case: String,
    /// Which figure of it.
    pub figure: String,
    /// `ms`, `fps`, `ratio` and so on.
    pub unit: String,
    /// The figure: the median. `None` where it could not be measured.
    pub p50: Option<f64>,
    /// 95th percentile, of times.
    pub p95: Option<f64>,
    /// 99th percentile, of times.
    pub p99: Option<f64>,
    /// Smallest of the rounds.
    pub min: Option<f64>,
    /// Largest of the rounds.
    pub max: Option<f64>,
    /// How many times or rounds.
    pub samples: usize,
    /// The paper's figure (arXiv 2312.12491, on an RTX 4090).
    pub paper: Option<f64>,
    /// Why it was not measured, or what else must be known of it.
    pub note: String,
}

impl Figure {
    /// Percentiles of times, in ms.
    pub fn times(case: &str, figure: &str, times: Option<Times>) -> Self {
        let new = Self { case: case.into(), figure: figure.into(), unit: "ms".into(), ..Self::default() };
        match times {
            Some(Times { p50, p95, p99, samples }) => {
                Self { p50: Some(p50), p95: Some(p95), p99: Some(p99), samples, ..new }
            }
            None => new.note("nothing was measured"),
        }
    }

    /// Median and range of some rounds.
    pub fn spread(case: &str, figure: &str, unit: &str, spread: Option<Spread>, samples: usize) -> Self {
        let new = Self { case: case.into(), figure: figure.into(), unit: unit.into(), ..Self::default() };
        match spread {
            Some(Spread { min, median, max }) => {
                Self { p50: Some(median), min: Some(min), max: Some(max), samples, ..new }
            }
            None => new.note("nothing was measured"),
        }
    }

    /// A single value.
    pub fn value(case: &str, figure: &str, unit: &str, value: f64) -> Self {
        Self {
            case: case.into(),
            figure: figure.into(),
            unit: unit.into(),
            p50: Some(value),
            samples: 1,
            ..Self::default()
        }
    }

    /// A figure that could not be measured, and why.
    pub fn absent(case: &str, figure: &str, unit: &str, why: &str) -> Self {
        Self { case: case.into(), figure: figure.into(), unit: unit.into(), note: why.into(), ..Self::default() }
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: &str) -> Self {
        note.clone_into(&mut self.note);
        self
    }

    /// Adds the paper's figure.
    #[must_use]
    pub fn paper(mut self, paper: Option<f64>) -> Self {
        self.paper = paper;
        self
    }
}

/// A row of the record. Flat, because the `csv` crate cannot flatten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// When.
    pub date: String,
    /// Subcommand of `bench`.
    pub command: String,
    /// See [`Figure::case`].
    pub case: String,
    /// See [`Figure::figure`].
    pub figure: String,
    /// See [`Figure::unit`].
    pub unit: String,
    /// See [`Figure::p50`].
    pub p50: Option<f64>,
    /// See [`Figure::p95`].
    pub p95: Option<f64>,
    /// See [`Figure::p99`].
    pub p99: Option<f64>,
    /// See [`Figure::min`].
    pub min: Option<f64>,
    /// See [`Figure::max`].
    pub max: Option<f64>,
    /// See [`Figure::samples`].
    pub samples: usize,
    /// See [`Figure::paper`].
    pub paper: Option<f64>,
    /// See [`Figure::note`].
    pub note: String,
    /// See [`Context::model`].
    pub model: String,
    /// See [`Context::size`].
    pub size: String,
    /// See [`Context::provider`].
    pub provider: String,
    /// See [`Context::precision`].
    pub precision: String,
    /// See [`Context::cpu`].
    pub cpu: String,
    /// See [`Context::cores`].
    pub cores: usize,
    /// See [`Context::version`].
    pub version: String,
    /// See [`Context::commit`].
    pub commit: String,
    /// See [`Context::onnxruntime`].
    pub onnxruntime: String,
    /// See [`Context::flavour`].
    pub flavour: String,
    /// See [`Context::card`]. Records of before have neither this nor the next column.
    #[serde(default)]
    pub card: String,
    /// See [`Context::driver`].
    #[serde(default)]
    pub driver: String,
}

impl Row {
    /// A figure of `command` with its context.
    pub fn new(command: &str, context: &Context, figure: &Figure) -> Self {
        let (context, figure) = (context.clone(), figure.clone());
        Self {
            date: context.date,
            command: command.to_owned(),
            case: figure.case,
            figure: figure.figure,
            unit: figure.unit,
            p50: figure.p50,
            p95: figure.p95,
            p99: figure.p99,
            min: figure.min,
            max: figure.max,
            samples: figure.samples,
            paper: figure.paper,
            note: figure.note,
            model: context.model,
            size: context.size,
            provider: context.provider,
            precision: context.precision,
            cpu: context.cpu,
            cores: context.cores,
            version: context.version,
            commit: context.commit,
            onnxruntime: context.onnxruntime,
            flavour: context.flavour,
            card: context.card,
            driver: context.driver,
        }
    }
}

impl Row {
    /// What the figure is of: the card, else the processor.
    pub fn device(&self) -> String {
        device(&self.card, &self.cpu, self.cores)
    }
}

impl Context {
    /// The card with its driver, and the processor beside it.
    pub fn machine(&self) -> String {
        machine((&self.card, &self.driver), &self.cpu, self.cores)
    }
}

pub(crate) fn machine((card, driver): (&str, &str), cpu: &str, cores: usize) -> String {
    let card = if card.is_empty() { String::new() } else { format!("{card}, CUDA {driver}; ") };
    format!("{card}{cpu}, {cores} cores")
}

fn device(card: &str, cpu: &str, cores: usize) -> String {
    if card.is_empty() { format!("{cpu}, {cores} cores") } else { card.to_owned() }
}

/// Where the rows of one machine and day are kept: `folder/<device>/<date>.csv`.
pub fn file_of(folder: &Path, context: &Context) -> PathBuf {
    let day = context.date.split('T').next().unwrap_or("unknown");
    folder.join(slug(&device(&context.card, &context.cpu, context.cores))).join(format!("{day}.csv"))
}

/// Appends rows to a file, which gets its header when it is new. One with the columns of before gets those of today.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn append(path: &Path, rows: &[Row]) -> Result<(), csv::Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().read(true).create(true).append(true).open(path)?;
    let is_new = file.metadata()?.len() == 0;
    if !is_new && csv::Reader::from_reader(&file).headers()? != &columns()? {
        let mut all = read(path)?;
        all.extend_from_slice(rows);
        let unfinished = path.with_extension("csv.part");
        write(File::create(&unfinished)?, true, &all)?;
        return Ok(std::fs::rename(unfinished, path)?);
    }
    write(file, is_new, rows)
}

fn write(file: File, with_header: bool, rows: &[Row]) -> Result<(), csv::Error> {
    let mut writer = csv::WriterBuilder::new().has_headers(with_header).from_writer(file);
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(writer.flush()?)
}

/// The header of today.
fn columns() -> Result<StringRecord, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(Row::new("", &Context::default(), &Figure::default()))?;
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    csv::Reader::from_reader(&bytes[..]).headers().cloned()
}

fn read(path: &Path) -> Result<Vec<Row>, csv::Error> {
    csv::Reader::from_reader(File::open(path)?).deserialize().collect()
}

/// The rows of every file below `folder`, oldest first.
///
/// # Errors
/// A file that cannot be read or is no record.
pub fn read_all(folder: &Path) -> Result<Vec<Row>, csv::Error> {
    let mut rows = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "csv") {
                rows.extend(read(&path)?);
            }
        }
    }
    rows.sort_by(|a: &Row, b: &Row| a.date.cmp(&b.date));
    Ok(rows)
}

/// A name of a folder: small letters, digits and single dashes.
pub fn slug(text: &str) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("-")
}

/// Date and time in UTC, from the seconds since 1970.
pub fn utc(seconds: u64) -> String {
    // Days of the civil calendar, counted in eras of 400 years from a March: leap days come last in their year.
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_leap_years_and_of_their_neighbours() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_200), "2024-03-01T00:00:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn rows_come_back_and_the_header_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { date: utc(0), cpu: "A (R) \"CPU\", 2.0 GHz".into(), cores: 2, ..Context::default() };
        let path = file_of(folder.path(), &context);
        assert_eq!(path, folder.path().join("a-r-cpu-2-0-ghz-2-cores/1970-01-01.csv"));
        let rows = [
            Row::new("startup", &context, &Figure::value("cold", "ms", "ms", 812.5)),
            Row::new("compare", &context, &Figure::absent("N=1", "torch", "ratio", "no torch, \"here\"\nor there")),
        ];
        append(&path, &rows[..1]).unwrap();
        append(&path, &rows[1..]).unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), rows);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.matches("date,command").count(), 1, "{text}");
    }

    #[test]
    fn a_record_of_before_gets_the_new_columns_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { date: utc(0), cpu: "CPU".into(), ..Context::default() };
        let row = |figure| Row::new("gpu", &context, &Figure::value("N=1", figure, "fps", 1.0));
        let path = file_of(folder.path(), &context);
        append(&path, &[row("first")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let before: Vec<&str> = text.lines().map(|line| line.rsplitn(3, ',').last().unwrap()).collect();
        assert!(text.lines().next().unwrap().ends_with(",card,driver"));
        std::fs::write(&path, before.join("\n") + "\n").unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), [row("first")]);
        append(&path, &[row("second")]).unwrap();
        append(&path, &[row("third")]).unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), ["first", "second", "third"].map(row));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_ran_on_a_card_is_kept_under_its_name() {
        let context = Context { card: "NVIDIA X 9".into(), cpu: "CPU".into(), ..Context::default() };
        assert!(file_of(Path::new("record"), &context).starts_with("record/nvidia-x-9"));
    }
}
