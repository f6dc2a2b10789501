//! How a container comes to be. One direction: facts, plan, state on disk, steps, container.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use layout::{
    AgentRecord, AgentState, AgentStatus, BackendChoice, BundleState, Config, Identifier, NodePaths, Role,
    SandboxPaths,
};
use runtime::{
    bundle::{self, Bundle, CgroupsPath},
    container::{Container, CreateSpec, Deadlines, Observer, PidNamespace},
    io::IoContext,
    mount,
    oci::{Backend, BackendConfig, CriuOptions, Dialect, Restore},
    process::Pid,
};

use super::{
    Pod, PodError,
    agent_bundle::PodEnvironment,
    agent_enclave::{AgentSpec, network_of},
    app::{self, SpecFrom},
    plan::{Facts, Plan},
    sandbox::first_state,
    sweep, teardown,
};
use crate::{
    service::{
        Error,
        options::{Options, OptionsError},
        translate::CreateRequest,
    },
    shim::Shim,
    tasks::{Reservation, Task},
};

/// Where the Go shim has its backends keep their state, so that operators find it there.
const BACKEND_ROOT: &str = "/run/containerd/runc";

/// Creates a container. A failure or a cancellation undoes whatever was done.
///
/// # Errors
/// What failed, and with it what could not be undone.
pub async fn create(
    shim: Arc<Shim>,
    reservation: Reservation,
    request: CreateRequest,
) -> Result<Option<Pid>, Error> {
    let id = request.id.clone();
    let mut begun = None;
    let cancelled = || Error::from(PodError::Cancelled { id: id.to_string() });
    let built = tokio::select! {
        biased;
        () = reservation.cancelled() => Err(cancelled()),
        built = build(&shim, &request, &mut begun) => built,
    };
    let built = if reservation.is_cancelled() { built.and(Err(cancelled())) } else { built };
    match built {
        Ok(built) => Ok(commit(&shim, reservation, request, built)),
        Err(first) => {
            log::error!("create container {id}: {}", crate::service::chain(&first));
            let Some(state) = begun else { return Err(first) };
            match teardown::container(&state, request.bundle.as_path(), &shim.reaper).await {
                Ok(()) => Err(first),
                Err(undo) => Err(Error::Undo { first: Box::new(first), undo: Box::new(undo) }),
            }
        }
    }
}

/// A container that exists and is not yet in the table.
struct Built {
    task: Task,
    /// `None` for a container that is restored when it is started.
    pid: Option<Pid>,
    /// The pod that begins with it.
    pod: Option<Pod>,
    facts: Facts,
    image: Option<String>,
}

fn commit(shim: &Shim, reservation: Reservation, request: CreateRequest, built: Built) -> Option<Pid> {
    let Built { task, pid, pod, facts, image } = built;
    if let Some(pod) = pod {
        shim.set_pod(Some(Arc::new(pod)));
    }
    if let Some(pod) = shim.pod() {
        pod.note_container(&request.id, &facts, task.state.role, image.as_deref());
    }
    let task = reservation.commit(task);
    let mut event = request.event;
    event.pid = pid.map_or(0, Pid::as_u32);
    let event_pid = event.pid;
    shim.events.created(event);
    task.container.watch();
    log::info!("container {} ({:?}) is created, pid {}", request.id, task.state.role, event_pid);
    pid
}

