//! What a service spec may say. Pure: control runs it before a command is built, `apply` again.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::fsm::objects::{MEMORY_BYTES_MAX, RestartCondition, ServiceMode};
use crate::fsm::reference::{is_digest, normalise_reference};
use crate::fsm::{asked, partition, placement, volumes};
use crate::ids::SpecDigest;
use crate::pb;

pub const SPEC_BYTES_MAX: usize = 64 << 10;
pub const REPLICAS_MAX: u32 = 100_000;
pub const NAME_BYTES_MAX: usize = 63;
pub const COMMAND_WORDS_MAX: usize = 1024;
pub const ENV_MAX: usize = 1024;
pub const MOUNTS_MAX: usize = 64;
pub const LABELS_MAX: usize = 128;
pub const LABEL_KEY_BYTES_MAX: usize = 256;
pub const LABEL_VALUE_BYTES_MAX: usize = 4096;
pub const USER_BYTES_MAX: usize = 256;
pub const PATH_BYTES_MAX: usize = 4096;
pub const STOP_TIMEOUT_MS_DEFAULT: u32 = 10_000;
pub const STOP_TIMEOUT_MS_MAX: u32 = 3_600_000;

fn refuse<T>(what: &'static str, why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid {
        what,
        why: why.into(),
    })
}

/// The spec, complete: defaults filled in, the image reference in full. The image's digest is
/// left as it is.
pub fn check_service_spec(spec: &pb::ServiceSpec) -> Result<pb::ServiceSpec> {
    let size = spec.encoded_len();
    if size > SPEC_BYTES_MAX {
        let (what, limit_bytes) = ("service spec", SPEC_BYTES_MAX);
        return Err(Error::TooLarge {
            what,
            actual_bytes: size,
            limit_bytes,
        });
    }
    check_name(&spec.name)?;
    check_labels(&spec.labels)?;
    let mut spec = spec.clone();
    check_mode(&mut spec)?;
    placement::complete(&mut spec)?;
    let Some(container) = spec.container.as_mut() else {
        return refuse("service spec", "it does not say what to run; give an image");
    };
    complete_container(container)?;
    check_container(container)?;
    Ok(spec)
}

/// Takes out what releases of an older level do not know, and so do not read either.
pub(super) fn clip(spec: &mut pb::ServiceSpec, level: u32) {
    if level < 4 {
        spec.placement = None;
    }
    let Some(container) = &mut spec.container else {
        return;
    };
    if level < 3 {
        (container.partition, container.partition_stop_after_ms) = (0, 0);
    }
    if level < 4 {
        asked::clip(container);
    }
    if level < 5 {
        volumes::clip(container);
    }
}

/// The level from which on the spec is read as it is meant.
pub fn level_of(spec: &pb::ServiceSpec) -> u32 {
    let container = spec.container.as_ref();
    if container.is_some_and(volumes::needs_level_5) {
        5
    } else if placement::needs_level_4(spec) || container.is_some_and(asked::needs_level_4) {
        4
    } else if partition::needs_level_3(spec) {
        3
    } else {
        1
    }
}

/// SHA-256 of the canonical encoding: fields in order, maps sorted by key.
pub fn spec_digest(spec: &pb::ContainerSpec) -> SpecDigest {
    SpecDigest(Sha256::digest(spec.encode_to_vec()).into())
}

/// A spec that is stored names the image's bytes.
pub fn check_image_digest(digest: &str) -> Result<()> {
    if is_digest(digest) {
        Ok(())
    } else {
        refuse(
            "image digest",
            format!("`{digest}` is not sha256: and 64 hex digits"),
        )
    }
}

/// A DNS label (RFC 1123).
pub(super) fn check_name(name: &str) -> Result<()> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
    {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_BYTES_MAX + 1).collect();
    refuse(
        "service name",
        format!(
            "`{shown}` is no DNS label: 1 to 63 lower-case letters, digits and dashes, \
             no dash at either end"
        ),
    )
}

