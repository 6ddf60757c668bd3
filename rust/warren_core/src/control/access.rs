//! Which methods there are, and who may call them.

use crate::error::Error;

/// Unary calls and streams are entered by different doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call,
    Stream,
}

/// Who may: people on the Unix socket, nodes by their id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    Local,
    LocalAndNodes,
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
    Ping: Call, Local;
    InitCluster: Call, Local;
    GetCluster: Call, Local;
    ListNodes: Call, Local;
    GetNode: Call, Local;
    CreateService: Call, Local;
    UpdateService: Call, Local;
    RemoveService: Call, Local;
    ListServices: Call, Local;
    GetService: Call, Local;
    ListSlots: Call, Local;
    ListContainers: Call, Local;
    GetContainer: Call, Local;
    AddMember: Call, Local;
    RemoveMember: Call, Local;
    TransferLeadership: Call, Local;
    ListMembers: Call, Local;
    SessionMessage: Call, LocalAndNodes;
    WatchService: Stream, Local;
    Session: Stream, LocalAndNodes;
}

impl Method {
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
        )
    }
}

/// The identity of whoever reaches the Unix socket.
pub const LOCAL: &str = "local";

/// The method, if there is one of that kind and `identity` may call it.
pub fn check(identity: &str, method: &str, kind: Kind) -> Result<Method, Error> {
    let known = Method::ALL
        .iter()
        .find(|(name, _, of, _)| *name == method && *of == kind);
    let Some((_, found, _, callers)) = known else {
        return Err(Error::UnknownMethod {
            method: method.to_owned(),
        });
    };
    let allowed = identity == LOCAL || (*callers == Callers::LocalAndNodes && is_node(identity));
    if !allowed {
        let (identity, method) = (identity.to_owned(), method.to_owned());
        return Err(Error::Denied { identity, method });
    }
    Ok(*found)
}

/// A node is known by its id, as text.
pub fn is_node(identity: &str) -> bool {
    identity.len() == 32
        && identity
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_may_everything_and_a_node_only_its_session() {
        let node = "0".repeat(32);
        for (name, method, kind, _) in Method::ALL {
            assert_eq!(check(LOCAL, name, *kind), Ok(*method));
            let session = matches!(method, Method::Session | Method::SessionMessage);
            assert_eq!(check(&node, name, *kind).is_ok(), session, "{name}");
            assert_eq!(check("stranger", name, *kind).unwrap_err().code(), "denied");
        }
    }

    #[test]
    fn a_stream_is_no_call() {
        assert_eq!(
            check(LOCAL, "Session", Kind::Call).unwrap_err().code(),
            "unknown_method"
        );
        assert_eq!(
            check(LOCAL, "Nonsense", Kind::Call).unwrap_err().code(),
            "unknown_method"
        );
    }
}