/// `begun` is set before the first step that has to be undone.
async fn build(
    shim: &Shim,
    request: &CreateRequest,
    begun: &mut Option<BundleState>,
) -> Result<Built, Error> {
    let mut bundle = Bundle::open(&request.bundle).map_err(PodError::from)?;
    let facts = Facts::of(&bundle);
    let pod = shim.pod();
    let config = match &pod {
        // What the pod began with holds for all of it.
        Some(pod) => Arc::clone(&pod.config),
        None => Arc::new(request.options.config.load().map_err(OptionsError::from)?),
    };
    shim.set_log_level(config.log_level);
    let plan = Plan::new(&facts, &config, pod.as_deref().map(Pod::facts)).map_err(PodError::from)?;
    if matches!(plan, Plan::Sandbox | Plan::App { .. }) {
        for (asked, what) in [
            (request.options.no_pivot, "NoPivotRoot"),
            (request.checkpoint.is_some(), "restoring from a checkpoint"),
        ] {
            if asked {
                return Err(PodError::NotConfidential(what).into());
            }
        }
    }

    let backend_config = backend_config(shim, &config, &request.options, &bundle);
    let paths = sandbox_paths(shim, &config, &plan, request, pod.as_deref());
    let state = bundle_state(shim, &config, &plan, request, &facts, &backend_config, paths.as_ref())?;
    *begun = Some(state.clone());
    state.write(request.bundle.as_path()).map_err(PodError::from)?;

    let mut image = None;
    let mut new_pod = None;
    match &plan {
        Plan::Plain => mount_rootfs(request)?,
        Plan::Passthrough => {
            mount_rootfs(request)?;
            new_pod = paths
                .clone()
                .filter(|_| pod.is_none())
                .map(|paths| Pod::passthrough(Arc::clone(&config), paths));
        }
        Plan::Sandbox => {
            mount_rootfs(request)?;
            sandbox_directories(shim, &config, request, &facts, &state)?;
        }
        Plan::App { image: reference } => {
            let pod = pod.as_deref().ok_or(PodError::NoSandbox)?;
            let pulled = pod.ensure_image(reference, request.id.as_str()).await?;
            let from = if request.rootfs.is_empty() { SpecFrom::PodOnly } else { SpecFrom::ImageAndPod };
            app::prepare(&config, &pod.paths, &mut bundle, request.id.as_str(), &pulled, from)?;
            image = Some(reference.clone());
        }
    }

    let io = IoContext {
        namespace: shim.namespace.to_string(),
        id: request.id.to_string(),
        owner: request.options.io_owner,
        console_dir: std::env::temp_dir(),
        reaper: shim.reaper.clone(),
    };
    let observer: Arc<dyn Observer> = shim.events.clone();
    let create =
        if matches!(plan, Plan::App { .. }) { config.timeouts.start } else { config.timeouts.backend };
    let container = Container::create(CreateSpec {
        id: request.id.to_string(),
        bundle: request.bundle.as_path().to_owned(),
        backend: Backend::new(backend_config, shim.reaper.clone(), request.bundle.as_path()),
        stdio: request.stdio.clone(),
        io: io.clone(),
        pid_namespace: match bundle.pid_namespace() {
            bundle::PidNamespace::Own => PidNamespace::Own,
            bundle::PidNamespace::Host | bundle::PidNamespace::Shared(_) => PidNamespace::Shared,
        },
        no_pivot: request.options.no_pivot,
        no_new_keyring: request.options.no_new_keyring,
        restore: restore(request),
        deadlines: Deadlines { create, call: config.timeouts.backend },
        observer,
    });
    let container = container.await.map_err(|error| match plan {
        Plan::App { .. } => Error::from(app::explain(request.bundle.as_path(), error)),
        _ => Error::from(error),
    })?;
    let pid = container.init_pid();

    if plan == Plan::Sandbox {
        new_pod = pid.and_then(|pid| confidential_pod(shim, config, request, &facts, &bundle, &state, pid));
    }
    Ok(Built {
        task: Task { container, state, io, deleted: tokio::sync::Mutex::new(false) },
        pid,
        pod: new_pod,
        facts,
        image,
    })
}

fn restore(request: &CreateRequest) -> Option<Restore> {
    Some(Restore {
        image_path: request.checkpoint.clone()?,
        work_path: request.options.criu_work_path.clone(),
        options: CriuOptions::default(),
    })
}

fn mount_rootfs(request: &CreateRequest) -> Result<(), PodError> {
    if request.rootfs.is_empty() {
        return Ok(());
    }
    Ok(mount::mount_rootfs(&request.rootfs, &request.bundle.as_path().join("rootfs"))?)
}

/// The OCI backend's program and the command line that it speaks. The runtime options win over the config.
pub fn backend_program(config: &Config, options: &Options) -> (Dialect, PathBuf) {
    if let Some(program) = &options.program {
        return (dialect_of(program), program.clone());
    }
    match &config.backend {
        BackendChoice::Runc => (Dialect::Runc, "runc".into()),
        BackendChoice::Crun => (Dialect::Crun, "crun".into()),
        BackendChoice::Rune => (Dialect::Rune, "rune".into()),
        BackendChoice::Path(path) => (dialect_of(path), path.clone()),
    }
}

fn backend_config(shim: &Shim, config: &Config, options: &Options, bundle: &Bundle) -> BackendConfig {
    let (dialect, program) = backend_program(config, options);
    BackendConfig {
        dialect,
        program,
        root: options.root.as_deref().unwrap_or(Path::new(BACKEND_ROOT)).join(shim.namespace.as_str()),
        systemd_cgroup: options.systemd_cgroup
            || matches!(bundle.cgroups_path(), Some(CgroupsPath::Systemd { .. })),
        criu_path: None,
    }
}

/// A program named after a dialect speaks it; all others speak runc's.
fn dialect_of(program: &Path) -> Dialect {
    match program.file_name().and_then(|name| name.to_str()) {
        Some("crun") => Dialect::Crun,
        Some("rune") => Dialect::Rune,
        _ => Dialect::Runc,
    }
}

