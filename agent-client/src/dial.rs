//! Connecting to an endpoint.

use std::{io, path::Path, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream, UnixStream},
    time::timeout,
};
use ttrpc::r#async::{Client, transport::Socket};

use crate::{endpoint::Endpoint, netns};

/// Longest wait for one connection. The agent is on this machine: it answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to `endpoint` from inside `netns`, or from the caller's namespace.
pub(crate) async fn dial(endpoint: &Endpoint, netns: Option<&Path>) -> io::Result<Client> {
    let connect = async {
        match endpoint {
            Endpoint::Tcp(address) => {
                let is_v6 = address.is_ipv6();
                let make = move || if is_v6 { TcpSocket::new_v6() } else { TcpSocket::new_v4() };
                let socket = match netns {
                    Some(netns) => netns::inside(netns.to_path_buf(), make).await?,
                    None => make()?,
                };
                let stream: TcpStream = socket.connect(*address).await?;
                // Each call is one small message, to be sent at once.
                stream.set_nodelay(true)?;
                Ok(Socket::new(stream))
            }
            // A path is the same in every network namespace.
            Endpoint::Unix(path) => Ok(Socket::new(UnixStream::connect(path).await?)),
        }
    };
    match timeout(CONNECT_TIMEOUT, connect).await {
        Ok(connected) => connected.map(Client::new),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}")))
        }
    }
}
