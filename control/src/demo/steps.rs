//! The story of three apps, and of the outside.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sarcenet_rig::{Capture, Container, HttpServer, Namespace, Outcome, eventually};

use super::outside;
use super::setting::{APP_PORT, APPS, Setting, policy};
use super::teller::Teller;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How soon a change of policy must be felt on every cell.
const CHANGE_BAR: Duration = Duration::from_millis(100);
/// VXLAN flags of a packet with a group (RFC 7348 and the Group Policy extension).
const FLAGS: u16 = 0x8800;

/// Tells all of it; an error means that it could not be told, not that it went wrong.
pub(super) fn tell(teller: &mut Teller, setting: &Setting) -> Result<()> {
    let ports = [APP_PORT, 6999, 7000, 7010, 7011];
    let _servers: Vec<HttpServer> = setting
        .containers()
        .flat_map(|container| ports.map(|port| container.serve_http(port)))
        .collect::<Result<_>>()?;
    no_policy(teller, setting)?;
    allowed(teller, setting)?;
    one_way(teller, setting)?;
    port_range(teller, setting)?;
    on_the_wire(teller, setting)?;
    revoked(teller, setting)?;
    outside::tell(teller, setting)
}

fn no_policy(teller: &mut Teller, setting: &Setting) -> Result<()> {
    Teller::chapter("Without a policy every request is refused at once");
    let Setting { a, b_near, b_far, c, .. } = setting;
    for (what, to) in [
        ("app-a to app-b, same cell", b_near),
        ("app-a to app-b, other cell", b_far),
        ("app-a to app-c, other cell", c),
    ] {
        refused(teller, what, a, port(to, APP_PORT))?;
    }
    Ok(())
}

fn allowed(teller: &mut Teller, setting: &Setting) -> Result<()> {
    let Setting { a, b_near, b_far, c, .. } = setting;
    for (app, targets) in [
        ("app-b", vec![("same cell", b_near), ("other cell", b_far)]),
        ("app-c", vec![("other cell", c)]),
    ] {
        let command = policy("allow", "app-a", app, "8080");
        setting.policy(&command)?;
        let began = Instant::now();
        let felt = targets
            .iter()
            .map(|(_, to)| felt_after(began, a, port(to, APP_PORT), Outcome::is_connected))
            .collect::<Result<Vec<_>>>()?;
        Teller::chapter(&format!("sarcenet {}", command.join(" ")));
        for ((place, to), felt) in targets.iter().zip(felt) {
            in_time(teller, &format!("app-a to {app}, {place}"), felt, CHANGE_BAR, "open");
            answered(teller, &format!("GET / from {app}, {place}"), a, to, app);
        }
    }
    Ok(())
}

fn one_way(teller: &mut Teller, setting: &Setting) -> Result<()> {
    Teller::chapter("A policy is one-way, and says nothing about other apps");
    let Setting { a, b_near, b_far, c, .. } = setting;
    for (what, from, to) in [
        ("app-b to app-a, same cell", b_near, a),
        ("app-b to app-a, other cell", b_far, a),
        ("app-b to app-c, same cell", b_far, c),
        ("app-b to app-c, other cell", b_near, c),
    ] {
        refused(teller, what, from, port(to, APP_PORT))?;
    }
    Ok(())
}

fn port_range(teller: &mut Teller, setting: &Setting) -> Result<()> {
    let Setting { a, c, .. } = setting;
    let command = policy("allow", "app-a", "app-c", "7000-7010");
    setting.policy(&command)?;
    eventually(PATIENCE, || {
        ensure!(a.connect(port(c, 7000), PATIENCE)?.is_connected());
        Ok(())
    })
    // Shown as a failed step below, with what was seen.
    .ok();
    Teller::chapter(&format!("sarcenet {}", command.join(" ")));
    for number in [7000, 7010] {
        let outcome = a.connect(port(c, number), PATIENCE)?;
        let what = format!("app-a to app-c port {number}");
        teller.step(&what, "connected", outcome.is_connected(), &outcome.to_string());
    }
    for number in [6999, 7011] {
        refused(teller, &format!("app-a to app-c port {number}"), a, port(c, number))?;
    }
    Ok(())
}

