//! A cell for one test: the directories of the contract, plugins and processes of containers.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sarcenet-garden");
pub(crate) const CONFIG: &str = "/var/vcap/jobs/garden-cni/config/adapter.json";
pub(crate) const PLUGINS: &str = "/var/vcap/packages/cni";
pub(crate) const CONFLIST: &str = "/var/vcap/data/cni/cni-wrapper-plugin.conflist";
pub(crate) const MOUNTS: &str = "/var/vcap/data/garden-cni/container-netns";
pub(crate) const STATE: &str = "/var/vcap/data/garden-cni/external-networker-state.json";
pub(crate) const RESULTS: &str = "/var/lib/cni/results";

/// A handle as Diego makes them.
pub(crate) const HANDLE: &str = "6de68121-5eb5-47f6-4c1e-6884";

/// Writes down how it was called, does what the test says, and answers ADD as Silk does.
const PLUGIN: &str = r#"#!/bin/sh
me=${0##*/}
dir=${0%/*}
echo "$CNI_COMMAND $me $CNI_CONTAINERID" >> "$dir/calls"
cat > "$dir/$me.$CNI_COMMAND.stdin"
env | grep ^CNI_ | sort > "$dir/$me.$CNI_COMMAND.env"
if [ -e "$dir/$me.$CNI_COMMAND.sh" ]; then . "$dir/$me.$CNI_COMMAND.sh"; fi
if [ "$CNI_COMMAND" = ADD ]; then cat "$dir/result"; fi
"#;

/// What the plugins answer.
pub(crate) fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "s-010255073003", "mac": "aa:aa:0a:ff:49:03"},
            {"name": "eth0", "mac": "ee:ee:0a:ff:49:03", "sandbox": format!("{MOUNTS}/{HANDLE}")},
        ],
        "ips": [{"address": "10.255.73.3/32", "gateway": "169.254.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.0.1"}],
        "dns": {"nameservers": ["169.254.0.2"]},
    })
}

/// The contract's configuration of the networker, as a cell has it (section 8).
pub(crate) const ADAPTER: &str = include_str!("contract/adapter.json");

/// The same with another prefix than the one before the configuration is read.
pub(crate) fn config() -> Value {
    patched(serde_json::from_str(ADAPTER).unwrap(), &json!({"log_prefix": "prefix"}))
}

/// The contract's configuration of the network, as a cell has it (section 7.1).
pub(crate) const NETWORK: &str = include_str!("contract/cni-wrapper-plugin.conflist");

pub(crate) fn conflist() -> Value {
    serde_json::from_str(NETWORK).unwrap()
}

/// Runs a test on a thread in a mount namespace of its own, in which `/var` is empty but for what
/// the contract puts there. Everything mounted in it ends with it.
pub(crate) fn on_cell(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace; these tests need root");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), "/var", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            write(CONFIG, &config().to_string());
            write(CONFLIST, NETWORK);
            write(&format!("{PLUGINS}/result"), &result().to_string());
            for plugin in ["cni-wrapper-plugin", "bandwidth"] {
                install(plugin);
            }
            test();
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Puts a plugin beside the others that does what they do.
pub(crate) fn install(plugin: &str) {
    let path = format!("{PLUGINS}/{plugin}");
    write(&path, PLUGIN);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Has a plugin do something more, in the language of the shell.
pub(crate) fn script(plugin: &str, command: &str, text: &str) {
    write(&format!("{PLUGINS}/{plugin}.{command}.sh"), text);
}

/// Takes [`script`] back.
pub(crate) fn unscript(plugin: &str, command: &str) {
    fs::remove_file(format!("{PLUGINS}/{plugin}.{command}.sh")).unwrap();
}

/// Which plugins were called, one line each: command, plugin, container.
pub(crate) fn calls() -> Vec<String> {
    let calls = fs::read_to_string(format!("{PLUGINS}/calls")).unwrap_or_default();
    calls.lines().map(ToOwned::to_owned).collect()
}

/// What a plugin was told last.
pub(crate) fn told(plugin: &str, command: &str) -> Value {
    read_json(&format!("{PLUGINS}/{plugin}.{command}.stdin"))
}

/// The variables of a plugin's last call.
pub(crate) fn variables(plugin: &str, command: &str) -> String {
    fs::read_to_string(format!("{PLUGINS}/{plugin}.{command}.env")).unwrap()
}

pub(crate) fn write(path: &str, text: &str) {
    fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub(crate) fn read_json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Puts `patch` into an object; null removes a key.
pub(crate) fn patched(mut object: Value, patch: &Value) -> Value {
    for (key, value) in patch.as_object().unwrap() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(key);
        } else {
            object[key] = value.clone();
        }
    }
    object
}

/// Which ports belong to whom.
pub(crate) fn acquired() -> Value {
    read_json(STATE)["acquired_ports"].clone()
}

pub(crate) fn bind_mount(handle: &str) -> PathBuf {
    Path::new(MOUNTS).join(handle)
}

/// Whether two paths lead to the same thing.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    let identity =
        |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    identity(one).unwrap() == identity(other).unwrap()
}

/// A container's process in a network namespace of its own, as long as this lives.
pub(crate) struct Container(Child);

impl Container {
    pub(crate) fn start() -> Self {
        let spawn = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Command::new("sleep").arg("1000").spawn().unwrap()
        };
        Self(std::thread::scope(|scope| scope.spawn(spawn).join().unwrap()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// What Garden says about it when it comes.
    pub(crate) fn wish(&self) -> Value {
        json!({
            "Pid": self.pid(),
            "Properties": {
                "app_id": "A",
                "policy_group_id": "A",
                "space_id": "S",
                "org_id": "O",
                "ports": "8080",
                "container_workload": "app",
            },
            "netout_rules": [{
                "protocol": 1,
                "networks": [{"start": "8.8.8.8", "end": "9.9.9.9"}],
                "ports": [{"start": 53, "end": 54}],
                "log": true,
            }],
            "netin": [
                {"host_port": 0, "container_port": 8080},
                {"host_port": 12345, "container_port": 7000},
                {"host_port": 0, "container_port": 2222},
            ],
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// None when a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// The networker with these words.
pub(crate) fn call(words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(words);
    command
}

/// The networker as Garden calls it.
pub(crate) fn action(action: &str, handle: &str) -> Command {
    let file = format!("--configFile={CONFIG}");
    call(&[&*file, "--action", action, "--handle", handle])
}

/// Starts a call that is given this input.
pub(crate) fn start(command: &mut Command, input: &str) -> Child {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // Not every call reads it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

pub(crate) fn finish(child: Child) -> Done {
    let done = child.wait_with_output().unwrap();
    Done {
        status: done.status.code(),
        output: String::from_utf8(done.stdout).unwrap(),
        errors: String::from_utf8(done.stderr).unwrap(),
    }
}

pub(crate) fn run(command: &mut Command, input: &str) -> Done {
    finish(start(command, input))
}

/// Runs a call; it must succeed without a word on standard error.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command, input: &str) -> String {
    let done = run(command, input);
    assert_eq!((done.status, done.errors.as_str()), (Some(0), ""), "{}", done.output);
    done.output
}

/// Runs a call; it must fail with exactly this text.
#[track_caller]
pub(crate) fn fails(command: &mut Command, input: &str, text: &str) {
    let done = run(command, input);
    let expected = Done { status: Some(1), output: String::new(), errors: format!("{text}\n") };
    assert_eq!(done, expected);
}

/// Runs `up` for a container; it must succeed.
#[track_caller]
pub(crate) fn up(container: &Container, handle: &str) -> Value {
    let output = succeeds(&mut action("up", handle), &container.wish().to_string());
    serde_json::from_str(&output).unwrap()
}

/// Runs `down`; it must succeed, and nothing of the container may be left.
#[track_caller]
pub(crate) fn down(handle: &str) {
    assert_eq!(succeeds(&mut action("down", handle), "null"), "");
    assert!(!bind_mount(handle).exists());
    assert_eq!(acquired().get(handle), None);
    let results = fs::read_dir(RESULTS).into_iter().flatten();
    let kept: Vec<_> = results.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!kept.iter().any(|name| name.to_str().unwrap().contains(handle)), "{kept:?}");
}
