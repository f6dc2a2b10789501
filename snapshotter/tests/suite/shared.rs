//! What every snapshotter of containerd does. Each scenario runs against containerd's overlayfs first.

use std::{fs, path::PathBuf};

use snapshotter::api::{Mount, snapshots::Kind};
use tonic::Code;

use crate::node::{Client, code};

/// Scenarios by name. Each uses names of its own.
pub async fn run(name: &str, c: &Client) {
    match name {
        "active_becomes_committed" => active_becomes_committed(c).await,
        "view_of_a_committed_snapshot" => view_of_a_committed_snapshot(c).await,
        "parents_are_removed_last" => parents_are_removed_last(c).await,
        "labels_are_set_and_merged" => labels_are_set_and_merged(c).await,
        "names_are_unique" => names_are_unique(c).await,
        "what_is_missing_is_not_found" => what_is_missing_is_not_found(c).await,
        "parents_must_be_committed" => parents_must_be_committed(c).await,
        "usage_grows_with_files" => usage_grows_with_files(c).await,
        "filters_select" => filters_select(c).await,
        "one_of_many_wins" => one_of_many_wins(c).await,
        _ => unreachable!("{name}"),
    }
}

pub const NAMES: [&str; 10] = [
    "active_becomes_committed",
    "view_of_a_committed_snapshot",
    "parents_are_removed_last",
    "labels_are_set_and_merged",
    "names_are_unique",
    "what_is_missing_is_not_found",
    "parents_must_be_committed",
    "usage_grows_with_files",
    "filters_select",
    "one_of_many_wins",
];

/// Where an active snapshot's files are.
pub fn files(mounts: &[Mount]) -> PathBuf {
    let [mount] = mounts else { panic!("one mount expected: {mounts:?}") };
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(upper.unwrap_or(&mount.source))
}

async fn committed(c: &Client, name: &str, parent: &str) {
    let key = format!("{name}-key");
    c.prepare(&key, parent, &[]).await.unwrap();
    c.commit(name, &key, &[]).await.unwrap();
}

async fn active_becomes_committed(c: &Client) {
    let mounts = c.prepare("a-key", "", &[("l", "1")]).await.unwrap();
    assert_eq!(c.mounts("a-key").await.unwrap(), mounts);
    let active = c.stat("a-key").await.unwrap();
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, ""));
    assert_eq!(active.labels["l"], "1");
    c.commit("a", "a-key", &[("m", "2")]).await.unwrap();
    assert_eq!(code(&c.stat("a-key").await), Code::NotFound);
    let committed = c.stat("a").await.unwrap();
    assert_eq!(committed.kind(), Kind::Committed);
    assert_eq!((committed.labels.get("l"), committed.labels["m"].as_str()), (None, "2"));
    assert_eq!(code(&c.mounts("a").await), Code::FailedPrecondition);
    assert_eq!(code(&c.commit("a2", "a", &[]).await), Code::FailedPrecondition);
    c.remove("a").await.unwrap();
    assert_eq!(code(&c.stat("a").await), Code::NotFound);
}

async fn view_of_a_committed_snapshot(c: &Client) {
    committed(c, "v", "").await;
    let mounts = c.view("v-view", "v").await.unwrap();
    assert!(mounts[0].options.contains(&"ro".to_owned()), "{mounts:?}");
    let view = c.stat("v-view").await.unwrap();
    assert_eq!((view.kind(), view.parent.as_str()), (Kind::View, "v"));
    assert_eq!(code(&c.commit("v2", "v-view", &[]).await), Code::FailedPrecondition);
    c.remove("v-view").await.unwrap();
    c.remove("v").await.unwrap();
}

