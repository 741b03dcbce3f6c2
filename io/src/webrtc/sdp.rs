//! Session descriptions as text: what is taken from outside, and what is left of it for `webrtcbin`.
//!
//! An offer names many codecs; it is cut down to the one payload type that is used, so that what is answered does not depend
//! on how `webrtcbin` would choose.

use super::SSRC;
use crate::error::IoError;

/// Longest description. Browsers' offers of every codec that they know have 10 kB.
const MOST_BYTES: usize = 64 << 10;

/// Streams in a description; one of pictures and one of sound are usual.
const MOST_STREAMS: usize = 8;

/// Addresses in a description: a machine with many networks has some dozens.
const MOST_CANDIDATES: usize = 64;

/// A codec of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    H264,
    Vp8,
    Vp9,
}

impl Codec {
    /// Its name in caps and, in any case, in descriptions.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
        }
    }

    /// The one of that name, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::H264, Self::Vp8, Self::Vp9].into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }
}

/// What the other side of an offer does with its pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It sends them; all codecs that can be decoded are taken, in its order.
    Publish,
    /// It wants to see ours: H.264 of the constrained baseline, which everything plays, before VP8.
    Watch,
}

/// The codec that was chosen from an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) codec: Codec,
    /// Its number in the stream, 0 to 127.
    pub(super) payload: u8,
    /// Which stream of the description has the pictures.
    pub(super) stream: usize,
    /// The number of what repairs them, which is packets sent again (RFC 4588), if the other side takes that.
    pub(super) repair: Option<u8>,
}

impl Chosen {
    /// As `webrtcbin` names it.
    pub(super) fn caps(self) -> gst::Caps {
        gst::Caps::builder("application/x-rtp")
            .field("media", "video")
            .field("encoding-name", self.codec.name())
            .field("payload", i32::from(self.payload))
            .field("clock-rate", 90_000_i32)
            .build()
    }

    /// As `webrtcbin` names it where it is we who send.
    pub(super) fn caps_to_send(self) -> gst::Caps {
        let mut caps = self.caps();
        caps.make_mut().set("ssrc", SSRC);
        caps
    }
}

/// A description, line by line, as far as its structure matters.
struct Description<'a> {
    session: Vec<&'a str>,
    /// Each begins with its `m=` line.
    streams: Vec<Vec<&'a str>>,
}

fn bad(detail: impl Into<String>) -> IoError {
    IoError::BadDescription { detail: detail.into() }
}

impl<'a> Description<'a> {
    fn read(text: &'a str) -> Result<Self, IoError> {
        if text.len() > MOST_BYTES {
            return Err(bad(format!("it has more than {MOST_BYTES} bytes")));
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t')) {
            return Err(bad("it has letters that no text has"));
        }
        let mut read = Self { session: Vec::new(), streams: Vec::new() };
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let mut letters = line.chars();
            if !matches!((letters.next(), letters.next()), (Some('a'..='z'), Some('='))) {
                return Err(bad(format!("{:?} is no line of SDP", line.chars().take(40).collect::<String>())));
            }
            if line.starts_with("m=") {
                read.streams.push(Vec::new());
            }
            read.streams.last_mut().unwrap_or(&mut read.session).push(line);
        }
        if read.session.first() != Some(&"v=0") {
            return Err(bad("it does not begin with v=0"));
        }
        if read.streams.is_empty() || read.streams.len() > MOST_STREAMS {
            return Err(bad(format!("it has {} streams, and 1 to {MOST_STREAMS} are taken", read.streams.len())));
        }
        let candidates = text.lines().filter(|line| line.starts_with("a=candidate:")).count();
        if candidates > MOST_CANDIDATES {
            return Err(bad(format!("it has more than {MOST_CANDIDATES} addresses")));
        }
        for (at, stream) in read.streams.iter().enumerate() {
            if !["m=audio ", "m=video "].iter().any(|kind| stream[0].starts_with(kind)) {
                return Err(bad(format!("{:?} is neither sound nor pictures", stream[0])));
            }
            for name in ["mid", "ice-ufrag", "ice-pwd", "fingerprint", "setup"] {
                if read.attribute(at, name).is_none() {
                    return Err(bad(format!("its stream {at} has no a={name}")));
                }
            }
        }
        Ok(read)
    }

    /// An attribute's value, of the stream or of all.
    fn attribute(&self, stream: usize, name: &str) -> Option<&'a str> {
        let of = |lines: &[&'a str]| lines.iter().find_map(|line| value(line, name));
        of(&self.streams[stream]).or_else(|| of(&self.session))
    }

    /// Whether a stream's other side sends, or receives.
    fn allows(&self, stream: usize, wish: Wish) -> bool {
        let wanted = match wish {
            Wish::Publish => "sendonly",
            Wish::Watch => "recvonly",
        };
        let has = |name: &str| self.streams[stream].iter().chain(&self.session).any(|line| line[2..] == *name);
        has(wanted) || !["sendonly", "recvonly", "inactive"].into_iter().any(has)
    }
}

