//! `warren-log`: writes a container's output to files, one line a record.
//!
//! containerd's shim starts one for each container (`binary://`): the container's stdout and stderr
//! are on descriptors 3 and 4, closing 5 says that we are ready, and the URI's query comes as
//! arguments, a key and a value each. `docs/container-logs.md` has the format.
//!
//! One rule stands above the others: the container never waits for us. The pipes are read whatever
//! happens to the disk, and what cannot be written is dropped and counted.

mod arguments;
mod lines;
mod log_file;
mod timestamp;

use std::fs::File;
use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use arguments::Arguments;
use lines::Lines;
use log_file::{LogFile, Stream};

const STDOUT_FD: RawFd = 3;
const STDERR_FD: RawFd = 4;
const READY_FD: RawFd = 5;
/// As much as a pipe holds by default.
const READ_BYTES: usize = 64 << 10;
/// How often a full disk is tried again while the container is silent.
const RETRY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

fn main() -> ExitCode {
    let started = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| {
        let stdout = Source::new(inherit(STDOUT_FD)?, Stream::Stdout);
        let stderr = Source::new(inherit(STDERR_FD)?, Stream::Stderr);
        Ok((arguments, vec![stdout, stderr], inherit(READY_FD)?))
    });
    let (arguments, sources, ready) = match started {
        Ok(started) => started,
        Err(why) => {
            eprintln!("warren-log: {why}");
            return ExitCode::from(2);
        }
    };
    outlive_signals();
    let mut log = LogFile::new(arguments);
    log.open();
    drop(ready);
    pump(sources, &mut log);
    ExitCode::SUCCESS
}

/// Takes over a descriptor that the shim opened for us.
fn inherit(fd: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: nothing else in this process refers to `fd`; it is checked before it is owned.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(borrowed).map_err(|error| {
        format!("descriptor {fd} is not open ({error}): it is containerd's shim that starts this")
    })?;
    // SAFETY: open, as just seen, and taken only once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The shim's group is signalled when a container stops, while its last lines are still in the pipes.
/// We end when they do.
fn outlive_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// One of the container's streams.
struct Source {
    pipe: File,
    stream: Stream,
    lines: Lines,
}

impl Source {
    fn new(pipe: OwnedFd, stream: Stream) -> Self {
        Self {
            pipe: pipe.into(),
            stream,
            lines: Lines::default(),
        }
    }

    /// Reads once. False at the end of the stream.
    fn read(&mut self, chunk: &mut [u8], log: &mut LogFile) -> bool {
        let bytes = match self.pipe.read(chunk) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), Interrupted | WouldBlock) => return true,
            Err(_) => 0,
        };
        let now = SystemTime::now();
        let mut add = |piece: &[u8], ends_line| log.add(self.stream, now, piece, ends_line);
        if bytes == 0 {
            self.lines.finish(&mut add);
        } else {
            self.lines.push(&chunk[..bytes], &mut add);
        }
        bytes > 0
    }
}

/// Copies until every writer has closed both pipes.
fn pump(mut sources: Vec<Source>, log: &mut LogFile) {
    let mut chunk = vec![0; READ_BYTES];
    while !sources.is_empty() {
        let ready = wait(&sources, log.lines_dropped() > 0);
        let mut ready = ready.into_iter();
        sources
            .retain_mut(|source| !ready.next().expect("one each") || source.read(&mut chunk, log));
        log.flush(SystemTime::now());
    }
}

/// Waits until something can be read, or until it is time to try the disk again. Says which can.
fn wait(sources: &[Source], retry: bool) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .map(|source| PollFd::new(&source.pipe, PollFlags::IN))
        .collect();
    match poll(&mut fds, retry.then_some(&RETRY)) {
        Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
        Err(Errno::INTR) => vec![false; sources.len()],
        // Without poll (no memory), reading blocks on one pipe at a time, which is better than losing
        // both.
        Err(_) => vec![true; sources.len()],
    }
}
