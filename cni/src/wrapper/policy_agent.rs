//! Has the cell's policy agent ask the policy server for a new container's policies and security
//! groups, and waits until they are in force (contract sections 7.2 and 9.6).

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::failure::{Code, Failure};

/// How long it may take to answer: longer than it waits for the policy server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// Without dynamic security groups (405) the container has the rules that its runtime passed.
pub(super) fn force(address: &str, container: &str) -> Result<(), Failure> {
    let (status, body) = get(address, "/force-policy-poll-cycle")?;
    if status != 200 {
        let message = format!("vpa response code: {status} with message: {body}");
        return Err(Failure::new(Code::Wrapper, message, "force the policies"));
    }
    let (status, body) = get(address, &format!("/force-asgs-for-container?container={container}"))?;
    if !matches!(status, 200 | 405) {
        let message = format!("asg sync returned {status} with message: {body}");
        return Err(Failure::new(Code::Wrapper, message, "force the security groups"));
    }
    Ok(())
}

fn get(address: &str, path: &str) -> Result<(u16, String), Failure> {
    ask(address, path).map_err(|error| {
        let why = format!("{address}: {error}; is vxlan-policy-agent running?");
        Failure::new(Code::TryAgain, "ask the policy agent", why)
    })
}

fn ask(address: &str, path: &str) -> io::Result<(u16, String)> {
    let nobody = || io::Error::other("it is no address");
    let address_of = address.to_socket_addrs()?.next().ok_or_else(nobody)?;
    let mut stream = TcpStream::connect_timeout(&address_of, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("it does not answer in HTTP"))?;
    Ok((status, body.trim_end().to_owned()))
}
