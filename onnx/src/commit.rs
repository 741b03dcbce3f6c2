//! From a network to a session of ONNX Runtime's, by whatever its provider wants first.

use std::sync::Arc;

use livediffusion_pipeline::model::ModelError;
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};

use crate::assignment;
use crate::edits::{Nature, edited};
use crate::error::{OnnxError, is_full, one_line, run_error};
use crate::exclusive::TurnSession;
use crate::graph::TensorInfo;
use crate::provider::{
    Builder, Chosen, Compiled, EngineOptions, GpuSettings, Precision, Prepared, Provider, SessionSettings, builder,
    weights_beside,
};
use crate::runtime::Runtime;
use crate::session::Model;

/// A session, and what every call of it is told; `None` for nothing.
pub(crate) struct Committed {
    pub(crate) session: TurnSession,
    pub(crate) options: Option<Arc<RunOptions>>,
}

/// A network on its way.
struct Maker<'a> {
    runtime: &'a Runtime,
    label: &'a str,
    model: &'a Model<'a>,
    inputs: &'a [&'a TensorInfo],
    sides: &'a [(String, i64)],
    chosen: &'a Chosen,
    nature: Nature,
}

/// Makes the session. `inputs` are all inputs of the graph; `sides` of them are the same in every call, by the names that the graph
/// gives them.
pub(crate) fn commit(
    runtime: &Runtime,
    label: &str,
    (model, inputs, sides): (&Model<'_>, &[&TensorInfo], &[(String, i64)]),
    chosen: &Chosen,
    settings: &SessionSettings,
) -> Result<Committed, OnnxError> {
    let folded = edited(model, chosen, settings)?;
    let model = &folded.as_ref().map_or(*model, |bytes| Model::Edited(model.path(), bytes));
    let on_cuda = matches!(chosen.provider, Provider::Cuda | Provider::TensorRt);
    let nature = if on_cuda { Nature::of(model)? } else { Nature::default() };
    let maker = Maker { runtime, label, model, inputs, sides, chosen, nature };
    // Whoever captures nothing is not told to.
    let plain = SessionSettings { gpu: GpuSettings { graphs: false, ..settings.gpu }, ..*settings };
    match chosen.provider {
        Provider::Cuda if settings.gpu.graphs => maker.capturing(settings, &plain),
        Provider::TensorRt => maker.with_engines(&plain),
        Provider::TensorRtRtx => maker.compiled(&plain),
        _ => maker.make(&plain, &EngineOptions::default()).map_err(|e| maker.failed(&e)),
    }
}

impl Maker<'_> {
    fn failed(&self, error: &ort::Error) -> OnnxError {
        let doing = format!("loading {}", self.model.path().display());
        let Chosen { provider, precision, .. } = *self.chosen;
        let ModelError { what, hint } = run_error(self.label, provider.is_on_cuda(), &doing, error);
        let is_changed = precision == Precision::F16 && provider.takes_types_of_the_graph();
        let own = is_changed.then(|| "--precision f32 takes the network as it is".to_owned());
        OnnxError { hint: hint.or(own), ..OnnxError::failed(what) }
    }

    fn builder(&self, settings: &SessionSettings, engines: &EngineOptions) -> ort::Result<SessionBuilder> {
        let Chosen { provider, precision, .. } = *self.chosen;
        let of = Builder::new(provider, precision, settings).engines(engines.clone()).nature(self.nature);
        let named = builder(self.runtime, &of)?;
        self.sides.iter().try_fold(named, |builder, (name, side)| Ok(builder.with_dimension_override(name, *side)?))
    }

    fn session(&self, make: impl FnOnce() -> ort::Result<Session>) -> ort::Result<TurnSession> {
        TurnSession::make(self.chosen.provider, make)
    }

    /// A session of the network itself.
    fn make(&self, settings: &SessionSettings, engines: &EngineOptions) -> ort::Result<Committed> {
        let session = self.session(|| self.of_model(assignment::remember(self.builder(settings, engines)?)?))?;
        self.say_what_is_elsewhere(&session);
        Ok(Committed { session, options: None })
    }

    fn say_what_is_elsewhere(&self, session: &Session) {
        match assignment::of(session) {
            Ok(assignment) => {
                tracing::debug!(?assignment, "{} on {}", self.label, self.chosen.provider);
                if let Some(complaint) = assignment::complaint(&assignment, self.chosen.provider, self.label) {
                    tracing::warn!("{complaint}");
                }
            }
            Err(error) => tracing::debug!(%error, "it is not known what runs where"),
        }
    }

    fn of_model(&self, mut builder: SessionBuilder) -> ort::Result<Session> {
        match *self.model {
            Model::File(path) => builder.commit_from_file(path),
            Model::Edited(path, bytes) => weights_beside(builder, path)?.commit_from_memory(bytes),
        }
    }

    /// One that captures CUDA graphs, where all of the network is on the card.
    fn capturing(&self, settings: &SessionSettings, plain: &SessionSettings) -> Result<Committed, OnnxError> {
        match self.make(settings, &EngineOptions::default()) {
            Ok(Committed { session, .. }) => {
                let options = no_capture().map_err(|e| self.failed(&e))?;
                Ok(Committed { session, options: Some(Arc::new(options)) })
            }
            // Without a graph it needs as much.
            Err(error) if is_full(error.message()) => Err(self.failed(&error)),
            Err(error) => {
                // It says which: nodes that are not on the card, mostly.
                tracing::warn!("the {} runs without a CUDA graph: {}", self.label, one_line(error.message()));
                self.make(plain, &EngineOptions::default()).map_err(|e| self.failed(&e))
            }
        }
    }

    /// One of TensorRT's engines, which it keeps by itself.
    fn with_engines(&self, settings: &SessionSettings) -> Result<Committed, OnnxError> {
        let subject = (self.model, self.inputs, self.sides);
        let mut prepared = Prepared::new(self.runtime, self.label, subject, self.chosen, settings);
        let make = |prepared: &Prepared| self.make(settings, &prepared.options);
        let made = match make(&prepared) {
            Err(error) if is_of_the_engine(error.message()) && prepared.again(&one_line(error.message())) => {
                make(&prepared)
            }
            Err(error) if prepared.without_timings(&one_line(error.message())) => make(&prepared),
            made => made,
        };
        let made = made.map_err(|e| self.failed(&e))?;
        prepared.done();
        Ok(made)
    }

    /// One of what TensorRT for RTX compiled ahead. What does not load is compiled anew, once. It is kept from others until the session is
    /// made.
    fn compiled(&self, settings: &SessionSettings) -> Result<Committed, OnnxError> {
        let apart = SessionSettings { gpu: GpuSettings { stream: None, ..settings.gpu }, ..*settings };
        let subject = (self.model, self.inputs, self.sides);
        let builder = |engines: &EngineOptions| self.builder(&apart, engines);
        let load = |compiled: &Compiled| {
            self.session(|| {
                let mut builder = self.builder(settings, &compiled.options)?;
                match &compiled.model {
                    Some(path) => builder.commit_from_file(path),
                    // What it does not take would run on the CPU, between two copies.
                    None => self.of_model(builder.with_disable_cpu_fallback()?),
                }
            })
        };
        let mut found = Compiled::new(self.runtime, self.label, subject, (self.chosen, settings), builder)?;
        let session = match load(&found) {
            Err(error) if found.may_differ() && is_of_the_engine(error.message()) => {
                let why = one_line(error.message());
                tracing::warn!("the {} that was compiled does not load, and is compiled anew: {why}", self.label);
                found.again(self.label, self.model, builder)?;
                load(&found)
            }
            loaded => loaded,
        };
        Ok(Committed { session: session.map_err(|e| self.failed(&e))?, options: None })
    }
}

/// Calls on tensors of the host are no part of a CUDA graph.
fn no_capture() -> ort::Result<RunOptions> {
    let mut options = RunOptions::new()?;
    options.set("gpu_graph_id", "-1")?;
    Ok(options)
}

/// Whether an error is of an engine that was kept, and not of the card or its memory.
fn is_of_the_engine(text: &str) -> bool {
    let lower = text.to_lowercase();
    !is_full(text)
        && ["deserializ", "engine cache", "compiled model is not supported"].iter().any(|word| lower.contains(word))
}