async fn parents_are_removed_last(c: &Client) {
    committed(c, "p1", "").await;
    committed(c, "p2", "p1").await;
    let mounts = c.prepare("p3", "p2", &[]).await.unwrap();
    assert_eq!(mounts[0].r#type, "overlay");
    let lower = mounts[0].options.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap();
    assert_eq!(lower.split(':').count(), 2);
    assert_eq!(c.stat("p2").await.unwrap().parent, "p1");
    for name in ["p1", "p2"] {
        assert_eq!(code(&c.remove(name).await), Code::FailedPrecondition, "{name}");
    }
    for name in ["p3", "p2", "p1"] {
        c.remove(name).await.unwrap();
    }
}

async fn labels_are_set_and_merged(c: &Client) {
    let before = {
        c.prepare("l", "", &[("a", "1"), ("b", "2")]).await.unwrap();
        c.stat("l").await.unwrap()
    };
    let one = c.update("l", &[("a", "9"), ("b", "9")], &["labels.a"]).await.unwrap();
    assert_eq!((one.labels["a"].as_str(), one.labels["b"].as_str()), ("9", "2"));
    c.update("l", &[], &["labels.a"]).await.unwrap();
    let gone = c.stat("l").await.unwrap();
    assert!(!gone.labels.contains_key("a") && gone.labels["b"] == "2", "{gone:?}");
    c.update("l", &[("c", "3")], &[]).await.unwrap();
    let all = c.stat("l").await.unwrap();
    assert!(all.labels.len() == 1 && all.labels["c"] == "3", "{all:?}");
    assert_eq!(all.created_at, before.created_at);
    assert_ne!(all.updated_at, before.updated_at);
    assert_eq!(code(&c.update("l", &[], &["parent"]).await), Code::InvalidArgument);
    assert_eq!(code(&c.prepare("l2", "", &[("k", &"x".repeat(4096))]).await), Code::InvalidArgument);
    c.remove("l").await.unwrap();
}

async fn names_are_unique(c: &Client) {
    committed(c, "u", "").await;
    c.prepare("u1", "u", &[]).await.unwrap();
    c.prepare("u2", "u", &[]).await.unwrap();
    assert_eq!(code(&c.prepare("u1", "u", &[]).await), Code::AlreadyExists);
    assert_eq!(code(&c.view("u1", "u").await), Code::AlreadyExists);
    assert_eq!(code(&c.commit("u", "u1", &[]).await), Code::AlreadyExists);
    for name in ["u1", "u2", "u"] {
        c.remove(name).await.unwrap();
    }
}

async fn what_is_missing_is_not_found(c: &Client) {
    assert_eq!(code(&c.stat("absent").await), Code::NotFound);
    assert_eq!(code(&c.mounts("absent").await), Code::NotFound);
    assert_eq!(code(&c.usage("absent").await), Code::NotFound);
    assert_eq!(code(&c.remove("absent").await), Code::NotFound);
    assert_eq!(code(&c.update("absent", &[("a", "b")], &[]).await), Code::NotFound);
    assert_eq!(code(&c.commit("n", "absent", &[]).await), Code::NotFound);
    assert_eq!(code(&c.prepare("n", "absent", &[]).await), Code::NotFound);
    assert_eq!(code(&c.view("n", "absent").await), Code::NotFound);
    assert_eq!(code(&c.stat("n").await), Code::NotFound);
}

async fn parents_must_be_committed(c: &Client) {
    c.prepare("m", "", &[]).await.unwrap();
    assert_eq!(code(&c.prepare("m2", "m", &[]).await), Code::InvalidArgument);
    assert_eq!(code(&c.view("m2", "m").await), Code::InvalidArgument);
    c.remove("m").await.unwrap();
}

async fn usage_grows_with_files(c: &Client) {
    let mounts = c.prepare("s-key", "", &[]).await.unwrap();
    let before = c.usage("s-key").await.unwrap();
    fs::write(files(&mounts).join("file"), vec![1; 65536]).unwrap();
    let after = c.usage("s-key").await.unwrap();
    assert_eq!((after.inodes - before.inodes, after.size - before.size), (1, 65536));
    c.commit("s", "s-key", &[]).await.unwrap();
    assert_eq!(c.usage("s").await.unwrap(), after);
    c.prepare("s2", "s", &[]).await.unwrap();
    assert_eq!(c.usage("s2").await.unwrap(), before);
    c.remove("s2").await.unwrap();
    c.remove("s").await.unwrap();
}

async fn filters_select(c: &Client) {
    committed(c, "f1", "").await;
    c.prepare("f2", "f1", &[("containerd.io/snapshot/suite", "x y"), ("plain", "1")]).await.unwrap();
    c.view("f3", "f1").await.unwrap();
    let table: &[(&[&str], &[&str])] = &[
        (&["name==f1"], &["f1"]),
        (&["name==f1", "name==f2"], &["f1", "f2"]),
        (&["parent==f1"], &["f2", "f3"]),
        (&["parent==f1,kind==view"], &["f3"]),
        (&["name~=^f[12]$"], &["f1", "f2"]),
        (&["name~=/^f/,kind!=view"], &["f1", "f2"]),
        (&["labels.plain"], &["f2"]),
        (&[r#"labels."containerd.io/snapshot/suite"=="x y""#], &["f2"]),
        (&["labels.plain==2"], &[]),
    ];
    for (filters, expected) in table {
        let mut found: Vec<String> =
            c.list(filters).await.unwrap().into_iter().map(|info| info.name).collect();
        found.sort();
        assert_eq!(&found, expected, "{filters:?}");
    }
    // containerd's own service forgets the code of this one.
    assert!(matches!(code(&c.list(&["name=x"]).await), Code::InvalidArgument | Code::Unknown));
    for name in ["f3", "f2", "f1"] {
        c.remove(name).await.unwrap();
    }
}

async fn one_of_many_wins(c: &Client) {
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let c = c.clone();
            tokio::spawn(async move { code(&c.prepare("o", "", &[]).await) })
        })
        .collect();
    let mut won = 0;
    for call in calls {
        match call.await.unwrap() {
            Code::Ok => won += 1,
            // Behind containerd, the loser of a race is told so by whichever of the two databases it met.
            code => assert!(matches!(code, Code::AlreadyExists | Code::Unknown), "{code:?}"),
        }
    }
    assert_eq!(won, 1);
    c.remove("o").await.unwrap();
}
