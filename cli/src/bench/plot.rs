//! `livediffusion bench plot`: the record as pictures.

use livediffusion_bench::{plot, record};

use super::args::PlotArgs;
use crate::failure::{Failure, Outcome, RUNNING, USAGE};

pub(crate) fn command(args: &PlotArgs) -> Outcome<()> {
    let rows = read(&args.record)?;
    let files = plot::draw(&rows, &args.output)
        .map_err(|error| Failure::new(RUNNING, format!("{}: {error}", args.output.display())))?;
    for file in files {
        say!("{}", file.display());
    }
    Ok(())
}

/// The rows of a record, of which there must be some.
pub(crate) fn read(folder: &std::path::Path) -> Outcome<Vec<record::Row>> {
    let hint = || Some("measure something with --record first: livediffusion bench rcfg --record".to_owned());
    let rows = record::read_all(folder)
        .map_err(|error| Failure::new(USAGE, format!("{}: {error}", folder.display())).with_hint(hint()))?;
    if rows.is_empty() {
        return Err(Failure::new(USAGE, format!("{} holds no measurements", folder.display())).with_hint(hint()));
    }
    Ok(rows)
}
