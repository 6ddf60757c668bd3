//! The end of the process, in one line of the daemon's log.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use super::clock;
use crate::error::Error;

/// Before a line for journald: how bad it is (sd-daemon(3)).
const CRITICAL: &str = "<2>";

/// Says why on stderr, past every queue, and aborts.
pub fn die(component: &str, message: &str) -> ! {
    let time = clock::utc_us(clock::since_epoch());
    let message = super::completions::json_string(message);
    let priority = if is_journal() { CRITICAL } else { "" };
    let line = format!(
        "{priority}{{\"level\":\"fatal\",\"time\":\"{time}\",\"component\":\"{component}\",\
         \"message\":{message}}}\n"
    );
    // There is nobody left to tell if stderr is gone.
    let _ = std::io::stderr().write_all(line.as_bytes());
    std::process::abort()
}

/// Whether stderr is the stream to journald that systemd made for this process. A variable that was
/// inherited is not enough: the descriptor may lead elsewhere since (systemd.exec(5),
/// `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(found) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    let named = format!("{}:{}", found.st_dev, found.st_ino);
    std::env::var("JOURNAL_STREAM").is_ok_and(|told| told == named)
}

/// Starts a named thread whose panic ends the process: what it owned is in no known state.
pub fn spawn(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words");
            die(
                name,
                &format!("thread {name} broke: {text}; the supervisor restarts the daemon"),
            );
        }
    };
    Builder::new()
        .name(format!("warren-{name}"))
        .spawn(guarded)
        .map_err(|error| Error::DataDir {
            path: format!("thread {name}"),
            why: format!("{error}; raise the limit on processes"),
        })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    /// Set in the process that is to die.
    const DIES: &str = "WARREN_TEST_DIES";
    const NAME: &str = "host::fatal::tests::\
                        the_last_line_is_like_any_other_and_the_journal_learns_how_bad_it_is";

    #[test]
    fn the_last_line_is_like_any_other_and_the_journal_learns_how_bad_it_is() {
        if std::env::var_os(DIES).is_some() {
            die("wal", "no \"room\"");
        }
        let path = std::env::temp_dir().join(format!("warren-fatal-{}", std::process::id()));
        let last_words = |of_the_journal: bool| {
            let stderr = File::create(&path).unwrap();
            let (found, elsewhere) = (stderr.metadata().unwrap(), u64::from(!of_the_journal));
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg(NAME)
                .env(DIES, "1")
                .env(
                    "JOURNAL_STREAM",
                    format!("{}:{}", found.dev(), found.ino() + elsewhere),
                )
                .stdout(std::process::Stdio::null())
                .stderr(stderr)
                .status();
            assert!(!child.unwrap().success());
            std::fs::read_to_string(&path).unwrap()
        };
        let before = clock::utc_us(clock::since_epoch());
        let line = last_words(false);
        let after = clock::utc_us(clock::since_epoch());
        let told = last_words(true);
        std::fs::remove_file(&path).unwrap();
        let (time, rest) = line
            .strip_prefix("{\"level\":\"fatal\",\"time\":\"")
            .and_then(|rest| rest.split_once('"'))
            .unwrap_or_else(|| panic!("{line}"));
        assert_eq!(
            rest,
            ",\"component\":\"wal\",\"message\":\"no \\\"room\\\"\"}\n"
        );
        assert!(
            *before <= *time && *time <= *after,
            "{before} {line} {after}"
        );
        assert!(told.starts_with("<2>{\"level\":\"fatal\","), "{told}");
    }
}
