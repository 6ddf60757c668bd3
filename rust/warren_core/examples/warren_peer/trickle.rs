//! A write every few milliseconds for as long as there is somebody who takes it, and a line for
//! each that was acknowledged: from outside one sees for how long nobody did. The first line says that
//! the member is up.

use std::io::Write as _;
use std::time::{Duration, Instant};

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use warren_core::host::Kind;
use warren_core::pb;

use crate::Failure;
use crate::cluster::{Cluster, spec};

const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_TIMESPEC: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: PAUSE.as_nanos() as i64,
};
/// A write without an answer is given up after this: the one under way when a leader is lost.
const GIVE_UP: Duration = Duration::from_millis(100);

/// Until there is something to read on stdin.
pub fn run(cluster: &mut Cluster) -> Result<String, Failure> {
    let (mut acknowledged, mut number) = (0u64, 0u64);
    // The service that the next write removes; what it left behind when a leader was lost stays.
    let mut exists: Option<Vec<u8>> = None;
    let mut open: Option<(u64, Instant)> = None;
    println!("{{\"ready\": true}}");
    std::io::stdout().flush()?;
    while !stdin_is_readable()? {
        if open.is_none_or(|(_, began)| began.elapsed() > GIVE_UP) {
            number += 1;
            let id = submit(cluster, exists.take(), number)?;
            open = Some((id, Instant::now()));
        }
        for completion in cluster.drain() {
            if open.take_if(|(id, _)| *id == completion.id).is_none() {
                continue;
            }
            if completion.kind == Kind::Response {
                acknowledged += 1;
                println!("{{\"acknowledged\": {acknowledged}}}");
                std::io::stdout().flush()?;
                // A removal answers with nothing.
                let created = pb::CreateServiceResponse::decode(completion.payload.as_slice())?;
                exists = (!created.service_id.is_empty()).then_some(created.service_id);
            }
        }
    }
    Ok(format!("{{\"writes\": {acknowledged}}}"))
}

/// Removes the service, or creates one: the state stays small.
fn submit(cluster: &mut Cluster, exists: Option<Vec<u8>>, number: u64) -> Result<u64, Failure> {
    let request = Some(cluster.request_id());
    if let Some(service_id) = exists {
        let request = pb::RemoveServiceRequest {
            request,
            service_id,
        };
        return cluster.submit("RemoveService", &request);
    }
    let request = pb::CreateServiceRequest {
        request,
        spec: Some(spec(&name(number), 0, "")),
    };
    cluster.submit("CreateService", &request)
}

fn name(number: u64) -> String {
    format!("trickle-{}-{number}", std::process::id())
}

fn stdin_is_readable() -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&PAUSE_TIMESPEC))? > 0)
}
