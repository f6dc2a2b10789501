//! The images that scenarios share: a busybox base, the pause image, and programs on the base.

use std::{fs, process::Command, sync::OnceLock};

use anyhow::{Context, Result};

use crate::{
    daemon::run,
    image::{Blob, Image, Layer},
    prerequisites,
};

/// The lowest layer of all images: static busybox with its applets, users, the usual directories.
///
/// # Panics
/// When busybox, a prerequisite that was checked at the start, can't be read.
#[must_use]
pub fn base_layer() -> Blob {
    static BASE: OnceLock<Blob> = OnceLock::new();
    BASE.get_or_init(|| {
        build_base().expect("busybox was checked to be there, and its layer is made in memory")
    })
    .clone()
}

fn build_base() -> Result<Blob> {
    let busybox = prerequisites::find("busybox").context("busybox is missing")?;
    let applets = run(Command::new(&busybox).arg("--list"))?;
    let mut layer = Layer::new();
    for dir in ["bin", "dev", "etc", "home", "lib", "proc", "root", "run", "sys", "var"] {
        layer = layer.dir(dir, 0o755)?;
    }
    layer = layer.dir("tmp", 0o1777)?.file("bin/busybox", 0o755, &fs::read(&busybox)?)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    layer
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")?
        .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")?
        .finish()
}

/// An image on the base whose entry point is `command`.
#[must_use]
pub fn command(command: &[&str]) -> Image {
    Image::default().layer(base_layer()).set("Entrypoint", command.to_vec()).set("Env", vec!["PATH=/bin"])
}

/// The pause image. Pid 1 of a shared pid namespace, so it reaps.
#[must_use]
pub fn pause() -> Image {
    command(&["/bin/sh", "-c", "trap exit TERM INT; while :; do sleep 100000 & wait $!; done"])
}

/// An image whose program prints `marker` and then sleeps until a signal ends it.
///
/// # Errors
/// When its layer can't be made.
pub fn program(marker: &str) -> Result<Image> {
    let marker = marker.replace('\'', "'\\''");
    let script =
        format!("#!/bin/sh\necho '{marker}'\ntrap exit TERM\nwhile :; do sleep 100000 & wait $!; done\n");
    let layer = Layer::new().file("app", 0o755, script.as_bytes())?.finish()?;
    Ok(command(&["/app"]).layer(layer))
}

/// The image of scenarios that bring their own command: a shell.
#[must_use]
pub fn shell() -> Image {
    command(&["/bin/sh", "-c"])
}
