//! `livediffusion unet-server`: a model's U-Net for streams on other machines.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use livediffusion_pipeline::params::Parameters;
use livediffusion_remote::serve::{Offer, UnetServer};
use livediffusion_session::{OpenPack, load_unet, parameters};

use crate::args::UnetServerArgs;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::listen;

pub(crate) fn command(args: &UnetServerArgs) -> Outcome<()> {
    if !args.model.unet_server.is_empty() {
        let what = "a server that has its own U-Net on a server would only pass calls on";
        return Err(Failure::usage(what, "give streams the other server's address: run --unet-server ADDRESS"));
    }
    let mut open = OpenPack::open(&args.model)?;
    // What most streams will ask for.
    let usual = parameters(&open.pack, None, &[])?;
    let parameters = Parameters { size: args.size.or(usual.size), ..usual };
    let size = open.size(&parameters);
    open.facts.latent_shape(size)?;
    let most_rows = usize::from(args.max_rows);
    open.expect_rows(&parameters, size, most_rows);
    let token = listen::token_for(args.bind, args.token.as_deref())?;
    let tls = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let scheme = if tls.is_some() { "grpcs" } else { "grpc" };
    // Before the network is loaded, which may take minutes.
    let server = UnetServer::bind(args.bind, tls)?;
    let loaded = load_unet(&args.model, &open)?;
    let offer = Offer {
        name: args.name.clone(),
        unet: loaded.unet,
        runs_on: format!("{} {}", loaded.provider, loaded.precision),
        pack: open.pack,
        profile: loaded.profile,
        most_rows,
        most_side: usize::from(args.max_size).max(size.width).max(size.height),
        token: token.clone(),
    };
    let (stop, is_told) = (server.stopper(), AtomicBool::new(false));
    let handler = move || {
        if is_told.swap(true, Ordering::Relaxed) {
            #[allow(clippy::exit, reason = "the user asked twice")]
            std::process::exit(130);
        }
        let _ = writeln!(std::io::stderr(), "\nending");
        stop.stop();
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(RUNNING, format!("cannot catch Ctrl-C: {error}")))?;
    let before = token.map(|token| format!("{token}@")).unwrap_or_default();
    for address in listen::addresses(server.local_addr()) {
        say!("{scheme}://{before}{address}/{}", args.name);
    }
    crate::say::finish()?;
    let counts = server.serve(offer)?;
    tracing::info!("{} calls of clients, {} of the network with {} rows", counts.requests, counts.calls, counts.rows);
    Ok(())
}
