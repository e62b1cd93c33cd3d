//! The HTTP client of what asks servers over mTLS, made anew when its certificates are.

use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use sarcenet_server::client::{ClientError, ClientFiles};

/// Asks servers as the files say now: certificates are renewed while an agent runs.
#[derive(Debug)]
pub struct Asker {
    files: ClientFiles,
    timeout: Duration,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    contents: [Vec<u8>; 3],
    client: reqwest::Client,
}

impl Asker {
    /// A request is over after `timeout`.
    pub fn new(files: ClientFiles, timeout: Duration) -> Self {
        Self { files, timeout, made: Mutex::new(None) }
    }

    /// A client with the certificates that are there now. Connections are those of before as long
    /// as no file has changed. While files cannot be used, the ones before are.
    pub fn client(&self) -> Result<reqwest::Client, ClientError> {
        let mut made = self.made.lock();
        let paths: [&PathBuf; 3] =
            [&self.files.server_ca, &self.files.identity.certificate, &self.files.identity.key];
        let contents = paths.map(|path| std::fs::read(path).unwrap_or_default());
        if let Some(made) = &*made
            && made.contents == contents
        {
            return Ok(made.client.clone());
        }
        match (self.files.client(self.timeout), &*made) {
            (Ok(client), _) => {
                *made = Some(Made { contents, client: client.clone() });
                Ok(client)
            }
            (Err(error), Some(made)) => {
                // Halfway through their renewal, most likely: looked at again with the next request.
                tracing::debug!("changed certificates are not used: {error}");
                Ok(made.client.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}
