//! CRI's streams (Attach and interactive Exec) over web sockets, as the API server's clients use them.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tungstenite::{ClientRequestBuilder, Message, WebSocket, http::Uri};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Channels of that protocol: the first byte of each message.
const STDIN: u8 = 0;
const ERROR: u8 = 3;
const DEADLINE: Duration = Duration::from_secs(20);

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    output: String,
    status: Option<serde_json::Value>,
}

impl Stream {
    /// Connects to the `url` that Attach or Exec answered.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn connect(url: &str) -> Result<Self> {
        let uri: Uri =
            url.replacen("http://", "ws://", 1).parse().with_context(|| format!("stream {url}"))?;
        let authority = uri.authority().context("the stream has no address")?.as_str().to_owned();
        let tcp = TcpStream::connect(&authority).with_context(|| format!("connecting to {authority}"))?;
        tcp.set_read_timeout(Some(Duration::from_millis(200)))?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
        let (socket, _) =
            tungstenite::client(request, tcp).map_err(|e| anyhow::anyhow!("stream {url}: {e}"))?;
        Ok(Self { socket, output: String::new(), status: None })
    }

    /// Writes to the process's standard input.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let mut message = vec![STDIN];
        message.extend_from_slice(text.as_bytes());
        self.socket.send(Message::binary(message)).context("writing to the stream")
    }

    /// Reads until the output contains `text`, and returns all output so far.
    ///
    /// # Errors
    /// When the stream ends or the deadline passes before; the message holds the output.
    pub fn read_until(&mut self, text: &str) -> Result<&str> {
        let end = Instant::now() + DEADLINE;
        while !self.output.contains(text) {
            ensure!(Instant::now() < end, "no {text:?} on the stream in {DEADLINE:?}: {:?}", self.output);
            ensure!(self.step()?, "the stream ended without {text:?}: {:?}", self.output);
        }
        Ok(&self.output)
    }

    /// Reads to the end and returns the exit code and all output.
    ///
    /// # Errors
    /// When the stream does not end in time, or without a status.
    pub fn finish(mut self) -> Result<(i32, String)> {
        let end = Instant::now() + DEADLINE;
        while self.status.is_none() && self.step()? {
            ensure!(Instant::now() < end, "the stream does not end in {DEADLINE:?}: {:?}", self.output);
        }
        let status = self.status.context("the stream ended without a status")?;
        if status["status"] == "Success" {
            return Ok((0, self.output));
        }
        let code = status.pointer("/details/causes/0/message").and_then(|code| code.as_str());
        Ok((code.with_context(|| format!("no exit code in {status}"))?.parse()?, self.output))
    }

    /// Takes one message; false at the end.
    fn step(&mut self) -> Result<bool> {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => match bytes.split_first() {
                Some((&ERROR, rest)) => self.status = Some(serde_json::from_slice(rest)?),
                Some((_, rest)) => self.output.push_str(&String::from_utf8_lossy(rest)),
                None => {}
            },
            Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(false),
            Ok(_) => {}
            Err(tungstenite::Error::Io(e))
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(e) => bail!("reading from the stream: {e}"),
        }
        Ok(true)
    }
}
