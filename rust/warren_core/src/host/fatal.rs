//! The end of the process, in one line of the daemon's log.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// Says why on stderr, past every queue, and aborts.
pub fn die(component: &str, message: &str) -> ! {
    let time_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let message = super::completions::json_string(message);
    let line = format!(
        "{{\"level\":\"fatal\",\"component\":\"{component}\",\"time_ms\":{time_ms},\
         \"message\":{message}}}\n"
    );
    // There is nobody left to tell if stderr is gone.
    let _ = std::io::stderr().write_all(line.as_bytes());
    std::process::abort()
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
