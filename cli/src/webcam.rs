//! `livediffusion webcam`: a page on which visitors see themselves repainted.

use std::io::Write;
use std::sync::Arc;

use livediffusion_onnx::{LoadedPack, Preset};
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::{PARAMETERS, Parameters};
use livediffusion_session::{OpenPack, Session, painter_of, text_of};
use livediffusion_web::{Address, Server, Studio, WebError};

use crate::args::WebcamArgs;
use crate::config;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::listen;

/// Threads that serve connections. Pictures are painted elsewhere: two keep a slow handshake from holding up frames.
const THREADS: usize = 2;

/// Longest side that visitors may ask for where nothing says so: of what current models were trained on. At 8192, the most that
/// a parameter takes, one visitor would keep the machine busy for minutes with a frame.
const MAX_SIDE: usize = 1024;

pub(crate) fn command(args: &WebcamArgs) -> Outcome<()> {
    let file = config::config_file(args.config.as_deref())?;
    let mut model = args.model.clone();
    let mut flags = args.parameters.clone();
    file.complete_model(&mut model, &mut flags)?;
    let mut open = OpenPack::open(&model)?;
    let parameters = config::parameters(&open.pack, &file, &flags)?;
    let size = open.size(&parameters);
    open.facts.latent_shape(size)?;
    open.facts.check(&parameters)?;
    if open.pack.vae_kind.is_none() {
        let what = format!("{} has no vae_encoder/: it cannot repaint pictures", open.folder.display());
        return Err(Failure::usage(what, "add the VAE encoder to the pack, or give another --model"));
    }
    let max_side = max_side(args.max_size, size)?;
    let token = listen::token_for(args.bind, args.token.as_deref())?;
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let address = Address { bind: args.bind, token: token.clone(), stun_server: args.stun_server.clone(), tls };
    open.expect(&parameters, size);
    let servers = open.servers().cloned();
    let session = Session::load(&model, open, model.lanes.map_or(1, usize::from))?;
    let studio = studio(session, parameters, size, max_side);

    let stop = Arc::new(tokio::sync::Notify::new());
    let raised = Arc::clone(&stop);
    let handler = move || {
        let _ = writeln!(std::io::stderr(), "\nending");
        raised.notify_one();
        // Whoever waits for one would hold up the end.
        if let Some(servers) = &servers {
            servers.give_up();
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(RUNNING, format!("cannot catch Ctrl-C: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(WebError::Threads)?.block_on(async {
        let server = Server::bind(&address, studio, usize::from(args.max_sessions)).await?;
        let local = server.local_addr().map_err(|error| WebError::Bind(args.bind, error))?;
        let scheme = if address.tls.is_some() { "https" } else { "http" };
        let query = token.map(|token| format!("?token={token}")).unwrap_or_default();
        for address in listen::addresses(local) {
            say!("{scheme}://{address}/{query}");
        }
        crate::say::finish()?;
        server.serve(stop.notified()).await;
        Ok(())
    })
}

/// The longest side that visitors may ask for: no less than what they begin with.
fn max_side(given: Option<u16>, size: Size) -> Outcome<usize> {
    let least = size.width.max(size.height);
    match given.map(usize::from) {
        None => Ok(least.max(MAX_SIDE)),
        Some(given) if given >= least => Ok(given),
        Some(given) => {
            let what = format!("--max-size {given} is less than the pictures' own size, {size}");
            Err(Failure::usage(what, format!("give {least} or more, or a smaller --size")))
        }
    }
}

/// The loaded model as the server needs it.
fn studio(session: Session, defaults: Parameters, size: Size, max_side: usize) -> Studio {
    let timestep_cond_width = session.loaded.networks.denoiser.timestep_cond_width();
    let provider = session.runs_on();
    let Session { open, loaded, .. } = session;
    let LoadedPack { shared, text, precision, .. } = loaded;
    let name = open.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let facts = open.facts.clone();
    Studio {
        model: name,
        provider,
        precision: precision.to_string(),
        facts: open.facts,
        size,
        max_side,
        defaults,
        presets: open.pack.presets.iter().map(preset).collect(),
        text,
        timestep_cond_width,
        make_painter: Box::new(move |size, control| painter_of(&shared, &facts, size, control)),
    }
}

fn preset(preset: &Preset) -> livediffusion_web::Preset {
    let text = |(key, value): (&String, &toml::Value)| (key.replace('_', "-"), text_of(value));
    let known = |(name, _): &(String, String)| PARAMETERS.iter().any(|spec| spec.name == name);
    livediffusion_web::Preset {
        name: preset.name.clone(),
        prompt: preset.prompt.clone(),
        parameters: preset.parameters.iter().map(text).filter(known).collect(),
    }
}
