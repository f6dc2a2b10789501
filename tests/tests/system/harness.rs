//! The harness itself: what it would not see, no scenario would prove.

use std::{
    fs::{self, File},
    os::unix::{net::UnixListener, process::CommandExt},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use tests::{
    handlers::RUNC,
    leak,
    namespace::{cgroup_dirs, tmpfs},
    node::cgroup_parent,
    suite::{Scenario, Scene, under},
    wait,
};

pub const SCENARIOS: &[Scenario] = &[under(&[RUNC], "harness::a_leak_of_each_kind_is_found", each_kind)];

fn each_kind(_: &Scene) -> Result<()> {
    let id = "5ca1ab1e".to_owned();
    let base = format!("/run/enclave-cc-leaks/{id}");
    let cgroup = format!("{}/{id}", cgroup_parent());
    let find = || leak::find(std::slice::from_ref(&id), std::slice::from_ref(&cgroup));
    ensure!(find()?.is_empty(), "found before anything was planted: {:?}", find()?);

    tmpfs(&format!("{base}/mount"), "size=4k")?;
    let socket = UnixListener::bind(Path::new(&base).join("socket"))?;
    File::create(Path::new(&base).join("file"))?;
    let mut process = Command::new("sleep").arg("100000").arg0(format!("sleep-{id}")).spawn()?;
    let mut cgroups = Vec::new();
    for hierarchy in cgroup_dirs("/") {
        let dir = hierarchy.join(cgroup.trim_start_matches('/')).join("leaf");
        fs::create_dir_all(&dir)?;
        cgroups.push(dir);
    }

    // Its command line shows when its exec is through.
    let found = wait::until("the process", Duration::from_secs(5), || {
        Ok(Some(find()?).filter(|found| found.iter().any(|leak| leak.starts_with("process: "))))
    });
    process.kill()?;
    process.wait()?;
    drop(socket);
    nix::mount::umount(format!("{base}/mount").as_str())?;
    fs::remove_dir_all("/run/enclave-cc-leaks")?;
    for dir in &cgroups {
        fs::remove_dir(dir)?;
        dir.parent().map_or(Ok(()), fs::remove_dir)?;
    }

    let found = found?;
    for kind in ["mount: ", "process: ", "socket: ", "path: ", "cgroup: "] {
        ensure!(found.iter().any(|leak| leak.starts_with(kind)), "no {kind:?} among {found:?}");
    }
    let left = find()?;
    ensure!(left.is_empty(), "found after all was removed: {left:?}");
    Ok(())
}
