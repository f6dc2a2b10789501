//! The agent's OCI bundle: the node's agent bundle, made into one pod's.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use layout::{AgentNetwork, AgentUrl, Config, NodePaths, SandboxPaths, SgxMode};
use runtime::{
    bundle::{Bundle, BundlePath, CgroupsPath, NamespaceKind, SpecMount},
    mount,
};

use super::{PodError, libos};

/// Where the agent finds what the host hands to it.
const INSIDE: &str = "/run/enclave-agent";
/// Length of a token in bytes, before it is written in hexadecimal.
const TOKEN_BYTES: usize = 32;
/// Length of mode NONE's seal key.
const SEAL_KEY_BYTES: usize = 32;

/// What the pod gives to its agent.
#[derive(Debug, Clone)]
pub struct PodEnvironment {
    /// The network namespace that the agent pulls from; `None` is the host's.
    pub network: Option<PathBuf>,
    /// The agent's cgroup, beside those of the pod's containers.
    pub cgroups_path: Option<String>,
    /// The pod's resolv.conf, on the host.
    pub resolv_conf: PathBuf,
    /// The pod's hosts file, on the host.
    pub hosts: PathBuf,
}

impl PodEnvironment {
    /// Reads it from the pause container's bundle. `pause_network` is where that container's own
    /// network namespace will be found, when it has a new one.
    pub fn of(pause: &Bundle, config: &Config, agent_id: &str, pause_network: PathBuf) -> Self {
        let network = match (config.agent_network, pause.namespace(NamespaceKind::Network)) {
            (AgentNetwork::Host, _) | (_, None) => None,
            (AgentNetwork::Pod, Some(Some(path))) => Some(path.to_owned()),
            (AgentNetwork::Pod, Some(None)) => Some(pause_network),
        };
        let (mut resolv_conf, mut hosts) = (PathBuf::from("/etc/resolv.conf"), PathBuf::from("/etc/hosts"));
        let pods =
            pause.spec().mounts.iter().find(|mount| mount.destination == Path::new("/etc/resolv.conf"));
        if let Some(mount) = pods.filter(|_| config.agent_network == AgentNetwork::Pod) {
            resolv_conf = PathBuf::from(&mount.source);
            // containerd and CRI-O keep the pod's hosts file beside it.
            let beside = resolv_conf.with_file_name("hosts");
            if beside.exists() {
                hosts = beside;
            }
        }
        PodEnvironment {
            network,
            cgroups_path: pause.cgroups_path().map(|path| beside(path, agent_id)),
            resolv_conf,
            hosts,
        }
    }
}

/// A cgroup of the same parent.
fn beside(path: CgroupsPath, name: &str) -> String {
    match path {
        CgroupsPath::Fs(path) => path.with_file_name(name).to_string_lossy().into_owned(),
        CgroupsPath::Systemd { slice, prefix, .. } => format!("{slice}:{prefix}:{name}"),
    }
}

