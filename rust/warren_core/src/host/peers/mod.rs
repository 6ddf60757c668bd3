//! Frames between members, over TCP.
//!
//! A frame is opaque here: `control` makes it, checks it and says on which lane it travels. What
//! this module adds is that a lane never waits for another: each has a connection of its own to
//! each peer, dialled by the side that sends, and used in that direction only.
//!
//! | thread | one for | does |
//! |---|---|---|
//! | `peer-dial` | each peer and lane | connects, writes what is queued, connects again |
//! | `peer-listen` | all | accepts |
//! | `peer-read` | each accepted connection | reads frames and hands them to the core |
//!
//! Seven managers make 36 connections and 37 threads that mostly wait; a blocking stream is also
//! what a TLS library wraps most simply ([`stream::Transport`]).
//!
//! Both sides prove by a certificate that they are managers of the same cluster, and of which node
//! ([`tls`]). A member is dialled only on the node that the replicated state binds it to, and a
//! frame in its name is taken only from there ([`nodes`]).
//!
//! Delivery is as good as Raft needs it and no better: frames of one lane stay in order as long as
//! its connection lasts, and any may be lost. A queue that is full drops its oldest frame, and a
//! connection that breaks takes with it what was on its way; both are counted, and Raft repeats
//! what matters. What is queued for a peer that is away waits for it: when it is back, what it is
//! greeted with must not be lost for as long as it takes to be repeated. Only what is to be logged
//! is dropped, and counted, once it has waited for seconds: it could be a request that must not take
//! effect so late ([`outbox::Limit`]). So a slow or dead peer costs bounded memory, and the core never
//! waits for a socket.

mod counters;
mod listen;
mod nodes;
mod outbox;
mod reports;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod wire;
mod writer;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use counters::Counters;
pub use listen::{Common, Received};
pub use reports::Reports;
pub use stream::{Plain, Transport};
pub use tls::{Tls, TlsFiles};

use super::fatal;
use crate::control;
use crate::error::Error;
use crate::ids::MemberId;
use crate::raft::Lane;
use listen::Listener;
use outbox::Outbox;

pub const LANES: [Lane; 3] = [Lane::Urgent, Lane::Log, Lane::Bulk];

/// The connections to and from all peers. Ended by [`Peers::stop`], or when dropped.
pub struct Peers {
    common: Common,
    seed: u64,
    out: BTreeMap<MemberId, Peer>,
    /// Of peers that were removed and whose threads may still be finishing.
    ending: Vec<JoinHandle<()>>,
    listener: Option<Listener>,
}

struct Peer {
    address: String,
    lanes: [Arc<Outbox>; LANES.len()],
    threads: Vec<JoinHandle<()>>,
}

impl Peers {
    /// Starts to accept. Each frame that arrives is delivered; `seed` feeds the jitter of
    /// reconnects.
    pub fn start(listener: TcpListener, common: Common, seed: u64) -> Result<Self, Error> {
        let listener = Listener::start(listener, common.clone())?;
        Ok(Self {
            common,
            seed,
            out: BTreeMap::new(),
            ending: Vec::new(),
            listener: Some(listener),
        })
    }

    /// Where this member listens.
    #[cfg(test)]
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.listener.as_ref().and_then(Listener::local_addr)
    }

    /// From now on these are the peers; others are disconnected.
    pub fn set(&mut self, peers: Vec<control::Peer>) -> Result<(), Error> {
        let bound = peers.iter().filter_map(|of| Some((of.member, of.node?)));
        self.common.nodes.set(bound.collect());
        let wanted = peers.into_iter().map(|peer| (peer.member, peer.address));
        let wanted: BTreeMap<_, _> = wanted.collect();
        let known = self.out.iter();
        let gone = known.filter(|(id, peer)| wanted.get(id) != Some(&peer.address));
        let gone: Vec<_> = gone.map(|(id, _)| *id).collect();
        for member in gone {
            if let Some(peer) = self.out.remove(&member) {
                self.ending.extend(peer.close());
                self.common.counters.forget(member);
            }
        }
        self.ending.retain(|thread| !thread.is_finished());
        for (member, address) in wanted {
            if !self.out.contains_key(&member) {
                let peer = self.connect(member, address)?;
                self.out.insert(member, peer);
            }
        }
        Ok(())
    }

    /// Queues a frame and returns at once. One to a member that is no peer is dropped.
    pub fn send(&self, to: MemberId, lane: Lane, frame: Vec<u8>) {
        match self.out.get(&to) {
            Some(peer) => peer.lanes[lane as usize].push((self.common.now_ns)(), frame),
            None => self.common.counters.no_such_peer(),
        }
    }

    /// Disconnects from everyone and ends the threads.
    pub fn stop(&mut self) {
        for peer in std::mem::take(&mut self.out).into_values() {
            self.ending.extend(peer.close());
        }
        if let Some(listener) = self.listener.take() {
            listener.stop();
        }
        for thread in self.ending.drain(..) {
            // A panic has ended the process already.
            let _ = thread.join();
        }
    }

    fn connect(&self, member: MemberId, address: String) -> Result<Peer, Error> {
        let lanes =
            LANES.map(|lane| Arc::new(Outbox::new(lane, self.common.counters.lane(member, lane))));
        let mut peer = Peer {
            address,
            lanes,
            threads: Vec::new(),
        };
        for (lane, outbox) in LANES.into_iter().zip(&peer.lanes) {
            let writer = writer::Writer {
                member,
                address: peer.address.clone(),
                lane,
                outbox: outbox.clone(),
                transport: self.common.transport.clone(),
                nodes: self.common.nodes.clone(),
                reports: self.common.reports.clone(),
                now_ns: self.common.now_ns,
                // Any two lanes differ, so that reconnects spread.
                seed: self.seed ^ member.0.rotate_left(8) ^ lane as u64,
                unsent: Vec::new(),
            };
            let thread = fatal::spawn("peer-dial", move || writer.run());
            peer.threads.push(thread.inspect_err(|_| {
                peer.lanes.iter().for_each(|outbox| outbox.close());
            })?);
        }
        Ok(peer)
    }
}

impl Peer {
    fn close(self) -> Vec<JoinHandle<()>> {
        self.lanes.iter().for_each(|outbox| outbox.close());
        self.threads
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop();
    }
}
