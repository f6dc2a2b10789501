//! What stands between an app and the host: Occlum, or nothing.
//!
//! The only place that knows what a LibOS needs in a spec.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use layout::{BackendChoice, Config, NodePaths, SgxMode};
use runtime::{
    bundle::{Bundle, DeviceAccess, Hook, SpecMount},
    mount,
};

use super::PodError;

/// What an app is booted from.
pub struct App<'a> {
    /// The image's store on the host.
    pub store: &'a Path,
    /// Where the container's own writable layer may be kept, on the host.
    pub overlay: &'a Path,
    /// How long the boot may take.
    pub boot_within: Duration,
}

/// A LibOS as the shim sees it.
pub trait LibOs {
    /// Changes the agent's spec.
    ///
    /// # Errors
    /// A device is missing, or a value cannot be put into the spec.
    fn prepare_agent(&self, bundle: &mut Bundle) -> Result<(), PodError>;

    /// Puts the app's root file system together at the bundle's `rootfs` and changes its spec.
    ///
    /// # Errors
    /// A mount fails, or a value cannot be put into the spec.
    fn prepare_app(&self, bundle: &mut Bundle, app: &App<'_>) -> Result<(), PodError>;
}

/// The LibOS that the config asks for.
pub fn of(config: &Config) -> Box<dyn LibOs + Send + Sync + '_> {
    match config.sgx_mode {
        SgxMode::None => Box::new(None { config }),
        SgxMode::Hw | SgxMode::Sim => Box::new(Occlum { config }),
    }
}

/// Where in the bundle the boot hook leaves its error: not every backend passes on what a hook says.
pub const BOOT_REPORT: &str = "boot-report";

/// SGX mode NONE: the boot hook fills a root that only the container sees.
struct None<'a> {
    config: &'a Config,
}

/// Size of the tmpfs in which the backend makes mount points; the hook covers it.
const MOUNT_POINTS_BYTES: u64 = 4 << 20;

impl LibOs for None<'_> {
    fn prepare_agent(&self, _bundle: &mut Bundle) -> Result<(), PodError> {
        Ok(())
    }

    fn prepare_app(&self, bundle: &mut Bundle, app: &App<'_>) -> Result<(), PodError> {
        mount::private_tmpfs(&bundle.path().join("rootfs"), MOUNT_POINTS_BYTES)?;
        bundle.set_root_path(Path::new("rootfs"))?;
        let argument = |path: &Path| path.to_string_lossy().into_owned();
        Ok(bundle.prepend_create_container_hook(&Hook {
            path: self.config.containerd.boot_container_instance.join("hook"),
            args: vec![
                "enclave-boot-hook".to_owned(),
                "--store".to_owned(),
                argument(app.store),
                "--seal-key".to_owned(),
                argument(&NodePaths::new(self.config).seal_key()),
                "--report".to_owned(),
                argument(&bundle.path().join(BOOT_REPORT)),
            ],
            env: Vec::new(),
            timeout: i64::try_from(app.boot_within.as_secs()).ok(),
        })?)
    }
}

/// SGX modes HW and SIM.
struct Occlum<'a> {
    config: &'a Config,
}

/// Where an Occlum instance is in its bundle.
const INSTANCE: &str = "/run/rune/occlum_instance";
/// The launcher: starts a program in Occlum.
const LAUNCHER: &str = "/run/rune/occlum_instance/build/bin/occlum-run";
/// The devices of the kernel's SGX driver.
const SGX_DEVICES: [&str; 2] = ["/dev/sgx_enclave", "/dev/sgx_provision"];
/// The socket directory of the service that signs quotes.
const AESMD: &str = "/var/run/aesmd";
/// The PAL that rune loads, on the host.
const RUNE_PAL: &str = "/opt/occlum/build/lib/libocclum-pal.so";

impl Occlum<'_> {
    /// What both roles need.
    fn prepare(&self, bundle: &mut Bundle) -> Result<(), PodError> {
        let hardware = self.config.sgx_mode == SgxMode::Hw;
        bundle.set_env("OCCLUM_RELEASE_ENCLAVE", if hardware { "1" } else { "0" })?;
        bundle.set_cwd(Path::new(INSTANCE))?;
        if self.config.backend == BackendChoice::Rune {
            // rune starts the LibOS itself and adds devices and aesmd.
            for (name, value) in [
                ("ENCLAVE_TYPE", "intelSgx"),
                ("ENCLAVE_RUNTIME_PATH", RUNE_PAL),
                ("ENCLAVE_RUNTIME_ARGS", "./"),
            ] {
                bundle.set_env(name, value)?;
            }
            return Ok(());
        }
        let mut args = vec![LAUNCHER.to_owned()];
        args.extend_from_slice(bundle.args());
        bundle.set_args(&args);
        if !hardware {
            return Ok(());
        }
        bundle.set_env("SGX_AESM_ADDR", "1")?;
        for device in SGX_DEVICES {
            let device = Path::new(device);
            let kind = fs::metadata(device).map_err(|e| PodError::file("use the SGX device", device, e))?;
            if !kind.file_type().is_char_device() {
                return Err(PodError::Setup(format!("{} is not an SGX device", device.display())));
            }
            bundle.add_device(device, Option::None, DeviceAccess::ReadWrite)?;
        }
        Ok(bundle.add_mount(&SpecMount {
            destination: PathBuf::from(AESMD),
            kind: "bind".to_owned(),
            source: AESMD.to_owned(),
            options: ["rbind", "rprivate", "nosuid", "nodev"].map(str::to_owned).to_vec(),
        })?)
    }
}

impl LibOs for Occlum<'_> {
    fn prepare_agent(&self, bundle: &mut Bundle) -> Result<(), PodError> {
        self.prepare(bundle)
    }

    fn prepare_app(&self, bundle: &mut Bundle, app: &App<'_>) -> Result<(), PodError> {
        let (upper, work) = (app.overlay.join("upper"), app.overlay.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).map_err(|e| PodError::file("make", dir, e))?;
        }
        let boot = self.config.containerd.boot_container_instance.join("rootfs");
        mount::overlay(&[app.store, &boot], &upper, &work, &bundle.path().join("rootfs"))?;
        bundle.set_root_path(Path::new("rootfs"))?;
        self.prepare(bundle)
    }
}
