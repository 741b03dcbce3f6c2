//! Requests to the hub: who may see the token, what an answer means, and how often is tried again.

use std::thread::park_timeout;
use std::time::Duration;

use livediffusion_session::hub::{RepoId, export_hint};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::environment::{Environment, Token};
use super::listing::Listing;
use crate::failure::{Failure, MISSING, Outcome, RUNNING, USAGE};

/// A server that does not take the connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(15);
/// Silence after which a connection counts as cut.
const SILENCE: Duration = Duration::from_secs(30);
/// One answer takes no longer than this; a download goes on with another request from where it stood.
const ANSWER: Duration = Duration::from_mins(10);
/// The first pause before trying again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause is longer, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A file is behind one or two redirects; more are a loop.
const REDIRECTS: usize = 5;
/// The listing of a large repository is under 1 MB; more is no listing.
const LARGEST_LISTING: u64 = 16 << 20;

/// Why there is no answer, or none to use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may work in a moment: the connection broke, or the server is busy.
    Passing { what: String, pause: Option<Duration> },
    /// It will not: the status, and the hub's own word for it.
    Refused { status: u16, word: String },
    /// The server leads somewhere where nobody should go.
    Astray(String),
}

/// How often is tried again where the connection breaks.
#[derive(Debug)]
pub(super) struct Patience {
    all: u32,
    left: u32,
}

impl Patience {
    /// Waits, and says whether to try again.
    pub(super) fn again(&mut self, pause: Option<Duration>) -> bool {
        if self.left == 0 {
            return false;
        }
        let doubled = FIRST_PAUSE * 2u32.saturating_pow((self.all - self.left).min(6));
        self.left -= 1;
        park_timeout(pause.unwrap_or(doubled).min(LONGEST_PAUSE));
        true
    }

    /// Something came: the count begins anew.
    pub(super) fn renew(&mut self) {
        self.left = self.all;
    }
}

/// Asks one server.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    retries: u32,
}

impl Client {
    /// Asks the environment's server; after a broken connection `retries` more times.
    pub(crate) fn new(environment: &Environment, retries: u32) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, as only here is known who may see the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_recv_body(Some(ANSWER))
            .user_agent(concat!("livediffusion/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            endpoint: environment.endpoint.clone(),
            token: environment.token.clone(),
            retries,
        }
    }

    /// The server that is asked.
    pub(crate) fn host(&self) -> String {
        host(&self.endpoint)
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { all: self.retries, left: self.retries }
    }

    /// The address of a file.
    pub(super) fn address(&self, repo: &RepoId, commit: &str, path: &str) -> String {
        // No character of these needs an escape but the plus sign.
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, path.replace('+', "%2B"))
    }

    /// Asks for an address, from a byte on; follows redirects without the token where they leave the endpoint.
    pub(super) fn get(&self, address: &str, from: u64) -> Result<Response<Body>, Trouble> {
        let mut address = address.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&address).header("Accept-Encoding", "identity");
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&address, &self.endpoint)) {
                request = request.header("Authorization", token.header());
            }
            let answer = request
                .call()
                .map_err(|error| Trouble::Passing { what: format!("{}: {error}", host(&address)), pause: None })?;
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            match answer.status().as_u16() {
                200..300 => return Ok(answer),
                300..400 => address = target(&address, header("location").unwrap_or_default())?,
                status @ (408 | 429 | 500..600) => {
                    let seconds = header("retry-after").and_then(|text| text.trim().parse().ok());
                    let what = format!("{} answers {status}", host(&address));
                    return Err(Trouble::Passing { what, pause: seconds.map(Duration::from_secs) });
                }
                // The word of a server that only stores files is about an address that was good for a while.
                status if status != 416 && !same_origin(&address, &self.endpoint) => {
                    return Err(Trouble::Passing { what: format!("{} answers {status}", host(&address)), pause: None });
                }
                status => {
                    let word = header("x-error-code").unwrap_or_default().chars().filter(char::is_ascii_alphanumeric);
                    return Err(Trouble::Refused { status, word: word.take(40).collect() });
                }
            }
        }
        Err(Trouble::Astray(format!("{} redirects without end", host(&address))))
    }

    /// What the repository holds.
    pub(crate) fn list(&self, repo: &RepoId, revision: &str) -> Outcome<Listing> {
        let escaped = revision.replace('/', "%2F").replace('+', "%2B");
        let address = format!("{}/api/models/{repo}/revision/{escaped}?blobs=true", self.endpoint);
        let mut patience = self.patience();
        let text = loop {
            let text = self.get(&address, 0).and_then(|mut answer| {
                let body = answer.body_mut().with_config().limit(LARGEST_LISTING).read_to_string();
                body.map_err(|error| Trouble::Passing { what: format!("{}: {error}", host(&address)), pause: None })
            });
            match text {
                Ok(text) => break text,
                Err(Trouble::Passing { what, pause }) if patience.again(pause) => tracing::info!("{what}"),
                Err(trouble) => return Err(self.failure(trouble, repo, revision)),
            }
        };
        Listing::parse(&text).map_err(|what| {
            Failure::new(RUNNING, format!("{} does not answer as a hub does: {what}", host(&self.endpoint)))
                .with_hint(Some("is HF_ENDPOINT the address of a Hugging Face hub?".into()))
        })
    }

    /// What to tell the user.
    pub(super) fn failure(&self, trouble: Trouble, repo: &RepoId, revision: &str) -> Failure {
        let page = format!("{}/{repo}", self.endpoint);
        let (status, word) = match trouble {
            Trouble::Passing { what, .. } => {
                return Failure::new(RUNNING, format!("{repo} cannot be downloaded: {what}")).with_hint(Some(
                    "check the connection and run the command again: it goes on where it stopped".into(),
                ));
            }
            Trouble::Astray(what) => {
                return Failure::new(RUNNING, format!("{repo} cannot be downloaded: {what}"))
                    .with_hint(Some("is HF_ENDPOINT the address of a Hugging Face hub?".into()));
            }
            Trouble::Refused { status, word } => (status, word),
        };
        let have = self.token.is_some();
        let (code, what, hint) = match (status, word.as_str()) {
            (401 | 403, "GatedRepo") if have => (
                MISSING,
                format!("{repo} is gated, and your token may not read it ({status})"),
                format!("ask for access at {page}, with the account of your token, then run it again"),
            ),
            (401 | 403, "GatedRepo") => (
                MISSING,
                format!("{repo} is gated ({status})"),
                format!("accept its terms at {page}, set HF_TOKEN to a token of your account, then run it again"),
            ),
            (401 | 403, _) if have => (
                MISSING,
                format!("your token may not read {repo}, or there is no such repository ({status})"),
                format!("look whether {page} is there, and whether HF_TOKEN is still valid"),
            ),
            (401 | 403, _) => (
                MISSING,
                format!("{repo} is private, or there is no such repository ({status})"),
                format!("look whether {page} is there; for a private or gated one set HF_TOKEN to your token"),
            ),
            (404, "RevisionNotFound") => (
                USAGE,
                format!("{repo} has no revision {revision} (404)"),
                format!("{page} lists its branches and tags"),
            ),
            (404, _) => (
                USAGE,
                format!("there is no repository {repo} at {} (404)", host(&self.endpoint)),
                "check the name; livediffusion models pull --help lists known ones".to_owned(),
            ),
            _ => (
                RUNNING,
                format!("{} refuses {repo} ({status})", host(&self.endpoint)),
                format!("look whether {page} opens in a browser"),
            ),
        };
        Failure::new(code, what).with_hint(Some(hint))
    }
}

