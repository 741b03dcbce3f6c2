//! `livediffusion models pull`: a pack from a Hugging Face repository into the user's cache.

use std::path::Path;

use livediffusion_onnx::Pack;

use crate::args::PullArgs;
use crate::failure::{Failure, MISSING, Outcome, RUNNING};
use crate::hub::{Client, Download, Environment, RemoteFile, RepoCache, Wanted, checked_revision, no_pack, room};
use crate::progress::Progress;

/// The branch that is meant where none is named.
const MAIN: &str = "main";

pub(super) fn command(args: &PullArgs) -> Outcome<()> {
    let environment = Environment::read()?;
    let wanted = Wanted::parse(&args.source, &environment.endpoint)?;
    let revision = args.revision.as_deref().or(wanted.revision.as_deref()).unwrap_or(MAIN);
    let revision = checked_revision(revision)?;
    let cache = RepoCache::new(&environment.cache, &wanted.repo);
    if let Some(known) = wanted.known {
        say!("{} is {} (not verified: {})", known.name, wanted.repo, known.note);
    }
    if args.offline || environment.offline {
        return offline(&wanted, revision, &cache);
    }

    let client = Client::new(&environment, args.retries);
    // A server that is away is asked several times, for a quarter of a minute.
    let asking = Progress::waiting(format!("asking {} for {}", client.host(), wanted.repo));
    let listing = client.list(&wanted.repo, revision);
    asking.finish();
    let listing = listing?;
    if let Some(missing) = listing.missing() {
        return Err(no_pack(&wanted.repo, &listing.commit, missing, wanted.known.map(|known| known.original)));
    }
    // One content may have two names.
    let mut left: Vec<&RemoteFile> = Vec::new();
    for file in &listing.files {
        if (args.force || !cache.has(file)) && !left.iter().any(|other| cache.same(other, file)) {
            left.push(file);
        }
    }
    let size = |files: &mut dyn Iterator<Item = u64>| files.fold(0, u64::saturating_add);
    let all = size(&mut listing.files.iter().map(|file| file.size));
    let missing = size(&mut left.iter().map(|file| file.size));
    say!("{} at {revision} ({})", wanted.repo, &listing.commit);
    say!("licence   {}", listing.licence.as_deref().unwrap_or("not stated: ask its makers before you use it"));
    say!("files     {}, {}; {} to download, {}", listing.files.len(), amount(all), left.len(), amount(missing));
    room(&environment.cache, size(&mut left.iter().map(|file| cache.left(file))))?;

    let progress = Progress::bytes(missing);
    let download =
        Download { client: &client, repo: &wanted.repo, commit: &listing.commit, cache: &cache, progress: &progress };
    let fetched = left.iter().try_fold(0u64, |before, file| {
        tracing::info!("{}, {}", file.path, amount(file.size));
        download.fetch(file, before).map(|()| before.saturating_add(file.size))
    });
    // Before an error is printed, too.
    progress.finish();
    fetched?;
    let named = cache.link(&listing.commit, &listing.files);
    let folder =
        named.and_then(|folder| cache.set_ref(revision, &listing.commit).map(|()| folder)).map_err(|error| {
            Failure::new(RUNNING, format!("{}: {error}", cache.pulled().snapshot(&listing.commit).display()))
                .with_hint(Some("set HF_HOME to a folder that you may write to".into()))
        })?;
    report(&wanted, &folder)
}

/// Only looks whether it is there.
fn offline(wanted: &Wanted, revision: &str, cache: &RepoCache) -> Outcome<()> {
    let Some(folder) = cache.pulled().find(revision) else {
        return Err(Failure::new(
            MISSING,
            format!("{} at {revision} is not in the cache, and we are offline", wanted.repo),
        )
        .with_hint(Some("run it once without --offline and HF_HUB_OFFLINE, with a network".into())));
    };
    say!("{} at {revision} is in the cache", wanted.repo);
    report(wanted, &folder)
}

/// Where it lies, and what can be done with it; an error if that is nothing.
fn report(wanted: &Wanted, folder: &Path) -> Outcome<()> {
    let pack = Pack::open(folder)?;
    say!("can       {}", pack.can.join(", "));
    say!("folder    {}", folder.display());
    let name = wanted.known.map_or_else(|| wanted.repo.to_string(), |known| known.name.to_owned());
    say!("use it    livediffusion run --model {name} …");
    Ok(())
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
