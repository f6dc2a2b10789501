//! Where an agent listens.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp://IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:///PATH`.
    Unix(PathBuf),
}

/// A URL is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is neither tcp://IP:PORT, with a port other than 0, nor unix:///PATH")]
pub struct EndpointError {
    /// The URL.
    pub url: String,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let refused = || EndpointError { url: url.to_owned() };
        if let Some(address) = url.strip_prefix("tcp://") {
            let address: SocketAddr = address.parse().map_err(|_| refused())?;
            return if address.port() == 0 { Err(refused()) } else { Ok(Self::Tcp(address)) };
        }
        match url.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(Self::Unix(path.into())),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_they_are_read() {
        for url in ["tcp://127.0.0.1:7788", "tcp://[::1]:1", "unix:///run/agent.sock"] {
            assert_eq!(url.parse::<Endpoint>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for url in [
            "",
            "tcp://",
            "tcp://localhost:1",
            "tcp://127.0.0.1:0",
            "unix://relative",
            "unix:///a\0b",
            "vsock://3:1",
        ] {
            assert_eq!(url.parse::<Endpoint>(), Err(EndpointError { url: url.to_owned() }));
        }
    }
}
