//! Requests to one registry: authentication, retries, bounded bodies.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use oci_client::errors::OciEnvelope;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    Credentials, ImageRef, Registry,
    auth::{Challenge, TokenAnswer},
};
use crate::{
    digest::Digest,
    error::{Detail, Error},
};

const MAX_TOKEN_BYTES: u64 = 1 << 20;
const MAX_ERROR_BYTES: u64 = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two attempts, also when the registry asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The requests of one pull.
pub struct Session {
    registry: Arc<Registry>,
    image: ImageRef,
    credentials: Option<Credentials>,
    /// The value of the `Authorization` header that the registry took last; locked for a copy only.
    authorization: Mutex<Option<HeaderValue>>,
}

/// An attempt that failed and may go better the next time.
enum Transient {
    Transport(reqwest::Error),
    Status { status: StatusCode, detail: Detail, wait: Option<Duration> },
}

impl Session {
    /// Begins; `credentials` of the call win over those of the auth file.
    #[must_use]
    pub fn new(registry: Arc<Registry>, image: ImageRef, credentials: Option<Credentials>) -> Self {
        let credentials =
            credentials.or_else(|| registry.auth_file.find(image.registry(), image.repository()).cloned());
        Self { registry, image, credentials, authorization: Mutex::new(None) }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &ImageRef {
        &self.image
    }

    /// How often a request, or a download that breaks off, is tried.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.registry.attempts
    }

    /// The URL of a blob.
    #[must_use]
    pub fn blob_url(&self, digest: &Digest) -> String {
        self.url("blobs", digest.as_str())
    }

    /// Asks for a blob; the body is still to be read, checked and limited by the caller.
    ///
    /// # Errors
    /// [`Error`] by the registry's answer, after retries.
    pub async fn blob(&self, digest: &Digest) -> Result<Response, Error> {
        self.get(&self.blob_url(digest), "*/*").await
    }

    /// Asks for an object and reads it whole, at most `limit_bytes`.
    pub(super) async fn read(
        &self,
        kind: &'static str,
        object: &str,
        accept: &str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        let url = self.url(kind, object);
        let mut attempt = 1;
        loop {
            let response = self.get(&url, accept).await?;
            match read_bounded(response, &url, limit_bytes).await? {
                Ok(body) => return Ok(body),
                Err(failure) => self.pause(&url, attempt, Transient::Transport(failure)).await?,
            }
            attempt += 1;
        }
    }

    fn url(&self, kind: &str, object: &str) -> String {
        let scheme = self.registry.scheme(self.image.registry());
        format!("{scheme}://{}/v2/{}/{kind}/{object}", self.image.endpoint(), self.image.repository())
    }

    async fn get(&self, url: &str, accept: &str) -> Result<Response, Error> {
        let mut attempt = 1;
        let mut challenged = false;
        loop {
            let sent = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut request = self.registry.http.get(url).header(ACCEPT, accept);
            if let Some(value) = &sent {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(failure) => {
                    self.pause(url, attempt, Transient::Transport(failure)).await?;
                    attempt += 1;
                    continue;
                }
            };
            match response.status() {
                StatusCode::OK => return Ok(response),
                // The first time for want of credentials, later because a token has expired.
                StatusCode::UNAUTHORIZED if !challenged => {
                    challenged = true;
                    self.authorize(response.headers(), url).await?;
                }
                status if transient(status) => {
                    let wait = retry_after(response.headers());
                    let detail = words(response).await;
                    self.pause(url, attempt, Transient::Status { status, detail, wait }).await?;
                    attempt += 1;
                }
                _ => return Err(refused(url, response).await),
            }
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure as [`Error`] when there is no next attempt.
    pub(crate) async fn pause_after(
        &self,
        url: &str,
        attempt: u32,
        failure: reqwest::Error,
    ) -> Result<(), Error> {
        self.pause(url, attempt, Transient::Transport(failure)).await
    }

    async fn pause(&self, url: &str, attempt: u32, failure: Transient) -> Result<(), Error> {
        let hopeless =
            matches!(&failure, Transient::Transport(error) if error.is_builder() || error.is_redirect());
        if hopeless || attempt >= self.registry.attempts {
            return Err(match failure {
                Transient::Transport(source) => Error::Unreachable {
                    url: url.to_owned(),
                    attempts: attempt,
                    // The URL, which can be a signed one after a redirect, is not for the log.
                    source: Arc::new(source.without_url()),
                },
                Transient::Status { status, detail, .. } => Error::Registry {
                    url: url.to_owned(),
                    status: status.as_u16(),
                    attempts: attempt,
                    detail,
                },
            });
        }
        let asked = match failure {
            Transient::Transport(error) => {
                let reason = crate::error::chain(&error.without_url());
                tracing::warn!(url, attempt, reason, "request failed, trying again");
                None
            }
            Transient::Status { status, wait, .. } => {
                tracing::warn!(url, attempt, status = status.as_u16(), "request failed, trying again");
                wait
            }
        };
        let backoff = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16));
        tokio::time::sleep(asked.unwrap_or(backoff).min(LONGEST_PAUSE)).await;
        Ok(())
    }