/// The value of an attribute's line, if it is of that name.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':').map(str::trim)
}

/// What follows the payload type in the value of `rtpmap`, `fmtp` or `rtcp-fb`.
fn of_payload<'a>(line: &'a str, name: &str, payload: &str) -> Option<&'a str> {
    let (which, rest) = value(line, name)?.split_once(' ')?;
    (which == payload).then(|| rest.trim())
}

/// The codec of a payload type, if it is one of ours and fit for what is wished.
fn codec(stream: &[&str], payload: &str, wish: Wish) -> Option<Codec> {
    let map = stream.iter().find_map(|line| of_payload(line, "rtpmap", payload))?;
    let (name, clock) = map.split_once('/')?;
    if clock != "90000" {
        return None;
    }
    let codec = Codec::named(name)?;
    let format = stream.iter().find_map(|line| of_payload(line, "fmtp", payload)).unwrap_or_default();
    let parameter = |key: &str| {
        let mut pairs = format.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.trim().to_ascii_lowercase())
    };
    let fits = match (wish, codec) {
        (Wish::Publish, _) | (Wish::Watch, Codec::Vp8) => true,
        (Wish::Watch, Codec::Vp9) => false,
        // 66 is the baseline profile, and what is constrained is part of it. Mode 0 cannot split a picture into packets.
        (Wish::Watch, Codec::H264) => {
            let is_baseline = parameter("profile-level-id").is_none_or(|id| id.starts_with("42"));
            is_baseline && parameter("packetization-mode").as_deref() == Some("1")
        }
    };
    fits.then_some(codec)
}

/// The payload type that repairs another one of its stream, which is at `at`. One that is another stream's too is none, since
/// the streams come in one: callers with a GStreamer of 2022 offer such.
fn repair(streams: &[Vec<&str>], at: usize, payload: u8) -> Option<u8> {
    let stream = &streams[at];
    let others = || streams.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, lines)| lines[0]);
    let repairs = |of: &str| {
        let map = stream.iter().find_map(|line| of_payload(line, "rtpmap", of));
        let format = stream.iter().find_map(|line| of_payload(line, "fmtp", of));
        map.is_some_and(|map| map.eq_ignore_ascii_case("rtx/90000"))
            && format.is_some_and(|format| format.split(';').any(|part| part.trim() == format!("apt={payload}")))
    };
    let is_alone = |of: &&str| others().all(|media| media.split(' ').skip(3).all(|other| other != *of));
    stream[0].split(' ').skip(3).filter(is_alone).find(|of| repairs(of))?.parse().ok().filter(|repair| *repair < 128)
}

