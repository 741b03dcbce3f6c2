//! Parameters and options from all their sources: the table's defaults, the pack and its preset, the config file, the flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use livediffusion_onnx::Pack;
use livediffusion_pipeline::params::{PARAMETERS, Parameters, spec};
use livediffusion_session::{Layer, ModelOptions, text_of};
use serde::Deserialize;

#[cfg(feature = "media")]
use crate::args::RunArgs;
use crate::args::is_duration;
use crate::failure::{Failure, Outcome, USAGE};
use crate::parameter_args::ParameterArgs;

/// Options of a config file that are not parameters; they have the names of their flags.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Options {
    input: Option<String>,
    output: Option<OneOrMore>,
    record: Option<PathBuf>,
    model: Option<PathBuf>,
    preset: Option<String>,
    provider: Option<String>,
    precision: Option<String>,
    threads: Option<u16>,
    lanes: Option<u8>,
    ort_lib: Option<PathBuf>,
    openvino_device: Option<String>,
    gpu: Option<u32>,
    tf32: Option<bool>,
    cuda_lib_dir: Option<PathBuf>,
    cuda_graph: Option<bool>,
    vae_streams: Option<bool>,
    cudnn_search: Option<String>,
    channels_last: Option<bool>,
    frames_on_host: Option<bool>,
    unet_server: Option<OneOrMore>,
    fit: Option<String>,
    control: Option<String>,
    retry: Option<toml::Value>,
    #[serde(rename = "loop")]
    looped: Option<bool>,
    frames: Option<u64>,
    duration: Option<f64>,
}

/// A text or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings is needed")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::More(texts) => texts.clone(),
        }
    }
}

const OPTIONS: [&str; 26] = [
    "input",
    "output",
    "record",
    "model",
    "preset",
    "provider",
    "precision",
    "threads",
    "lanes",
    "ort-lib",
    "openvino-device",
    "gpu",
    "tf32",
    "cuda-lib-dir",
    "cuda-graph",
    "vae-streams",
    "cudnn-search",
    "channels-last",
    "frames-on-host",
    "unet-server",
    "fit",
    "control",
    "retry",
    "loop",
    "frames",
    "duration",
];

/// A config file, split into options and parameters.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    options: Options,
    parameters: Vec<(String, String)>,
    /// The options as text, by their flags' names.
    texts: BTreeMap<String, String>,
    path: PathBuf,
}

impl ConfigFile {
    /// The options that the file sets, which a start takes, with the preset among them.
    #[cfg(feature = "media")]
    pub(crate) const fn options(&self) -> &BTreeMap<String, String> {
        &self.texts
    }

    /// The parameters that the file sets, as (name, text).
    pub(crate) fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Reads a file, naming what it does not know.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let bad = |what: String| {
            let hint = "its keys are the names of the flags of livediffusion run".to_owned();
            Failure::usage(format!("config file {}: {what}", path.display()), hint)
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            bad(format!("line {line}: {}", error.message()))
        })?;
        let (mut options, mut parameters, mut texts) = (toml::Table::new(), Vec::new(), BTreeMap::new());
        for (key, value) in table {
            let name = key.replace('_', "-");
            if OPTIONS.contains(&name.as_str()) {
                let alone: Result<Options, _> = toml::Table::from_iter([(name.clone(), value.clone())]).try_into();
                alone.map_err(|error| bad(format!("{key}: {}", error.message())))?;
                texts.insert(name.clone(), text_of(&value));
                options.insert(name, value);
            } else if spec(&name).is_some() {
                parameters.push((name, text_of(&value)));
            } else {
                return Err(bad(format!("there is no setting {key:?}")));
            }
        }
        let options: Options = options.try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
        // What the flags' own parsers refuse.
        for (wrong, what) in [
            (options.threads.is_some_and(|n| !(1..=1024).contains(&n)), "threads: a number from 1 to 1024 is needed"),
            (options.lanes.is_some_and(|n| !(1..=64).contains(&n)), "lanes: a number from 1 to 64 is needed"),
            (options.frames == Some(0), "frames: a number over 0 is needed"),
            (options.duration.is_some_and(|s| !is_duration(s)), "duration: a number of seconds over 0 is needed"),
        ] {
            if wrong {
                return Err(bad(what.to_owned()));
            }
        }
        Ok(Self { options, parameters, texts, path: path.to_path_buf() })
    }

    /// Fills in what the flags left open.
    #[cfg(feature = "media")]
    pub(crate) fn complete(&self, args: &mut RunArgs) -> Outcome<()> {
        self.complete_model(&mut args.model, &mut args.parameters)?;
        let Options { input, output, record, fit, control, retry, looped, frames, duration, .. } = &self.options;
        fill(&mut args.input, input.as_ref());
        if args.output.is_empty() {
            args.output = output.as_ref().map(OneOrMore::all).unwrap_or_default();
        }
        fill(&mut args.record, record.as_ref());
        fill(&mut args.control, control.as_ref());
        args.looped |= looped.unwrap_or(false);
        fill(&mut args.frames, frames.as_ref());
        fill(&mut args.duration, duration.as_ref());
        let retry = retry.as_ref().map(text_of);
        fill(&mut args.retry, self.parse("retry", retry.as_deref())?.as_ref());
        fill(&mut args.fit, self.parse("fit", fit.as_deref())?.as_ref());
        Ok(())
    }

    /// Of these, what says which model runs on what, and the preset.
    pub(crate) fn complete_model(&self, args: &mut ModelOptions, parameters: &mut ParameterArgs) -> Outcome<()> {
        let Options { model, preset, provider, precision, threads, lanes, ort_lib, openvino_device, gpu, .. } =
            &self.options;
        let Options {
            tf32,
            cuda_lib_dir,
            cuda_graph,
            vae_streams,
            cudnn_search,
            channels_last,
            frames_on_host,
            unet_server,
            ..
        } = &self.options;
        fill(&mut args.model, model.as_ref());
        fill(&mut parameters.preset, preset.as_ref());
        fill(&mut args.threads, threads.as_ref());
        fill(&mut args.lanes, lanes.as_ref());
        fill(&mut args.ort_lib, ort_lib.as_ref());
        fill(&mut args.gpu, gpu.as_ref());
        fill(&mut args.cuda_lib_dir, cuda_lib_dir.as_ref());
        args.tf32 |= tf32.unwrap_or(false);
        args.cuda_graph |= cuda_graph.unwrap_or(false);
        args.vae_streams |= vae_streams.unwrap_or(false);
        args.channels_last |= channels_last.unwrap_or(false);
        args.frames_on_host |= frames_on_host.unwrap_or(false);
        fill(&mut args.cudnn_search, self.parse("cudnn-search", cudnn_search.as_deref())?.as_ref());
        if args.unet_server.is_empty() {
            args.unet_server = unet_server.as_ref().map(OneOrMore::all).unwrap_or_default();
        }
        let device = self.parse("openvino-device", openvino_device.as_deref())?;
        fill(&mut args.openvino_device, device.as_ref());
        fill(&mut args.provider, self.parse("provider", provider.as_deref())?.as_ref());
        fill(&mut args.precision, self.parse("precision", precision.as_deref())?.as_ref());
        Ok(())
    }

    fn parse<T: std::str::FromStr>(&self, name: &str, text: Option<&str>) -> Outcome<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        let parsed = text.map(str::parse).transpose();
        parsed.map_err(|error: T::Err| {
            Failure::new(USAGE, format!("config file {}: {name}: {error}", self.path.display()))
        })
    }
}

