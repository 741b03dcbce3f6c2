//! Networks that TensorRT for RTX compiled, on disk.
//!
//! It compiles a network in seconds to a minute, once for a card, and at every start anew unless it is given what came of it: an
//! ONNX model of one node, with the engine in a file beside it. What it makes of the engine on the card is kept by itself in a folder
//! there.

use std::io;
use std::path::{Path, PathBuf};

use ort::compiler::ModelCompiler;
use ort::session::builder::SessionBuilder;

use crate::error::{OnnxError, explained, one_line};
use crate::exclusive::making;
use crate::graph::{Graph, TensorInfo};
use crate::provider::engine_key::{Subject, hash_of, key, target, version_of};
use crate::provider::engines::Engines;
use crate::provider::options::EngineOptions;
use crate::provider::plugin::Plugin;
use crate::provider::profile::{is_open, profile};
use crate::provider::{Chosen, Provider, SessionSettings};
use crate::runtime::{Runtime, user_cache};
use crate::session::Model;

/// Its library under Linux. The plug-in brings it.
const LIBRARY: &str = "libtensorrt_rtx.so.1";

/// The model of one node.
const COMPILED: &str = "compiled.onnx";

/// Folders in which one is compiled begin with it.
const UNFINISHED: &str = ".compiling-";

/// Where TensorRT for RTX keeps what it makes on the card.
const ON_THE_CARD: &str = "card";

/// What a session is made of.
pub(crate) struct Compiled {
    /// In place of the network; `None` where there is nowhere to keep one, and the session compiles by itself.
    pub(crate) model: Option<PathBuf>,
    /// Whether it was there already.
    was_found: bool,
    pub(crate) options: EngineOptions,
    /// Nobody else builds while this is here.
    engines: Option<Engines>,
    /// The card, as the compiler names it.
    target: Option<String>,
}

/// Why a network was not compiled.
enum Failure {
    /// The compiler's word.
    Refused(String),
    /// The disk's.
    Kept(String),
}