fn check_mode(spec: &mut pb::ServiceSpec) -> Result<()> {
    if spec.mode == ServiceMode::Unspecified as i32 {
        spec.mode = ServiceMode::Replicated.into();
    }
    match ServiceMode::try_from(spec.mode) {
        Ok(ServiceMode::Global) if spec.replicas != 0 => refuse(
            "replicas",
            "a global service runs once on every node; leave replicas out",
        ),
        Ok(_) if spec.replicas > REPLICAS_MAX => refuse(
            "replicas",
            format!("{} is more than {REPLICAS_MAX}", spec.replicas),
        ),
        Ok(_) => Ok(()),
        Err(_) => refuse("mode", format!("{} is no known mode", spec.mode)),
    }
}

fn complete_container(spec: &mut pb::ContainerSpec) -> Result<()> {
    spec.image = normalise_reference(&spec.image)?;
    if spec.restart == RestartCondition::Unspecified as i32 {
        spec.restart = RestartCondition::Any.into();
    }
    if spec.network == pb::NetworkMode::Unspecified as i32 {
        spec.network = pb::NetworkMode::None.into();
    }
    if spec.stop_timeout_ms == 0 {
        spec.stop_timeout_ms = STOP_TIMEOUT_MS_DEFAULT;
    }
    partition::complete(spec);
    asked::complete(spec)
}

fn check_container(spec: &pb::ContainerSpec) -> Result<()> {
    check_command(&spec.command)?;
    check_env(&spec.env)?;
    check_mounts(&spec.mounts)?;
    check_labels(&spec.labels)?;
    if RestartCondition::try_from(spec.restart).is_err() {
        return refuse("restart", format!("{} is no known condition", spec.restart));
    }
    if pb::NetworkMode::try_from(spec.network).is_err() {
        return refuse(
            "network",
            format!("{} is no known network mode", spec.network),
        );
    }
    if spec.stop_timeout_ms > STOP_TIMEOUT_MS_MAX {
        return refuse("stop timeout", "it is more than an hour");
    }
    if spec.user.len() > USER_BYTES_MAX || spec.user.contains(['\0', '\n', ' ']) {
        return refuse("user", "give a name, or uid[:gid]");
    }
    if !spec.workdir.is_empty() {
        check_path("workdir", &spec.workdir)?;
    }
    partition::check(spec)
}

fn check_command(command: &[String]) -> Result<()> {
    if command.len() > COMMAND_WORDS_MAX {
        return refuse(
            "command",
            format!("it has more than {COMMAND_WORDS_MAX} words"),
        );
    }
    if command.first().is_some_and(String::is_empty) {
        return refuse("command", "its first word is empty");
    }
    if command.iter().any(|word| word.contains('\0')) {
        return refuse("command", "a word contains a NUL byte");
    }
    Ok(())
}

fn check_env(env: &[String]) -> Result<()> {
    if env.len() > ENV_MAX {
        return refuse("env", format!("there are more than {ENV_MAX} variables"));
    }
    for entry in env {
        let named = entry
            .split_once('=')
            .is_some_and(|(name, _)| !name.is_empty());
        if !named || entry.contains('\0') {
            let shown: String = entry.chars().take(40).collect();
            return refuse("env", format!("`{shown}` is not NAME=value"));
        }
    }
    Ok(())
}

