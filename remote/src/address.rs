//! Where a U-Net is served.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use crate::error::RemoteError;

/// Triton's and KServe's port for gRPC.
const PORT: u16 = 8001;

/// The name of the part in a pack, and so of the model in most repositories.
const MODEL: &str = "unet";

const FORM: &str = "an address is grpc://HOST, grpc://HOST:PORT/MODEL or grpcs://HOST:PORT/MODEL/VERSION; a bearer token goes before the \
                    host and has no slash: grpcs://TOKEN@HOST";

/// The address of a model on a server: `grpc[s]://[TOKEN@]HOST[:PORT][/MODEL[/VERSION]]`. Written out, it has no token.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether over TLS.
    pub(crate) is_secure: bool,
    /// Host and port.
    pub(crate) host: String,
    pub(crate) model: String,
    /// Empty for the one that the server chooses.
    pub(crate) version: String,
    pub(crate) token: Option<String>,
}

impl FromStr for Address {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let wrong = || {
            RemoteError::invalid(format!("{:?} is no address like grpc://HOST:PORT/MODEL", without_token(text)), FORM)
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_secure = match uri.scheme_str() {
            Some("grpc") => false,
            Some("grpcs") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(wrong)?;
        let token = authority.as_str().rsplit_once('@').map(|(token, _)| token.to_owned());
        let is_word = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        // A token with a slash would end the host.
        if uri.query().is_some() || uri.path().contains('@') || !token.iter().all(is_word) {
            return Err(wrong());
        }
        let mut path = uri.path().trim_matches('/').splitn(3, '/');
        let mut next = || path.next().unwrap_or_default().to_owned();
        let (model, version) = (next(), next());
        if !next().is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let port = authority.port_u16().or(authority.as_str().ends_with(authority.host()).then_some(PORT));
        let host = format!("{}:{}", authority.host(), port.ok_or_else(wrong)?);
        let model = if model.is_empty() { MODEL.to_owned() } else { model };
        Ok(Self { is_secure, host, model, version, token })
    }
}

/// What may be an address, without what may be its token.
fn without_token(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &text[..scheme + 3], &text[at + 1..]),
        (None, Some(at)) => text[at + 1..].to_owned(),
        _ => text.to_owned(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_secure, host, model, version, .. } = self;
        write!(f, "grpc{}://{host}/{model}", if *is_secure { "s" } else { "" })?;
        if version.is_empty() { Ok(()) } else { write!(f, "/{version}") }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_what_servers_usually_have() {
        for (text, is) in [
            ("grpc://gpu", "grpc://gpu:8001/unet"),
            ("grpc://gpu:9/", "grpc://gpu:9/unet"),
            ("grpcs://10.0.0.7:443/sd-turbo", "grpcs://10.0.0.7:443/sd-turbo"),
            ("grpc://[::1]/m/3", "grpc://[::1]:8001/m/3"),
            ("grpcs://s3cret@gpu", "grpcs://gpu:8001/unet"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), format!("{address:?}").as_str()), (is, is));
        }
        let address: Address = "grpcs://s3cret@gpu".parse().unwrap();
        assert_eq!(address.token.as_deref(), Some("s3cret"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_token() {
        let wrong = [
            "",
            "gpu",
            "gpu:8001",
            "http://gpu",
            "grpc://",
            "grpc://:8001",
            "grpc://gpu/m/x",
            "grpc://gpu/m/1/2",
            "grpc://gpu?a=b",
            "grpc://gpu:99999",
            "grpc://gpu:",
            "grpc://gpu:x",
            "grpc://@gpu",
            "s3cret@gpu",
            "http://s3cret@gpu",
            "grpcs://s3cret@gpu/m/x",
            "grpcs://a/s3cret@gpu:8001",
        ];
        for text in wrong {
            let error = text.parse::<Address>().unwrap_err();
            assert!(!error.what.contains("s3cret") && error.hint.is_some(), "{text}: {error}");
        }
    }
}
