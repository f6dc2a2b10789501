//! A client of a shim's own socket, as containerd and its confidential-containers fork are.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use containerd_shim_protos::{api, shim_async::TaskClient};
use protos::shim_image::{ImageClient, PullImageRequest};
use ttrpc::{asynchronous::Client, context::with_duration};

use crate::{containerd::TASKS, node::Node};

/// A connection to the shim of one sandbox.
pub struct Shim<'a> {
    node: &'a Node,
    task: TaskClient,
    image: ImageClient,
}

impl<'a> Shim<'a> {
    /// Connects to the shim whose bundle is that of `sandbox`.
    ///
    /// # Errors
    /// When the bundle has no address or nothing listens there.
    pub fn of(node: &'a Node, sandbox: &str) -> Result<Self> {
        let file = Path::new(TASKS).join(sandbox).join("address");
        let address = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let connect = async { Client::connect(&address).await };
        let client = node.rt.block_on(connect).with_context(|| format!("connecting to {address}"))?;
        Ok(Self { node, task: TaskClient::new(client.clone()), image: ImageClient::new(client) })
    }

    /// `containerd.task.v2.Image/PullImage`.
    ///
    /// # Errors
    /// What the shim answers.
    pub fn pull_image(&self, reference: &str, deadline: Duration) -> Result<String> {
        let request = PullImageRequest { image: reference.into(), ..Default::default() };
        let call = self.image.pull_image(with_duration(deadline), &request);
        Ok(self.node.rt.block_on(call).with_context(|| format!("PullImage {reference}"))?.image_ref)
    }

    /// `Create` of a container with the `bundle` and an empty root file system; output goes to the file `stdout`.
    ///
    /// # Errors
    /// What the shim answers.
    pub fn create(&self, id: &str, bundle: &Path, stdout: &Path) -> Result<u32> {
        let request = api::CreateTaskRequest {
            id: id.into(),
            bundle: bundle.display().to_string(),
            stdout: format!("file://{}", stdout.display()),
            stderr: format!("file://{}", stdout.display()),
            ..Default::default()
        };
        let call = self.task.create(with_duration(Duration::from_secs(60)), &request);
        Ok(self.node.rt.block_on(call).with_context(|| format!("Create {id}"))?.pid)
    }

    /// `Start`.
    ///
    /// # Errors
    /// What the shim answers.
    pub fn start(&self, id: &str) -> Result<u32> {
        let request = api::StartRequest { id: id.into(), ..Default::default() };
        let call = self.task.start(with_duration(Duration::from_secs(60)), &request);
        Ok(self.node.rt.block_on(call).with_context(|| format!("Start {id}"))?.pid)
    }

    /// `Kill`.
    ///
    /// # Errors
    /// What the shim answers.
    pub fn kill(&self, id: &str, signal: u32) -> Result<()> {
        let request = api::KillRequest { id: id.into(), signal, ..Default::default() };
        let call = self.task.kill(with_duration(Duration::from_secs(20)), &request);
        self.node.rt.block_on(call).with_context(|| format!("Kill {id}"))?;
        Ok(())
    }

    /// `Wait`: the exit status.
    ///
    /// # Errors
    /// What the shim answers, or that it takes longer than 30 s.
    pub fn wait(&self, id: &str) -> Result<u32> {
        let request = api::WaitRequest { id: id.into(), ..Default::default() };
        let call = self.task.wait(with_duration(Duration::from_secs(30)), &request);
        Ok(self.node.rt.block_on(call).with_context(|| format!("Wait {id}"))?.exit_status)
    }

    /// `Delete`: the exit status.
    ///
    /// # Errors
    /// What the shim answers.
    pub fn delete(&self, id: &str) -> Result<u32> {
        let request = api::DeleteRequest { id: id.into(), ..Default::default() };
        let call = self.task.delete(with_duration(Duration::from_secs(20)), &request);
        Ok(self.node.rt.block_on(call).with_context(|| format!("Delete {id}"))?.exit_status)
    }
}