fn sandbox_paths(
    shim: &Shim,
    config: &Config,
    plan: &Plan,
    request: &CreateRequest,
    pod: Option<&Pod>,
) -> Option<SandboxPaths> {
    match (plan, pod) {
        (Plan::Plain, _) => None,
        (_, Some(pod)) => Some(pod.paths.clone()),
        (_, None) => Some(NodePaths::new(config).sandbox(&shim.namespace, &request.id)),
    }
}

fn bundle_state(
    shim: &Shim,
    config: &Config,
    plan: &Plan,
    request: &CreateRequest,
    facts: &Facts,
    backend: &BackendConfig,
    paths: Option<&SandboxPaths>,
) -> Result<BundleState, PodError> {
    let json = |backend: &BackendConfig| {
        serde_json::to_value(backend).map_err(|e| PodError::Setup(format!("record the backend: {e}")))
    };
    let agent = match (plan, paths) {
        (Plan::Sandbox, Some(paths)) => Some(AgentRecord {
            container_id: agent_id(&request.id)?,
            backend: json(&agent_backend(backend, paths))?,
        }),
        _ => None,
    };
    Ok(BundleState {
        boot_id: shim.boot_id.clone(),
        role: plan.role(),
        namespace: shim.namespace.clone(),
        container: request.id.clone(),
        sandbox: facts
            .sandbox_id
            .as_ref()
            .map(|id| Identifier::new(id.clone()))
            .transpose()
            .map_err(|e| PodError::Setup(format!("the sandbox's id: {e}")))?,
        backend: json(backend)?,
        rootfs_mounted: plan.role() == Role::App || !request.rootfs.is_empty(),
        dirs: paths.map(|paths| paths.dirs().clone()),
        agent,
        cleanup_secs: config.timeouts.cleanup.as_secs(),
    })
}

fn agent_id(sandbox: &Identifier) -> Result<Identifier, PodError> {
    Identifier::new(format!("{sandbox}-agent")).map_err(|e| PodError::Setup(format!("the agent's id: {e}")))
}

/// The agent is kept apart from the containers that containerd knows of.
fn agent_backend(pods: &BackendConfig, paths: &SandboxPaths) -> BackendConfig {
    BackendConfig { root: paths.state_dir().join("backend"), ..pods.clone() }
}

fn sandbox_directories(
    shim: &Shim,
    config: &Config,
    request: &CreateRequest,
    facts: &Facts,
    state: &BundleState,
) -> Result<(), PodError> {
    let instance = &config.containerd.agent_container_instance;
    if !instance.join("config.json").is_file() {
        let missing =
            PodError::file("find", &instance.join("config.json"), std::io::ErrorKind::NotFound.into());
        return Err(PodError::AgentBundle { path: instance.clone(), source: Box::new(missing) });
    }
    let node = NodePaths::new(config);
    let paths = node.sandbox(&shim.namespace, &request.id);
    paths.create_state_dir()?;
    first_state(
        &shim.boot_id,
        &paths,
        facts,
        config,
        request.bundle.as_path().to_owned(),
        agent_status(state)?,
    )
    .write(&paths)?;
    paths.create_data_dirs()?;
    sweep::start(node, shim.boot_id.clone());
    if config.sgx_mode == layout::SgxMode::None {
        log::warn!("SGX mode NONE: sandbox {} has no confidentiality against this host", request.id);
    }
    Ok(())
}

fn agent_status(state: &BundleState) -> Result<AgentStatus, PodError> {
    Ok(AgentStatus {
        container_id: agent_id(&state.container)?,
        state: AgentState::Starting,
        url: String::new(),
        restarts: 0,
        last_exit: None,
    })
}

fn confidential_pod(
    shim: &Shim,
    config: Arc<Config>,
    request: &CreateRequest,
    facts: &Facts,
    bundle: &Bundle,
    state: &BundleState,
    pause: Pid,
) -> Option<Pod> {
    let (paths, agent) = (state.sandbox_paths()?, state.agent.as_ref()?);
    let backend: BackendConfig = serde_json::from_value(agent.backend.clone()).ok()?;
    let agent_id = agent.container_id.to_string();
    let environment = PodEnvironment::of(bundle, &config, &agent_id, network_of(pause));
    let status = agent_status(state).ok()?;
    let first =
        first_state(&shim.boot_id, &paths, facts, &config, request.bundle.as_path().to_owned(), status);
    let spec = AgentSpec {
        config: Arc::clone(&config),
        backend: Backend::new(backend, shim.reaper.clone(), paths.agent_bundle()),
        paths: paths.clone(),
        container_id: agent_id,
        pod: environment,
    };
    Some(Pod::confidential(config, paths, spec, first))
}
