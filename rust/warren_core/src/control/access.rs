//! Which methods there are, and who may call them.

use prost::Message as _;

use crate::error::Error;
use crate::ids::NodeId;
use crate::pb;

/// Unary calls and streams are entered by different doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call,
    Stream,
}

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    /// People: on the Unix socket, or with a client's certificate.
    People,
    /// And every node; where the request names a node, only for itself.
    Nodes,
    /// And those nodes that may manage, each for itself.
    Managers,
}

macro_rules! methods {
    ($($name:ident: $kind:ident, $callers:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $($name),* }

        impl Method {
            const ALL: &'static [(&'static str, Method, Kind, Callers)] =
                &[$((stringify!($name), Method::$name, Kind::$kind, Callers::$callers)),*];
        }
    };
}

methods! {
    Ping: Call, Nodes;
    InitCluster: Call, People;
    GetCluster: Call, People;
    UpdateCluster: Call, People;
    ListNodes: Call, People;
    GetNode: Call, Nodes;
    UpdateNode: Call, People;
    CreateService: Call, People;
    UpdateService: Call, People;
    RemoveService: Call, People;
    ListServices: Call, People;
    GetService: Call, People;
    ListSlots: Call, People;
    ListContainers: Call, People;
    GetContainer: Call, People;
    AddMember: Call, Managers;
    RemoveMember: Call, People;
    TransferLeadership: Call, People;
    ListMembers: Call, Managers;
    AdmitNode: Call, Nodes;
    RemoveNode: Call, Nodes;
    PromoteNode: Call, People;
    DemoteNode: Call, Managers;
    SessionMessage: Call, Nodes;
    BackupCluster: Call, People;
    JudgeRecovery: Call, People;
    WatchService: Stream, People;
    Session: Stream, Nodes;
}

impl Method {
    /// Whether a member that does not lead passes it on: writes that only the leader can do.
    pub fn is_forwarded(self) -> bool {
        let here = matches!(self, Method::InitCluster | Method::SessionMessage);
        let stream = matches!(self, Method::WatchService | Method::Session);
        !self.is_read() && !here && !stream
    }

    /// Whether it changes nothing: given up, its outcome is no question.
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Method::Ping
                | Method::GetCluster
                | Method::ListNodes
                | Method::GetNode
                | Method::ListServices
                | Method::GetService
                | Method::ListSlots
                | Method::ListContainers
                | Method::GetContainer
                | Method::ListMembers
                | Method::BackupCluster
                | Method::JudgeRecovery
        )
    }
}

/// The identity of whoever reaches the Unix socket.
pub const LOCAL: &str = "local";

/// The method, if there is one of that kind and `identity` may call it with `body`.
///
/// An identity is `local`, `client/NAME`, `worker/ID` or `manager/ID`; the latter three as the
/// certificate of the caller has it, and the id as that of a node.
pub fn check(identity: &str, method: &str, kind: Kind, body: &[u8]) -> Result<Method, Error> {
    let known = Method::ALL
        .iter()
        .find(|(name, _, of, _)| *name == method && *of == kind);
    let Some((_, found, _, callers)) = known else {
        return Err(Error::UnknownMethod {
            method: method.to_owned(),
        });
    };
    let node = node_of(identity);
    let allowed = match callers {
        _ if identity == LOCAL || identity.starts_with("client/") => true,
        Callers::People => false,
        Callers::Nodes => node.is_some(),
        Callers::Managers => identity.starts_with("manager/") && node.is_some(),
    };
    if !allowed || node.is_some_and(|own| concerns_another(*found, own, body)) {
        let (identity, method) = (identity.to_owned(), method.to_owned());
        return Err(Error::Denied { identity, method });
    }
    Ok(*found)
}

/// Whose certificate it is: a worker's or a manager's.
pub fn node_of(identity: &str) -> Option<NodeId> {
    let of = |role| identity.strip_prefix(role);
    let id = of("worker/").or_else(|| of("manager/"))?;
    let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_id = id.len() == 32 && id.bytes().all(digits);
    let id = is_id.then(|| u128::from_str_radix(id, 16).ok()).flatten()?;
    Some(NodeId(id.to_be_bytes()))
}

/// A node reads and changes itself only. What names it by other means is judged where it is resolved.
fn concerns_another(method: Method, own: NodeId, body: &[u8]) -> bool {
    let reference = match method {
        Method::GetNode => pb::GetNodeRequest::decode(body).map(|request| request.r#ref),
        Method::RemoveNode => pb::RemoveNodeRequest::decode(body).map(|request| request.r#ref),
        Method::DemoteNode => pb::DemoteNodeRequest::decode(body).map(|request| request.r#ref),
        _ => return false,
    };
    reference.is_ok_and(|reference| reference != own.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "00000000000000000000000000000007";

    fn may(identity: &str, name: &str, kind: Kind, body: &[u8]) -> bool {
        check(identity, name, kind, body).is_ok()
    }

    #[test]
    fn people_may_everything_and_nodes_what_they_need() {
        for (name, method, kind, _) in Method::ALL {
            for people in [LOCAL, "client/ann"] {
                assert_eq!(check(people, name, *kind, &[]), Ok(*method));
            }
            let (worker, manager) = (format!("worker/{NODE}"), format!("manager/{NODE}"));
            let of_nodes = matches!(
                method,
                Method::Session | Method::SessionMessage | Method::Ping | Method::AdmitNode
            );
            let of_managers = matches!(method, Method::AddMember | Method::ListMembers);
            assert_eq!(may(&worker, name, *kind, &[]), of_nodes, "{name}");
            assert_eq!(
                may(&manager, name, *kind, &[]),
                of_nodes || of_managers,
                "{name}"
            );
            let bad = [
                "stranger",
                "",
                NODE,
                "worker/",
                "worker/x",
                "manager/0",
                "client",
            ];
            for identity in bad {
                let refused = check(identity, name, *kind, &[]).unwrap_err();
                assert_eq!(refused.code(), "denied", "{identity} {name}");
            }
        }
    }

    #[test]
    fn a_node_reads_and_changes_itself_only() {
        let own = pb::GetNodeRequest { r#ref: NODE.into() }.encode_to_vec();
        let other = pb::GetNodeRequest {
            r#ref: "other".into(),
        }
        .encode_to_vec();
        let worker = format!("worker/{NODE}");
        assert!(may(&worker, "GetNode", Kind::Call, &own));
        assert!(!may(&worker, "GetNode", Kind::Call, &other));
        assert!(may("client/ann", "GetNode", Kind::Call, &other));
        let removal = |of: &str| {
            let r#ref = of.into();
            pb::RemoveNodeRequest {
                r#ref,
                ..Default::default()
            }
            .encode_to_vec()
        };
        assert!(may(&worker, "RemoveNode", Kind::Call, &removal(NODE)));
        assert!(!may(&worker, "RemoveNode", Kind::Call, &removal("other")));
    }

    #[test]
    fn a_stream_is_no_call() {
        for name in ["Session", "Nonsense"] {
            let refused = check(LOCAL, name, Kind::Call, &[]).unwrap_err();
            assert_eq!(refused.code(), "unknown_method");
        }
    }
}
