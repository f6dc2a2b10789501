//! One pull of one manifest digest.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use store::{ImageRecord, LayerRecord};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Inner, Outcome,
    layer::{self, Target},
};
use crate::{
    error::Error,
    image_store::StoreInProgress,
    registry::{ImageRef, Resolved, Session},
};

/// A layer that is stored.
pub(super) struct Stored {
    pub index: usize,
    pub record: LayerRecord,
    pub unpacked_bytes: u64,
}

pub(super) fn deadline(image: &ImageRef, after: Duration) -> Error {
    Error::Deadline { image: image.to_string(), after, flag: "pull-timeout-secs" }
}

pub(super) async fn run(inner: &Arc<Inner>, session: Session, resolved: Resolved) -> Outcome {
    let begun = Instant::now();
    let image = session.image().to_string();
    let digest = resolved.digest.clone();
    let result = pull(inner, Arc::new(session), resolved).await;
    let elapsed_ms = begun.elapsed().as_millis();
    match &result {
        Ok((record, true)) => {
            let (layers, bytes) = (record.layers.len(), record.unpacked_bytes);
            tracing::info!(image, %digest, layers, unpacked_bytes = bytes, elapsed_ms, "image is stored");
        }
        Ok((_, false)) => tracing::info!(image, %digest, "image was stored before"),
        Err(error) => tracing::error!(image, %digest, elapsed_ms, error = error.chain(), "pull failed"),
    }
    result.map(|(record, _)| record)
}

/// The record, and whether the image was stored by this call.
async fn pull(
    inner: &Arc<Inner>,
    session: Arc<Session>,
    resolved: Resolved,
) -> Result<(Arc<ImageRecord>, bool), Error> {
    let digest = resolved.digest.clone();
    let limit = inner.limits.pull_timeout();
    let store = inner.store.clone();
    let found = blocking({
        let (store, digest) = (store.clone(), digest.clone());
        move || store.find(&digest)
    });
    if let Some(record) = found.await? {
        return Ok((Arc::new(record), false));
    }

    tracing::info!(image = %session.image(), %digest, "pulls an image");
    let started = Instant::now();
    let late = || deadline(session.image(), limit);
    let config =
        tokio::time::timeout(limit, session.config(&resolved)).await.unwrap_or_else(|_| Err(late()))?;
    let layers = resolved.layers(session.image(), &config)?;
    let writer: Arc<Box<dyn StoreInProgress>> = {
        let digest = digest.clone();
        Arc::new(blocking(move || store.begin(&digest)).await?)
    };

    // Blocking threads outlive the futures that wait for them. Each holds a clone of `busy`, so that the
    // store is completed, or removed, when none writes to it any more.
    let (busy, mut idle) = mpsc::channel::<()>(1);
    let target = Target {
        writer: writer.clone(),
        tar_bytes: Arc::new(AtomicU64::new(0)),
        max_tar_bytes: inner.limits.max_image_bytes,
        _busy: busy,
    };
    let parallel = if writer.takes_layers_in_parallel() { inner.limits.parallel_layers } else { 1 };
    let transfer = transfer(&session, layers.into(), target, parallel);
    let stored = tokio::time::timeout(limit.saturating_sub(started.elapsed()), transfer)
        .await
        .unwrap_or_else(|_| Err(late()));
    idle.recv().await;

    blocking(move || {
        let writer = Arc::into_inner(writer).ok_or(Error::Interrupted);
        // Without layers the writer is dropped here, off the runtime's thread, and removes what it wrote.
        let (stored, writer) = (stored?, writer?);
        let record = ImageRecord {
            reference: session.image().to_string(),
            manifest_digest: digest.to_string(),
            image_config: config.json,
            unpacked_bytes: stored.iter().map(|layer| layer.unpacked_bytes).sum(),
            layers: stored.into_iter().map(|layer| layer.record).collect(),
        };
        writer.commit(&record)?;
        Ok((Arc::new(record), true))
    })
    .await
}

/// Pulls the layers, at most `parallel` at once, begun in order. After the first failure none is begun.
async fn transfer(
    session: &Arc<Session>,
    mut waiting: VecDeque<crate::registry::Layer>,
    target: Target,
    parallel: usize,
) -> Result<Vec<Stored>, Error> {
    let mut running = JoinSet::new();
    let mut stored = Vec::with_capacity(waiting.len());
    loop {
        while running.len() < parallel
            && let Some(layer) = waiting.pop_front()
        {
            running.spawn(layer::pull(session.clone(), layer, target.clone()));
        }
        match running.join_next().await {
            Some(Ok(layer)) => stored.push(layer?),
            Some(Err(_)) => return Err(Error::Interrupted),
            None => break,
        }
    }
    stored.sort_by_key(|layer: &Stored| layer.index);
    Ok(stored)
}

/// Runs `work` on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Interrupted))
}
