//! An agent that answers from a script and remembers what it was asked.

use std::io::PipeWriter;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sarcenet_agent_api::{
    Attach, AttachKind, Attachment, HostEnd, PortId, Reply, Request, VERSION,
};
use sarcenet_dataplane_api::transport::Listener;
use tempfile::TempDir;

use crate::Call;

pub(crate) type Script = fn(&Request) -> Reply;

/// A request with the number of descriptors that came with it.
type Asked = (Request, usize);

pub(crate) struct Agent {
    directory: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("agent.sock"), 0o600).unwrap();
        let (stopped, stop) = std::io::pipe().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                while let Some(connection) = listener.accept(stopped.as_fd()).unwrap() {
                    while let Some((request, fds)) = connection.recv::<Request>().unwrap() {
                        let reply = match &request {
                            Request::Hello { .. } => {
                                Reply::Hello { version: VERSION, cell: "cell1".to_owned() }
                            }
                            other => script(other),
                        };
                        asked.lock().unwrap().push((request, fds.len()));
                        connection.send(&reply, &[]).unwrap();
                    }
                }
            }
        });
        Self { directory, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// The requests after the greeting.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(r, _)| !matches!(r, Request::Hello { .. })).cloned().collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the agent's thread panicked");
        }
    }
}

/// A socket where nobody listens.
pub(crate) fn nobody() -> &'static Path {
    Path::new("/nonexistent/agent.sock")
}

/// The wish that the agent hears of an ADD that is made of the usual one.
pub(crate) fn wish_of(call: impl FnOnce(Call) -> Call) -> Attach {
    let agent = Agent::start(obliging);
    call(Call::new("ADD", &agent.socket())).succeeds();
    let asked = agent.asked();
    match <[Asked; 1]>::try_from(asked) {
        Ok([(Request::Add(wish), 1)]) => *wish,
        other => panic!("{other:?}"),
    }
}

/// Gives every container the same address, by the kind of interface that it wants.
pub(crate) fn obliging(request: &Request) -> Reply {
    match request {
        Request::Add(wish) => {
            let host = (wish.kind == AttachKind::Veth).then(|| HostEnd {
                name: "s-010255055002".to_owned(),
                mac: [0xaa, 0xaa, 10, 255, 55, 2],
                gateway: Ipv4Addr::new(169, 254, 0, 1),
            });
            Reply::Added(Attachment {
                id: wish.id.clone(),
                address: Ipv4Addr::new(10, 255, 55, 2),
                mtu: 1450,
                mac: host.is_some().then_some([0xee, 0xee, 10, 255, 55, 2]),
                host,
                routes: vec!["0.0.0.0/0".parse().unwrap()],
                port: PortId(1),
                name_servers: vec![Ipv4Addr::new(169, 254, 0, 2)],
            })
        }
        _ => Reply::Done,
    }
}
