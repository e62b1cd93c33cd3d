//! An agent that answers from a script and remembers what it was asked.

use std::io::PipeWriter;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::JoinHandle;

use sarcenet_agent_api::{Reply, Request, VERSION};
use sarcenet_dataplane_api::transport::Listener;

/// Listens until it is asked what it was asked.
pub(crate) struct Agent {
    stop: PipeWriter,
    thread: JoinHandle<Vec<Request>>,
}

impl Agent {
    /// Starts one that answers everything but the greeting with `reply`.
    pub(crate) fn start(path: &str, reply: Reply) -> Self {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        let listener = Listener::bind(Path::new(path), 0o600).unwrap();
        let (stopped, stop) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while let Some(connection) = listener.accept(stopped.as_fd()).unwrap() {
                while let Some((request, _)) = connection.recv::<Request>().unwrap() {
                    if let Request::Hello { .. } = request {
                        let hello = Reply::Hello { version: VERSION, cell: "cell1".to_owned() };
                        connection.send(&hello, &[]).unwrap();
                    } else {
                        asked.push(request);
                        connection.send(&reply, &[]).unwrap();
                    }
                }
            }
            asked
        });
        Self { stop, thread }
    }

    /// Ends it; returns the requests after the greetings.
    pub(crate) fn asked(self) -> Vec<Request> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}
