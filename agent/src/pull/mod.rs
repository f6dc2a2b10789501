//! Pulls: from a reference to a complete store.
//!
//! ```text
//! pull(reference) ── resolve ──▶ manifest digest ──▶ job of that digest, started or joined ──▶ outcome for all callers
//! job: complete store? ── yes ──▶ its record
//!            └─ no ──▶ config ──▶ layers (parallel where the store allows) ──▶ commit
//! ```
//! A job is a task of its own: it goes on when its callers go away, and the next call for the same digest
//! joins it. The reference is resolved for each call, so a tag that moved is another digest.

mod job;
mod layer;
mod stream;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use store::ImageRecord;
use tokio::sync::watch;

use crate::{
    cli::Limits,
    config::SignaturePolicy,
    digest::Digest,
    error::Error,
    image_store::ImageStore,
    registry::{Credentials, ImageRef, Registry, Resolved, Session},
};

/// What a pull ends with, for each of its callers.
pub type Outcome = Result<Arc<ImageRecord>, Error>;

/// Pulls images; cheap to clone.
#[derive(Clone)]
pub struct Puller {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    store: Arc<dyn ImageStore>,
    policy: SignaturePolicy,
    limits: Limits,
    /// The running jobs. Locked for a look-up, an insertion or a removal; no other lock is taken meanwhile.
    jobs: Mutex<HashMap<Digest, watch::Receiver<Option<Outcome>>>>,
}

impl Puller {
    /// A puller without running jobs.
    #[must_use]
    pub fn new(
        registry: Registry,
        store: Arc<dyn ImageStore>,
        policy: SignaturePolicy,
        limits: Limits,
    ) -> Self {
        let jobs = Mutex::default();
        Self { inner: Arc::new(Inner { registry: Arc::new(registry), store, policy, limits, jobs }) }
    }

    /// Pulls an image, or joins the pull of it that runs. Cancel-safe: a caller that goes away after the
    /// reference was resolved leaves the pull running.
    ///
    /// # Errors
    /// [`Error`]; no part of the image is left.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Outcome {
        let image = ImageRef::parse(reference)?;
        self.check_policy(&image)?;
        let limit = self.inner.limits.pull_timeout();
        let session = Session::new(self.inner.registry.clone(), image, credentials);
        let resolved = tokio::time::timeout(limit, session.resolve())
            .await
            .unwrap_or_else(|_| Err(job::deadline(session.image(), limit)))?;
        let mut outcome = self.join(session, resolved);
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| Error::Interrupted)?;
        outcome.clone().unwrap_or(Err(Error::Interrupted))
    }

    fn check_policy(&self, image: &ImageRef) -> Result<(), Error> {
        match &self.inner.policy {
            SignaturePolicy::Unchecked => Ok(()),
            SignaturePolicy::Required(file) => Err(Error::Policy {
                image: image.to_string(),
                reason: format!(
                    "{} demands signature validation, which is not available in this version of the agent; set \
                     \"security_validate\" to false to accept unsigned images",
                    file.display()
                ),
            }),
        }
    }

    /// The running job of the digest, or a new one.
    fn join(&self, session: Session, resolved: Resolved) -> watch::Receiver<Option<Outcome>> {
        let mut jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = jobs.get(&resolved.digest) {
            tracing::info!(image = %session.image(), digest = %resolved.digest, "joins a running pull");
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        jobs.insert(resolved.digest.clone(), outcome.clone());
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let digest = resolved.digest.clone();
            let _entry = Entry { inner: inner.clone(), digest };
            let result = job::run(&inner, session, resolved).await;
            // The entry goes after this: a caller finds either the job with its outcome or none.
            sender.send_replace(Some(result));
        });
        outcome
    }
}

/// A job's place in the table; taken away also when the job panics.
struct Entry {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}