fn on_the_wire(teller: &mut Teller, setting: &Setting) -> Result<()> {
    Teller::chapter("Between the cells, every packet carries its sender's tag");
    let Setting { world, a, c, .. } = setting;
    let capture = Capture::start(world.cells()[c.cell()].namespace(), "eth0")?;
    a.http(port(c, APP_PORT), PATIENCE)?.greeting()?;
    let (there, back): (Vec<_>, Vec<_>) = eventually(PATIENCE, || {
        let (to, frames) = (port(c, APP_PORT), capture.tunnel_frames());
        // Connections of the steps before may still be closing.
        let (there, back): (Vec<_>, Vec<_>) = frames
            .into_iter()
            .filter(|frame| frame.protocol == 6 && (frame.destination == to || frame.source == to))
            .partition(|frame| frame.destination == to);
        ensure!(!there.is_empty() && !back.is_empty(), "no frames in one direction");
        Ok((there, back))
    })?;
    for (what, frames, (_, tag)) in
        [("requests of app-a", there, APPS[0]), ("replies of app-c", back, APPS[2])]
    {
        teller.step(
            what,
            &format!("flags {FLAGS:#06x}, group {tag}, VNI 1"),
            frames.iter().all(|f| (f.flags, f.group, f.vni) == (FLAGS, Some(tag), 1)),
            &frames.first().map_or_else(String::new, |frame| {
                let group = frame.group.map_or("none".to_owned(), |group| group.to_string());
                let (flags, vni, many) = (frame.flags, frame.vni, frames.len());
                format!("flags {flags:#06x}, group {group}, VNI {vni} on {many} frames")
            }),
        );
    }
    Ok(())
}

fn revoked(teller: &mut Teller, setting: &Setting) -> Result<()> {
    let Setting { a, b_near, b_far, c, .. } = setting;
    let mut open = a.http(port(b_far, APP_PORT), PATIENCE)?;
    open.greeting()?;
    let command = policy("revoke", "app-a", "app-b", "8080");
    setting.policy(&command)?;
    let began = Instant::now();
    let targets = [("same cell", b_near), ("other cell", b_far)];
    let felt = targets
        .iter()
        .map(|(_, to)| felt_after(began, a, port(to, APP_PORT), Outcome::is_refused))
        .collect::<Result<Vec<_>>>()?;
    Teller::chapter(&format!("sarcenet {}", command.join(" ")));
    for ((place, _), felt) in targets.iter().zip(felt) {
        in_time(teller, &format!("new connections to app-b, {place}"), felt, CHANGE_BAR, "refused");
    }
    let lives = open.greeting().and_then(|_| open.download(1 << 20));
    teller.step(
        "the connection that was open",
        "lives on",
        lives.is_ok(),
        &match lives {
            Ok(()) => "1 MiB more came over it".to_owned(),
            Err(error) => format!("{error:#}"),
        },
    );
    answered(teller, "app-a to app-c", a, c, "app-c");
    for ports in ["8080", "7000-7010"] {
        setting.policy(&policy("revoke", "app-a", "app-c", ports))?;
    }
    Ok(())
}

fn port(container: &Container, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(container.address(), port)
}

/// How long after `began` a connection first ended as wanted; none if it never did.
pub(super) fn felt_after(
    began: Instant,
    from: &Container,
    to: SocketAddrV4,
    wanted: fn(Outcome) -> bool,
) -> Result<Option<Duration>> {
    while began.elapsed() < PATIENCE {
        if wanted(from.connect(to, PATIENCE)?) {
            return Ok(Some(began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

pub(super) fn in_time(
    teller: &mut Teller,
    what: &str,
    felt: Option<Duration>,
    bar: Duration,
    state: &str,
) {
    teller.step(
        what,
        &format!("{state} within {} ms", bar.as_millis()),
        felt.is_some_and(|felt| felt <= bar),
        &match felt {
            Some(felt) => {
                format!("{state} {:.1} ms after the command", felt.as_secs_f64() * 1e3)
            }
            None => format!("not {state} within {PATIENCE:?}"),
        },
    );
}

pub(super) fn refused(
    teller: &mut Teller,
    what: &str,
    from: &Container,
    to: SocketAddrV4,
) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    teller.step(what, "refused at once", outcome.is_refused(), &outcome.to_string());
    Ok(())
}

/// A request is answered by the right app, which sees the sender's own address.
fn answered(teller: &mut Teller, what: &str, from: &Container, to: &Container, app: &str) {
    greeted(teller, what, from.namespace(), port(to, APP_PORT), app, from.address());
}

/// A request is answered by this server, which sees this client.
pub(super) fn greeted(
    teller: &mut Teller,
    what: &str,
    from: &Namespace,
    to: SocketAddrV4,
    server: &str,
    client: Ipv4Addr,
) {
    let expected = format!("this is {server}, you are {client}");
    let answer = from.http(to, PATIENCE).and_then(|mut http| http.greeting());
    let (came_true, seen) = match answer {
        Ok(text) => (text.trim_end() == expected, format!("`{}`", text.trim_end())),
        Err(error) => (false, format!("{error:#}")),
    };
    teller.step(what, &format!("an answer from {server} to {client}"), came_true, &seen);
}
