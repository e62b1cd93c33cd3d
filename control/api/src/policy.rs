//! App-to-app policies in words.

use sarcenet_dataplane_api::{PortRange, Protocol};
use serde::{Deserialize, Serialize};

/// "Containers of app `from` may open conversations with containers of app `to` on these ports."
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// Source app.
    pub from: String,
    /// Destination app.
    pub to: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination ports.
    pub ports: PortRange,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {} {} {}", self.from, self.to, self.protocol, self.ports)
    }
}

/// Why a text is no port or port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Not a number, or not in 1 to 65535.
    #[error("`{0}` is not a port; ports are 1 to 65535, e.g. 8080 or 7000-8000")]
    NotAPort(String),
    /// The range ends before it begins.
    #[error("port range {first}-{last} ends before it begins; write {last}-{first}")]
    Inverted {
        /// Its first port as written.
        first: u16,
        /// Its last port as written.
        last: u16,
    },
}

/// A protocol that policies do not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol `{0}` is not known; use tcp or udp")]
pub struct ProtocolError(pub String);

/// Reads `8080` or `7000-8000`.
pub fn parse_ports(text: &str) -> Result<PortRange, PortsError> {
    let port = |part: &str| {
        let part = part.trim();
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match part.parse() {
            Ok(port) if digits && port != 0 => Ok(port),
            _ => Err(PortsError::NotAPort(part.to_owned())),
        }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(PortsError::Inverted { first, last });
    }
    Ok(PortRange { first, last })
}

/// Reads `tcp` or `udp`.
pub fn parse_protocol(text: &str) -> Result<Protocol, ProtocolError> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(ProtocolError(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_read_back(first in 1..=u16::MAX, last in 1..=u16::MAX) {
            let range = PortRange { first: first.min(last), last: first.max(last) };
            prop_assert_eq!(parse_ports(&range.to_string()), Ok(range));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            if let Ok(range) = parse_ports(&text) {
                prop_assert!(0 < range.first && range.first <= range.last);
            }
        }
    }

    #[test]
    fn ports_that_are_none() {
        for text in ["", "0", "65536", "+80", "-1", "80-", "80-0", "http", "1-2-3", "8 0"] {
            assert!(matches!(parse_ports(text), Err(PortsError::NotAPort(_))), "{text}");
        }
        assert_eq!(parse_ports("90-80"), Err(PortsError::Inverted { first: 90, last: 80 }));
        assert_eq!(
            PortsError::Inverted { first: 90, last: 80 }.to_string(),
            "port range 90-80 ends before it begins; write 80-90"
        );
    }

    #[test]
    fn policies_read_as_sentences() {
        let policy = Policy {
            from: "web".into(),
            to: "db".into(),
            protocol: parse_protocol("tcp").unwrap(),
            ports: parse_ports("7000 - 8000").unwrap(),
        };
        assert_eq!(policy.to_string(), "web to db tcp 7000-8000");
        assert_eq!(parse_protocol("icmp"), Err(ProtocolError("icmp".into())));
    }
}
