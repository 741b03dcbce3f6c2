//! Open Sound Control over UDP, as VJ tools and controllers send it: `/prompt "oil painting"`, `/strength 0.4`, any hot
//! parameter by its name.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use livediffusion_pipeline::Tuning;
use rosc::{OscMessage, OscPacket, OscType};

use crate::failure::{Failure, Outcome, RUNNING};

/// Longest datagram. A prompt of 10 000 letters fits; bundles in bundles stay few enough to be read by recursion.
const LONGEST: usize = 16 * 1024;
/// How soon the thread notices that it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Different complaints that are logged; a fader sends a hundred messages a second.
const MOST_COMPLAINTS: usize = 32;
/// Before the parameter's name, for tools that need an address of their own for each program.
const PREFIX: &str = "/livediffusion/";

/// The listening thread.
pub(crate) struct OscServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The address of `osc://HOST:PORT`, which must be this machine's own: OSC knows no password.
pub(crate) fn parse_address(text: &str) -> Outcome<SocketAddr> {
    let hint = "use --control osc://127.0.0.1:9000";
    let address = text.strip_prefix("osc://").map(|host| host.trim_end_matches('/').replace("localhost", "127.0.0.1"));
    let address: Option<SocketAddr> = address.and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| Failure::usage(format!("--control {text}: not osc://HOST:PORT"), hint))?;
    if !address.ip().is_loopback() {
        let what = format!("--control {text}: OSC has no password, so that only this machine may send it");
        return Err(Failure::usage(what, format!("{hint}, and a tunnel (ssh, VPN) from other machines")));
    }
    Ok(address)
}

impl OscServer {
    pub(crate) fn start(address: &str, tuning: Tuning) -> Outcome<Self> {
        let address = parse_address(address)?;
        let failed = |error: std::io::Error| {
            Failure::new(RUNNING, format!("cannot listen on osc://{address}: {error}"))
                .with_hint(Some("choose another port with --control osc://127.0.0.1:PORT".into()))
        };
        let socket = UdpSocket::bind(address).map_err(failed)?;
        socket.set_read_timeout(Some(LOOK_UP)).map_err(failed)?;
        let stop = Arc::<AtomicBool>::default();
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("osc".into())
            .spawn(move || listen(&socket, &flag, &tuning))
            .map_err(failed)?;
        tracing::info!("listening on osc://{address}");
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for OscServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the OSC thread panicked");
        }
    }
}

fn listen(socket: &UdpSocket, stop: &AtomicBool, tuning: &Tuning) {
    let mut datagram = vec![0; LONGEST];
    let mut complaints = BTreeSet::new();
    let mut complain = |what: String| {
        if complaints.len() < MOST_COMPLAINTS && complaints.insert(what.clone()) {
            tracing::warn!("OSC: {what}");
        }
    };
    while !stop.load(Ordering::Relaxed) {
        // A timeout, or a message about an earlier datagram: neither ends the listening.
        let Ok((len, _)) = socket.recv_from(&mut datagram) else { continue };
        match rosc::decoder::decode_udp(&datagram[..len]) {
            Ok((_, packet)) => apply(packet, tuning, &mut complain),
            Err(error) => complain(format!("a datagram that is no OSC: {error}")),
        }
    }
}

/// All messages of a packet, in order.
fn apply(packet: OscPacket, tuning: &Tuning, complain: &mut dyn FnMut(String)) {
    let mut open = vec![packet];
    while let Some(packet) = open.pop() {
        match packet {
            OscPacket::Bundle(bundle) => open.extend(bundle.content.into_iter().rev()),
            OscPacket::Message(message) => {
                let name = message.addr.strip_prefix(PREFIX).unwrap_or(message.addr.trim_start_matches('/'));
                let set = text_of(&message).and_then(|text| tuning.set(&name.replace('_', "-"), &text));
                if let Err(error) = set {
                    complain(format!("{}: {error}", message.addr));
                }
            }
        }
    }
}

/// The arguments as a flag would have them: lists joined by commas.
fn text_of(message: &OscMessage) -> Result<String, String> {
    let text = |argument: &OscType| match argument {
        OscType::String(text) => Ok(text.clone()),
        OscType::Int(value) => Ok(value.to_string()),
        OscType::Long(value) => Ok(value.to_string()),
        OscType::Float(value) => Ok(value.to_string()),
        OscType::Double(value) => Ok(value.to_string()),
        OscType::Bool(value) => Ok(value.to_string()),
        other => Err(format!("an argument of a kind that is not used here: {other:?}")),
    };
    if message.args.is_empty() {
        return Err("it has no value".into());
    }
    Ok(message.args.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine() {
        for good in ["osc://127.0.0.1:9000", "osc://localhost:9000/", "osc://[::1]:9000"] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1:9000", "osc://127.0.0.1", "osc://0.0.0.0:9000", "osc://192.168.1.2:9000", "http://x", ""]
        {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arguments_become_the_text_of_a_flag() {
        let text = |args: Vec<OscType>| text_of(&OscMessage { addr: "/x".into(), args });
        assert_eq!(text(vec![OscType::Int(32), OscType::Int(45)]).unwrap(), "32,45");
        assert_eq!(text(vec![OscType::Float(0.5)]).unwrap(), "0.5");
        assert_eq!(text(vec![OscType::String("oil painting".into())]).unwrap(), "oil painting");
        assert!(text(vec![]).is_err());
        assert!(text(vec![OscType::Nil]).is_err());
    }
}
