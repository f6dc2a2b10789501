//! A pod: its sandbox's directories, its agent, and the state file that tells of them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use agent_client::{PullRequest, PulledImage};
use layout::{
    AgentStatus, BootId, Config, ContainerStatus, Identifier, ImageStatus, PodIdentity, Role, SandboxPaths,
    SandboxState,
};

use super::{
    PodError,
    agent_enclave::{AgentEnclave, AgentSpec, Change},
    plan::{Facts, PodFacts},
};

/// The pod that a shim serves.
pub struct Pod {
    /// The config that the sandbox was created with; it holds for the pod's whole life.
    pub config: Arc<Config>,
    /// The sandbox's directories.
    pub paths: SandboxPaths,
    /// `None` in a namespace that is passed through.
    agent: Option<ConfidentialPart>,
}

struct ConfidentialPart {
    enclave: Arc<AgentEnclave>,
    spec: AgentSpec,
    record: Arc<Record>,
}

/// The sandbox's state file. Protects the state in memory; the file is written under the lock, so
/// that an older state never replaces a newer one.
struct Record {
    paths: SandboxPaths,
    state: Mutex<SandboxState>,
}

impl Pod {
    /// A pod that is passed through.
    pub fn passthrough(config: Arc<Config>, paths: SandboxPaths) -> Self {
        Pod { config, paths, agent: None }
    }

    /// A pod with an agent that [`Pod::start_agent`] starts. `state` has been written.
    pub fn confidential(
        config: Arc<Config>,
        paths: SandboxPaths,
        spec: AgentSpec,
        state: SandboxState,
    ) -> Self {
        let record = Arc::new(Record { paths: paths.clone(), state: Mutex::new(state) });
        let changes = Arc::clone(&record);
        let on_change = Box::new(move |change| changes.agent(change));
        let enclave = AgentEnclave::new(&config, paths.sandbox().as_str(), on_change);
        Pod { config, paths, agent: Some(ConfidentialPart { enclave, spec, record }) }
    }

    /// What a plan has to know.
    pub fn facts(&self) -> PodFacts<'_> {
        PodFacts { sandbox_id: self.paths.sandbox().as_str(), confidential: self.agent.is_some() }
    }

    /// Starts the agent, if the pod has one. Returns at once.
    pub fn start_agent(&self) {
        if let Some(part) = &self.agent {
            part.enclave.start(part.spec.clone());
        }
    }

    /// Ends the agent, if the pod has one.
    pub async fn stop_agent(&self) {
        if let Some(part) = &self.agent {
            part.enclave.stop().await;
        }
    }

    /// Has the agent pull an image unless it has it already.
    ///
    /// Cancel-safe; a pull that was begun goes on and is attached to by the next call.
    ///
    /// # Errors
    /// The pod has no agent, the agent is not there in time, or what it answers.
    pub async fn ensure_image(&self, image: &str, container_id: &str) -> Result<PulledImage, PodError> {
        let part = self.agent.as_ref().ok_or(PodError::NoSandbox)?;
        let request = PullRequest {
            image: image.to_owned(),
            container_id: container_id.to_owned(),
            ..PullRequest::default()
        };
        let pulled = part.enclave.pull(request, self.config.timeouts.pull).await?;
        part.record.image(image, &pulled);
        Ok(pulled)
    }

    /// Notes a container in the sandbox's state file.
    pub fn note_container(&self, id: &Identifier, facts: &Facts, role: Role, image: Option<&str>) {
        if let Some(part) = &self.agent {
            part.record.change(|state| {
                state.containers.push(ContainerStatus {
                    id: id.clone(),
                    name: facts.container_name.clone(),
                    role,
                    image: image.map(str::to_owned),
                });
            });
        }
    }

    /// Takes a container out of the sandbox's state file.
    pub fn forget_container(&self, id: &Identifier) {
        if let Some(part) = &self.agent {
            part.record.change(|state| state.containers.retain(|container| container.id != *id));
        }
    }
}

impl Record {
    fn change(&self, change: impl FnOnce(&mut SandboxState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        // `status` reads it, nothing else: a pod does not fail for it.
        if let Err(error) = state.write(&self.paths) {
            log::warn!("sandbox {}: {}", self.paths.sandbox(), crate::service::chain(&error));
        }
    }

    fn agent(&self, change: Change) {
        self.change(|state| {
            if let Some(agent) = &mut state.agent {
                agent.state = change.state;
                agent.url = change.url;
                agent.restarts = change.restarts;
                if change.exit.is_some() {
                    agent.last_exit = change.exit;
                }
            }
        });
    }

    fn image(&self, reference: &str, pulled: &PulledImage) {
        self.change(|state| {
            state.images.retain(|image| image.reference != reference);
            state.images.push(ImageStatus {
                reference: reference.to_owned(),
                manifest_digest: pulled.manifest_digest.clone(),
                store_dir: pulled.store_dir.clone(),
                unpacked_bytes: pulled.unpacked_bytes,
            });
        });
    }
}

/// The first state of a sandbox.
pub fn first_state(
    boot_id: &BootId,
    paths: &SandboxPaths,
    facts: &Facts,
    config: &Config,
    bundle: PathBuf,
    agent: AgentStatus,
) -> SandboxState {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    SandboxState {
        boot_id: boot_id.clone(),
        namespace: paths.namespace().clone(),
        sandbox: paths.sandbox().clone(),
        pod: PodIdentity {
            namespace: text(&facts.pod_namespace),
            name: text(&facts.pod_name),
            uid: text(&facts.pod_uid),
        },
        sgx_mode: config.sgx_mode,
        bundle,
        shim_pid: std::process::id(),
        agent: Some(agent),
        images: Vec::new(),
        containers: Vec::new(),
    }
}
