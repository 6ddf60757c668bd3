//! Golden scenarios of the control plane as a pure machine: `testdata/control/*.txt`.
//!
//! A scenario is a list of steps; what follows `----` is what came out. The vocabulary:
//!
//! | step | what happens |
//! |---|---|
//! | `init` | `InitCluster` is called, and the log created |
//! | `call N METHOD [NAME …]` | call number N; services by name, image `app` |
//! | `hello N IMAGE …` | stream N: the session of the node, which has these images |
//! | `watch N NAME` | stream N: the progress of a service |
//! | `report N STATE` | call number N: all assigned containers are in this state |
//! | `beat N [CPU MEMORY PIDS DISK AGE]` | call number N: a heartbeat, with what the node uses |
//! | `node N` | call number N: the node, of which what it uses is shown |
//! | `take N` | stream N's item has been read |
//! | `cancel N` | stream N's reader has gone |
//! | `sync` | what was to be persisted is durable |
//! | `settle` | `sync` and `take` until nothing more comes |
//! | `full`, `room` | whether the log can take more |
//! | `wait MS` | the clock goes on, tick by tick |
//! | `restart` | the machine is made anew from what was durable |
//!
//! With `WARREN_BLESS=1` the files are written instead of compared.
#![allow(
    clippy::disallowed_methods,
    reason = "reads the scenarios and, to bless them, the environment"
)]

mod control_support;

use control_support::Machine;

#[test]
fn scenarios_come_out_as_written() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/control");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "the scenarios are where they belong");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let came_out = run(&text);
        if std::env::var_os("WARREN_BLESS").is_some() {
            std::fs::write(&file, &came_out).unwrap();
            continue;
        }
        let wrong = text
            .lines()
            .zip(came_out.lines())
            .position(|(is, came)| is != came);
        assert_eq!(
            text,
            came_out,
            "{}: differs from line {wrong:?} on",
            file.display()
        );
    }
}

/// A member writes down itself where its API is, once there is a cluster to write it into: with
/// the tick that has it do so, and not the one after that.
#[test]
fn what_upkeep_proposes_does_not_wait_for_another_tick() {
    let mut machine = Machine::advertising("one:2378");
    machine.perform("init");
    machine.perform("settle");
    assert_eq!(machine.perform("wait 100"), ["persist 1 entries from 6"]);
}

/// Equal inputs at equal times give equal outputs, down to the bytes to be persisted.
#[test]
fn two_machines_fed_alike_are_alike() {
    let steps = [
        "init",
        "settle",
        "hello 1 app",
        "settle",
        "call 2 CreateService web 3",
        "settle",
    ];
    let mut machines = [Machine::new(), Machine::new()];
    for step in steps
        .into_iter()
        .chain(["report 3 running", "wait 700", "settle"])
    {
        let said: Vec<_> = machines
            .iter_mut()
            .map(|machine| machine.perform(step))
            .collect();
        assert_eq!(said[0], said[1], "{step}");
    }
    assert!(!machines[0].durable.entries.is_empty());
    assert_eq!(machines[0].durable.entries, machines[1].durable.entries);
}

/// The scenario with what comes out instead of what is written.
fn run(text: &str) -> String {
    let mut machine = Machine::new();
    let mut came_out = String::new();
    let mut skipping = false;
    for line in text.lines() {
        if line == "----" {
            skipping = true;
        } else if line.is_empty() {
            skipping = false;
            came_out.push('\n');
        } else if line.starts_with('#') {
            came_out.push_str(&format!("{line}\n"));
        } else if !skipping {
            came_out.push_str(&format!("{line}\n----\n"));
            machine
                .perform(line)
                .into_iter()
                .for_each(|said| came_out.push_str(&(said + "\n")));
        }
    }
    came_out
}
