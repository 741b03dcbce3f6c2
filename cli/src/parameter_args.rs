//! Command line flags made from the parameter table: `--prompt`, `--t-index`, `--guidance` and all the others;
//! and `--preset`, which stands for several of them.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error, FromArgMatches, Id};
use livediffusion_pipeline::params::{Kind, PARAMETERS};

/// Name of the flag, and of the config file's key.
const PRESET: &str = "preset";

/// Heading of the flags in `--help`.
const HEADING: &str = "Parameters (the model may have other defaults: livediffusion models inspect)";

/// The preset and the parameters that were given on the command line, as (name, text).
#[derive(Clone, Debug, Default)]
pub(crate) struct ParameterArgs {
    pub(crate) preset: Option<String>,
    pub(crate) given: Vec<(&'static str, String)>,
}

/// Names of the flags that were given. Before all others among the fields of a command's arguments, which are taken one by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given(pub(crate) Vec<String>);

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let is_given = |id: &&Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        self.0 = matches.ids().filter(is_given).map(|id| id.as_str().replace('_', "-")).collect();
        Ok(())
    }
}

impl clap::Args for ParameterArgs {
    fn augment_args(command: Command) -> Command {
        let preset = Arg::new(PRESET)
            .long(PRESET)
            .value_name("NAME")
            .help("Values that the model recommends together (livediffusion models presets); other flags win over them")
            .help_heading(HEADING);
        PARAMETERS.iter().fold(command.arg(preset), |command, spec| {
            let default = if spec.default.is_empty() { "empty" } else { spec.default };
            let unit = if spec.unit.is_empty() { String::new() } else { format!(" {}", spec.unit) };
            let words = match spec.kind {
                Kind::Choice(words) => format!(" ({})", words.join(", ")),
                _ => String::new(),
            };
            let mut arg = Arg::new(spec.name)
                .long(spec.name)
                .value_name(spec.kind.placeholder())
                .help(format!("{}{words} [default: {default}{unit}]", spec.doc))
                .help_heading(HEADING)
                .allow_hyphen_values(spec.kind != Kind::Switch);
            if spec.kind == Kind::Switch {
                arg = arg.num_args(0..=1).default_missing_value("true");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ParameterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.preset = matches.get_one::<String>(PRESET).cloned();
        self.given = PARAMETERS
            .iter()
            .filter(|spec| matches.value_source(spec.name) == Some(ValueSource::CommandLine))
            .filter_map(|spec| Some((spec.name, matches.get_one::<String>(spec.name)?.clone())))
            .collect();
        Ok(())
    }
}
