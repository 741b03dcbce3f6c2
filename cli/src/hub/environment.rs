//! What the environment says about the hub: the variables that every Hugging Face tool knows.

use std::fmt;
use std::path::PathBuf;

use livediffusion_session::hub::{cache_folder, expanded, home_folder, variable};

use crate::failure::{Failure, Outcome};

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";

/// An access token. It is never printed.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    /// Value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where the hub is, where its cache is, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub(crate) endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub(crate) cache: PathBuf,
    /// `HF_HUB_OFFLINE`.
    pub(crate) offline: bool,
    pub(super) token: Option<Token>,
}

impl Environment {
    /// Reads the variables; the error is that of one that means nothing.
    pub(crate) fn read() -> Outcome<Self> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let is_url = endpoint.starts_with("https://") || endpoint.starts_with("http://");
        // A name and password there would end up in messages.
        if !is_url || endpoint.contains(['@', '?', '#']) || endpoint.parse::<ureq::http::Uri>().is_err() {
            let hint = format!("set it to an address such as {ENDPOINT}, or leave it out");
            return Err(Failure::usage("HF_ENDPOINT is no address of a server", hint));
        }
        let cache = cache_folder().ok_or_else(|| {
            Failure::usage("there is no folder for downloads: HOME is not set", "set HF_HOME to a folder")
        })?;
        Ok(Self { endpoint, cache, offline: is_set("HF_HUB_OFFLINE"), token: token()? })
    }
}

/// `HF_TOKEN`, else what `huggingface-cli login` left in the token file.
fn token() -> Outcome<Option<Token>> {
    if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let file = || {
        let named = variable("HF_TOKEN_PATH").map(|path| expanded(&path));
        let text = std::fs::read_to_string(named.or_else(|| Some(home_folder()?.join("token")))?).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(file);
    match token {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Failure::usage("the access token has characters that none has", "copy it anew into HF_TOKEN"))
        }
        token => Ok(token.map(Token)),
    }
}

fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
}
