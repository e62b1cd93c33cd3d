//! Clients of the two control sockets that send what they should not, may not, or both at once.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout, SndBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send,
    setsockopt, shutdown, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use sarcenet_agent_api as agent;
use sarcenet_dataplane_api::{self as dataplane, codec};
use sarcenet_netns_tests::{PATIENCE, Setting};
use sarcenet_rig::{CellKind, Plan, Policy, SarcenetCell, eventually, tcp};

/// Port that the policy opens.
const PORT: u16 = 8080;
/// User and group nobody.
const NOBODY: u32 = 65_534;

/// app-1 on the first cell, and app-2 on the second, which app-1 may reach.
fn told(test: impl FnOnce(&Setting) -> Result<()>) {
    let plan = Plan::new("s", &[CellKind::Sarcenet, CellKind::Sarcenet]).from_files();
    Setting::told(plan, &[tcp("app-1", "app-2", PORT..=PORT)], test);
}

fn agent_socket(cell: &SarcenetCell) -> PathBuf {
    agent::socket_path(cell.root())
}

fn dataplane_socket(cell: &SarcenetCell) -> PathBuf {
    cell.root().join("run/sarcenet/dataplane.sock")
}

fn open(path: &Path) -> Result<OwnedFd> {
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&client, SndBuf, &(8 * codec::MAX_FRAME))?;
    setsockopt(&client, SendTimeout, &TimeVal::seconds(10))?;
    setsockopt(&client, ReceiveTimeout, &TimeVal::seconds(10))?;
    connect(client.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(client)
}

/// Sends frames as they are and closes; returns what comes back until the other side closes.
fn exchange(path: &Path, frames: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
    let client = open(path)?;
    for frame in frames {
        // It may have closed already.
        let _ = send(client.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
    }
    shutdown(client.as_raw_fd(), Shutdown::Write)?;
    let mut replies = Vec::new();
    let mut buffer = vec![0; codec::MAX_FRAME];
    loop {
        match recv(client.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len @ 1..) => replies.push(buffer[..len].to_vec()),
            // Closed, with something unread in the second case.
            Ok(0) | Err(nix::Error::ECONNRESET) => return Ok(replies),
            Err(errno) => {
                anyhow::bail!("{} is neither answering nor closing: {errno}", path.display())
            }
        }
    }
}

/// Frames that are no message: every beginning of one, one with something behind it, noise, and
/// frames as long as the longest and longer.
fn bad_frames(message: &[u8]) -> Vec<Vec<u8>> {
    let mut noise = 0x9e37_79b9_u32;
    let mut frame = |len: usize| -> Vec<u8> {
        let byte = |_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8 | 0x80
        };
        (0..len).map(byte).collect()
    };
    let mut frames: Vec<_> = (1..message.len()).map(|cut| message[..cut].to_vec()).collect();
    frames.push([message, b"surplus"].concat());
    let longest = codec::MAX_FRAME;
    frames.extend([1, 2, 7, 64, 1000, 60_000, longest, longest + 1, 2 * longest].map(&mut frame));
    frames
}

/// What both processes of a cell say about its state, and the agent's files.
fn state(setting: &Setting, cell: &SarcenetCell) -> Result<String> {
    let mut agent = cell.agent()?;
    let status = cell.dataplane()?.status()?;
    let file = cell.root().join("var/lib/sarcenet/containers.json");
    Ok(format!(
        "{:?}\n{:?}\ngeneration {}, {} rules, {} peers\n{}\n{}",
        agent.containers()?,
        agent.policies()?,
        status.generation,
        status.rules,
        status.peers,
        std::fs::read_to_string(file)?,
        std::fs::read_to_string(setting.world.network_file())?,
    ))
}