impl Compiled {
    /// Compiles a network, or finds it compiled. `builder` gives what a session of it would be made with; `sides` of its inputs are the
    /// same in every call.
    ///
    /// # Errors
    /// Inputs with sides whose lengths are not known; a network that TensorRT does not take as a whole.
    pub(crate) fn new(
        runtime: &Runtime,
        label: &str,
        (model, inputs, sides): (&Model<'_>, &[&TensorInfo], &[(String, i64)]),
        (chosen, settings): (&Chosen, &SessionSettings),
        builder: impl Fn(&EngineOptions) -> ort::Result<SessionBuilder>,
    ) -> Result<Self, OnnxError> {
        let profile = chosen.provider.profile(settings).and_then(|extent| profile(inputs, sides, &extent));
        if let (None, Some(input)) = (&profile, inputs.iter().find(|input| is_open(input, sides))) {
            // It would build for anything from 0 to 32767, and best for 1.
            let what = format!("{label}: TensorRT for RTX has to be told how long the sides of {input} may be");
            return Err(OnnxError::invalid(what).hint("--provider cuda, or export the model with fixed sizes"));
        }
        let options = EngineOptions { profile, ..EngineOptions::default() };
        let subject = Subject { model, profile: options.profile.as_ref(), sides };
        let opened = open(runtime, label, subject, (chosen, settings));
        let mut compiled = Self { model: None, was_found: false, options, engines: None, target: None };
        match opened {
            Ok((engines, target)) => {
                compiled.was_found = engines.are_built();
                (compiled.engines, compiled.target) = (Some(engines), target);
                compiled.build(label, model, builder)?;
            }
            Err(reason) => compiled.give_up(label, &reason),
        }
        Ok(compiled)
    }

    /// Whether it may load once it is compiled anew: what was found may have been damaged or of another time, and what was compiled for
    /// a card of a name may not be for this one.
    pub(crate) fn may_differ(&self) -> bool {
        self.was_found || (self.model.is_some() && self.target.is_some())
    }

    /// Compiles anew what does not load, unless somebody else did meanwhile. The card itself is asked this time.
    pub(crate) fn again(
        &mut self,
        label: &str,
        model: &Model<'_>,
        builder: impl Fn(&EngineOptions) -> ort::Result<SessionBuilder>,
    ) -> Result<(), OnnxError> {
        self.target = None;
        match self.engines.as_mut().map(Engines::reopen) {
            Some(Err(error)) => self.give_up(label, &error.to_string()),
            Some(Ok(())) => self.build(label, model, builder)?,
            None => {}
        }
        Ok(())
    }

    /// Compiles what is not there, and says where it is.
    fn build(
        &mut self,
        label: &str,
        model: &Model<'_>,
        builder: impl Fn(&EngineOptions) -> ort::Result<SessionBuilder>,
    ) -> Result<(), OnnxError> {
        let Some(engines) = &mut self.engines else { return Ok(()) };
        let built = if engines.are_built() {
            Ok(())
        } else {
            // As a warning, since those are shown without being asked for.
            tracing::warn!("compiling the {label} for this card, takes up to minutes once");
            let options = EngineOptions { target: self.target.clone(), ..self.options.clone() };
            compile(model, engines, || builder(&options))
        };
        let folder = engines.folder().to_owned();
        match built {
            Ok(()) => {
                self.options.engines = folder.join(ON_THE_CARD).to_str().map(str::to_owned);
                self.model = Some(folder.join(COMPILED));
                Ok(())
            }
            Err(Failure::Kept(reason)) => {
                self.give_up(label, &reason);
                Ok(())
            }
            Err(Failure::Refused(reason)) => {
                let hint = explained(label, true, "compiling", &reason).hint.unwrap_or_else(|| {
                    format!("--provider cuda takes other networks; or is there no room left at {}?", folder.display())
                });
                Err(OnnxError::failed(format!("TensorRT for RTX does not compile the {label}: {reason}")).hint(hint))
            }
        }
    }

    fn give_up(&mut self, label: &str, reason: &str) {
        tracing::warn!("the {label} is compiled at every start, since that cannot be kept: {reason}");
        (self.model, self.engines, self.was_found) = (None, None, false);
    }
}

fn kept(path: &Path, error: &io::Error) -> Failure {
    Failure::Kept(format!("{}: {error}", path.display()))
}

/// The folder for a network on the card of the settings, and the card as the compiler names it.
fn open(
    runtime: &Runtime,
    label: &str,
    subject: Subject<'_>,
    (chosen, settings): (&Chosen, &SessionSettings),
) -> Result<(Engines, Option<String>), String> {
    let cache = user_cache().ok_or("there is no cache folder")?;
    let plugin = Plugin::of(Provider::TensorRtRtx);
    let library = plugin.and_then(|plugin| Some((plugin, plugin.library(runtime.path())?)));
    let (mut version, mut card) = (String::new(), None);
    if let Some((plugin, library)) = library {
        plugin.load(runtime.environment(), &library).map_err(|e| e.to_string())?;
        // That of one CUDA has the size of another's.
        let bytes = std::fs::read(&library).map_err(|e| format!("{}: {e}", library.display()))?;
        version = hash_of(&bytes);
        // Built in it has no such option.
        card = target(settings)?;
    }
    // Elsewhere the library has another name; the plug-in's hash names it as well.
    version += &version_of(LIBRARY).unwrap_or_default();
    let key = key(runtime, subject, (chosen, settings), version)?;
    let engines = Engines::open(&cache.join("tensorrt-rtx"), &key, label).map_err(|e| e.to_string())?;
    Ok((engines, card))
}

/// Compiles into a folder of its own, and puts what came of it in place of what there is.
fn compile(
    model: &Model<'_>,
    engines: &mut Engines,
    builder: impl Fn() -> ort::Result<SessionBuilder>,
) -> Result<(), Failure> {
    engines.clear_unfinished();
    let folder = engines.folder().to_owned();
    let work = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&folder).map_err(|e| kept(&folder, &e))?;
    let file = work.path().join(COMPILED);
    let made = {
        let _making = making(Provider::TensorRtRtx);
        builder().and_then(|builder| {
            let compiler = match *model {
                Model::File(path) => ModelCompiler::new(builder)?.with_model_from_file(path)?,
                Model::Edited(path, bytes) => {
                    ModelCompiler::new(weights_beside(builder, path)?)?.with_model_from_memory(bytes)?
                }
            };
            compiler.compile_to_file(&file)
        })
    };
    made.map_err(|e| Failure::Refused(one_line(e.message())))?;
    is_whole(&file).map_err(Failure::Refused)?;
    engines.clear().map_err(|e| kept(&folder, &e))?;
    let files = std::fs::read_dir(work.path()).map_err(|e| kept(work.path(), &e))?;
    for path in files.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        std::fs::rename(&path, folder.join(name)).map_err(|e| kept(&path, &e))?;
    }
    engines.seal().map_err(|e| kept(&folder, &e))
}

/// For a model in memory, whose weights in files of their own are found relative to where it came from.
pub(crate) fn weights_beside(builder: SessionBuilder, path: &Path) -> ort::Result<SessionBuilder> {
    let folder = path.parent().unwrap_or(path).to_string_lossy();
    Ok(builder.with_config_entry("session.model_external_initializers_file_folder_path", folder)?)
}

