//! `livediffusion bench report`: the README's section on performance, from the record.

use livediffusion_bench::readme;

use super::args::ReportArgs;
use super::plot::read;
use crate::failure::{Failure, Outcome, RUNNING, USAGE};

pub(crate) fn command(args: &ReportArgs) -> Outcome<()> {
    let rows = read(&args.record)?;
    let shown = args.readme.display();
    let text =
        std::fs::read_to_string(&args.readme).map_err(|error| Failure::new(USAGE, format!("{shown}: {error}")))?;
    let new = readme::replace(&text, &readme::section(&rows)).ok_or_else(|| {
        Failure::usage(
            format!("{shown} has no place for the measurements"),
            format!("add the two lines {} and {}", readme::BEGIN, readme::END),
        )
    })?;
    if new != text {
        std::fs::write(&args.readme, new).map_err(|error| Failure::new(RUNNING, format!("{shown}: {error}")))?;
    }
    say!("{shown}");
    Ok(())
}
