//! Says in the daemon's log why there is no connection, and says it once.
//!
//! A peer is dialled several times a second, on three lanes, and whoever reaches the port may
//! connect as often as it likes. So a reason is said when it is new, again after
//! [`REPEAT_AFTER_NS`] at the earliest if it went away in between, and the end of a trouble once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::control::{Level, LogLine};
use crate::host::clock;
use crate::ids::MemberId;

/// Troubles that are remembered. Beyond it, the stranger that was told of first is forgotten.
const TROUBLES_MAX: usize = 128;
/// A trouble that comes and goes is said as often as this.
const REPEAT_AFTER_NS: u64 = 60_000_000_000;
/// Lines about strangers within that time: many addresses do not fill the log.
const STRANGERS_LINES_MAX: usize = 60;

/// Takes a line; called from any thread of the connections.
pub type Sink = Arc<dyn Fn(&LogLine) + Send + Sync>;

/// What the trouble is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Connections to this member.
    Dial(MemberId),
    /// Connections from this address.
    Accept(IpAddr),
    /// This member's own certificate.
    Files,
}

impl About {
    fn is_stranger(self) -> bool {
        matches!(self, Self::Accept(_))
    }
}

/// The memory of what has been said.
pub struct Reports {
    sink: Sink,
    said: Mutex<Said>,
}

/// Invariant: at most [`TROUBLES_MAX`] troubles, as there are fewer members than that.
#[derive(Default)]
struct Said {
    troubles: BTreeMap<About, Trouble>,
    /// About strangers, since then.
    lines: usize,
    lines_since_ns: u64,
}

struct Trouble {
    why: String,
    said_ns: u64,
    /// A line tells of it, and none that it is over.
    open: bool,
}

impl Reports {
    /// With whoever takes the lines.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            said: Mutex::default(),
        }
    }

    /// `why` is a whole sentence and the same as long as the trouble is.
    pub fn trouble(&self, about: About, why: String) {
        self.trouble_at(clock::mono_ns(), about, why);
    }

    /// There is no trouble any more; `how` is said if a line told of one. Whether it was.
    pub fn over(&self, about: About, how: impl FnOnce() -> String) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let open = said.troubles.get_mut(&about).map(|known| &mut known.open);
        let was_open = open.is_some_and(std::mem::take);
        drop(said);
        if was_open {
            self.line(Level::Info, how());
        }
        was_open
    }

    /// Something that is no trouble.
    pub fn news(&self, what: String) {
        self.line(Level::Info, what);
    }

    fn trouble_at(&self, now_ns: u64, about: About, why: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = said.troubles.get(&about)
            && known.why == why
            && (known.open || now_ns < known.said_ns + REPEAT_AFTER_NS)
        {
            return;
        }
        if about.is_stranger() && !said.has_room_for_a_line(now_ns) {
            return;
        }
        let trouble = Trouble {
            why: why.clone(),
            said_ns: now_ns,
            open: true,
        };
        said.troubles.insert(about, trouble);
        if said.troubles.len() > TROUBLES_MAX {
            let strangers = said
                .troubles
                .iter()
                .filter(|(about, _)| about.is_stranger());
            let first = strangers.min_by_key(|(_, known)| known.said_ns);
            if let Some(about) = first.map(|(about, _)| *about) {
                said.troubles.remove(&about);
            }
        }
        drop(said);
        self.line(Level::Warning, why);
    }

    fn line(&self, level: Level, message: String) {
        (self.sink)(&LogLine::new(level, "peers", message));
    }
}

impl Said {
    fn has_room_for_a_line(&mut self, now_ns: u64) -> bool {
        if now_ns >= self.lines_since_ns + REPEAT_AFTER_NS {
            (self.lines, self.lines_since_ns) = (0, now_ns);
        }
        self.lines += 1;
        self.lines <= STRANGERS_LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: About = About::Dial(MemberId(2));

    fn reports() -> (Reports, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let taking = lines.clone();
        let sink: Sink = Arc::new(move |line: &LogLine| {
            assert_eq!(line.component, "peers");
            taking.lock().unwrap().push(line.message.clone());
        });
        (Reports::new(sink), lines)
    }

    #[test]
    fn a_reason_is_said_once_until_it_changes() {
        let (reports, lines) = reports();
        for _ in 0..100 {
            reports.trouble_at(1, PEER, "expired".into());
        }
        reports.trouble_at(2, PEER, "other cluster".into());
        reports.trouble_at(3, About::Files, "expired".into());
        reports.trouble_at(3, PEER, "other cluster".into());
        assert_eq!(
            *lines.lock().unwrap(),
            ["expired", "other cluster", "expired"]
        );
    }

    #[test]
    fn the_end_is_said_once_and_what_flaps_is_said_seldom() {
        let (reports, lines) = reports();
        reports.over(PEER, || "never".into());
        for _ in 0..10 {
            reports.trouble_at(5, PEER, "away".into());
            reports.over(PEER, || "back".into());
        }
        assert_eq!(*lines.lock().unwrap(), ["away", "back"]);
        reports.trouble_at(5 + REPEAT_AFTER_NS, PEER, "away".into());
        assert_eq!(lines.lock().unwrap().len(), 3);
    }

    #[test]
    fn strangers_with_many_addresses_fill_neither_log_nor_memory() {
        let (reports, lines) = reports();
        for address in 0..10_000u32 {
            let from = About::Accept(IpAddr::from(address.to_be_bytes()));
            reports.trouble_at(1, from, "no certificate".into());
        }
        assert_eq!(lines.lock().unwrap().len(), STRANGERS_LINES_MAX);
        for minute in 1..5 {
            for address in 0..10_000u32 {
                let from = About::Accept(IpAddr::from(address.to_be_bytes()));
                reports.trouble_at(minute * REPEAT_AFTER_NS, from, minute.to_string());
            }
        }
        assert_eq!(lines.lock().unwrap().len(), 5 * STRANGERS_LINES_MAX);
        reports.trouble_at(4 * REPEAT_AFTER_NS, PEER, "a member has its line".into());
        assert_eq!(lines.lock().unwrap().len(), 5 * STRANGERS_LINES_MAX + 1);
        assert!(reports.said.lock().unwrap().troubles.len() <= TROUBLES_MAX);
    }
}