/// Chooses a codec from an offer, and gives the offer with nothing else for its pictures.
pub(super) fn choose(offer: &str, wish: Wish) -> Result<(String, Chosen), IoError> {
    let mut read = Description::read(offer)?;
    let mut chosen: Option<Chosen> = None;
    for (stream, lines) in read.streams.iter().enumerate() {
        if !lines[0].starts_with("m=video ") || !read.allows(stream, wish) {
            continue;
        }
        for payload in lines[0].split(' ').skip(3) {
            let Some((codec, payload)) = codec(lines, payload, wish).zip(payload.parse().ok().filter(|p| *p < 128))
            else {
                continue;
            };
            let better = chosen.is_none_or(|old| {
                wish == Wish::Watch && old.stream == stream && old.codec == Codec::Vp8 && codec == Codec::H264
            });
            if better {
                chosen = Some(Chosen { codec, payload, stream, repair: repair(&read.streams, stream, payload) });
            }
        }
    }
    let chosen = chosen.ok_or_else(|| {
        bad(match wish {
            Wish::Publish => "it sends no pictures in H.264, VP8 or VP9",
            Wish::Watch => "it takes no pictures in H.264 (baseline, packetization-mode 1) or VP8",
        })
    })?;
    let kept: Vec<String> =
        [Some(chosen.payload), chosen.repair].into_iter().flatten().map(|p| p.to_string()).collect();
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    let media: Vec<&str> = read.streams[chosen.stream][0].split(' ').take(3).chain(kept.iter().copied()).collect();
    let media = media.join(" ");
    read.streams[chosen.stream].retain(|line| {
        ["rtpmap", "fmtp", "rtcp-fb"].iter().all(|name| {
            value(line, name)
                .is_none_or(|value| value.split(' ').next().is_some_and(|of| of == "*" || kept.contains(&of)))
        })
    });
    read.streams[chosen.stream][0] = &media;
    let lines = read.session.iter().chain(read.streams.iter().flatten());
    Ok((lines.filter(|line| !is_hidden(line)).flat_map(|line| [line, "\r\n"]).collect(), chosen))
}

/// Whether a line is the address of a browser that hides it behind a name, which only its own network resolves. It will call,
/// and is known by then.
fn is_hidden(line: &str) -> bool {
    let host = value(line, "candidate").and_then(|value| value.split(' ').nth(4));
    host.and_then(|host| host.rsplit_once('.')).is_some_and(|(_, domain)| domain.eq_ignore_ascii_case("local"))
}

/// Whether an answer can be used at all.
pub(super) fn check(answer: &str) -> Result<(), IoError> {
    Description::read(answer).map(drop)
}

/// The description with the addresses that were found: each with the stream that it belongs to.
pub(super) fn with_candidates(text: &str, candidates: &[(u32, String)]) -> String {
    let mut out = String::with_capacity(text.len() + 128 * candidates.len());
    let mut stream: Option<u32> = None;
    let finish = |out: &mut String, stream: Option<u32>| {
        let Some(stream) = stream else { return };
        for (_, candidate) in candidates.iter().filter(|(of, _)| *of == stream) {
            out.push_str("a=");
            out.push_str(candidate);
            out.push_str("\r\n");
        }
    };
    for line in text.lines().filter(|line| !line.starts_with("a=candidate:") && *line != "a=end-of-candidates") {
        if line.starts_with("m=") {
            finish(&mut out, stream);
            stream = Some(stream.map_or(0, |stream| stream + 1));
        }
        out.push_str(line.trim_end());
        out.push_str("\r\n");
    }
    finish(&mut out, stream);
    out
}

