//! Where cgroups are: hierarchies that are mounted, and the paths of `/proc/<pid>/cgroup` in them.

use std::path::{Component, Path, PathBuf};

use crate::mount::MountPoint;

/// Controllers of cgroup v1, as the options of a hierarchy's mount name them.
const CONTROLLERS: [&str; 15] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Controllers, or `name=…`, sorted; empty for cgroup2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    mount: PathBuf,
    /// The cgroup that is mounted there.
    root: PathBuf,
}

impl Hierarchy {
    /// Whether it limits or counts anything, unlike `name=systemd`.
    pub(super) fn has_controllers(&self) -> bool {
        self.controllers.iter().any(|controller| !controller.starts_with("name="))
    }

    /// The directory of cgroup `path`; the mount may show a part of the hierarchy only (in a container).
    fn directory(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        // A plain join of an empty path would add a slash.
        self.mount.components().chain(inside.components()).collect()
    }
}

/// A cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    pub controllers: Vec<String>,
    pub path: PathBuf,
    /// It is all of what is mounted and not ours to remove.
    pub is_root: bool,
}

/// The hierarchies among the mounts, each once.
pub(super) fn hierarchies(mounts: Vec<MountPoint>) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mounts {
        let mut controllers: Vec<String> = match mount.kind.as_str() {
            "cgroup" => {
                mount.options.split(',').filter(|word| is_controller(word)).map(str::to_owned).collect()
            }
            "cgroup2" => Vec::new(),
            _ => continue,
        };
        controllers.sort();
        if mount.kind == "cgroup" && controllers.is_empty() {
            continue;
        }
        let hierarchy = Hierarchy { controllers, mount: mount.path, root: mount.root };
        match found.iter_mut().find(|other| other.controllers == hierarchy.controllers) {
            None => found.push(hierarchy),
            // Of several mounts of a hierarchy the one that shows it all.
            Some(other) if other.root != Path::new("/") && hierarchy.root == Path::new("/") => {
                *other = hierarchy
            }
            Some(_) => {}
        }
    }
    found
}

fn is_controller(word: &str) -> bool {
    word.starts_with("name=") || CONTROLLERS.contains(&word)
}

/// The directories of cgroup `path` in those `hierarchies` that have it.
pub(super) fn at(hierarchies: &[Hierarchy], path: &Path) -> Vec<Directory> {
    hierarchies.iter().filter_map(|hierarchy| existing(hierarchy, path)).collect()
}

/// The directories that a `/proc/<pid>/cgroup` names.
pub(super) fn of(hierarchies: &[Hierarchy], proc_cgroup: &str) -> Vec<Directory> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_id, controllers, path) = (fields.next()?, fields.next()?, Path::new(fields.next()?));
        let mut controllers: Vec<_> = controllers.split(',').filter(|name| !name.is_empty()).collect();
        controllers.sort_unstable();
        // Outside of this process' cgroup namespace paths begin with "/..".
        if !is_plain(path) {
            return None;
        }
        existing(hierarchies.iter().find(|hierarchy| hierarchy.controllers == controllers)?, path)
    };
    proc_cgroup.lines().filter_map(line).collect()
}

/// Whether a cgroup's path stays in its hierarchy.
pub(super) fn is_plain(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

fn existing(hierarchy: &Hierarchy, path: &Path) -> Option<Directory> {
    let directory = hierarchy.directory(path);
    directory.is_dir().then(|| Directory {
        controllers: hierarchy.controllers.clone(),
        is_root: directory == hierarchy.mount,
        path: directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &str, root: &str, path: &str) -> MountPoint {
        MountPoint {
            id: 1,
            parent: 0,
            root: root.into(),
            path: path.into(),
            kind: kind.into(),
            source: "cgroup".into(),
            options: options.into(),
            shared: None,
            master: None,
        }
    }

    #[test]
    fn each_hierarchy_is_found_once_by_its_controllers() {
        let found = hierarchies(vec![
            mount("tmpfs", "rw,cpu", "/", "/sys/fs/cgroup"),
            mount("cgroup", "rw,xattr,name=systemd", "/", "/cg/systemd"),
            mount("cgroup", "rw,cpuacct,cpu", "/docker/x", "/elsewhere"),
            mount("cgroup", "rw,cpu,cpuacct", "/", "/cg/cpu,cpuacct"),
            mount("cgroup2", "rw,nsdelegate", "/", "/cg/unified"),
            mount("cgroup", "rw,memory", "/", "/cg/memory"),
            mount("cgroup", "rw,memory", "/", "/bound/again"),
        ]);
        let paths: Vec<_> = found.iter().map(|hierarchy| hierarchy.mount.to_str().unwrap()).collect();
        assert_eq!(paths, ["/cg/systemd", "/cg/cpu,cpuacct", "/cg/unified", "/cg/memory"]);
        assert_eq!(found.iter().filter(|hierarchy| hierarchy.has_controllers()).count(), 2);
        assert_eq!(found.iter().filter(|hierarchy| hierarchy.controllers.is_empty()).count(), 1);
    }

    #[test]
    fn a_path_is_taken_relative_to_what_is_mounted() {
        let hierarchy =
            |root: &str| Hierarchy { controllers: vec![], mount: "/cg".into(), root: root.into() };
        assert_eq!(hierarchy("/").directory(Path::new("/a/b")), Path::new("/cg/a/b"));
        assert_eq!(hierarchy("/").directory(Path::new("/")).as_os_str(), "/cg");
        assert_eq!(hierarchy("/").directory(Path::new("a")), Path::new("/cg/a"));
        assert_eq!(hierarchy("/docker/x").directory(Path::new("/docker/x/a")), Path::new("/cg/a"));
        assert_eq!(hierarchy("/docker/x").directory(Path::new("/a")), Path::new("/cg/a"));
    }

    #[test]
    fn a_process_outside_of_the_cgroup_namespace_is_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = [Hierarchy { controllers: vec![], mount: dir.path().into(), root: "/".into() }];
        assert_eq!(of(&hierarchy, "0::/../..\n"), []);
        assert_eq!(of(&hierarchy, "0::/gone (deleted)\n"), []);
        assert!(of(&hierarchy, "0::/\n")[0].is_root);
    }
}
