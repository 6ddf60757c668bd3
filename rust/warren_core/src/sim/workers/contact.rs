//! How long a worker has been without a manager: a chain that a hello begins, that each heartbeat
//! which is acknowledged goes on, and that breaks for a container where two of them lie further apart
//! than the container may run alone. As the agent has it.

/// When the last message that was acknowledged was sent, and the longest pause between two.
#[derive(Clone, Copy, Debug)]
struct Chain {
    heard_ns: u64,
    gap_ns: u64,
}

impl Chain {
    fn extend(&mut self, sent_ns: u64) {
        if sent_ns > self.heard_ns {
            self.gap_ns = self.gap_ns.max(sent_ns - self.heard_ns);
            self.heard_ns = sent_ns;
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Contact {
    chain: Option<Chain>,
    /// Of a session in which the whole set has not been told yet.
    candidate: Option<Chain>,
}

impl Contact {
    /// A hello is sent.
    pub fn hello(&mut self, now_ns: u64) {
        self.candidate = Some(Chain {
            heard_ns: now_ns,
            gap_ns: 0,
        });
    }

    /// A manager has told the whole set in the session that the hello began.
    pub fn agreed(&mut self) {
        self.chain = self.candidate.take().or(self.chain);
    }

    /// A heartbeat that was sent then has been acknowledged.
    pub fn acknowledged(&mut self, sent_ns: u64) {
        let chains = self.chain.iter_mut().chain(&mut self.candidate);
        chains.for_each(|chain| chain.extend(sent_ns));
    }

    /// Whether what must not run alone for longer than that may run; 0: there is no limit.
    pub fn allows(&self, limit_ns: u64, now_ns: u64) -> bool {
        let holds = |chain: &Chain| now_ns < chain.heard_ns + limit_ns && chain.gap_ns < limit_ns;
        limit_ns == 0 || self.chain.as_ref().is_some_and(holds)
    }

    /// Managers are heard, and only a hello makes the chain whole again.
    pub fn needs_hello(&self, limit_ns: u64, now_ns: u64) -> bool {
        let broken = |chain: &Chain| now_ns < chain.heard_ns + limit_ns && chain.gap_ns >= limit_ns;
        self.candidate.is_none() && self.chain.as_ref().is_some_and(broken)
    }
}