    /// Meets the registry's challenge and keeps the answer for this and the following requests.
    async fn authorize(&self, headers: &HeaderMap, url: &str) -> Result<(), Error> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let denied = |reason: &str| Error::Denied { url: url.to_owned(), reason: reason.to_owned() };
        let value = match (Challenge::choose(challenges), &self.credentials) {
            (None, _) => return Err(denied("it asks for no authentication that the agent knows")),
            (Some(Challenge::Basic), None) => {
                return Err(denied("it asks for a password, and none is configured for this registry"));
            }
            (Some(Challenge::Basic), Some(credentials)) => credentials.basic(),
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.image.repository()));
                let token = self.token(&realm, service.as_deref(), &scope).await?;
                zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()))
            }
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| denied("the credentials hold characters that a header cannot have"))?;
        value.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<zeroize::Zeroizing<String>, Error> {
        let shown: String = realm.chars().filter(|c| !c.is_control()).take(200).collect();
        let malformed = |reason: &str| Error::Malformed {
            what: format!("the token server {shown:?} of {}", self.image.registry()),
            reason: reason.to_owned(),
        };
        let mut realm = Url::parse(realm).map_err(|_| malformed("not a URL"))?;
        // A token, and the password for it, goes in the clear only where that is configured.
        let insecure = self.registry.scheme(self.image.registry()) == "http";
        if realm.scheme() != "https" && !(insecure && realm.scheme() == "http") {
            return Err(malformed("not an https URL"));
        }
        realm.query_pairs_mut().append_pair("scope", scope);
        if let Some(service) = service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let mut attempt = 1;
        loop {
            let mut request = self.registry.http.get(realm.clone());
            if let Some(credentials) = &self.credentials {
                request = request.header(AUTHORIZATION, credentials.basic().as_str());
            }
            let failure = match request.send().await {
                Ok(response) if response.status() == StatusCode::OK => {
                    match read_bounded(response, &shown, MAX_TOKEN_BYTES).await? {
                        Ok(body) => {
                            let body = zeroize::Zeroizing::new(body);
                            let answer: TokenAnswer =
                                serde_json::from_slice(&body).map_err(|_| malformed("answers no token"))?;
                            return answer.token().ok_or_else(|| malformed("answers no token"));
                        }
                        Err(error) => Transient::Transport(error),
                    }
                }
                Ok(response) if transient(response.status()) => Transient::Status {
                    status: response.status(),
                    wait: retry_after(response.headers()),
                    detail: words(response).await,
                },
                Ok(response) => return Err(refused(&shown, response).await),
                Err(error) => Transient::Transport(error),
            };
            self.pause(&shown, attempt, failure).await?;
            attempt += 1;
        }
    }
}

fn transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The error for an answer that will not change by asking again.
async fn refused(url: &str, response: Response) -> Error {
    let status = response.status();
    let detail = words(response).await;
    let url = url.to_owned();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Denied { url, reason: format!("{}{detail}", status.as_u16()) }
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { url, status: status.as_u16(), detail },
        _ => Error::Registry { url, status: status.as_u16(), attempts: 1, detail },
    }
}

/// What the registry says about its refusal.
async fn words(response: Response) -> Detail {
    let Ok(Ok(body)) = read_bounded(response, "", MAX_ERROR_BYTES).await else { return Detail::default() };
    match serde_json::from_slice::<OciEnvelope>(&body) {
        Ok(envelope) => {
            let messages: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            Detail::new(&messages.join(", "))
        }
        Err(_) => Detail::default(),
    }
}

/// Reads a body of at most `limit_bytes`. The inner error is one of the transport.
async fn read_bounded(
    mut response: Response,
    url: &str,
    limit_bytes: u64,
) -> Result<Result<Vec<u8>, reqwest::Error>, Error> {
    let too_large = || Error::TooLarge { what: url.to_owned(), limit_bytes, hint: "" };
    if response.content_length().is_some_and(|length| length > limit_bytes) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                if (body.len() + chunk.len()) as u64 > limit_bytes {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(Ok(body)),
            Err(failure) => return Ok(Err(failure)),
        }
    }
}
