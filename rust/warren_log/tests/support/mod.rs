//! A logger started as containerd's shim starts it, and a reader of what it writes.

use std::fs;
use std::io::{PipeWriter, Read, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Far beyond what anything here takes; only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory that goes with its test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("warren-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub struct Logger {
    pub child: Child,
    pub stdout: Option<PipeWriter>,
    pub stderr: Option<PipeWriter>,
}

impl Logger {
    /// Starts the logger and waits until it is ready.
    pub fn start(dir: &Path, arguments: &[&str]) -> Self {
        let (stdout, stdout_writer) = pipe().unwrap();
        let (stderr, stderr_writer) = pipe().unwrap();
        let (mut ready, ready_writer) = pipe().unwrap();
        let inherited = [
            reserve(stdout.into()),
            reserve(stderr.into()),
            reserve(ready_writer.into()),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren-log"));
        command.arg("dir").arg(dir).args(arguments);
        command
            .env("CONTAINER_ID", "c1")
            .env("CONTAINER_NAMESPACE", "warren");
        let numbers = inherited.each_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: dup2 is safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for (target, source) in (3..).zip(numbers) {
                    if libc::dup2(source, target) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(inherited);
        let byte = within_deadline("ready", move || ready.read(&mut [0]).unwrap());
        assert_eq!(byte, 0, "closing the descriptor is the sign");
        Self {
            child,
            stdout: Some(stdout_writer),
            stderr: Some(stderr_writer),
        }
    }

    pub fn stdout(&mut self) -> &mut PipeWriter {
        self.stdout.as_mut().expect("still open")
    }

    pub fn stderr(&mut self) -> &mut PipeWriter {
        self.stderr.as_mut().expect("still open")
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// The container is gone; the logger follows.
    pub fn finish(mut self) -> ExitStatus {
        (self.stdout, self.stderr) = (None, None);
        within_deadline("exit", move || self.child.wait().unwrap())
    }
}

/// Moves a descriptor out of the way of 3, 4 and 5.
fn reserve(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 20).unwrap()
}

pub fn within_deadline<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| panic!("{what} took over {DEADLINE:?}"))
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what} took over {DEADLINE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Debug, PartialEq)]
pub struct Record {
    pub stream: String,
    pub flags: String,
    pub content: Vec<u8>,
}

/// Reads a file; every line must be well-formed.
pub fn records(path: &Path) -> Vec<Record> {
    let bytes = fs::read(path).unwrap();
    assert!(
        bytes.is_empty() || bytes.ends_with(b"\n"),
        "{} is torn",
        path.display()
    );
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).map(record).collect()
}

fn record(line: &[u8]) -> Record {
    let text = String::from_utf8_lossy(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut part = || parts.next().unwrap_or_else(|| panic!("malformed: {text}"));
    let (stamp, stream, flags, content) = (part(), part(), part(), part());
    assert!(
        stamp.len() == 30 && stamp.starts_with(b"20") && stamp.ends_with(b"Z"),
        "{text}"
    );
    Record {
        stream: String::from_utf8(stream.to_vec()).unwrap(),
        flags: String::from_utf8(flags.to_vec()).unwrap(),
        content: content.to_vec(),
    }
}

pub fn of_stream(records: &[Record], stream: &str) -> Vec<String> {
    let records = records.iter().filter(|record| record.stream == stream);
    records
        .map(|record| String::from_utf8(record.content.clone()).unwrap())
        .collect()
}

pub fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{name} line {number}"))
        .collect()
}
