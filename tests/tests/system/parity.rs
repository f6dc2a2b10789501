//! What an app sees of its container is what runc gives it, apart from the root file system's origin.
//!
//! Each scenario runs one pod under the handler and the same pod under runc and compares what they see.
//! Under the handler runc that compares runc with itself: it proves that nothing else differs.

use anyhow::{Context, Result, ensure};
use k8s_cri::v1;
use tests::{
    container::ContainerSpec,
    cri::DEADLINE,
    images,
    pod::{Pod, PodSpec},
    suite::{Scenario, Scene, shared},
};

pub const SCENARIOS: &[Scenario] = &[
    shared("parity::of_an_ordinary_container", |scene| equal(scene, |pod| pod, |spec| spec)),
    shared("parity::with_all_capabilities_dropped_and_default_seccomp", |scene| {
        equal(scene, |pod| pod, restricted)
    }),
    shared("parity::as_another_user", |scene| equal(scene, |pod| pod, non_root)),
    shared("parity::with_a_read_only_root", |scene| {
        equal(scene, |pod| pod, |spec| spec.security(|context| context.readonly_rootfs = true))
    }),
    shared("parity::with_a_terminal", |scene| {
        equal(scene, |pod| pod, |spec| spec.edit(|config| config.tty = true))
    }),
    shared("parity::in_the_nodes_pid_namespace", |scene| {
        equal(scene, |pod| pid(pod, v1::NamespaceMode::Node), |spec| spec)
    }),
    shared("parity::in_the_pods_pid_namespace", |scene| {
        equal(scene, |pod| pid(pod, v1::NamespaceMode::Pod), |spec| spec)
    }),
    shared("parity::with_mounts_propagating_to_the_container", |scene| {
        equal(
            scene,
            |pod| pod,
            |spec| {
                spec.mount("/run/node/shared", "/shared", v1::MountPropagation::PropagationHostToContainer)
            },
        )
    }),
    shared("parity::with_mounts_propagating_both_ways", |scene| {
        equal(
            scene,
            |pod| pod.privileged(),
            |spec| {
                spec.mount("/run/node/shared", "/shared", v1::MountPropagation::PropagationBidirectional)
                    .security(|context| context.privileged = true)
            },
        )
    }),
    shared("parity::with_a_memory_limit", |scene| {
        equal(scene, |pod| pod, |spec| spec.memory_limit(64 << 20))
    }),
    shared("parity::when_privileged", |scene| {
        equal(scene, |pod| pod.privileged(), |spec| spec.security(|context| context.privileged = true))
    }),
    shared("parity::in_the_nodes_network", |scene| equal(scene, |pod| pod.host_network(), |spec| spec)),
    shared("parity::of_errors_and_exit_codes_of_exec", exec_errors),
    shared("parity::of_errors_of_the_first_process", start_errors),
];

type Change = fn(ContainerSpec) -> ContainerSpec;

/// Prints all that is compared, in sections. Files are opened for writing, never written.
const OBSERVE: &str = r#"
echo "== user"; id; umask; pwd; env | sort
echo "== status"; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Speculation)' /proc/self/status
echo "== limits"; cat /proc/self/limits /proc/self/oom_score_adj
echo "== mounts"; cat /proc/self/mountinfo
echo "== cgroups"; cat /proc/self/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes
echo "== namespaces"; for n in cgroup ipc mnt net pid user uts; do
  [ "$(readlink /proc/self/ns/$n)" = "$(readlink /proc/1/ns/$n)" ] && echo $n of pid 1; done
