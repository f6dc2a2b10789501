//! What containerd is told to mount. Pure.
//!
//! | based on | active | view |
//! |---|---|---|
//! | nothing | bind of its own directory | the same, read-only |
//! | layers of the enclave only | the same, with the volume option | the same, read-only |
//! | one directory | overlay | bind of that directory, read-only |
//! | several directories | overlay | overlay without upper |
//!
//! The volume option rides on a *bind* mount: containerd passes options it does not know as data, and the kernel
//! ignores the data of a bind mount. An overlay mount with an unknown option would be refused.

use std::path::{Path, PathBuf};

use crate::{api::Mount, snapshot::Kind};

/// A snapshot's own directories and what is below it.
#[derive(Debug)]
pub struct Stack<'a> {
    /// Active or view.
    pub kind: Kind,
    /// Its own files.
    pub own: &'a Path,
    /// Overlay's work directory.
    pub work: &'a Path,
    /// Directories of its ancestors, nearest first; layers of the enclave have none.
    pub lowers: &'a [PathBuf],
    /// The option that names the image, if layers of the enclave are among the ancestors.
    pub volume: Option<String>,
    /// Whether the kernel's overlay knows `index=off`.
    pub index_option: bool,
}

/// The mounts of a snapshot.
#[must_use]
pub fn mounts(stack: Stack<'_>) -> Vec<Mount> {
    let writable = stack.kind == Kind::Active;
    match (stack.lowers, writable) {
        ([], _) => vec![bind(stack.own, writable, stack.volume)],
        ([lower], false) => vec![bind(lower, false, None)],
        (lowers, _) => {
            let mut options = Vec::new();
            if stack.index_option {
                options.push("index=off".to_owned());
            }
            if writable {
                options.push(format!("workdir={}", stack.work.display()));
                options.push(format!("upperdir={}", stack.own.display()));
            }
            let lowers: Vec<String> = lowers.iter().map(|lower| lower.display().to_string()).collect();
            options.push(format!("lowerdir={}", lowers.join(":")));
            vec![Mount {
                r#type: "overlay".to_owned(),
                source: "overlay".to_owned(),
                target: String::new(),
                options,
            }]
        }
    }
}

fn bind(source: &Path, writable: bool, volume: Option<String>) -> Mount {
    let mut options = vec![if writable { "rw" } else { "ro" }.to_owned(), "rbind".to_owned()];
    options.extend(volume);
    Mount { r#type: "bind".to_owned(), source: source.display().to_string(), target: String::new(), options }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(kind: Kind, lowers: &[&str], volume: Option<&str>) -> String {
        let lowers: Vec<PathBuf> = lowers.iter().map(PathBuf::from).collect();
        let mounts = mounts(Stack {
            kind,
            own: Path::new("/own"),
            work: Path::new("/work"),
            lowers: &lowers,
            volume: volume.map(str::to_owned),
            index_option: true,
        });
        assert_eq!(mounts.len(), 1);
        format!("{} {} {}", mounts[0].r#type, mounts[0].source, mounts[0].options.join(","))
    }

    #[test]
    fn each_kind_of_stack_has_its_mount() {
        let table = [
            (Kind::Active, &[][..], None, "bind /own rw,rbind"),
            (Kind::View, &[], None, "bind /own ro,rbind"),
            (Kind::Active, &[], Some("v=1"), "bind /own rw,rbind,v=1"),
            (Kind::View, &[], Some("v=1"), "bind /own ro,rbind,v=1"),
            (Kind::View, &["/a"], None, "bind /a ro,rbind"),
            (Kind::View, &["/b", "/a"], None, "overlay overlay index=off,lowerdir=/b:/a"),
            (
                Kind::Active,
                &["/a"],
                None,
                "overlay overlay index=off,workdir=/work,upperdir=/own,lowerdir=/a",
            ),
        ];
        for (kind, lowers, volume, expected) in table {
            assert_eq!(render(kind, lowers, volume), expected);
        }
    }

    #[test]
    fn the_volume_option_is_never_on_an_overlay_mount() {
        for kind in [Kind::Active, Kind::View] {
            for lowers in [&["/a"][..], &["/b", "/a"]] {
                assert!(!render(kind, lowers, Some("v=1")).contains("v=1"));
            }
        }
    }
}
