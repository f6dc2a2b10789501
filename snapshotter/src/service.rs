//! containerd's API in front of the rules: translation only.

use std::sync::Arc;

use prost_types::Timestamp;
use tokio_stream::Iter;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::snapshots::{
        CleanupRequest, CommitSnapshotRequest, Info, Kind as ApiKind, ListSnapshotsRequest,
        ListSnapshotsResponse, MountsRequest, MountsResponse, PrepareSnapshotRequest,
        PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
        UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest,
        ViewSnapshotResponse, snapshots_server::Snapshots,
    },
    error::{SnapshotError, chain},
    snapshot::{Kind, Snapshot},
    snapshots::Snapshotter,
};

/// Snapshots in one message of a list; the limit of a message is 4 MiB, of a snapshot's labels a few KiB.
const LIST_CHUNK: usize = 100;

/// The service.
#[derive(Clone)]
pub struct Service(Arc<Snapshotter>);

impl Service {
    /// Serves `snapshotter`.
    #[must_use]
    pub fn new(snapshotter: Arc<Snapshotter>) -> Self {
        Self(snapshotter)
    }

    /// Runs `work` where it may block on files. It runs to its end even if the caller goes away.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshotter) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = self.0.clone();
        tokio::task::spawn_blocking(move || work(&snapshotter))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| {
                if matches!(error, SnapshotError::Disk { .. } | SnapshotError::Store(_)) {
                    tracing::error!("{}", chain(&error));
                }
                error.into()
            })
    }
}

fn parent(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}

fn timestamp(nanos: i64) -> Option<Timestamp> {
    const SECOND: i64 = 1_000_000_000;
    let below = i32::try_from(nanos.rem_euclid(SECOND)).ok()?;
    Some(Timestamp { seconds: nanos.div_euclid(SECOND), nanos: below })
}

fn info(name: String, snapshot: &Snapshot) -> Info {
    Info {
        name,
        parent: snapshot.parent.clone().unwrap_or_default(),
        kind: match snapshot.kind {
            Kind::View => ApiKind::View,
            Kind::Active => ApiKind::Active,
            Kind::Committed => ApiKind::Committed,
        }
        .into(),
        created_at: timestamp(snapshot.created_nanos),
        updated_at: timestamp(snapshot.updated_nanos),
        labels: snapshot.labels.clone(),
    }
}

#[async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let mounts = self
            .run(move |snapshotter| {
                snapshotter.prepare(&request.key, parent(&request.parent), request.labels)
            })
            .await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let request = request.into_inner();
        let mounts = self
            .run(move |snapshotter| snapshotter.view(&request.key, parent(&request.parent), request.labels))
            .await?;
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.run(move |snapshotter| snapshotter.mounts(&key)).await?;
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        self.run(move |snapshotter| snapshotter.commit(&request.name, &request.key, request.labels)).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.run(move |snapshotter| snapshotter.remove(&key)).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let info =
            self.run(move |snapshotter| snapshotter.stat(&key).map(|snapshot| info(key, &snapshot))).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let wanted = request.info.ok_or_else(|| Status::invalid_argument("an update without snapshot"))?;
        let fields = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let info = self
            .run(move |snapshotter| {
                let updated = snapshotter.update(&wanted.name, wanted.labels, &fields)?;
                Ok(info(wanted.name, &updated))
            })
            .await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(info) }))
    }

    type ListStream = Iter<std::vec::IntoIter<Result<ListSnapshotsResponse, Status>>>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let chunks: Vec<_> = self
            .run(move |snapshotter| {
                let found = snapshotter.list(&filters)?;
                let chunk = |part: &[(String, Arc<Snapshot>)]| ListSnapshotsResponse {
                    info: part.iter().map(|(name, snapshot)| info(name.clone(), snapshot)).collect(),
                };
                Ok(found.chunks(LIST_CHUNK).map(|part| Ok(chunk(part))).collect())
            })
            .await?;
        Ok(Response::new(tokio_stream::iter(chunks)))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.run(move |snapshotter| snapshotter.usage(&key)).await?;
        Ok(Response::new(UsageResponse { size: usage.size_bytes, inodes: usage.inodes }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        self.run(Snapshotter::cleanup).await?;
        Ok(Response::new(()))
    }
}
