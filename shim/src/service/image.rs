//! `containerd.task.v2.Image`: the confidential-containers fork of containerd has the sandbox pull.

use std::sync::Arc;

use protos::shim_image::{Image, PullImageRequest, PullImageResponse};
use ttrpc::r#async::TtrpcContext;

use super::to_its_end;
use crate::{pod::PodError, shim::Shim};

pub struct ImageService(pub Arc<Shim>);

#[async_trait::async_trait]
impl Image for ImageService {
    async fn pull_image(
        &self,
        _context: &TtrpcContext,
        request: PullImageRequest,
    ) -> ttrpc::Result<PullImageResponse> {
        let shim = Arc::clone(&self.0);
        to_its_end(async move {
            let pod = shim.pod().ok_or(PodError::NoSandbox)?;
            pod.ensure_image(&request.image, "").await?;
            // The fork hands this back as the image's name when it creates the container.
            Ok(PullImageResponse { image_ref: request.image, ..Default::default() })
        })
        .await
    }
}
