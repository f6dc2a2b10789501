//! `containerd.task.v2.Task` and `v3.Task`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::oci::{CheckpointOptions, ProcessDetails},
    shim_async::Task as TaskApi,
};
use layout::Role;
use runtime::{
    container::CheckpointRequest,
    oci::{AfterCheckpoint, Checkpoint, CriuOptions, KillScope},
    process::{Exit, ExitCode, Pid},
};
use ttrpc::r#async::TtrpcContext;

use super::{
    Error, stats, to_its_end,
    translate::{CreateRequest, ExecRequest, exec_id, state_response, timestamp},
};
use crate::{
    pod::{self, PodError},
    shim::Shim,
    tasks::{Creation, Lookup},
};

/// How long Delete and Shutdown wait for a creation that they cancel; containerd gives up after 5 s.
const CANCEL: Duration = Duration::from_secs(3);

/// How long a shim that was asked to end waits for an undo that is slow.
const UNDO: Duration = Duration::from_secs(120);

pub struct TaskService(pub Arc<Shim>);

/// Cancels the creation when its caller is gone: nobody would ever delete the container.
struct CancelOnDrop(Option<Creation>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(creation) = self.0.take() {
            creation.cancel();
        }
    }
}

#[async_trait]
impl TaskApi for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let request = CreateRequest::check(request)?;
        let reservation = self.0.tasks.reserve(request.id.as_str()).map_err(Error::from)?;
        let mut guard = CancelOnDrop(Some(reservation.creation()));
        let result = to_its_end(pod::create(Arc::clone(&self.0), reservation, request)).await;
        guard.0 = None;
        result.map(|pid| CreateTaskResponse { pid: pid.map_or(0, Pid::as_u32), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let shim = Arc::clone(&self.0);
        to_its_end(async move {
            let pid = match exec_id(&request.exec_id) {
                None => pod::start(&shim, &request.id).await?,
                Some(exec_id) => {
                    let task = shim.tasks.get(&request.id)?;
                    task.container.start_exec(exec_id, &task.io).await?
                }
            };
            Ok(StartResponse { pid: pid.as_u32(), ..Default::default() })
        })
        .await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let shim = Arc::clone(&self.0);
        to_its_end(async move {
            let (pid, exit) = match (shim.tasks.lookup(&request.id)?, exec_id(&request.exec_id)) {
                (Lookup::Creating(creation), _) => cancel(&request.id, creation).await?,
                (Lookup::Ready(task), Some(exec_id)) => task.container.delete_exec(exec_id).await?,
                (Lookup::Ready(task), None) => pod::delete(&shim, &task).await?,
            };
            Ok(DeleteResponse {
                pid: pid.map_or(0, Pid::as_u32),
                exit_status: u32::from(exit.code.as_u8()),
                exited_at: MessageField::some(timestamp(exit.at)),
                ..Default::default()
            })
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let ExecRequest { exec_id, stdio, process } = ExecRequest::check(request)?;
        task.container.add_exec(exec_id.as_str(), process, stdio).map_err(Error::from)?;
        Ok(Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let view = task.container.view(exec_id(&request.exec_id)).map_err(Error::from)?;
        let bundle = task.container.bundle().to_string_lossy().into_owned();
        Ok(state_response(&request.id, &request.exec_id, bundle, &view))
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let (_, exit) = task.container.wait(exec_id(&request.exec_id)).await.map_err(Error::from)?;
        Ok(WaitResponse {
            exit_status: u32::from(exit.code.as_u8()),
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let shim = Arc::clone(&self.0);
        to_its_end(async move {
            let task = shim.tasks.get(&request.id)?;
            let signal = i32::try_from(request.signal).map_err(|e| Error::invalid("signal", e))?;
            let scope = if request.all { KillScope::All } else { KillScope::Init };
            task.container.kill(exec_id(&request.exec_id), signal, scope).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let pids = task.container.pids().await.map_err(Error::from)?;
        let processes = pids.into_iter().map(process_info).collect::<Result<_, _>>()?;
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        to_its_end(async move { Ok(task.container.pause().await?) }).await.map(|()| Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        to_its_end(async move { Ok(task.container.resume().await?) }).await.map(|()| Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let resources = request.resources.value.clone();
        to_its_end(async move { Ok(task.container.update(&resources).await?) }).await.map(|()| Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        if matches!(task.state.role, Role::Sandbox | Role::App) {
            // The image would hold the app's memory, for the host to read.
            return Err(Error::from(PodError::NotConfidential("a checkpoint")).into());
        }
        let request = checkpoint_request(&request)?;
        to_its_end(async move { Ok(task.container.checkpoint(&request).await?) }).await.map(|()| Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let side = |field, length| u16::try_from(length).map_err(|e| Error::invalid(field, e));
        let (width, height) = (side("width", request.width)?, side("height", request.height)?);
        task.container.resize(exec_id(&request.exec_id), width, height).map_err(Error::from)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        if request.stdin {
            task.container.close_stdin(exec_id(&request.exec_id)).map_err(Error::from)?;
        }
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        let stats = task.container.stats().map_err(Error::from)?;
        Ok(StatsResponse { stats: MessageField::some(stats::encode(&stats)?), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let task = self.0.tasks.get(&request.id).map_err(Error::from)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task.container.init_pid().map_or(0, Pid::as_u32),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        let shim = Arc::clone(&self.0);
        to_its_end(async move {
            // containerd asks after each container of the group; the last one counts, and one that is
            // being created beside others is not meant.
            if shim.tasks.has_ready() {
                return Ok(Empty::new());
            }
            shim.tasks.cancel_creations(CANCEL).await;
            if shim.tasks.is_empty() {
                shim.shut_down();
            } else {
                // An undo takes longer, and nobody asks again.
                tokio::spawn(async move {
                    shim.tasks.cancel_creations(UNDO).await;
                    if shim.tasks.is_empty() {
                        shim.shut_down();
                    }
                });
            }
            Ok(Empty::new())
        })
        .await
    }
}

async fn cancel(id: &str, creation: Creation) -> Result<(Option<Pid>, Exit), Error> {
    creation.cancel();
    if !creation.over(CANCEL).await {
        log::warn!("container {id}: undoing its creation takes longer than {CANCEL:?} and goes on");
    }
    let code = ExitCode::signalled(9);
    Ok((None, Exit { code, at: std::time::SystemTime::now() }))
}

fn process_info((pid, exec_id): (Pid, Option<String>)) -> Result<ProcessInfo, Error> {
    let mut info = ProcessInfo { pid: pid.as_u32(), ..Default::default() };
    if let Some(exec_id) = exec_id {
        let details = ProcessDetails { exec_id, ..Default::default() };
        info.info = MessageField::some(Any {
            type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
            value: details.write_to_bytes().map_err(|e| Error::invalid("exec_id", e))?,
            ..Default::default()
        });
    }
    Ok(info)
}

fn checkpoint_request(request: &CheckpointTaskRequest) -> Result<CheckpointRequest, Error> {
    let options = CheckpointOptions::parse_from_bytes(&request.options.value)
        .map_err(|e| Error::invalid("options", e))?;
    let path = |text: &str| Some(std::path::PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    let image_path = path(&options.image_path)
        .or_else(|| path(&request.path))
        .ok_or_else(|| Error::invalid("path", "neither the request nor its options say where to"))?;
    Ok(CheckpointRequest {
        path: path(&request.path).unwrap_or_else(|| image_path.clone()),
        options: Checkpoint {
            image_path,
            work_path: path(&options.work_path),
            after: if options.exit { AfterCheckpoint::Stop } else { AfterCheckpoint::Run },
            options: CriuOptions {
                tcp_established: options.open_tcp,
                external_unix_sockets: options.external_unix_sockets,
                shell_job: options.terminal,
                file_locks: options.file_locks,
            },
            empty_namespaces: options.empty_namespaces,
            cgroups_mode: Some(options.cgroups_mode).filter(|mode| !mode.is_empty()),
        },
    })
}