/// What is left over would run on the CPU, between two copies.
fn is_whole(file: &Path) -> Result<(), String> {
    let graph = Graph::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    match &graph.nodes[..] {
        [node] if node.op_type == "EPContext" => Ok(()),
        nodes => {
            let mut left: Vec<&str> =
                nodes.iter().map(|node| &node.op_type[..]).filter(|op| *op != "EPContext").collect();
            left.sort_unstable();
            left.dedup();
            Err(format!("it does not take {}", left.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use prost::Message as _;

    use super::*;
    use crate::graph::proto::{ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
    use crate::pack::{Pack, PartName, committed};
    use crate::provider::{Extent, Precision, ProviderChoice};
    use crate::runtime::Libraries;
    use crate::session::Network;
    use crate::text::OnnxText;
    use crate::unet::OnnxUnet;
    use crate::vae::{OnnxDecoder, OnnxEncoder};

    #[test]
    fn a_network_that_is_not_taken_as_a_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(COMPILED);
        let whole = |ops: &[&str]| {
            let nodes = ops.iter().map(|op| NodeProto::new(op, &["x"], &["y"])).collect();
            let port = |name| vec![ValueInfoProto::tensor(name, 1, &["1"])];
            std::fs::write(&file, ModelProto::bytes(nodes, port("x"), port("y"))).unwrap();
            is_whole(&file)
        };
        whole(&["EPContext"]).unwrap();
        assert_eq!(
            whole(&["EPContext", "Loop", "Loop", "EPContext", "Det"]).unwrap_err(),
            "it does not take Det, Loop"
        );
        assert!(whole(&["EPContext", "EPContext"]).is_err());
        assert!(is_whole(folder.path()).is_err());
    }

    /// Size and time of every file in the folders of the networks.
    fn kept(root: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let files = entries
            .filter(|path| path.is_dir())
            .flat_map(|folder| std::fs::read_dir(folder).unwrap().filter_map(Result::ok));
        let about = |file: std::fs::DirEntry| (file.path(), file.metadata().unwrap());
        files.map(about).map(|(path, about)| (path, (about.len(), about.modified().unwrap()))).collect()
    }

    const PROVIDER: ProviderChoice = ProviderChoice::Fixed(Provider::TensorRtRtx);

    /// TensorRT for RTX itself, which compiles without a card where it finds what looks like one (tools/gpu/null/rtx.sh). A session of
    /// what it compiled cannot be made there.
    fn rtx() -> Option<(Runtime, Chosen)> {
        // With a cache of its own: what is in it is removed.
        if ["LIVEDIFFUSION_NULL_RTX", "LIVEDIFFUSION_CACHE"].iter().any(|name| std::env::var_os(name).is_none()) {
            println!("skipped: no TensorRT for RTX on what looks like a card (make test-cuda)");
            return None;
        }
        let runtime = Runtime::load_with(&Libraries { provider: PROVIDER, ..Libraries::default() }).unwrap();
        assert!(runtime.compiled_providers().contains(&Provider::TensorRtRtx), "{}", runtime.path().display());
        Some((runtime, Chosen { provider: Provider::TensorRtRtx, precision: Precision::F32, why: String::new() }))
    }

    #[test]
    fn fused_attention_is_compiled_and_what_it_lacks_is_named_on_rtx() {
        let Some((runtime, chosen)) = rtx() else { return };
        let load = |nodes: Vec<NodeProto>, [of_x, of_y]: [&[&str]; 2]| {
            let port = |name, sides| vec![ValueInfoProto::tensor(name, 1, sides)];
            let mut model = ModelProto::new(nodes, port("x", of_x), port("y", of_y));
            model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".to_owned(), version: 1 });
            let folder = tempfile::tempdir().unwrap();
            let (path, bytes) = (folder.path().join("model.onnx"), model.encode_to_vec());
            let graph = Graph::from_bytes(&bytes).unwrap();
            let io = (&[&graph.inputs[0]][..], &[&graph.outputs[0]][..]);
            let settings = SessionSettings { provider: PROVIDER, ..SessionSettings::default() };
            let loaded = Network::load(&runtime, "network", &Model::Edited(&path, &bytes), io, &chosen, &settings);
            loaded.err().expect("a session is made without a card").to_string()
        };
        let mut attention = NodeProto::new("MultiHeadAttention", &["q", "k", "v"], &["y"]).with_int("num_heads", 4);
        attention.domain = "com.microsoft".to_owned();
        let one = |op: &str, to: &str| NodeProto::new(op, &["x"], &[to]);
        let root = user_cache().unwrap().join("tensorrt-rtx");
        let compiled = || kept(&root).keys().filter(|path| path.ends_with(COMPILED)).count();
        let before = compiled();
        let said = load(vec![one("Relu", "q"), one("Neg", "k"), one("Abs", "v"), attention], [&["2", "16", "32"]; 2]);
        assert!(said.contains("does not compile the network") && !said.contains("does not take"), "{said}");
        assert_eq!(compiled(), before + 1);
        let said = load(vec![one("Det", "y")], [&["2", "16", "16"], &["2"]]);
        assert!(said.contains("TensorRT for RTX does not compile the network: it does not take Det"), "{said}");
        // A side whose length nobody told.
        let said = load(vec![one("Relu", "y")], [&["2", "some", "32"]; 2]);
        assert!(said.contains("how long the sides of x"), "{said}");
        assert_eq!(compiled(), before + 1);
    }

    /// Has every network of a pack compiled: how many there are, and their files.
    fn compile_all(runtime: &Runtime, pack: &Pack, chosen: &Chosen) -> (usize, BTreeMap<PathBuf, (u64, SystemTime)>) {
        let name = pack.dir.display();
        let root = user_cache().unwrap().join("tensorrt-rtx");
        let settings = settings_for(pack);
        let part = |part| pack.part(part).unwrap_or_else(|| panic!("{name} has no {part}"));
        let load = || {
            let encoder = (part(PartName::VaeEncoder), pack.vae_kind.unwrap());
            let encoder = OnnxEncoder::load(runtime, pack, encoder, chosen, &settings);
            let decoder = OnnxDecoder::load(runtime, pack, part(PartName::VaeDecoder), chosen, &settings);
            let unet = OnnxUnet::load(runtime, pack, chosen, &settings);
            let mut errors = vec![encoder.err(), decoder.err(), unet.err()];
            // Each on its own: after the first that fails the second would not be tried.
            for text in &pack.text {
                let pack = Pack { text: vec![text.clone()], ..pack.clone() };
                errors.push(OnnxText::load(runtime, &pack, chosen, &settings).err());
            }
            errors
        };
        let _ = std::fs::remove_dir_all(&root);
        let errors = load();
        let compiled = kept(&root);
        let networks = errors.len();
        for error in errors {
            // What was compiled for a card of that name does not load on none, and then the card itself is asked.
            let error = error.expect("a session is made without a card").to_string();
            assert!(error.contains("TensorRT for RTX does not compile"), "{name}: {error}");
        }
        let count = |end: &str| compiled.keys().filter(|path| path.to_string_lossy().ends_with(end)).count();
        assert_eq!([count(COMPILED), count(".engine"), count("sealed.txt")], [networks; 3], "{name}: {compiled:#?}");
        // What there is stays until there is something else.
        load();
        assert_eq!(kept(&root), compiled, "{name}: compiled twice, or removed");
        (networks, compiled)
    }

    fn settings_for(pack: &Pack) -> SessionSettings {
        let (tokens, factor) = (pack.prompt_length, pack.vae_factor);
        let extent =
            Extent { width: 512, height: 320, most_side: 1024, frames: 1, rows: 1, most_rows: 8, tokens, factor };
        SessionSettings { provider: PROVIDER, extent: Some(extent), ..SessionSettings::default() }
    }

    #[test]
    fn every_network_is_compiled_as_a_whole_and_once_on_rtx() {
        let Some((runtime, chosen)) = rtx() else { return };
        for folder in committed() {
            let (pack, name) = (Pack::open(&folder).unwrap(), folder.display());
            let settings = settings_for(&pack);
            let (networks, compiled) = compile_all(&runtime, &pack, &chosen);
            // Found, and not compiled again.
            for part in
                [PartName::VaeEncoder, PartName::VaeDecoder, PartName::Unet].map(|part| pack.part(part).unwrap())
            {
                let (model, inputs) = (Model::File(&part.file), part.inputs.iter().collect::<Vec<_>>());
                let of = (&model, &inputs[..], &[][..]);
                let builder = |_: &EngineOptions| unreachable!("it is compiled again");
                let found = Compiled::new(&runtime, "network", of, (&chosen, &settings), builder).unwrap();
                assert!(found.was_found && compiled.contains_key(&found.model.unwrap()));
            }
            // Two tell of all operators: what f16 changes is the same in each.
            if !["default", "tiny-sdxlturbo"].iter().any(|tried| folder.ends_with(tried)) {
                println!("{name}: {networks} networks");
                continue;
            }
            let half = Chosen { precision: Precision::F16, ..chosen.clone() };
            let (_, halved) = compile_all(&runtime, &pack, &half);
            let bytes = |of: &BTreeMap<PathBuf, (u64, SystemTime)>| of.values().map(|(bytes, _)| bytes).sum::<u64>();
            println!("{name}: {networks} networks, {} bytes in f32, {} in f16", bytes(&compiled), bytes(&halved));
            assert!(bytes(&halved) < bytes(&compiled), "{name}: in f16 it is as large");
        }
    }
}