fn check_mounts(mounts: &[pb::Mount]) -> Result<()> {
    if mounts.len() > MOUNTS_MAX {
        return refuse("mount", format!("there are more than {MOUNTS_MAX}"));
    }
    let mut targets = BTreeSet::new();
    for mount in mounts {
        check_path("mount target", &mount.target)?;
        if mount.target.trim_end_matches('/').is_empty() {
            return refuse("mount target", "nothing can be mounted over the root");
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return refuse("mount", format!("`{}` is mounted twice", mount.target));
        }
        match pb::MountType::try_from(mount.r#type) {
            Ok(pb::MountType::Bind) => check_path("mount source", &mount.source)?,
            Ok(pb::MountType::Tmpfs) if !mount.source.is_empty() => {
                return refuse("mount", "a tmpfs has no source");
            }
            Ok(pb::MountType::Tmpfs) => {}
            Ok(pb::MountType::Volume) if !volumes::is_name(&mount.source) => {
                let why = "the source of a volume is its name: 1 to 64 of A-Z a-z 0-9 . _ -";
                return refuse("mount", why);
            }
            Ok(pb::MountType::Volume) => {}
            _ => return refuse("mount", "its type must be bind, tmpfs or volume"),
        }
        if mount.tmpfs_size_bytes != 0 && mount.r#type != pb::MountType::Tmpfs as i32 {
            return refuse("mount", "only a tmpfs has a size");
        }
        if mount.exclusive && mount.r#type != pb::MountType::Volume as i32 {
            return refuse("mount", "only a volume can be exclusive");
        }
        if mount.tmpfs_size_bytes > MEMORY_BYTES_MAX {
            return refuse("mount", "the tmpfs is larger than 1 PiB");
        }
    }
    Ok(())
}

