//! What servers of this program have in common: who may ask, and where they are reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::failure::{Failure, Outcome, RUNNING};

/// Bytes of a token that is made: 128 bits.
const TOKEN_BYTES: usize = 16;

/// What clients must know: the token that was given, beyond this machine one that is made where none was.
pub(crate) fn token_for(bind: SocketAddr, given: Option<&str>) -> Outcome<Option<String>> {
    if given.is_some() || bind.ip().is_loopback() {
        return Ok(given.map(str::to_owned));
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(RUNNING, format!("no randomness for a token: {error}")))?;
    Ok(Some(format!("{:032x}", u128::from_be_bytes(bytes))))
}

/// A token as a flag takes it: it goes into addresses as it is.
pub(crate) fn token(text: &str) -> Result<String, String> {
    let fits = (8..=256).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
    if fits { Ok(text.to_owned()) } else { Err("8 to 256 letters, digits, or any of -_.~ are needed".into()) }
}

/// Where a server is reached that listens at `local`, from this machine first. All addresses at once (`0.0.0.0` or `[::]`) are none that
/// a client could go to: this machine's own stand for them.
pub(crate) fn addresses(local: SocketAddr) -> Vec<SocketAddr> {
    let own: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        // Clients do not take the name of the link that such an address needs beside it.
        .filter(|interface| !interface.is_link_local())
        .map(if_addrs::Interface::ip)
        .collect();
    reached(local, &own)
}

/// Of these, the ones at which a server is reached that listens there.
fn reached(local: SocketAddr, own: &[IpAddr]) -> Vec<SocketAddr> {
    let loopback: IpAddr = match local.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        _ => return vec![local],
    };
    // At [::] those of IPv4 are answered as well.
    let others = own.iter().filter(|ip| !ip.is_loopback() && (ip.is_ipv4() || local.is_ipv6()));
    std::iter::once(&loopback).chain(others).map(|ip| SocketAddr::new(*ip, local.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_that_is_told_can_be_opened() {
        let own: Vec<IpAddr> =
            ["127.0.0.1", "192.168.1.7", "::1", "2001:db8::7"].iter().map(|ip| ip.parse().unwrap()).collect();
        let told = |bound: &str| {
            let told = reached(bound.parse().unwrap(), &own);
            told.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("127.0.0.1:80"), ["127.0.0.1:80"]);
        assert_eq!(told("192.168.1.7:80"), ["192.168.1.7:80"]);
        assert_eq!(told("0.0.0.0:80"), ["127.0.0.1:80", "192.168.1.7:80"]);
        assert_eq!(told("[::]:80"), ["[::1]:80", "192.168.1.7:80", "[2001:db8::7]:80"]);
    }

    #[test]
    fn a_token_is_made_where_others_may_come_and_none_was_given() {
        let token = |bound: &str, given| token_for(bound.parse().unwrap(), given).unwrap();
        assert_eq!((token("127.0.0.1:80", None), token("[::1]:80", None)), (None, None));
        assert_eq!(token("0.0.0.0:80", Some("of the user")).as_deref(), Some("of the user"));
        let (a, b) = (token("0.0.0.0:80", None).unwrap(), token("[::]:80", None).unwrap());
        assert!(a.len() == 2 * TOKEN_BYTES && a != b);
    }
}
