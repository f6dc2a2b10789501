//! The front door: containerd's requests in, answers out. A handler is a few lines.
//!
//! ttrpc drops a handler's future when its client's deadline passes or its connection
//! closes, so whatever changes state runs in a task of its own, which the handler awaits.

mod error;
mod image;
pub mod options;
mod stats;
mod task;
pub mod translate;

use std::{collections::HashMap, sync::Arc};

use containerd_shim_protos::shim_async::create_task;
use protos::shim_image::create_image;
use ttrpc::r#async::Service;

pub use error::{Error, chain};

use crate::shim::Shim;

/// The Task service's name since containerd 2.0 and the one that every version asks for when the
/// shim answered `start` with a bare address. The messages are the same.
const TASK_SERVICES: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];

/// All services of the shim's socket.
pub fn services(shim: &Arc<Shim>) -> HashMap<String, Service> {
    let mut services = create_image(Arc::new(image::ImageService(Arc::clone(shim))));
    let task = Arc::new(task::TaskService(Arc::clone(shim)));
    for name in TASK_SERVICES {
        services.extend(create_task(task.clone()).into_values().map(|service| (name.to_owned(), service)));
    }
    services
}

/// Runs a handler's work to its end, whatever becomes of the caller.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(ttrpc::Error::from),
        // A panic aborts the process and nothing aborts these tasks.
        Err(error) => Err(ttrpc::Error::Others(error.to_string())),
    }
}
