//! The HTTP of WHIP and WHEP: an offer goes out, an answer comes back, and a resource that is deleted in the end.

use std::io::Read as _;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{Request, Response, Uri};

/// How long a server may take for an answer: it gathers addresses, and may have to start something.
const ANSWER: Duration = Duration::from_secs(15);

/// How long the end may take: it is politeness, servers notice without.
const GOODBYE: Duration = Duration::from_secs(2);

/// Longest answer.
const MOST_BYTES: u64 = 64 << 10;

const WHIP: [(&str, &str); 2] = [("whip", "http"), ("whips", "https")];
const WHEP: [(&str, &str); 2] = [("whep", "http"), ("wheps", "https")];

/// Whether pictures come from `address` by WHEP.
pub(crate) fn is_whep(address: &str) -> bool {
    let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme);
    WHEP.iter().any(|(name, _)| scheme.eq_ignore_ascii_case(name))
}

/// `whip://TOKEN@host/path` as the address that HTTP knows, and the token.
pub(crate) fn http_of(address: &str) -> Option<(String, Option<String>)> {
    let (scheme, rest) = address.split_once("://")?;
    let (_, http) = WHIP.iter().chain(&WHEP).find(|(name, _)| scheme.eq_ignore_ascii_case(name))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (token, host) = authority.rsplit_once('@').map_or((None, authority), |(token, host)| (Some(token), host));
    (!host.is_empty()).then(|| (format!("{http}://{host}{path}"), token.map(str::to_owned)))
}

/// A server, by where it takes offers.
pub(super) struct Endpoint {
    uri: Uri,
    token: Option<String>,
    agent: Agent,
}

impl Endpoint {
    /// The server that `whip://…` or `whep://…` names.
    pub(super) fn new(address: &str) -> Result<Self, String> {
        let (http, token) = http_of(address).ok_or("it is no address of a server")?;
        let uri: Uri = http.parse().map_err(|error| format!("{error}"))?;
        let mut config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER));
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            // No proxy leads to this machine.
            config = config.proxy(None);
        }
        Ok(Self { uri, token, agent: config.build().into() })
    }

    /// Brings the offer: the answer, and the resource that it made.
    pub(super) fn post(&self, offer: &str) -> Result<(String, Option<Uri>), String> {
        let request = self.request("POST", &self.uri).header("content-type", "application/sdp");
        let request = request.header("accept", "application/sdp").body(offer.to_owned()).map_err(|e| e.to_string())?;
        let mut response = self.agent.run(request).map_err(|error| error.to_string())?;
        let status = response.status();
        let location = header(&response, "location");
        let mut body = String::new();
        let read = response.body_mut().as_reader().take(MOST_BYTES + 1).read_to_string(&mut body);
        if status != 201 {
            let told: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
            return Err(format!("the server answered {status}{}{told}", if told.is_empty() { "" } else { ": " }));
        }
        let resource = location.and_then(|location| resolve(&self.uri, &location));
        read.map_err(|error| format!("the answer cannot be read: {error}"))?;
        Ok((body, resource))
    }

    /// Ends the resource.
    pub(super) fn delete(&self, resource: &Uri) -> Result<(), String> {
        let request = self.request("DELETE", resource).body(()).map_err(|e| e.to_string())?;
        let request = self.agent.configure_request(request).timeout_global(Some(GOODBYE)).build();
        self.agent.run(request).map(drop).map_err(|error| error.to_string())
    }

    /// The token goes to its own server alone.
    fn request(&self, method: &str, uri: &Uri) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(uri.clone());
        match self.token.as_ref().filter(|_| uri.authority() == self.uri.authority()) {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

fn header<T>(response: &Response<T>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// A `Location` as seen from `base`: whole, from the root, or beside it.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let (folder, _) = base.path().rsplit_once('/').unwrap_or_default();
        format!("{folder}/{location}")
    };
    format!("{scheme}://{authority}{path}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_those_of_http() {
        for (address, http, token) in [
            ("whip://host:7860/whip", "http://host:7860/whip", None),
            ("WHIPS://key@host/live/a@b", "https://host/live/a@b", Some("key")),
            ("whep://[::1]:80/x?y=1", "http://[::1]:80/x?y=1", None),
        ] {
            assert_eq!(http_of(address), Some((http.into(), token.map(str::to_owned))), "{address}");
        }
        assert_eq!((http_of("http://host"), http_of("whip://"), http_of("whip:///x")), (None, None, None));
        assert!(is_whep("WHEPS://host") && !is_whep("whip://host") && !is_whep("http://whep://"));
    }

    #[test]
    fn locations_are_seen_from_the_server() {
        let base: Uri = "http://host:80/live/whip?x=1".parse().unwrap();
        for (location, whole) in [
            ("/whip/1", "http://host:80/whip/1"),
            ("whip/1", "http://host:80/live/whip/1"),
            ("https://other/1", "https://other/1"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), whole);
        }
    }
}