/// Absolute, and without parts that climb out.
fn check_path(what: &'static str, path: &str) -> Result<()> {
    let shown: String = path.chars().take(80).collect();
    if !path.starts_with('/') {
        return refuse(what, format!("`{shown}` is not an absolute path"));
    }
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return refuse(what, format!("`{shown}` is no path that Linux would take"));
    }
    if path.split('/').any(|part| part == "..") {
        return refuse(what, format!("`{shown}` contains `..`"));
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > LABELS_MAX {
        return refuse("label", format!("there are more than {LABELS_MAX}"));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX {
            return refuse(
                "label",
                format!("a key has 1 to {LABEL_KEY_BYTES_MAX} bytes"),
            );
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return refuse(
                "label",
                format!("`{key}` has more than {LABEL_VALUE_BYTES_MAX} bytes"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> pb::ServiceSpec {
        pb::ServiceSpec {
            name: "web".to_owned(),
            replicas: 2,
            container: Some(pb::ContainerSpec {
                image: "web".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn with(change: impl FnOnce(&mut pb::ContainerSpec)) -> Result<pb::ServiceSpec> {
        let mut spec = spec();
        change(spec.container.as_mut().unwrap());
        check_service_spec(&spec)
    }

    fn mount(r#type: pb::MountType, source: &str, target: &str) -> pb::Mount {
        let (source, target) = (source.to_owned(), target.to_owned());
        pb::Mount {
            r#type: r#type.into(),
            source,
            target,
            ..Default::default()
        }
    }

    fn memory(memory_bytes: u64) -> pb::Resources {
        pb::Resources {
            memory_bytes,
            ..Default::default()
        }
    }

    fn port(port: u32) -> pb::HostPort {
        pb::HostPort { port, protocol: 0 }
    }

    fn device(kind: &str, milli: u32) -> pb::DeviceAsk {
        pb::DeviceAsk {
            kind: kind.to_owned(),
            milli,
            models: Vec::new(),
        }
    }

    #[test]
    fn defaults_are_filled_in_and_stay() {
        let complete = check_service_spec(&spec()).unwrap();
        let container = complete.container.as_ref().unwrap();
        assert_eq!(complete.mode(), ServiceMode::Replicated);
        assert_eq!(container.image, "docker.io/library/web:latest");
        assert_eq!(container.restart(), RestartCondition::Any);
        assert_eq!(container.network(), pb::NetworkMode::None);
        assert_eq!(container.stop_timeout_ms, STOP_TIMEOUT_MS_DEFAULT);
        assert_eq!(check_service_spec(&complete), Ok(complete.clone()));
    }

    #[test]
    fn what_was_left_out_and_what_was_said_to_be_nothing_have_one_digest() {
        let digest = |spec: &pb::ServiceSpec| spec_digest(spec.container.as_ref().unwrap());
        let left_out = check_service_spec(&spec()).unwrap();
        let said = with(|c| {
            c.resources = Some(pb::Resources::default());
            c.stop_timeout_ms = STOP_TIMEOUT_MS_DEFAULT;
            c.image = "docker.io/library/web:latest".to_owned();
        });
        assert_eq!(digest(&left_out), digest(&said.unwrap()));
        let other = with(|c| c.labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        assert_ne!(digest(&left_out), digest(&other.unwrap()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        use pb::MountType::{Bind, Tmpfs};
        type Change = Box<dyn FnOnce(&mut pb::ContainerSpec)>;
        let mounted = |mounts: Vec<pb::Mount>| -> Change { Box::new(move |c| c.mounts = mounts) };
        let env = |text: &'static str| -> Change { Box::new(move |c| c.env = vec![text.into()]) };
        let cases: Vec<(&str, Change)> = vec![
            ("image reference", Box::new(|c| c.image.clear())),
            ("command", Box::new(|c| c.command = vec![String::new()])),
            ("command", Box::new(|c| c.command = vec!["a\0b".to_owned()])),
            (
                "command",
                Box::new(|c| c.command = vec!["a".to_owned(); COMMAND_WORDS_MAX + 1]),
            ),
            ("env", env("NAME")),
            ("env", env("=value")),
            ("mount target", mounted(vec![mount(Tmpfs, "", "tmp")])),
            ("mount target", mounted(vec![mount(Tmpfs, "", "/")])),
            ("mount target", mounted(vec![mount(Tmpfs, "", "/a/../..")])),
            ("mount source", mounted(vec![mount(Bind, "etc", "/etc")])),
            ("mount", mounted(vec![mount(Tmpfs, "/src", "/tmp")])),
            (
                "mount",
                mounted(vec![mount(Tmpfs, "", "/a"), mount(Tmpfs, "", "/a/")]),
            ),
            (
                "mount",
                mounted(vec![pb::Mount {
                    r#type: 9,
                    ..mount(Tmpfs, "", "/a")
                }]),
            ),
            ("workdir", Box::new(|c| c.workdir = "tmp".to_owned())),
            ("user", Box::new(|c| c.user = "a b".to_owned())),
            ("restart", Box::new(|c| c.restart = 9)),
            ("network", Box::new(|c| c.network = 9)),
            ("partition", Box::new(|c| c.partition = 9)),
            ("partition", Box::new(|c| c.partition_stop_after_ms = 9_000)),
            (
                "stop timeout",
                Box::new(|c| c.stop_timeout_ms = STOP_TIMEOUT_MS_MAX + 1),
            ),
            ("host port", Box::new(|c| c.host_ports = vec![port(0)])),
            (
                "host port",
                Box::new(|c| c.host_ports = vec![port(80), port(80)]),
            ),
            (
                "limit",
                Box::new(|c| {
                    c.resources = Some(memory(64 << 20));
                    c.limits = Some(memory(32 << 20));
                }),
            ),
            ("memory", Box::new(|c| c.limits = Some(memory(1 << 20)))),
            ("memory", Box::new(|c| c.resources = Some(memory(1 << 51)))),
            (
                "limit",
                Box::new(|c| {
                    c.limits = Some(pb::Resources {
                        disk_bytes: 1,
                        ..Default::default()
                    });
                }),
            ),
            ("device", Box::new(|c| c.devices = vec![device("gpu", 0)])),
            ("device", Box::new(|c| c.devices = vec![device("", 1000)])),
            (
                "device",
                Box::new(|c| c.devices = vec![device("gpu", 1500)]),
            ),
            (
                "label",
                Box::new(|c| c.labels = BTreeMap::from([(String::new(), String::new())])),
            ),
        ];
        for (what, change) in cases {
            match with(change) {
                Err(Error::Invalid { what: refused, .. }) => assert_eq!(refused, what),
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_spec_that_is_too_large_is_refused_with_the_limit() {
        let refused = with(|c| c.env = vec![format!("A={}", "x".repeat(SPEC_BYTES_MAX))]);
        let limit_bytes = SPEC_BYTES_MAX;
        assert!(
            matches!(refused, Err(Error::TooLarge { limit_bytes: told, .. }) if told == limit_bytes)
        );
    }
}
