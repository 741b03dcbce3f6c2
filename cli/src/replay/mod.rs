//! `livediffusion replay`: runs golden cases through the engine and compares every tensor that both have. Where frames stay on a card
//! they run there once more, on the frame path that streams take.

mod case;
mod complete;
mod device;
mod emulation;
mod ledger;
mod networks;
mod packs;
mod picture;
mod run;
mod setup;
#[cfg(test)]
mod tests;
mod tolerance;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use self::case::Case;
use self::ledger::Ledger;
use self::networks::SharedLedger;
use self::packs::Packs;
use self::run::Replay;
use self::tolerance::Tolerance;
use crate::args::{Level, ReplayArgs};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::lock;

pub(crate) fn command(args: &ReplayArgs) -> Outcome<()> {
    let [_] = args.cases.as_slice() else { return several(args) };
    let case = Arc::new(open(&args.cases[0])?);
    if one(args, &case, &mut Packs::new(args, vec![Arc::clone(&case)]))? {
        return Ok(());
    }
    let hint = "the tensor named above is the first place to look".to_owned();
    Err(Failure::new(RUNNING, format!("{} fails at the level {}", case.name, args.level)).with_hint(Some(hint)))
}

/// One after another; one that cannot be replayed is a failed one.
fn several(args: &ReplayArgs) -> Outcome<()> {
    let cases: Vec<_> = args.cases.iter().map(|path| open(path).map(Arc::new)).collect();
    let mut packs = Packs::new(args, cases.iter().flatten().map(Arc::clone).collect());
    let mut failed = Vec::new();
    for (path, case) in args.cases.iter().zip(cases) {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        match case.and_then(|case| one(args, &case, &mut packs)) {
            Ok(true) => {}
            Ok(false) => failed.push(name),
            Err(failure) => {
                let (what, hint) = (failure.message(), failure.hint());
                if args.json {
                    say!("{:#}", json!({ "case": name, "passed": false, "error": what, "hint": hint }));
                } else {
                    say!(
                        "{name} cannot be replayed: {what}{}",
                        hint.map_or_else(String::new, |hint| format!(" ({hint})"))
                    );
                }
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let what = format!("{} of {} cases fail at the level {}", failed.len(), args.cases.len(), args.level);
    Err(Failure::new(RUNNING, format!("{what}: {}", failed.join(", "))).with_hint(Some("each says why above".into())))
}

/// A case with everything that it promises.
fn open(path: &Path) -> Outcome<Case> {
    let case = Case::load(path)?;
    complete::check(&case)?;
    Ok(case)
}

/// Whether a case passes, which is told with the figures.
fn one(args: &ReplayArgs, case: &Arc<Case>, packs: &mut Packs<'_>) -> Outcome<bool> {
    let ledger: SharedLedger = Arc::default();
    let replay = Replay::prepare(args, case, packs, &ledger)?;
    let loaded = packs.loaded();
    replay.on_host(setup::networks(case, args.level, loaded, &ledger), &ledger)?;
    let on_device: SharedLedger = Arc::default();
    let card = match loaded.and_then(|loaded| Some((&loaded.shared, loaded.shared.queues()?))) {
        Some((shared, queues)) if args.level == Level::EndToEnd => Some(replay.on_device(queues, shared, &on_device)?),
        _ => None,
    };
    let mut ledger = lock(&ledger);
    let deviates = match case.bug {
        Some(bug) => Some(emulation::check(case, bug, args.level, &mut ledger)?),
        None => None,
    };
    let on_device = lock(&on_device);
    let card = card.map(|left_out| left_out.map_or(Ok(&*on_device), Err));
    Ok(report(args, case, (&ledger, card), deviates.as_ref()))
}

/// What a case with a defect of the reference must show.
pub(super) struct Deviation {
    /// Error of the defect's emulation against the recording: it must vanish, or the defect is not what we think.
    emulation: Option<f64>,
    /// How far our corrected outputs are from the recorded ones: they must differ.
    difference: f64,
}

/// What was found where frames stay on a card, or why the case cannot run there; `None` without a card.
type OnCard<'a> = Option<Result<&'a Ledger, String>>;

fn report(
    args: &ReplayArgs,
    case: &Case,
    (ledger, card): (&Ledger, OnCard<'_>),
    deviation: Option<&Deviation>,
) -> bool {
    let tolerance = Tolerance::of(args, case);
    let expects_pictures = args.level == Level::EndToEnd && case.bug.is_none();
    let mut passed = tolerance.admits(ledger, expects_pictures);
    if let Some(deviation) = deviation {
        // By the CPU's measure also where more is allowed: in f16 that would be more than some defects come to.
        passed &= deviation.difference > args.level.tolerance();
        passed &= deviation.emulation.is_none_or(|error| error <= Level::Arithmetic.tolerance());
    }
    let card_passed = card
        .as_ref()
        .is_none_or(|found| found.as_ref().map_or(true, |ledger| tolerance.admits(ledger, expects_pictures)));
    passed &= card_passed;
    if args.json {
        let mut all = found(ledger);
        let deviation = deviation
            .map(|deviation| json!({ "difference": deviation.difference, "emulation_error": deviation.emulation }));
        let on_card = card.map(|found_there| match found_there {
            Ok(ledger) => found(ledger),
            Err(why) => json!({ "left_out": why }),
        });
        let more = json!({
            "case": case.name,
            "level": args.level.to_string(),
            "provider": args.provider.to_string(),
            "precision": args.precision.to_string(),
            "passed": passed,
            "tolerance": tolerance.error,
            "reference_bug": deviation,
            "on_card": on_card,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
            all.extend(more);
        }
        say!("{all:#}");
        return passed;
    }
    say!("{} at the level {}: {}", case.name, args.level, if passed { "pass" } else { "FAIL" });
    say_found(ledger, tolerance.error);
    if let Some(Deviation { emulation, difference }) = deviation {
        say!("reference bug    ours differs by {difference:.2e}, as it must");
        if let Some(error) = emulation {
            say!("                 the bug emulated gives the recording to {error:.2e}");
        }
    }
    match card {
        Some(Ok(ledger)) => {
            say!("with frames that stay on the card: {}", if card_passed { "pass" } else { "FAIL" });
            say_found(ledger, tolerance.error);
        }
        Some(Err(why)) => say!("on the card      not run there: {why}"),
        None => {}
    }
    passed
}

/// The figures of a run, for programs.
fn found(ledger: &Ledger) -> Value {
    let (worst, tensor) = ledger.worst();
    json!({
        "worst_error": worst,
        "worst_tensor": tensor,
        "tensors_compared": ledger.compared,
        "bytes_compared": ledger.bytes.compared,
        "bytes_differing_share": ledger.byte_share(),
        "bytes_largest_difference": ledger.bytes.largest,
        "bytes_mean_difference": ledger.byte_mean(),
        "filter_decisions": ledger.decisions,
        "filter_decisions_differ": ledger.decisions_differ,
    })
}

/// The figures of a run, for people.
fn say_found(ledger: &Ledger, tolerance: f64) {
    let (worst, tensor) = ledger.worst();
    say!("worst error      {worst:.2e} in {tensor} (tolerance {tolerance:.0e}, {} tensors)", ledger.compared);
    if ledger.bytes.compared > 0 {
        say!(
            "picture bytes    {:.2e} of {} differ, by {} at most, by {:.2e} on average",
            ledger.byte_share(),
            ledger.bytes.compared,
            ledger.bytes.largest,
            ledger.byte_mean()
        );
    }
    if ledger.decisions > 0 {
        say!("filter           {} of {} decisions differ", ledger.decisions_differ, ledger.decisions);
    }
}
