//! The real process, started as containerd's shim starts it: pipes on descriptors 3, 4 and 5.

mod support;

use std::fs::{self, File};
use std::io::{PipeWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use support::{Logger, Record, Scratch, numbered, of_stream, records, wait_until, within_deadline};

#[test]
fn both_streams_are_whole_and_in_order() {
    const LINES: usize = 20_000;
    let scratch = Scratch::new("streams");
    let mut logger = Logger::start(&scratch.logs(), &[]);
    let (mut stdout, mut stderr) = (logger.stdout.take().unwrap(), logger.stderr.take().unwrap());
    let writer = |name: &'static str, pipe: &mut PipeWriter| {
        for line in numbered(name, LINES) {
            pipe.write_all((line + "\n").as_bytes()).unwrap();
        }
    };
    let other = thread::spawn(move || writer("stderr", &mut stderr));
    writer("stdout", &mut stdout);
    drop(stdout);
    other.join().unwrap();
    assert!(logger.finish().success());
    let records = records(&scratch.logs().join("current.log"));
    assert_eq!(of_stream(&records, "stdout"), numbered("stdout", LINES));
    assert_eq!(of_stream(&records, "stderr"), numbered("stderr", LINES));
    assert!(records.iter().all(|record| record.flags == "F"));
}

/// A container that ends at once, whose shim signals its group at the same moment.
#[test]
fn sixty_short_runs_lose_nothing() {
    let scratch = Scratch::new("short");
    for run in 0..60 {
        let dir = scratch.logs().join(run.to_string());
        let mut logger = Logger::start(&dir, &[]);
        for number in 0..3 {
            writeln!(logger.stdout(), "out {number}").unwrap();
            writeln!(logger.stderr(), "err {number}").unwrap();
        }
        logger.stderr().write_all(b"no newline").unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
            logger.signal(signal);
        }
        writeln!(logger.stdout(), "after the signals").unwrap();
        assert!(logger.finish().success());
        let records = records(&dir.join("current.log"));
        let stdout = of_stream(&records, "stdout");
        assert_eq!(
            stdout,
            ["out 0", "out 1", "out 2", "after the signals"],
            "run {run}"
        );
        assert_eq!(
            of_stream(&records, "stderr"),
            ["err 0", "err 1", "err 2", "no newline"]
        );
    }
}

#[test]
fn files_rotate_by_size() {
    let scratch = Scratch::new("rotate");
    let mut logger = Logger::start(&scratch.logs(), &["max_bytes", "8192", "max_files", "3"]);
    let lines = numbered("stdout", 2_000);
    for line in &lines {
        writeln!(logger.stdout(), "{line}").unwrap();
    }
    assert!(logger.finish().success());
    let mut names: Vec<String> = fs::read_dir(scratch.logs())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["current.log", "current.log.1", "current.log.2"]);
    let mut kept = Vec::new();
    for name in ["current.log.2", "current.log.1", "current.log"] {
        let path = scratch.logs().join(name);
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(
            bytes <= 8192 && (name == "current.log" || bytes > 8000),
            "{name}: {bytes}"
        );
        kept.extend(of_stream(&records(&path), "stdout"));
    }
    assert!(kept.len() > 200);
    assert_eq!(kept, lines[lines.len() - kept.len()..]);
}

#[test]
fn one_file_is_emptied_when_it_is_full() {
    let scratch = Scratch::new("one");
    let mut logger = Logger::start(&scratch.logs(), &["max_bytes", "4096", "max_files", "1"]);
    let lines = numbered("stdout", 500);
    logger
        .stdout()
        .write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
    assert!(logger.finish().success());
    assert_eq!(fs::read_dir(scratch.logs()).unwrap().count(), 1);
    let kept = of_stream(&records(&scratch.logs().join("current.log")), "stdout");
    assert_eq!(kept, lines[lines.len() - kept.len()..]);
}

#[test]
fn long_lines_come_in_pieces() {
    let scratch = Scratch::new("long");
    let mut logger = Logger::start(&scratch.logs(), &[]);
    let long: Vec<u8> = (0..100_000u32)
        .map(|byte| b'a' + (byte % 26) as u8)
        .collect();
    logger.stdout().write_all(&long).unwrap();
    logger.stdout().write_all(b"\nshort\n").unwrap();
    assert!(logger.finish().success());
    let records = records(&scratch.logs().join("current.log"));
    let flags: String = records.iter().map(|record| record.flags.as_str()).collect();
    assert_eq!(flags, "PPPPPPFF");
    let pieces = records[..7]
        .iter()
        .flat_map(|record| record.content.clone());
    assert_eq!(pieces.collect::<Vec<u8>>(), long);
    assert_eq!(records[7].content, b"short");
}

#[test]
fn a_restart_appends_behind_a_torn_line() {
    let scratch = Scratch::new("restart");
    let path = scratch.logs().join("current.log");
    let mut first = Logger::start(&scratch.logs(), &[]);
    writeln!(first.stdout(), "before").unwrap();
    assert!(first.finish().success());
    let torn = "2026-01-01T00:00:00.000000000Z stdout F to";
    File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(torn.as_bytes())
        .unwrap();
    let mut second = Logger::start(&scratch.logs(), &[]);
    writeln!(second.stdout(), "after").unwrap();
    assert!(second.finish().success());
    assert_eq!(
        of_stream(&records(&path), "stdout"),
        ["before", "to", "after"]
    );
}

#[test]
fn files_are_private_to_their_group() {
    let scratch = Scratch::new("modes");
    assert!(
        Logger::start(&scratch.logs().join("deep"), &[])
            .finish()
            .success()
    );
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(scratch.logs().join("deep")) & !0o750, 0);
    assert_eq!(mode(scratch.logs().join("deep/current.log")) & !0o640, 0);
}

