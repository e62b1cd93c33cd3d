//! A process that logs JSON to its standard error.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// One that runs; killed when dropped.
pub(crate) struct Process {
    process: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits for a line of the log that begins with this, and gives its fields.
    pub(crate) fn logged(&mut self, begin: &str) -> Value {
        let mut all = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Ok(mut event) = serde_json::from_str::<Value>(&line)
                && event["fields"]["message"].as_str().is_some_and(|text| text.starts_with(begin))
            {
                return event["fields"].take();
            }
            all.push(line);
        }
        panic!("`{begin}` was not logged, but:\n{}", all.join("\n"));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// The exit status after this signal; none when the signal itself was the end.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.process.wait().unwrap().code()
    }

    /// The exit status of a process that ends by itself, and its last line.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let last = self.lines.by_ref().map_while(Result::ok).last();
        (self.process.wait().unwrap().code(), last.unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
