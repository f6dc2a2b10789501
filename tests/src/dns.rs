//! The node's resolver: answers names below `.test` with the node's address and refuses the rest.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
};

use anyhow::{Context, Result};

const TYPE_A: u16 = 1;
const HEADER_BYTES: usize = 12;

/// Serves DNS over UDP on `address` until the process ends.
///
/// # Errors
/// When the port can't be bound.
pub fn serve(address: SocketAddr, answer: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("binding the resolver to {address}"))?;
    thread::Builder::new().name("resolver".into()).spawn(move || {
        let mut query = [0_u8; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            if let Some(reply) = reply(&query[..length], answer) {
                // A client that is gone asks again or not.
                let _ = socket.send_to(&reply, client);
            }
        }
    })?;
    Ok(())
}

/// The reply to `query`; none when it is no query with one question.
fn reply(query: &[u8], answer: Ipv4Addr) -> Option<Vec<u8>> {
    let (name, end) = question(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let ours = name == "test" || name.ends_with(".test");
    let answers = u8::from(ours && kind == TYPE_A);
    let mut reply = Vec::with_capacity(end + 20);
    reply.extend_from_slice(&query[..2]);
    // Response, recursion desired and available; NXDOMAIN for names that are not ours.
    reply.extend_from_slice(&[0x81, if ours { 0x80 } else { 0x83 }]);
    reply.extend_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend_from_slice(query.get(HEADER_BYTES..end + 4)?);
    if answers == 1 {
        // The question's name by pointer, type A, class IN, 60 s, four bytes.
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(&answer.octets());
    }
    Some(reply)
}

/// The question's name in lower case, and where it ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    if query.len() < HEADER_BYTES || query[4..6] != [0, 1] {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    #[test]
    fn names_below_test_resolve_to_the_node() {
        let reply = reply(&query("Registry.test", 1), Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        assert_eq!(&reply[..4], &[7, 7, 0x81, 0x80]);
        assert_eq!(reply[7], 1);
        assert_eq!(&reply[reply.len() - 4..], &[10, 0, 0, 1]);
    }

    #[test]
    fn there_is_no_ipv6_address_and_no_other_name() {
        let v6 = reply(&query("registry.test", 28), Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!((v6[3] & 0x0f, v6[7]), (0, 0));
        let other = reply(&query("example.org", 1), Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!((other[3] & 0x0f, other[7]), (3, 0));
    }

    #[test]
    fn garbage_is_not_answered() {
        assert_eq!(reply(&[1, 2, 3], Ipv4Addr::LOCALHOST), None);
        assert_eq!(reply(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 1], Ipv4Addr::LOCALHOST), None);
    }
}
