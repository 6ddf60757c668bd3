//! What a constraint can name: attributes of nodes.

use std::borrow::Cow;
use std::fmt;

use crate::fsm::objects::Node;

/// Longest key of a label that an expression can name.
const LABEL_KEY_BYTES_MAX: usize = 128;

/// An attribute of a node. Ordered, so that attributes can be keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    Id,
    Name,
    /// `manager` or `worker`: who manages is no less a worker.
    Role,
    Arch,
    Os,
    OsName,
    Kernel,
    Containerd,
    Warren,
    /// Whole CPUs of the capacity.
    Cpus,
    /// GiB of the capacity, rounded down.
    MemoryGib,
    /// GiB that were free, rounded down, when the node said so last.
    DiskFreeGib,
    /// By key. A label that operators set comes before one that the node has by itself.
    Label(Box<str>),
}

use Attribute::{
    Arch, Containerd, Cpus, DiskFreeGib, Id, Kernel, Label, MemoryGib, Name, Os, OsName, Role,
    Warren,
};

/// Those that are not labels, by name.
const NAMED: [(&str, Attribute); 12] = [
    ("node.arch", Arch),
    ("node.containerd", Containerd),
    ("node.cpus", Cpus),
    ("node.disk_free_gib", DiskFreeGib),
    ("node.id", Id),
    ("node.kernel", Kernel),
    ("node.memory_gib", MemoryGib),
    ("node.name", Name),
    ("node.os", Os),
    ("node.os_name", OsName),
    ("node.role", Role),
    ("node.warren", Warren),
];

const LABELS: &str = "node.labels.";

/// What an expression can spell.
pub(super) fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/')
}

/// Whether an expression can name a label of this key.
pub fn is_label_key(key: &str) -> bool {
    (1..=LABEL_KEY_BYTES_MAX).contains(&key.len()) && key.chars().all(is_key_char)
}

impl Attribute {
    /// By its name; the error says which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(key) = name.strip_prefix(LABELS) {
            return if is_label_key(key) {
                Ok(Label(key.into()))
            } else {
                Err(format!(
                    "`{key}` is no key of a label: 1 to 128 of A-Z a-z 0-9 . _ - /"
                ))
            };
        }
        if let Some((_, named)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(named.clone());
        }
        let shown: String = name.chars().take(60).collect();
        let hint = match name.split_once('.') {
            Some(("node", _)) => String::new(),
            _ => format!("did you mean {LABELS}{shown}? "),
        };
        let known: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "`{shown}` is no attribute of nodes; {hint}there are {LABELS}KEY, {}",
            known.join(", ")
        ))
    }

    /// Its value on a node; `None` where the node has none.
    pub fn value<'a>(&self, node: &'a Node) -> Option<Cow<'a, str>> {
        let said = &node.description;
        let capacity = node.capacity();
        let known = |text: &'a str| (!text.is_empty()).then_some(Cow::Borrowed(text));
        match self {
            Id => Some(node.id.to_string().into()),
            Name => known(&said.name),
            Role => Some(if node.manager { "manager" } else { "worker" }.into()),
            Arch => known(&said.architecture),
            Os => Some("linux".into()),
            OsName => known(&said.os_name),
            Kernel => known(&said.kernel),
            Containerd => known(&said.containerd_version),
            Warren => known(&said.warren_version),
            Cpus => Some((capacity.cpu_milli / 1000).to_string().into()),
            MemoryGib => Some((capacity.memory_bytes >> 30).to_string().into()),
            DiskFreeGib => Some((said.disk_free_bytes >> 30).to_string().into()),
            Label(key) => node.label(key).map(Cow::Borrowed),
        }
    }

    /// All that an expression can name of this node, with their values; by name.
    pub fn all_of(node: &Node) -> impl Iterator<Item = (String, String)> {
        let labels = node.label_keys().filter(|key| is_label_key(key));
        let labels = labels.map(|key| Label(key.into()));
        let named = NAMED.iter().map(|(_, attribute)| attribute.clone());
        named.chain(labels).filter_map(|attribute| {
            let value = attribute.value(node)?;
            Some((attribute.to_string(), value.into_owned()))
        })
    }

    /// For people: `label zone`, `kernel`.
    pub fn said(&self) -> String {
        match self {
            Label(key) => format!("label {key}"),
            MemoryGib => "memory in GiB".into(),
            DiskFreeGib => "free disk in GiB".into(),
            named => named
                .to_string()
                .trim_start_matches("node.")
                .replace('_', " "),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Label(key) = self {
            return write!(f, "{LABELS}{key}");
        }
        let named = NAMED.iter().find(|(_, attribute)| attribute == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}
