//! What a container is to us: a pure function of its spec, the config and the pod.

use layout::{Config, Role};
use runtime::bundle::Bundle;
use thiserror::Error;

/// Annotations of containerd's CRI plugin, and CRI-O's name of an image.
mod annotation {
    pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";
    pub const CRIO_IMAGE_NAME: &str = "io.kubernetes.cri-o.ImageName";
}

/// What is done with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// No CRI made it: a plain OCI container.
    Plain,
    /// Its pod's Kubernetes namespace is passed through: a plain OCI container.
    Passthrough,
    /// The pause container of a confidential pod, which gets an agent.
    Sandbox,
    /// It is booted from the agent's store of the image.
    App {
        /// Reference of the image.
        image: String,
    },
}

/// What the spec says about the container's place in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `sandbox` or `container`; none outside Kubernetes.
    pub container_type: Option<String>,
    /// The sandbox's id.
    pub sandbox_id: Option<String>,
    /// The pod's Kubernetes namespace.
    pub pod_namespace: Option<String>,
    /// The pod's name.
    pub pod_name: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
    /// The container's name in the pod.
    pub container_name: Option<String>,
    /// The image's reference.
    pub image: Option<String>,
    /// The container has a user namespace.
    pub user_namespace: bool,
}

/// What the plan has to know about the pod that the shim has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodFacts<'a> {
    /// The sandbox's id.
    pub sandbox_id: &'a str,
    /// The pod has an agent.
    pub confidential: bool,
}

/// A container that cannot be run as it is asked for. It is never run otherwise instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// An annotation that containerd always sets is missing.
    #[error("the container's annotation {0} is missing")]
    Missing(&'static str),
    /// A container type that this shim does not know.
    #[error("container type {0:?} is neither sandbox nor container")]
    UnknownType(String),
    /// The pod's sandbox was not created through this shim.
    #[error("the sandbox {sandbox} of the container is not one of this shim; restart the pod")]
    NoSandbox {
        /// The sandbox asked for.
        sandbox: String,
    },
    /// The shim already has a sandbox.
    #[error("this shim has the sandbox {present} and cannot take another")]
    SecondSandbox {
        /// The one that is there.
        present: String,
    },
    /// The boot side cannot read the store from inside a user namespace.
    #[error("user namespaces (hostUsers: false) are not supported by this runtime class")]
    UserNamespace,
}

impl Facts {
    /// Reads a bundle's spec.
    pub fn of(bundle: &Bundle) -> Self {
        let get = |key| bundle.annotation(key).filter(|value| !value.is_empty()).map(str::to_owned);
        Facts {
            container_type: get(annotation::CONTAINER_TYPE),
            sandbox_id: get(annotation::SANDBOX_ID),
            pod_namespace: get(annotation::SANDBOX_NAMESPACE),
            pod_name: get(annotation::SANDBOX_NAME),
            pod_uid: get(annotation::SANDBOX_UID),
            container_name: get(annotation::CONTAINER_NAME),
            image: get(annotation::IMAGE_NAME).or_else(|| get(annotation::CRIO_IMAGE_NAME)),
            user_namespace: bundle.has_user_namespace(),
        }
    }
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// [`PlanError`] for what cannot be run as it is asked for.
    pub fn new(facts: &Facts, config: &Config, pod: Option<PodFacts<'_>>) -> Result<Self, PlanError> {
        let Some(container_type) = &facts.container_type else { return Ok(Plan::Plain) };
        let sandbox = facts.sandbox_id.clone().ok_or(PlanError::Missing(annotation::SANDBOX_ID))?;
        match container_type.as_str() {
            "sandbox" => match pod {
                Some(pod) => Err(PlanError::SecondSandbox { present: pod.sandbox_id.to_owned() }),
                None if passed_through(facts, config) => Ok(Plan::Passthrough),
                None if facts.user_namespace => Err(PlanError::UserNamespace),
                None => Ok(Plan::Sandbox),
            },
            "container" => match pod.filter(|pod| pod.sandbox_id == sandbox) {
                None => Err(PlanError::NoSandbox { sandbox }),
                Some(pod) if !pod.confidential => Ok(Plan::Passthrough),
                Some(_) if facts.user_namespace => Err(PlanError::UserNamespace),
                Some(_) => {
                    let image = facts.image.clone().ok_or(PlanError::Missing(annotation::IMAGE_NAME))?;
                    Ok(Plan::App { image })
                }
            },
            other => Err(PlanError::UnknownType(other.to_owned())),
        }
    }

    /// The container's role in the state files.
    pub fn role(&self) -> Role {
        match self {
            Plan::Plain => Role::Plain,
            Plan::Passthrough => Role::Passthrough,
            Plan::Sandbox => Role::Sandbox,
            Plan::App { .. } => Role::App,
        }
    }
}

fn passed_through(facts: &Facts, config: &Config) -> bool {
    facts.pod_namespace.as_ref().is_some_and(|namespace| config.passthrough_namespaces.contains(namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(container_type: &str) -> Facts {
        Facts {
            container_type: Some(container_type.into()),
            sandbox_id: Some("s".into()),
            pod_namespace: Some("default".into()),
            image: Some("a/app:1".into()),
            ..Facts::default()
        }
    }

    const POD: PodFacts<'_> = PodFacts { sandbox_id: "s", confidential: true };

    #[test]
    fn each_kind_of_container_gets_its_plan() {
        let config = Config::default();
        let through = Config { passthrough_namespaces: vec!["default".into()], ..Config::default() };
        let app = Plan::App { image: "a/app:1".into() };
        let open = PodFacts { confidential: false, ..POD };
        for (facts, config, pod, want) in [
            (Facts::default(), &config, None, Ok(Plan::Plain)),
            (facts("sandbox"), &config, None, Ok(Plan::Sandbox)),
            (facts("sandbox"), &through, None, Ok(Plan::Passthrough)),
            (facts("container"), &config, Some(POD), Ok(app)),
            (facts("container"), &config, Some(open), Ok(Plan::Passthrough)),
            // The pod was confidential when it began: a config changed since then downgrades nothing.
            (facts("container"), &through, Some(POD), Ok(Plan::App { image: "a/app:1".into() })),
        ] {
            assert_eq!(Plan::new(&facts, config, pod), want, "{facts:?}");
        }
    }

    #[test]
    fn a_confidential_request_is_refused_rather_than_downgraded() {
        let config = Config::default();
        let other = PodFacts { sandbox_id: "other", ..POD };
        let no_image = Facts { image: None, ..facts("container") };
        let no_sandbox = Facts { sandbox_id: None, ..facts("sandbox") };
        let userns = |container_type| Facts { user_namespace: true, ..facts(container_type) };
        for (facts, pod, want) in [
            (facts("container"), None, PlanError::NoSandbox { sandbox: "s".into() }),
            (facts("container"), Some(other), PlanError::NoSandbox { sandbox: "s".into() }),
            (facts("sandbox"), Some(POD), PlanError::SecondSandbox { present: "s".into() }),
            (facts("vm"), None, PlanError::UnknownType("vm".into())),
            (no_image, Some(POD), PlanError::Missing(annotation::IMAGE_NAME)),
            (no_sandbox, None, PlanError::Missing(annotation::SANDBOX_ID)),
            (userns("sandbox"), None, PlanError::UserNamespace),
            (userns("container"), Some(POD), PlanError::UserNamespace),
        ] {
            assert_eq!(Plan::new(&facts, &config, pod), Err(want), "{facts:?}");
        }
    }
}
