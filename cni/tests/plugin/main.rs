//! The plugin as a runtime sees it: variables and standard input in, standard output and exit
//! status out, with an agent that answers from a script.
#![forbid(unsafe_code)]

mod agent;
mod chains;
mod errors;
mod identity;
mod silk;
mod status;
mod success;
mod wrapper;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sarcenet_agent_api::AttachmentId;
use serde_json::{Value, json};

/// What the calls are about.
fn c1() -> AttachmentId {
    AttachmentId { container: "c1".to_owned(), ifname: "eth0".to_owned() }
}

/// One call of the plugin.
struct Call {
    program: &'static str,
    variables: Vec<(&'static str, String)>,
    input: String,
}

/// What came of it.
#[derive(Debug)]
struct Done {
    success: bool,
    output: String,
    /// What it wrote to standard error.
    notes: String,
}

impl Call {
    /// A correct call about container `c1`, interface `eth0`, in a namespace that exists.
    fn new(command: &str, socket: &Path) -> Self {
        let variables = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        let netconf = json!({
            "cniVersion": "1.1.0",
            "name": "sarcenet",
            "type": "sarcenet-cni",
            "agentSocket": socket,
        });
        Self { program: "sarcenet-cni", variables, input: netconf.to_string() }
    }

    /// The same under another name.
    fn named(mut self, program: &'static str) -> Self {
        self.program = program;
        self
    }

    /// The same with a variable set, or unset when it is empty.
    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(have, _)| *have != name);
        if !value.is_empty() {
            self.variables.push((name, value.to_owned()));
        }
        self
    }

    /// The same with the keys of `patch` in the network configuration; null removes a key.
    fn netconf(mut self, patch: &Value) -> Self {
        let mut netconf: Value = serde_json::from_str(&self.input).unwrap();
        for (key, value) in patch.as_object().unwrap() {
            if value.is_null() {
                netconf.as_object_mut().unwrap().remove(key);
            } else {
                netconf[key] = value.clone();
            }
        }
        self.input = netconf.to_string();
        self
    }

    /// The same with another standard input.
    fn input(mut self, input: &str) -> Self {
        input.clone_into(&mut self.input);
        self
    }

    fn run(&self) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sarcenet-cni"))
            .arg0(format!("/opt/cni/bin/{}", self.program))
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Done {
            success: output.status.success(),
            output: String::from_utf8(output.stdout).unwrap(),
            notes: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it; it must succeed.
    fn succeeds(&self) -> String {
        let done = self.run();
        assert!(done.success, "{done:?}");
        done.output
    }

    /// Runs it; it must fail with this code, and say this somewhere.
    fn fails(&self, code: u64, text: &str) -> Value {
        let done = self.run();
        assert!(!done.success, "{done:?}");
        let error: Value = serde_json::from_str(&done.output).unwrap();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
        assert!(done.output.contains(text), "`{text}` is not in {}", done.output);
        error
    }
}
