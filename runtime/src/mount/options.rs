//! Mount options: the words of `mount(8)` and what they are for `mount(2)`.

use rustix::mount::{MountFlags, MountPropagationFlags as Propagation};

/// Options, sorted by what has to be done with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Flags that are set.
    pub flags: MountFlags,
    /// Attributes that were asked to be off (`suid`, `dev`, `exec`, `rw`).
    pub cleared: MountFlags,
    pub bind: Bind,
    pub remount: bool,
    /// Set by a call of its own, after the mount.
    pub propagation: Option<Propagation>,
    /// What is left: the file system's own options, in order.
    pub data: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bind {
    No,
    Top,
    Recursive,
}

/// Why an option can't be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsupported {
    pub option: String,
    pub reason: &'static str,
}

enum Word {
    Set(MountFlags),
    Clear(MountFlags),
    Bind(Bind),
    Remount,
    Propagation(Propagation),
    Nothing,
}

fn word(option: &str) -> Option<Word> {
    let rec = Propagation::REC;
    Some(match option {
        "defaults" => Word::Nothing,
        "ro" => Word::Set(MountFlags::RDONLY),
        "rw" => Word::Clear(MountFlags::RDONLY),
        "nosuid" => Word::Set(MountFlags::NOSUID),
        "suid" => Word::Clear(MountFlags::NOSUID),
        "nodev" => Word::Set(MountFlags::NODEV),
        "dev" => Word::Clear(MountFlags::NODEV),
        "noexec" => Word::Set(MountFlags::NOEXEC),
        "exec" => Word::Clear(MountFlags::NOEXEC),
        "sync" => Word::Set(MountFlags::SYNCHRONOUS),
        "async" => Word::Clear(MountFlags::SYNCHRONOUS),
        "dirsync" => Word::Set(MountFlags::DIRSYNC),
        "mand" => Word::Set(MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => Word::Clear(MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "noatime" => Word::Set(MountFlags::NOATIME),
        "atime" => Word::Clear(MountFlags::NOATIME),
        "nodiratime" => Word::Set(MountFlags::NODIRATIME),
        "diratime" => Word::Clear(MountFlags::NODIRATIME),
        "relatime" => Word::Set(MountFlags::RELATIME),
        "norelatime" => Word::Clear(MountFlags::RELATIME),
        "strictatime" => Word::Set(MountFlags::STRICTATIME),
        "nostrictatime" => Word::Clear(MountFlags::STRICTATIME),
        "lazytime" => Word::Set(MountFlags::LAZYTIME),
        "nolazytime" => Word::Clear(MountFlags::LAZYTIME),
        "silent" => Word::Set(MountFlags::SILENT),
        "loud" => Word::Clear(MountFlags::SILENT),
        "bind" => Word::Bind(Bind::Top),
        "rbind" => Word::Bind(Bind::Recursive),
        "remount" => Word::Remount,
        "private" => Word::Propagation(Propagation::PRIVATE),
        "rprivate" => Word::Propagation(Propagation::PRIVATE | rec),
        "slave" => Word::Propagation(Propagation::DOWNSTREAM),
        "rslave" => Word::Propagation(Propagation::DOWNSTREAM | rec),
        "shared" => Word::Propagation(Propagation::SHARED),
        "rshared" => Word::Propagation(Propagation::SHARED | rec),
        "unbindable" => Word::Propagation(Propagation::UNBINDABLE),
        "runbindable" => Word::Propagation(Propagation::UNBINDABLE | rec),
        _ => return None,
    })
}

/// Options that containerd's mount package acts upon in user space; passed on as data they would be a puzzling `EINVAL`.
fn refusal(option: &str) -> Option<&'static str> {
    match option.split_once('=').map_or(option, |(key, _)| key) {
        "uidmap" | "gidmap" => Some("idmapped root file systems are not supported yet"),
        "loop" => Some("loop devices are not set up here"),
        _ => None,
    }
}

impl Options {
    /// Sorts `options`; of contradicting ones the last wins.
    pub(super) fn parse(kind: &str, options: &[String]) -> Result<Self, Unsupported> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            bind: if kind == "bind" { Bind::Top } else { Bind::No },
            remount: false,
            propagation: None,
            data: Vec::new(),
        };
        for option in options.iter().filter(|option| !option.is_empty()) {
            if let Some(reason) = refusal(option) {
                return Err(Unsupported { option: option.clone(), reason });
            }
            match word(option) {
                Some(Word::Set(flag)) => {
                    parsed.flags |= flag;
                    parsed.cleared -= flag;
                }
                Some(Word::Clear(flag)) => {
                    parsed.flags -= flag;
                    parsed.cleared |= flag;
                }
                Some(Word::Bind(bind)) => parsed.bind = bind,
                Some(Word::Remount) => parsed.remount = true,
                Some(Word::Propagation(propagation)) => parsed.propagation = Some(propagation),
                Some(Word::Nothing) => {}
                None => parsed.data.push(option.clone()),
            }
        }
        Ok(parsed)
    }

    /// Attributes of a mount, as opposed to those of its file system: a bind takes them by a remount only.
    pub(super) fn attributes(&self) -> MountFlags {
        self.flags
            & (MountFlags::RDONLY
                | MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC
                | MountFlags::NOATIME
                | MountFlags::NODIRATIME
                | MountFlags::RELATIME
                | MountFlags::STRICTATIME)
    }

    /// The data argument of `mount(2)`.
    pub(super) fn data(&self) -> String {
        self.data.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, options: &[&str]) -> Result<Options, Unsupported> {
        Options::parse(kind, &options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let options =
            parse("overlay", &["ro", "nosuid", "index=off", "userxattr", "rslave", "lowerdir=/a:/b", ""])
                .unwrap();
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(options.propagation, Some(Propagation::DOWNSTREAM | Propagation::REC));
        assert_eq!(options.data(), "index=off,userxattr,lowerdir=/a:/b");
        assert_eq!(options.bind, Bind::No);
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        let options = parse("tmpfs", &["ro", "rw", "exec", "noexec"]).unwrap();
        assert_eq!(options.flags, MountFlags::NOEXEC);
        assert_eq!(options.cleared, MountFlags::RDONLY);
    }

    #[test]
    fn a_bind_is_one_by_type_or_by_option() {
        assert_eq!(parse("bind", &[]).unwrap().bind, Bind::Top);
        assert_eq!(parse("bind", &["rbind", "ro"]).unwrap().bind, Bind::Recursive);
        assert_eq!(parse("none", &["bind"]).unwrap().bind, Bind::Top);
    }

    #[test]
    fn options_for_user_space_are_refused_with_a_reason() {
        for option in ["uidmap=0:1000:65536", "gidmap=0:0:1", "loop"] {
            let refused = parse("overlay", &[option]).unwrap_err();
            assert_eq!(refused.option, option);
            assert!(!refused.reason.is_empty());
        }
    }
}
