//! The ttrpc service `grpc.Image`: token, request, answer, error code.

use std::{
    io,
    net::TcpListener,
    os::unix::{fs::FileTypeExt, net::UnixListener, net::UnixStream},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use protos::agent::{Image, PullImageRequest, PullImageResponse, create_image};
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};

use crate::{cli::Listen, config::Token, error::Error, pull::Puller, registry::Credentials};

/// The service.
pub struct ImageService {
    token: Token,
    puller: Puller,
}

impl ImageService {
    /// Serves pulls to callers that know the token.
    #[must_use]
    pub fn new(token: Token, puller: Puller) -> Self {
        Self { token, puller }
    }

    async fn pull(&self, request: &PullImageRequest) -> Result<PullImageResponse, Error> {
        if !self.token.admits(&request.token) {
            return Err(Error::Token);
        }
        let credentials = Credentials::parse(&request.source_creds)?;
        let record = self.puller.pull(&request.image, credentials).await?;
        let store_dir =
            store::store_dir_name(&record.manifest_digest).map_err(|error| Error::Store(Arc::new(error)))?;
        Ok(PullImageResponse {
            image_ref: request.image.clone(),
            manifest_digest: record.manifest_digest.clone(),
            store_dir,
            image_config: record.image_config.clone().into_bytes(),
            unpacked_bytes: record.unpacked_bytes,
            ..Default::default()
        })
    }
}

#[async_trait]
impl Image for ImageService {
    async fn pull_image(
        &self,
        _context: &TtrpcContext,
        request: PullImageRequest,
    ) -> ttrpc::Result<PullImageResponse> {
        // What the caller wrote is quoted: it must not forge a line of the log. The token and the credentials never appear.
        let (image, container_id) = (short(&request.image), short(&request.container_id));
        tracing::debug!(?image, ?container_id, "PullImage");
        match self.pull(&request).await {
            Ok(response) => {
                tracing::info!(
                    ?image,
                    ?container_id,
                    digest = response.manifest_digest,
                    "PullImage is answered"
                );
                Ok(response)
            }
            Err(error) => {
                let message = error.chain();
                tracing::warn!(?image, ?container_id, error = message, "PullImage is answered with an error");
                Err(ttrpc::Error::RpcStatus(ttrpc::get_status(error.code(), message)))
            }
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(256).collect()
}

/// A bound address.
pub struct Bound {
    listener: Listener,
    /// The address with the port that was chosen.
    pub address: String,
}

/// Binds the address; inside a runtime. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// The operating system's.
pub fn bind(listen: &Listen) -> io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            let address = format!("tcp://{}", listener.local_addr()?);
            Ok(Bound { listener: Listener::try_from(listener)?, address })
        }
        Listen::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            Ok(Bound {
                listener: Listener::try_from(listener)?,
                address: format!("unix://{}", path.display()),
            })
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if meta.file_type().is_socket() && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Starts to serve; ends when the server is dropped.
///
/// # Errors
/// ttrpc's.
pub async fn serve(bound: Bound, service: ImageService) -> ttrpc::Result<Server> {
    let mut server =
        Server::new().add_listener(bound.listener).register_service(create_image(Arc::new(service)));
    server.start().await?;
    Ok(server)
}
