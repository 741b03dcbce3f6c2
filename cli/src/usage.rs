//! Reads the command line, and says in two lines what is wrong with it.

use std::error::Error as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use livediffusion_onnx::OnnxError;

use crate::args::Cli;
use crate::failure::Failure;

/// The command line, or the exit code of what was printed instead: help, the version, or an error.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed pipe is all that can go wrong here.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(crate::failure::USAGE))
        }
        _ => failure(&error).report(),
    })
}

/// clap's message without its tips and usage, which become the hint.
fn failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let is_more = |line: &&str| !["tip:", "Usage:", "For more", "[possible"].iter().any(|word| line.starts_with(word));
    let message: Vec<&str> = text.lines().map(str::trim).take_while(is_more).filter(|line| !line.is_empty()).collect();
    let message = message.join(" ");
    Failure::usage(message.strip_prefix("error: ").unwrap_or(&message), hint(error))
}

fn hint(error: &clap::Error) -> String {
    // What the value's own type says, what clap guesses was meant, what there is, or how the command is used.
    if let Some(hint) = error.source().and_then(|e| e.downcast_ref::<OnnxError>()).and_then(|e| e.hint.clone()) {
        return hint;
    }
    for (kind, before) in [
        (ContextKind::SuggestedArg, "is it"),
        (ContextKind::SuggestedSubcommand, "is it"),
        (ContextKind::SuggestedValue, "is it"),
        (ContextKind::ValidValue, "it is one of"),
        (ContextKind::ValidSubcommand, "it is one of"),
    ] {
        let words = match error.get(kind) {
            Some(ContextValue::String(word)) => word.clone(),
            Some(ContextValue::Strings(words)) if !words.is_empty() => words.join(", "),
            _ => continue,
        };
        return format!("{before} {words}{}", if before == "is it" { "?" } else { "" });
    }
    match error.get(ContextKind::Usage) {
        Some(usage) => format!("{}; add --help for more", usage.to_string().replace("Usage: ", "use: ")),
        None => "the same command with --help says what it takes".into(),
    }
}
