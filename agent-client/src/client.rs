//! The connection to one agent and the calls over it.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use protos::agent::{ImageClient, PullImageRequest, PullImageResponse};
use tokio::time::{Instant, sleep, timeout_at};
use ttrpc::{Code, Status, r#async::Client, context};

use crate::{
    answer::{PulledImage, shortened},
    dial::dial,
    endpoint::Endpoint,
    error::AgentError,
};

/// First and longest pause between two attempts to connect to an agent that is starting.
const BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// How much later than ours the deadline is that ttrpc keeps and tells the agent. Ours comes first and
/// has a type; ttrpc's is an error like any other.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// One agent. It keeps a connection and makes a new one when the agent has been restarted at the
/// same endpoint. Calls may run at the same time.
pub struct AgentClient {
    endpoint: Endpoint,
    netns: Option<PathBuf>,
    token: String,
    /// The connection, once there is one. Held for moments only, never across an await.
    connection: Mutex<Option<Client>>,
}

/// What is to be pulled.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Reference of the image.
    pub image: String,
    /// The container it is for; for the agent's log.
    pub container_id: String,
    /// `USER[:PASSWORD]` for the registry, or empty.
    pub source_creds: String,
}

/// A response, or the error that the agent chose to answer with.
type Answer = Result<PullImageResponse, Status>;

impl AgentClient {
    /// A client of the agent that listens at `endpoint` of the network namespace `netns` (a path such
    /// as `/proc/<pid>/ns/net`; `None` is the caller's) and accepts `token`. Nothing is dialled yet.
    pub fn new(endpoint: Endpoint, netns: Option<PathBuf>, token: impl Into<String>) -> Self {
        Self { endpoint, netns, token: token.into(), connection: Mutex::new(None) }
    }

    /// Where the agent listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects, as often as it takes, until the agent accepts a connection. An earlier connection is
    /// given up, so that a restarted agent is really met.
    ///
    /// Cancel safety: dropping the future gives the attempt up and leaves nothing behind.
    ///
    /// # Errors
    /// [`AgentError::Deadline`], with the last failure as its source.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), AgentError> {
        let end = Instant::now() + deadline;
        self.keep(None);
        let [mut pause, longest_pause] = BACKOFF;
        let mut last = None;
        loop {
            match timeout_at(end, self.dial()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = Some(error),
                Err(_) => return Err(self.deadline("its start", deadline, last)),
            }
            if timeout_at(end, sleep(pause)).await.is_err() {
                return Err(self.deadline("its start", deadline, last));
            }
            pause = (pause * 2).min(longest_pause);
        }
    }

    /// Has the agent pull an image, or attach to the pull of it that is going on. If the connection
    /// kept from an earlier call is dead, a new one is tried once; that is safe because the same
    /// pull twice is one pull.
    ///
    /// Cancel safety: dropping the future ends the call, not the agent's pull.
    ///
    /// # Errors
    /// See [`AgentError`]. `deadline` covers everything, connecting included.
    pub async fn pull(&self, request: PullRequest, deadline: Duration) -> Result<PulledImage, AgentError> {
        let end = Instant::now() + deadline;
        let PullRequest { image, container_id, source_creds } = request;
        let message = PullImageRequest {
            image: image.clone(),
            container_id,
            source_creds,
            token: self.token.clone(),
            ..Default::default()
        };
        let called = match timeout_at(end, self.call(&message, deadline)).await {
            Ok(called) => called.map_err(|source| self.unreachable(source))?,
            Err(_) => return Err(self.deadline(&format!("the pull of {image}"), deadline, None)),
        };
        let answer = match called {
            Ok(answer) => answer,
            Err(status) => return Err(self.said(image, &status)),
        };
        PulledImage::checked(&image, answer).map_err(|source| AgentError::BadAnswer { image, source })
    }

    /// What the agent says to `message`, over the kept connection or else over a new one.
    async fn call(&self, message: &PullImageRequest, deadline: Duration) -> io::Result<Answer> {
        if let Some(kept) = self.kept() {
            match self.call_over(kept, message, deadline).await {
                Err(error) => {
                    log::debug!(
                        "the connection to the agent at {} is gone ({error}), dialling again",
                        self.endpoint
                    );
                }
                answered => return answered,
            }
        }
        self.call_over(self.dial().await?, message, deadline).await
    }

    /// Calls over `client`, and gives the connection up if it turns out to be of no use.
    async fn call_over(
        &self,
        client: Client,
        message: &PullImageRequest,
        deadline: Duration,
    ) -> io::Result<Answer> {
        let nanos = i64::try_from((deadline + DEADLINE_SLACK).as_nanos()).unwrap_or(i64::MAX);
        match ImageClient::new(client).pull_image(context::with_timeout(nanos), message).await {
            Ok(response) => Ok(Ok(response)),
            Err(ttrpc::Error::RpcStatus(status)) => Ok(Err(status)),
            // Every other error is about the connection, or about bytes that are no ttrpc; ttrpc uses
            // several variants for either.
            Err(error) => {
                self.keep(None);
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))
            }
        }
    }

    /// Makes a connection and keeps it.
    async fn dial(&self) -> io::Result<Client> {
        let client = dial(&self.endpoint, self.netns.as_deref()).await?;
        self.keep(Some(client.clone()));
        Ok(client)
    }

    fn kept(&self) -> Option<Client> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, client: Option<Client>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn unreachable(&self, source: io::Error) -> AgentError {
        AgentError::Unreachable { endpoint: self.endpoint.clone(), source }
    }

    fn deadline(&self, operation: &str, deadline: Duration, source: Option<io::Error>) -> AgentError {
        let operation = operation.to_owned();
        AgentError::Deadline { endpoint: self.endpoint.clone(), operation, deadline, source }
    }

    fn said(&self, image: String, status: &Status) -> AgentError {
        let message = shortened(status.message());
        match status.code() {
            Code::UNAUTHENTICATED => AgentError::Refused { endpoint: self.endpoint.clone(), message },
            code => AgentError::Said { image, code, message },
        }
    }
}

impl fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, netns, .. } = self;
        f.debug_struct("AgentClient")
            .field("endpoint", endpoint)
            .field("netns", netns)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, container_id, .. } = self;
        f.debug_struct("PullRequest")
            .field("image", image)
            .field("container_id", container_id)
            .finish_non_exhaustive()
    }
}