fn fill<T: Clone>(flag: &mut Option<T>, file: Option<&T>) {
    if flag.is_none() {
        *flag = file.cloned();
    }
}

/// The parameters: the table's defaults, then the pack's, then the preset's, then the config file's, then the flags'.
pub(crate) fn parameters(pack: &Pack, file: &ConfigFile, flags: &ParameterArgs) -> Outcome<Parameters> {
    debug_assert!(PARAMETERS.iter().all(|spec| !OPTIONS.contains(&spec.name)), "a flag would mean two things");
    let of_file = Layer { origin: format!("config file {}", file.path.display()), values: file.parameters.clone() };
    let given = flags.given.iter().map(|(name, text)| ((*name).to_owned(), text.clone()));
    let of_flags = Layer { origin: String::new(), values: given.collect() };
    Ok(livediffusion_session::parameters(pack, flags.preset.as_deref(), &[of_file, of_flags])?)
}

/// Reads the config file if one was named.
pub(crate) fn config_file(path: Option<&Path>) -> Outcome<ConfigFile> {
    path.map_or_else(|| Ok(ConfigFile::default()), ConfigFile::read)
}

#[cfg(test)]
mod tests {
    use livediffusion_onnx::Preset;

    use super::*;

    fn default_pack() -> Pack {
        Pack::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")).unwrap()
    }

    /// What the layers make of guidance, prompt and t-index, with a preset that changes the first two.
    fn layered(file: &str, flags: &[(&'static str, &str)]) -> Parameters {
        let mut pack = default_pack();
        pack.defaults = "guidance = 1.1\nt-index = [40]\nprompt = 'of the pack'".parse().unwrap();
        pack.presets = vec![Preset {
            name: "loud".into(),
            prompt: "of the preset".into(),
            parameters: "guidance = 1.2\nt_index = [32, 45]".parse().unwrap(),
        }];
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let given = flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let flags = ParameterArgs { preset: Some("loud".into()), given };
        parameters(&pack, &ConfigFile::read(path.path()).unwrap(), &flags).unwrap()
    }

    #[test]
    fn a_preset_lies_above_the_pack_and_below_the_file_and_the_flags() {
        let preset = layered("", &[]);
        assert_eq!(
            (preset.guidance, preset.prompt.as_str(), &preset.t_index[..]),
            (1.2, "of the preset", &[32, 45][..])
        );
        let file = layered("guidance = 1.3", &[]);
        assert_eq!((file.guidance, file.prompt.as_str()), (1.3, "of the preset"));
        let flag = layered("guidance = 1.3", &[("guidance", "1.4"), ("prompt", "of the flag")]);
        assert_eq!((flag.guidance, flag.prompt.as_str()), (1.4, "of the flag"));
    }

    #[test]
    fn every_preset_of_the_default_pack_is_valid() {
        let pack = default_pack();
        assert!(pack.presets.len() >= 20);
        for preset in &pack.presets {
            let flags = ParameterArgs { preset: Some(preset.name.clone()), given: Vec::new() };
            let parameters = parameters(&pack, &ConfigFile::default(), &flags).unwrap();
            assert_eq!(parameters.prompt, preset.prompt);
            assert!(preset.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", preset.name);
        }
    }

    #[test]
    fn an_unknown_preset_names_those_there_are() {
        let flags = ParameterArgs { preset: Some("oil".into()), given: Vec::new() };
        let failure = parameters(&default_pack(), &ConfigFile::default(), &flags).unwrap_err();
        assert!(failure.hint().unwrap().contains("oil-painting"), "{failure:?}");
    }
}