/// A tmpfs of its own; None, with the reason on stderr, where it cannot be mounted.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        use rustix::mount::{MountFlags, mount};
        fs::create_dir_all(&at).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        match mount(
            "tmpfs",
            &at,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        ) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: cannot mount a tmpfs ({error}); run as root");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The sum of what the logger says it dropped.
fn lines_dropped(records: &[Record]) -> usize {
    let notes = of_stream(records, "warren").into_iter().map(|note| {
        let words: Vec<&str> = note.split(' ').collect();
        assert_eq!((words[0], words[2], words[3]), ("…", "lines", "dropped"));
        words[1].parse::<usize>().unwrap()
    });
    notes.sum()
}

/// Fills a disk to the last page; the file is the filler.
fn fill(path: PathBuf) -> PathBuf {
    let mut filler = File::create(&path).unwrap();
    while filler.write(&[0; 4096]).is_ok_and(|bytes| bytes > 0) {}
    path
}

#[test]
fn a_full_disk_drops_whole_lines_and_never_blocks() {
    const LINES: usize = 20_000;
    let scratch = Scratch::new("full");
    let Some(disk) = SmallDisk::mount(scratch.0.join("disk"), "4m") else {
        return;
    };
    let dir = disk.0.join("logs");
    let mut logger = Logger::start(&dir, &[]);
    let lines = numbered("stdout", LINES);
    writeln!(logger.stdout(), "{}", lines[0]).unwrap();
    wait_until("the first line", || {
        fs::metadata(dir.join("current.log")).unwrap().len() > 0
    });
    let filler = fill(disk.0.join("filler"));

    let mut stdout = logger.stdout.take().unwrap();
    let rest = lines[1..].join("\n") + "\n";
    // Several times what a pipe holds: it can only be written if somebody reads.
    let mut stdout = within_deadline("writing to a full disk", move || {
        stdout.write_all(rest.as_bytes()).unwrap();
        stdout
    });
    // A long line, of which the full disk takes a part or nothing.
    stdout.write_all(&[b'x'; 40_000]).unwrap();
    fs::remove_file(filler).unwrap();
    let current = dir.join("current.log");
    let noted = || {
        fs::read(&current)
            .unwrap()
            .windows(7)
            .any(|word| word == b"dropped")
    };
    wait_until("the note", noted);
    stdout.write_all(b"xxx\nroom again\n").unwrap();
    drop(stdout);
    assert!(logger.finish().success());

    let records = records(&current);
    let dropped = lines_dropped(&records);
    let mut kept = of_stream(&records, "stdout");
    assert_eq!(kept.pop().unwrap(), "room again");
    // The long line is there whole, or it is counted and what is there of it is ended.
    let long: usize = kept
        .iter()
        .filter(|line| line.starts_with('x'))
        .map(String::len)
        .sum();
    kept.retain(|line| !line.starts_with('x') && !line.is_empty());
    assert!(
        kept.iter().all(|line| lines.contains(line)),
        "a line is not whole"
    );
    let long_lines_kept = usize::from(long == 40_003);
    assert_eq!(kept.len() + long_lines_kept + dropped, LINES + 1);
    assert!(dropped > LINES / 2, "the disk was not full: {dropped}");
}

#[test]
fn a_directory_that_cannot_be_made_stops_nobody() {
    let scratch = Scratch::new("nowhere");
    let obstacle = scratch.0.join("file");
    fs::write(&obstacle, "").unwrap();
    let dir = obstacle.join("logs");
    let mut logger = Logger::start(&dir, &[]);
    let mut stdout = logger.stdout.take().unwrap();
    let mut stdout = within_deadline("writing to nowhere", move || {
        stdout
            .write_all("lost\n".repeat(50_000).as_bytes())
            .unwrap();
        stdout
    });
    fs::remove_file(&obstacle).unwrap();
    wait_until("the directory", || dir.join("current.log").exists());
    writeln!(stdout, "found").unwrap();
    drop(stdout);
    assert!(logger.finish().success());
    let records = records(&dir.join("current.log"));
    let mut kept = of_stream(&records, "stdout");
    assert_eq!(kept.pop().unwrap(), "found");
    // What was still in the pipe when the directory could be made was not lost.
    assert!(kept.iter().all(|line| line == "lost"));
    let dropped = lines_dropped(&records);
    assert_eq!(kept.len() + dropped, 50_000);
    assert!(dropped > 25_000, "{dropped}");
}

#[test]
fn a_wrong_start_is_refused_with_the_reason() {
    for (arguments, reason) in [
        (
            &["dir", "/nowhere", "colour", "red"][..],
            "unknown key `colour`",
        ),
        (
            &["dir", "/nowhere"][..],
            "it is containerd's shim that starts this",
        ),
    ] {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            r#"exec "$@" 3<&- 4<&- 5<&-"#,
            "sh",
            env!("CARGO_BIN_EXE_warren-log"),
        ]);
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(reason), "{text}");
        assert_eq!(output.status.code(), Some(2));
    }
}

/// What the logger costs beside each container.
#[test]
fn memory_stays_small() {
    let scratch = Scratch::new("memory");
    let mut logger = Logger::start(&scratch.logs(), &["max_bytes", "1048576"]);
    let block = "a line of some length, as they are\n".repeat(1_000);
    for _ in 0..200 {
        logger.stdout().write_all(block.as_bytes()).unwrap();
    }
    logger.stdout().write_all(&vec![b'y'; 1 << 20]).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", logger.child.id())).unwrap();
    let resident = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap()
        .to_owned();
    assert!(logger.finish().success());
    let kibibytes: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    // An unoptimised build is a third larger.
    assert!(kibibytes < 4096, "{resident}");
    println!("{resident}");
}
