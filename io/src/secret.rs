//! What of an address nobody else may read: logs, errors, the page and the metrics show the rest.

/// Query parameters whose values are secrets, as streaming servers name them.
const SECRET: &[&str] = &["auth", "key", "passphrase", "password", "secret", "sig", "signature", "streamid", "token"];

/// What stands in a secret's place.
const HIDDEN: &str = "…";

/// `text` with the secrets of every address in it left out: names and passwords before the host, the key at the end of an
/// RTMP address, the values of query parameters such as `passphrase`.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let scheme = before[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next().unwrap_or_default();
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>')).unwrap_or(after.len());
        told.push_str(before);
        told.push_str(&address(scheme, &after[..end]));
        rest = &after[end..];
    }
    told + rest
}

/// What follows `scheme://`, without its secrets.
fn address(scheme: &str, rest: &str) -> String {
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(rest, _)| (rest, "#…"));
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let (authority, path) = path.find('/').map_or((path, ""), |at| path.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_rtmp = scheme.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("rtmp"));
    // rtmp://host/application/key: who has the key can publish.
    let key = path.strip_prefix('/').and_then(|path| path.find('/')).map(|at| at + 2).filter(|_| is_rtmp);
    let path =
        key.filter(|&at| at < path.len()).map_or_else(|| path.to_owned(), |at| format!("{}{HIDDEN}", &path[..at]));
    let query = query.map(|query| if is_rtmp { format!("?{HIDDEN}") } else { parameters(query) }).unwrap_or_default();
    format!("{host}{path}{query}{fragment}")
}

/// `?name=value&…`, secret values hidden.
fn parameters(query: &str) -> String {
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    };
    format!("?{}", query.split('&').map(hidden).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_and_the_rest_stays() {
        for (text, told) in [
            ("rtmp://live.example/app/live_123_abc", "rtmp://live.example/app/…"),
            ("rtmps://live.example:443/app/key?x=1", "rtmps://live.example:443/app/…?…"),
            ("rtmp://host/app", "rtmp://host/app"),
            ("rtsp://admin:pass@10.0.0.2:554/stream1", "rtsp://10.0.0.2:554/stream1"),
            (
                "srt://host:7000?mode=caller&passphrase=abc&latency=20",
                "srt://host:7000?mode=caller&passphrase=…&latency=20",
            ),
            ("srt://host:7000?StreamId=publish:x", "srt://host:7000?StreamId=…"),
            ("whips://key@host/live/a@b", "whips://host/live/a@b"),
            ("whep://[::1]:80/x?y=1", "whep://[::1]:80/x?y=1"),
            ("https://cdn/x.m3u8?token=abc#part", "https://cdn/x.m3u8?token=…#…"),
            ("could not open \"rtmp://h/a/k\" (rtsp://u:p@h/b)", "could not open \"rtmp://h/a/…\" (rtsp://h/b)"),
            ("videotestsrc ! x264enc", "videotestsrc ! x264enc"),
            ("://", "://"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), told);
        }
    }
}