#[test]
fn garbage_on_the_sockets_stops_nothing() {
    told(|setting| {
        let Setting { world, from, to } = setting;
        let _server = to.serve_http(PORT)?;
        let target = setting.target(PORT);
        let cells: Vec<_> = world.sarcenet_cells().collect();
        let before = cells.iter().map(|cell| state(setting, cell)).collect::<Result<Vec<_>>>()?;
        let pids: Vec<_> = cells.iter().map(|cell| cell.pids()).collect();

        let (stop, downloads) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| -> Result<()> {
            let traffic = scope.spawn(|| -> Result<()> {
                let mut open = from.http(target, PATIENCE)?;
                while !stop.load(Ordering::Relaxed) {
                    open.download(1 << 20).context("the connection that was open")?;
                    from.http(target, PATIENCE)?.greeting().context("a new connection")?;
                    downloads.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let molested = cells.iter().try_for_each(|cell| molest(cell));
            // All of it while traffic flowed.
            let last = downloads.load(Ordering::Relaxed);
            let flowed = eventually(PATIENCE, || {
                ensure!(traffic.is_finished() || downloads.load(Ordering::Relaxed) > last + 1);
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            flowed?;
            molested
        })?;

        let after = cells.iter().map(|cell| state(setting, cell)).collect::<Result<Vec<_>>>()?;
        ensure!(before == after, "{before:#?} became {after:#?}");
        ensure!(pids == cells.iter().map(|cell| cell.pids()).collect::<Vec<_>>());
        cells.iter().try_for_each(|cell| cell.wait_ready())
    });
}

/// What a server has said.
enum Said {
    Hello,
    Refusal(String),
}

/// Sends bad frames to a server, each on a connection of its own, alone and behind a hello.
fn provoke(
    path: &Path,
    hello: &[u8],
    message: &[u8],
    read: impl Fn(&[u8]) -> Result<Said>,
) -> Result<()> {
    for frame in bad_frames(message) {
        for frames in [&[&frame[..]][..], &[hello, &frame]] {
            let what = || format!("{} bytes after {} frames", frame.len(), frames.len() - 1);
            let mut greeted = frames.len() == 1;
            for reply in exchange(path, frames)? {
                match read(&reply).with_context(what)? {
                    Said::Hello => ensure!(!std::mem::replace(&mut greeted, true), what()),
                    Said::Refusal(message) => ensure!(greeted && !message.is_empty(), what()),
                }
            }
        }
    }
    Ok(())
}

/// Sends everything bad to both sockets of a cell.
fn molest(cell: &SarcenetCell) -> Result<()> {
    let hello = codec::encode(&agent::Request::Hello { version: agent::VERSION })?;
    let policy = tcp("app-1", "app-2", 1..=65_535);
    let message = codec::encode(&agent::Request::PolicyAllow(policy))?;
    provoke(&agent_socket(cell), &hello, &message, |reply| {
        Ok(match codec::decode(reply)? {
            agent::Reply::Hello { .. } => Said::Hello,
            agent::Reply::Error { code: agent::ErrorCode::Invalid, message } => {
                Said::Refusal(message)
            }
            other => anyhow::bail!("{other:?}"),
        })
    })?;

    let role = dataplane::Role::Observer;
    let hello = codec::encode(&dataplane::Request::Hello { version: dataplane::VERSION, role })?;
    let update = dataplane::Update { generation: u64::MAX, ..dataplane::Update::default() };
    let message = codec::encode(&dataplane::Request::Update(Box::new(update)))?;
    let path = dataplane_socket(cell);
    provoke(&path, &hello, &message, |reply| {
        Ok(match codec::decode(reply)? {
            dataplane::Reply::Hello { .. } => Said::Hello,
            dataplane::Reply::Error { message } => Said::Refusal(message),
            other => anyhow::bail!("{other:?}"),
        })
    })?;

    // Who says nothing, or half of something and then nothing, holds nobody up.
    let silent = [&agent_socket(cell), &path].map(|path| (0..8).map(|_| open(path)).collect());
    let [_agents, _dataplanes]: [Vec<OwnedFd>; 2] =
        silent.into_iter().collect::<Result<Vec<_>>>()?.try_into().ok().context("two")?;
    cell.agent()?.status()?;
    cell.dataplane()?.status()?;
    Ok(())
}

/// Says hello as another user; prints what comes back, or why nothing can be said.
const CLIENT: &str = r#"
    use Socket;
    socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!\n";
    connect($s, pack_sockaddr_un($ARGV[0])) or die "connect: $!\n";
    send($s, pack("C*", split(/,/, $ARGV[1])), 0);
    defined(recv($s, my $reply, 1 << 17, 0)) or die "recv: $!\n";
    print $reply;
"#;

/// The reply to a hello from user nobody; the error is what the client printed.
fn as_nobody(path: &Path, hello: &[u8]) -> Result<Result<Vec<u8>, String>> {
    let bytes: Vec<_> = hello.iter().map(u8::to_string).collect();
    let mut command = Command::new("perl");
    command.arg("-e").arg(CLIENT).arg(path).arg(bytes.join(",")).uid(NOBODY).gid(NOBODY);
    let output = command.output().context("run perl")?;
    Ok(if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

#[test]
fn only_root_is_served() {
    told(|setting| {
        let cell = setting.world.sarcenet_cells().next().context("a cell")?;
        let agent_hello = codec::encode(&agent::Request::Hello { version: agent::VERSION })?;
        let role = dataplane::Role::Controller;
        let dataplane_hello =
            codec::encode(&dataplane::Request::Hello { version: dataplane::VERSION, role })?;
        for (path, hello) in
            [(agent_socket(cell), &agent_hello), (dataplane_socket(cell), &dataplane_hello)]
        {
            let refused = as_nobody(&path, hello)?;
            ensure!(refused == Err("connect: Permission denied\n".into()), "{refused:?}");
            // Even where somebody has opened the door.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
            for _ in 0..20 {
                let reply = as_nobody(&path, hello)?.map_err(anyhow::Error::msg)?;
                let message = if hello == &agent_hello {
                    match codec::decode(&reply)? {
                        agent::Reply::Error { message, .. } => message,
                        other => anyhow::bail!("the agent answers {other:?}"),
                    }
                } else {
                    match codec::decode(&reply)? {
                        dataplane::Reply::Error { message } => message,
                        other => anyhow::bail!("the dataplane answers {other:?}"),
                    }
                };
                ensure!(message.contains("only root"), "{message}");
            }
        }
        // The real controller was not disturbed.
        cell.wait_ready()?;
        let _server = setting.to.serve_http(PORT)?;
        setting.from.http(setting.target(PORT), PATIENCE)?.greeting().map(drop)
    });
}

/// The cells share one network file. What is written into it on both at the same moment is kept,
/// and comes into force on both.
#[test]
fn both_cells_may_change_one_network_file_at_once() {
    told(|setting| {
        let cells: Vec<_> = setting.world.sarcenet_cells().collect();
        let mine = |cell: usize| -> Vec<Policy> {
            (1..=20)
                .map(|n| 1000 * (cell as u16 + 1) + n)
                .map(|p| tcp("app-1", "app-2", p..=p))
                .collect()
        };
        let all = |change: fn(&mut agent::AgentClient, Policy) -> Result<bool>, part: usize| {
            std::thread::scope(|scope| {
                let changing: Vec<_> = cells
                    .iter()
                    .enumerate()
                    .map(|(number, cell)| {
                        scope.spawn(move || -> Result<()> {
                            let mut agent = cell.agent()?;
                            for policy in mine(number).into_iter().step_by(part) {
                                ensure!(change(&mut agent, policy.clone())?, "{policy}: no change");
                            }
                            Ok(())
                        })
                    })
                    .collect();
                changing.into_iter().try_for_each(|one| {
                    one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })
        };
        let in_force = |expected: &[Policy]| {
            let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
            eventually(PATIENCE, || {
                for cell in &cells {
                    let have: BTreeSet<_> =
                        cell.agent()?.policies()?.iter().map(ToString::to_string).collect();
                    ensure!(have == expected, "{have:?} instead of {expected:?}");
                }
                let rules = cells[1].dataplane()?.status()?.rules;
                ensure!(rules == expected.len() as u64, "{rules} rules");
                Ok(())
            })
        };
        let first = tcp("app-1", "app-2", PORT..=PORT);
        let mut expected: Vec<Policy> = (0..2).flat_map(mine).chain([first.clone()]).collect();
        all(|agent, policy| Ok(agent.allow(policy)?), 1)?;
        in_force(&expected).context("allowed on both")?;
        all(|agent, policy| Ok(agent.revoke(policy)?), 2)?;
        let gone: Vec<_> = (0..2).flat_map(|cell| mine(cell).into_iter().step_by(2)).collect();
        expected.retain(|policy| !gone.contains(policy));
        in_force(&expected).context("revoked on both")
    });
}