/// The description with `format` for a payload type that tells of none.
pub(super) fn with_format(text: &str, payload: u8, format: &str) -> String {
    if text.contains(&format!("a=fmtp:{payload} ")) {
        return text.to_owned();
    }
    let map = format!("a=rtpmap:{payload} ");
    let add =
        |line: &str| if line.starts_with(&map) { format!("a=fmtp:{payload} {format}\r\n") } else { String::new() };
    text.lines().flat_map(|line| [line.to_owned(), "\r\n".to_owned(), add(line)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=fingerprint:sha-256 AA\r\n";
    const ICE: &str = "a=ice-ufrag:u\r\na=ice-pwd:p\r\na=setup:actpass\r\na=rtcp-mux\r\n";

    /// As a browser's: VP8 first, then H.264 of several profiles.
    fn browser(direction: &str) -> String {
        format!(
            "{HEAD}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n{ICE}a=rtpmap:111 opus/48000/2\r\n\
             m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 108 98\r\na=mid:1\r\na={direction}\r\n{ICE}\
             a=candidate:1 1 udp 1 1b2c.local 50000 typ host\r\na=candidate:2 1 udp 1 10.0.0.2 50001 typ host\r\n\
             a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
             a=rtpmap:102 H264/90000\r\na=fmtp:102 profile-level-id=640c1f;packetization-mode=1\r\n\
             a=rtpmap:103 H264/90000\r\na=fmtp:103 profile-level-id=42e01f;packetization-mode=0\r\n\
             a=rtpmap:108 H264/90000\r\na=rtcp-fb:108 nack pli\r\n\
             a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42E01F\r\na=rtpmap:98 VP9/90000\r\n"
        )
    }

    #[test]
    fn a_publisher_is_taken_at_its_first_codec_and_a_viewer_gets_baseline() {
        let (rest, chosen) = choose(&browser("sendonly"), Wish::Publish).unwrap();
        assert_eq!(chosen, Chosen { codec: Codec::Vp8, payload: 96, stream: 1, repair: Some(97) });
        assert!(
            rest.contains("m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\n") && rest.contains("a=rtcp-fb:96 nack pli"),
            "{rest}"
        );
        assert!(!rest.contains("H264") && rest.contains("a=fmtp:97 apt=96"), "{rest}");
        // What is hidden goes, what can be called stays, and so does the sound.
        assert!(!rest.contains(".local") && rest.contains("10.0.0.2") && rest.contains("opus"), "{rest}");
        let (rest, chosen) = choose(&browser("recvonly"), Wish::Watch).unwrap();
        assert_eq!(chosen, Chosen { codec: Codec::H264, payload: 108, stream: 1, repair: None });
        assert!(rest.contains("SAVPF 108\r\n") && !rest.contains("VP8") && !rest.contains("rtx"), "{rest}");
        let shared = browser("sendonly").replace("111", "97");
        assert_eq!(choose(&shared, Wish::Publish).unwrap().1.repair, None);
        let only_vp8 = browser("recvonly").replace("H264", "H265");
        assert_eq!(choose(&only_vp8, Wish::Watch).unwrap().1.codec, Codec::Vp8);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_reason() {
        let good = browser("sendonly");
        let long = format!("{good}a=x:{}\r\n", "y".repeat(MOST_BYTES));
        let crowd = good.clone() + &"a=candidate:1 1 udp 1 10.0.0.2 1 typ host\r\n".repeat(MOST_CANDIDATES);
        for (text, reason) in [
            (String::new(), "v=0"),
            ("nonsense".into(), "no line of SDP"),
            ("v=0\r\ns=-\r\n".into(), "0 streams"),
            (long, "bytes"),
            (crowd, "addresses"),
            (good.replace("a=ice-pwd:p\r\n", ""), "ice-pwd"),
            (good.replace("a=fingerprint:sha-256 AA\r\n", ""), "fingerprint"),
            (good.replace("m=audio", "m=application"), "neither"),
            (good.replace("a=mid:1", "a=mid:1\0"), "letters"),
            (good.replace("sendonly", "recvonly"), "sends no pictures"),
            (good.replace("90000", "8000"), "sends no pictures"),
            (good.replace("VP8", "AV1").replace("VP9", "H265").replace("H264", "x"), "sends no pictures"),
        ] {
            let error = choose(&text, Wish::Publish).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        assert!(choose(&good, Wish::Watch).unwrap_err().to_string().contains("takes no pictures"));
    }

    #[test]
    fn a_format_is_told_once() {
        let bare = "v=0\r\nm=video 9\r\na=rtpmap:96 H264/90000\r\n";
        let told = format!("{bare}a=fmtp:96 x=1\r\n");
        assert_eq!((with_format(bare, 96, "x=1"), with_format(&told, 96, "y=2")), (told.clone(), told));
    }

    #[test]
    fn addresses_go_to_the_streams_that_they_belong_to() {
        let text = "v=0\r\nm=audio 9\r\na=x\r\nm=video 9\r\na=candidate:old\r\n";
        let found = [(0, "candidate:a".to_owned()), (1, "candidate:v".to_owned())];
        let whole = "v=0\r\nm=audio 9\r\na=x\r\na=candidate:a\r\nm=video 9\r\na=candidate:v\r\n";
        assert_eq!(with_candidates(text, &found), whole);
    }
}