/// Makes the pod's secret, or reads the one that was made before.
///
/// # Errors
/// [`PodError::File`].
pub fn token(paths: &SandboxPaths) -> Result<String, PodError> {
    let path = paths.token();
    let mut bytes = [0; TOKEN_BYTES];
    random(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    keep(&path, token.as_bytes())?;
    fs::read_to_string(&path).map_err(|e| PodError::file("read", &path, e))
}

/// Makes mode NONE's stand-in for a CPU's seal key, unless the node has one.
fn seal_key(node: &NodePaths) -> Result<PathBuf, PodError> {
    let path = node.seal_key();
    if !path.exists() {
        let mut key = [0; SEAL_KEY_BYTES];
        random(&mut key)?;
        keep(&path, &key)?;
    }
    Ok(path)
}

fn random(bytes: &mut [u8]) -> Result<(), PodError> {
    let source = Path::new("/dev/urandom");
    let read = fs::File::open(source).and_then(|mut file| file.read_exact(bytes));
    read.map_err(|e| PodError::file("read", source, e))
}

/// Writes a secret that does not exist yet; one that another shim wrote at the same moment stays.
fn keep(path: &Path, secret: &[u8]) -> Result<(), PodError> {
    let failed = |e| PodError::file("write", path, e);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(secret)?;
        file.sync_all()
    };
    write().map_err(failed)?;
    // A link, unlike a rename, never replaces what is there.
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Mounts the agent's root: an overlay, so that all pods share the node's bundle.
///
/// # Errors
/// [`PodError::Mount`], [`PodError::File`].
pub fn mount_root(config: &Config, paths: &SandboxPaths) -> Result<(), PodError> {
    let target = paths.agent_rootfs();
    fs::create_dir_all(&target).map_err(|e| PodError::file("make", &target, e))?;
    let lower = config.containerd.agent_container_instance.join("rootfs");
    Ok(mount::overlay(&[&lower], &paths.agent_upper(), &paths.agent_work(), &target)?)
}

/// Writes the bundle's `config.json` for an agent that listens at `url`.
///
/// # Errors
/// The node's bundle cannot be read, or a file cannot be written.
pub fn write(
    config: &Config,
    paths: &SandboxPaths,
    pod: &PodEnvironment,
    url: &AgentUrl,
) -> Result<(), PodError> {
    let instance = &config.containerd.agent_container_instance;
    let template = BundlePath::new(instance)
        .map_err(|e| PodError::Setup(e.to_string()))
        .and_then(|path| Ok(Bundle::open(&path)?));
    let mut bundle = template
        .map_err(|source| PodError::AgentBundle { path: instance.clone(), source: Box::new(source) })?;

    bundle.set_root_path(Path::new("rootfs"))?;
    if let Some(cgroups_path) = &pod.cgroups_path {
        bundle.set_cgroups_path(cgroups_path);
    }
    match &pod.network {
        Some(namespace) => bundle.set_namespace_path(NamespaceKind::Network, namespace)?,
        None => bundle.set_namespace_host(NamespaceKind::Network),
    }
    for (name, value) in [
        ("HTTP_PROXY", &config.agent.http_proxy),
        ("HTTPS_PROXY", &config.agent.https_proxy),
        ("NO_PROXY", &config.agent.no_proxy),
    ] {
        if let Some(value) = value {
            bundle.set_env(name, value)?;
        }
    }

    let mut args: Vec<String> = bundle.args().to_vec();
    let mut files = Files { bundle: &mut bundle, args: &mut args };
    files.bind(&paths.images(), "/images", "rw")?;
    files.bind(&pod.resolv_conf, "/etc/resolv.conf", "ro")?;
    files.bind(&pod.hosts, "/etc/hosts", "ro")?;
    files.flag("-l", &url.to_string());
    files.flag("--images", "/images");
    files.file("--token-file", &paths.token(), "token")?;
    if config.sgx_mode == SgxMode::None {
        files.flag("--mode", "none");
        files.file("--seal-key-file", &seal_key(&NodePaths::new(config))?, "seal.key")?;
    } else {
        files.flag("--mode", "occlum");
    }
    for registry in &config.agent.insecure_registries {
        files.flag("--insecure-registry", registry);
    }
    for (index, ca) in config.agent.ca_files.iter().enumerate() {
        files.file("--ca-file", ca, &format!("ca-{index}.pem"))?;
    }
    for (flag, file, name) in [
        ("--auth-file", &config.agent.auth_file, "auth.json"),
        ("-c", &config.agent.decrypt_config, "decrypt_config.conf"),
        ("-o", &config.agent.ocicrypt_config, "ocicrypt.conf"),
    ] {
        if let Some(file) = file {
            files.file(flag, file, name)?;
        }
    }
    bundle.set_args(&args);
    libos::of(config).prepare_agent(&mut bundle)?;

    let target = paths.agent_bundle();
    let target = BundlePath::new(&target).map_err(|e| PodError::Setup(e.to_string()))?;
    Ok(bundle.save_to(&target)?)
}

/// Adds host files to a bundle, and the flags that name them.
struct Files<'a> {
    bundle: &'a mut Bundle,
    args: &'a mut Vec<String>,
}

impl Files<'_> {
    fn flag(&mut self, flag: &str, value: &str) {
        self.args.extend([flag.to_owned(), value.to_owned()]);
    }

    fn file(&mut self, flag: &str, host: &Path, name: &str) -> Result<(), PodError> {
        let inside = format!("{INSIDE}/{name}");
        self.bind(host, &inside, "ro")?;
        self.flag(flag, &inside);
        Ok(())
    }

    fn bind(&mut self, host: &Path, inside: &str, access: &str) -> Result<(), PodError> {
        if !host.exists() {
            return Err(PodError::file(
                "give to the agent",
                host,
                std::io::Error::from(std::io::ErrorKind::NotFound),
            ));
        }
        Ok(self.bundle.add_mount(&SpecMount {
            destination: PathBuf::from(inside),
            kind: "bind".to_owned(),
            source: host.to_string_lossy().into_owned(),
            options: ["bind", "private", "nosuid", "nodev", "noexec", access].map(str::to_owned).to_vec(),
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_s_cgroup_lies_beside_the_sandbox_s() {
        assert_eq!(beside(CgroupsPath::Fs("/kubepods/pod1/s".into()), "s-agent"), "/kubepods/pod1/s-agent");
        let systemd = CgroupsPath::Systemd {
            slice: "pod1.slice".into(),
            prefix: "cri-containerd".into(),
            name: "s".into(),
        };
        assert_eq!(beside(systemd, "s-agent"), "pod1.slice:cri-containerd:s-agent");
    }

    #[test]
    fn a_secret_is_kept_once_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        keep(&path, b"first").unwrap();
        keep(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
