//! Pods and their containers, as a kubelet would make them.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_cri::v1;
use tonic::Status;

use crate::{
    container::{Container, ContainerSpec},
    cri::{Cri, DEADLINE},
    node::{ADDRESS, cgroup_parent},
    suite::Scene,
};

/// A pod to be.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    scene: &'a Scene,
    handler: String,
    config: v1::PodSandboxConfig,
}

/// A running pod; removed when dropped.
#[derive(Debug)]
pub struct Pod<'a> {
    scene: &'a Scene,
    /// What it was made from; goes into each `CreateContainer`.
    pub config: v1::PodSandboxConfig,
    /// The sandbox's id.
    pub id: String,
    /// The handler it runs under.
    pub handler: String,
    removed: bool,
}

impl<'a> PodSpec<'a> {
    /// A pod of `scene` named `name` with namespaces of its own and a cgroup below the run's.
    #[must_use]
    pub fn new(scene: &'a Scene, name: &str) -> Self {
        let uid = format!("{}-{name}", scene.name().replace("::", "-"));
        let namespaces = v1::NamespaceOption {
            network: v1::NamespaceMode::Pod.into(),
            pid: v1::NamespaceMode::Container.into(),
            ipc: v1::NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: uid.clone(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: format!("/run/node/logs/{uid}"),
            dns_config: Some(v1::DnsConfig { servers: vec![ADDRESS.to_string()], ..Default::default() }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{uid}", cgroup_parent()),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { scene, handler: scene.handler().to_owned(), config }
    }

    /// Under another handler than the scene's.
    #[must_use]
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = name.into();
        self
    }

    /// Changes the sandbox's namespaces.
    #[must_use]
    pub fn namespaces(mut self, change: impl FnOnce(&mut v1::NamespaceOption)) -> Self {
        if let Some(options) = self
            .config
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
            .and_then(|context| context.namespace_options.as_mut())
        {
            change(options);
        }
        self
    }

    /// In the node's network.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.config.hostname = String::new();
        self.namespaces(|options| options.network = v1::NamespaceMode::Node.into())
    }

    /// As a privileged pod, which may hold privileged containers.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.privileged = true;
        }
        self
    }

    /// Runs the sandbox.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn run(self) -> Result<Pod<'a>> {
        let name = self.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        self.try_run(DEADLINE).with_context(|| format!("running pod {name}"))
    }

    /// The same, with the bare answer and a deadline.
    ///
    /// # Errors
    /// What containerd answers, or that the deadline passed.
    pub fn try_run(self, deadline: Duration) -> Result<Pod<'a>, Status> {
        if let Some(linux) = &self.config.linux {
            self.scene.remember_cgroup(&linux.cgroup_parent);
        }
        let request = v1::RunPodSandboxRequest {
            config: Some(self.config.clone()),
            runtime_handler: self.handler.clone(),
        };
        let id = self.scene.node().cri().run_pod_sandbox(request, deadline)?.pod_sandbox_id;
        self.scene.remember_id(&id);
        Ok(Pod { scene: self.scene, config: self.config, id, handler: self.handler, removed: false })
    }
}

impl Pod<'_> {
    fn cri(&self) -> &Cri {
        self.scene.node().cri()
    }

    /// The scene it belongs to.
    #[must_use]
    pub fn scene(&self) -> &Scene {
        self.scene
    }

    /// Its cgroup, below which its containers' cgroups are.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        self.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str())
    }

    /// Has containerd pull `reference` for this pod.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn pull(&self, reference: &str) -> Result<String> {
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec { image: reference.into(), ..Default::default() }),
            sandbox_config: Some(self.config.clone()),
            ..Default::default()
        };
        let answer =
            self.cri().pull_image(request, DEADLINE).with_context(|| format!("pulling {reference}"))?;
        Ok(answer.image_ref)
    }

    /// Creates a container; its image has to be pulled.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn create(&self, spec: ContainerSpec) -> Result<Container> {
        let mut config = spec.into_config();
        if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            // As kubelet does: the sandbox's namespaces are the containers'.
            let pod = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
            context.namespace_options = pod.and_then(|pod| pod.namespace_options.clone());
        }
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let log = std::path::Path::new(&self.config.log_directory).join(&config.log_path);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self
            .cri()
            .create_container(request, DEADLINE)
            .with_context(|| format!("creating container {name} in pod {}", self.id))?;
        self.scene.remember_id(&answer.container_id);
        Ok(Container::new(self.cri().clone(), answer.container_id, name, log))
    }

    /// Pulls, creates and starts a container.
    ///
    /// # Errors
    /// What containerd answers to any of these.
    pub fn run(&self, spec: ContainerSpec) -> Result<Container> {
        self.pull(spec.image())?;
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// The sandbox's status.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn status(&self) -> Result<v1::PodSandboxStatusResponse> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        Ok(self.cri().pod_sandbox_status(request, DEADLINE)?)
    }

    /// The part of containerd's verbose status that is JSON.
    ///
    /// # Errors
    /// When there is none.
    pub fn info(&self) -> Result<serde_json::Value> {
        let status = self.status()?;
        let text = status.info.get("info").context("the sandbox's verbose status has no info")?;
        Ok(serde_json::from_str(text)?)
    }

    /// The path of its network namespace.
    ///
    /// # Errors
    /// When containerd does not tell.
    pub fn netns(&self) -> Result<String> {
        let info = self.info()?;
        let namespaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(|list| list.as_array());
        namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network")
            .and_then(|namespace| namespace["path"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("pod {} has no network namespace", self.id))
    }

    /// Stops and removes it with all its containers.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        self.stop()?;
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri()
            .remove_pod_sandbox(request, DEADLINE)
            .with_context(|| format!("removing pod {}", self.id))?;
        Ok(())
    }

    /// Stops it.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn stop(&self) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri()
            .stop_pod_sandbox(request, DEADLINE)
            .with_context(|| format!("stopping pod {}", self.id))?;
        Ok(())
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if !self.removed {
            // After a failure, so that the other scenarios are not in its company; the leak check reports.
            let deadline = Duration::from_secs(30);
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
            let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
            let _ = self.cri().stop_pod_sandbox(stop, deadline);
            let _ = self.cri().remove_pod_sandbox(remove, deadline);
        }
    }
}
