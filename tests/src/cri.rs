//! A client of containerd's CRI, blocking, with a deadline on each call.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::{net::UnixStream, runtime::Handle};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

/// kubelet's own default is two minutes.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Both services of CRI over one connection.
#[derive(Clone, Debug)]
pub struct Cri {
    rt: Handle,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// The methods that are passed through: name, request, deadline → response.
macro_rules! passed_through {
    ($($(#[$doc:meta])* $service:ident.$name:ident($request:ident) -> $response:ident;)*) => {
        impl Cri {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// What containerd answers, or that the deadline passed.
            pub fn $name(&self, request: v1::$request, deadline: Duration) -> Result<v1::$response, Status> {
                let mut client = self.$service.clone();
                self.block_on(async move { client.$name(timed(request, deadline)).await })
            }
        )*}
    };
}

passed_through! {
    /// `RunPodSandbox`.
    runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    /// `StopPodSandbox`.
    runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    /// `RemovePodSandbox`.
    runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    /// `PodSandboxStatus`.
    runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    /// `ListPodSandbox`.
    runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    /// `CreateContainer`.
    runtime.create_container(CreateContainerRequest) -> CreateContainerResponse;
    /// `StartContainer`.
    runtime.start_container(StartContainerRequest) -> StartContainerResponse;
    /// `StopContainer`.
    runtime.stop_container(StopContainerRequest) -> StopContainerResponse;
    /// `RemoveContainer`.
    runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    /// `ListContainers`.
    runtime.list_containers(ListContainersRequest) -> ListContainersResponse;
    /// `ContainerStatus`.
    runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    /// `ContainerStats`.
    runtime.container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    /// `ExecSync`.
    runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    /// `Exec`: the address of the stream.
    runtime.exec(ExecRequest) -> ExecResponse;
    /// `Attach`: the address of the stream.
    runtime.attach(AttachRequest) -> AttachResponse;
    /// `Status`.
    runtime.status(StatusRequest) -> StatusResponse;
    /// `PullImage`.
    image.pull_image(PullImageRequest) -> PullImageResponse;
    /// `RemoveImage`.
    image.remove_image(RemoveImageRequest) -> RemoveImageResponse;
}

impl Cri {
    /// Connects to containerd's socket.
    ///
    /// # Errors
    /// When nothing listens on it.
    pub fn connect(rt: &Handle, socket: &'static str) -> Result<Self> {
        let connector =
            tower::service_fn(
                move |_: Uri| async move { UnixStream::connect(socket).await.map(TokioIo::new) },
            );
        let channel = rt
            .block_on(Endpoint::from_static("http://containerd").connect_with_connector(connector))
            .with_context(|| format!("connecting to {socket}"))?;
        Ok(Self {
            rt: rt.clone(),
            runtime: RuntimeServiceClient::new(channel.clone()),
            image: ImageServiceClient::new(channel),
        })
    }

    /// Whether runtime and network are ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        let status = self.status(v1::StatusRequest::default(), Duration::from_secs(2)).ok();
        let conditions =
            status.and_then(|answer| answer.status).map(|status| status.conditions).unwrap_or_default();
        !conditions.is_empty() && conditions.iter().all(|condition| condition.status)
    }

    fn block_on<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.rt.block_on(call).map(Response::into_inner)
    }
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