echo "== devices"; stat -c '%n %a %u:%g %F %t:%T' /dev /dev/* /dev/pts/ptmx | grep -v /dev/console
echo "== root"; stat -c '%n %a %u:%g %F' / /*
echo "== writable"; for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward \
  /proc/sys/net/ipv4/ping_group_range /proc/sys/vm/overcommit_memory /proc/sysrq-trigger /proc/1/oom_score_adj /proc/bus \
  /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run /sys/fs/cgroup/memory/tasks /dev/null /dev/kmsg /dev/new /dev/shm/new \
  /etc/hosts /etc/hostname /etc/resolv.conf /etc/passwd /new /tmp/new /bin/busybox; do
  (: >> $f) 2>/dev/null && echo "$f yes" || echo "$f no: $( (: >> $f) 2>&1 | sed 's/.*: //')"; done
echo "== readable"; for f in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats /proc/acpi /proc/scsi /sys/firmware /proc/asound; do
  if [ -d $f ]; then echo "$f $(ls $f 2>&1 | wc -l) entries"; else echo "$f $(head -c1 $f 2>&1 | wc -c) bytes"; fi; done
echo "== calls"; mount -t tmpfs none /tmp 2>&1; mknod /tmp/node c 1 3 2>&1; chown 5:5 /etc/group 2>&1; hostname other 2>&1
  unshare -m true 2>&1; unshare -U true 2>&1; chroot / true 2>&1; dmesg 2>&1 >/dev/null; echo; ping -c1 -w1 127.0.0.1 2>&1 | head -n1
echo "== end"
"#;

fn restricted(spec: ContainerSpec) -> ContainerSpec {
    spec.security(|context| {
        context.capabilities =
            Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        context.no_new_privs = true;
        context.seccomp = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
    })
}

fn non_root(spec: ContainerSpec) -> ContainerSpec {
    spec.security(|context| {
        context.run_as_user = Some(v1::Int64Value { value: 1000 });
        context.run_as_group = Some(v1::Int64Value { value: 1000 });
        context.supplemental_groups = vec![2000, 3000];
    })
}

fn pid(pod: PodSpec<'_>, mode: v1::NamespaceMode) -> PodSpec<'_> {
    pod.namespaces(|options| options.pid = mode.into())
}

/// Runs the pod under both handlers, one after the other and named alike, and compares what the first process
/// and an exec see.
fn equal(scene: &Scene, pod: fn(PodSpec<'_>) -> PodSpec<'_>, container: Change) -> Result<()> {
    shared_directory()?;
    let image = scene.push(&images::shell(), "app")?;
    let mut seen = Vec::new();
    for (n, handler) in [scene.reference_handler(), scene.handler()].into_iter().enumerate() {
        let pod = pod(scene.pod("pod")).handler(handler).run()?;
        let script = format!("{OBSERVE}\nsleep 100000");
        let spec = container(ContainerSpec::new("app", &image.reference).script(&script));
        let spec = spec.edit(|config| config.log_path = format!("{n}.log"));
        let app = pod.run(spec)?;
        let log = app.wait_log("== end")?;
        let exec = app.sh(OBSERVE)?;
        let ids = [pod.id.clone(), app.id.clone()];
        seen.push((normalise(&log, &ids)?, normalise(&exec, &ids)?));
        pod.remove()?;
    }
    let [runc, ours] = &seen[..] else { anyhow::bail!("two handlers, {} results", seen.len()) };
    same("the first process", &runc.0, &ours.0)?;
    same("an exec", &runc.1, &ours.1)
}

/// A shared mount on the node, the source of volumes that propagate.
fn shared_directory() -> Result<()> {
    std::fs::create_dir_all("/run/node/shared").context("creating the shared directory")
}

fn same(whose: &str, expected: &str, found: &str) -> Result<()> {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let only = |one: &[&str], other: &[&str], sign: char| {
        let lines = one.iter().filter(|line| !other.contains(line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    let difference = only(&expected, &found, '-') + &only(&found, &expected, '+');
    ensure!(difference.is_empty(), "what {whose} sees differs from runc (-: runc, +: ours):\n{difference}");
    Ok(())
}

/// Puts names for ids and addresses, orders mounts, and leaves out where the root file system comes from.
fn normalise(text: &str, ids: &[String; 2]) -> Result<String> {
    let text = text.replace('\r', "").replace(&ids[0], "<sandbox>").replace(&ids[1], "<container>");
    let mut mounts = Vec::new();
    let mut lines = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if line.starts_with("== ") {
            section = line;
        }
        if section == "== mounts" && line != section {
            mounts.push(mount(line).with_context(|| format!("mountinfo line {line:?}"))?);
        } else {
            lines.push(line.to_owned());
        }
    }
    mounts.sort();
    lines.extend(mounts);
    Ok(lines.join("\n"))
}

/// One line of mountinfo without ids and device numbers, with the kinds of its propagation.
fn mount(line: &str) -> Option<String> {
    let (place, origin) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point, options) = (place.next()?, place.next()?, place.next()?);
    let kinds: Vec<&str> = place.filter_map(|tag| tag.split(':').next()).collect();
    if point == "/" {
        // Where the root comes from differs, and ours never propagates.
        return Some(format!("mount / {options}"));
    }
    Some(format!("mount {point} {options} {kinds:?} of {root} - {origin}"))
}

/// The same exec under both handlers: its exit code, output, or error.
fn exec_errors(scene: &Scene) -> Result<()> {
    const COMMANDS: &[&[&str]] = &[
        &["/bin/nothing"],
        &["nothing"],
        &["/etc"],
        &["/etc/passwd"],
        &["/bin/sh", "-c", "exit 42"],
        &["/bin/sh", "-c", "kill -9 $$"],
        &["/bin/sh", "-c", "kill -TERM $$"],
        &["/bin/false"],
        &["id"],
    ];
    both(scene, |pod, reference, handler| {
        let spec = restricted(non_root(ContainerSpec::new("app", reference).script("sleep 100000")));
        let app = pod.run(spec.edit(|config| config.log_path = format!("{handler}.log")))?;
        let mut seen = String::new();
        for command in COMMANDS {
            let outcome = match app.try_exec(command) {
                Ok(output) => format!("{output:?}"),
                Err(status) => status.message().replace(&app.id, "<container>"),
            };
            // containerd gives each exec an id of 64 hexadecimal digits.
            let words = outcome.split(' ').filter(|word| word.trim_matches(['"', ':']).len() != 64);
            seen += &format!("{command:?}: {}\n", words.collect::<Vec<_>>().join(" "));
        }
        Ok(seen)
    })
}

/// The same faulty container under both handlers: why it does not start.
fn start_errors(scene: &Scene) -> Result<()> {
    let faults: [(&str, Change); 4] = [
        ("missing", |spec| spec.command(["/bin/nothing"])),
        ("unfound", |spec| spec.command(["nothing"])),
        ("directory", |spec| spec.command(["/etc"])),
        ("not-executable", |spec| spec.command(["/etc/passwd"])),
    ];
    both(scene, |pod, reference, handler| {
        let mut seen = String::new();
        pod.pull(reference)?;
        for (name, fault) in faults {
            let spec = fault(ContainerSpec::new(name, reference));
            let app = pod.create(spec.edit(|config| config.log_path = format!("{handler}-{name}.log")))?;
            let error = app.try_start(DEADLINE).err().with_context(|| format!("{name} was started"))?;
            let why = error.message().replace(&app.id, "<container>");
            let status = app.status()?;
            seen += &format!("{name}: {why} {} {}\n", status.exit_code, status.reason);
        }
        Ok(seen)
    })
}

fn both(scene: &Scene, observe: impl Fn(&Pod<'_>, &str, &str) -> Result<String>) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let mut seen = Vec::new();
    for handler in [scene.reference_handler(), scene.handler()] {
        let pod = scene.pod("pod").handler(handler).run()?;
        seen.push(observe(&pod, &image.reference, handler)?);
        pod.remove()?;
    }
    same("the caller", &seen[0], &seen[1])
}