/// What to tell where a repository is no pack.
pub(crate) fn no_pack(repo: &RepoId, commit: &str, missing: &str, original: Option<&str>) -> Failure {
    let original = original.map_or_else(|| repo.to_string(), str::to_owned);
    let short = commit.get(..8).unwrap_or(commit);
    Failure::usage(format!("{repo} at {short} is no model pack: it has no {missing}"), export_hint(&original))
}

/// Scheme, host and port.
fn origin(address: &str) -> Option<(String, String, u16)> {
    let uri: Uri = address.parse().ok()?;
    let scheme = uri.scheme_str()?.to_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_lowercase(), port))
}

fn same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

/// The server of an address: paths and queries of redirects are secrets of their own.
fn host(address: &str) -> String {
    origin(address).map_or_else(|| "the server".to_owned(), |(_, host, _)| host)
}

/// Where a redirect leads.
fn target(from: &str, location: &str) -> Result<String, Trouble> {
    let astray = || Trouble::Astray(format!("{} redirects to no address", host(from)));
    let (scheme, rest) = from.split_once("://").ok_or_else(astray)?;
    let target = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", rest.split('/').next().unwrap_or_default())
    } else {
        location.to_owned()
    };
    match origin(&target) {
        Some((to, _, _)) if to == "http" && scheme == "https" => {
            Err(Trouble::Astray(format!("{} redirects to an unprotected address", host(from))))
        }
        Some((to, _, _)) if to == "http" || to == "https" => Ok(target),
        _ => Err(astray()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_endpoint_is_the_endpoint() {
        let endpoint = "https://huggingface.co";
        for same in ["https://huggingface.co/a/b", "https://HuggingFace.co:443/", "https://huggingface.co"] {
            assert!(same_origin(same, endpoint), "{same}");
        }
        for other in [
            "http://huggingface.co/a",
            "https://cdn.huggingface.co/a",
            "https://huggingface.co:8443/a",
            "https://huggingface.co.example.org/",
            "https://huggingface.co@example.org/",
            "nonsense",
        ] {
            assert!(!same_origin(other, endpoint), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses() {
        let to = |location: &str| target("https://a.org/x/y?z", location).ok();
        assert_eq!(to("/b?c").as_deref(), Some("https://a.org/b?c"));
        assert_eq!(to("//c.org/b").as_deref(), Some("https://c.org/b"));
        assert_eq!(to("https://c.org/b").as_deref(), Some("https://c.org/b"));
        assert!(["", "http://a.org/b", "file:///etc/passwd", "b"].iter().all(|location| to(location).is_none()));
    }
}
