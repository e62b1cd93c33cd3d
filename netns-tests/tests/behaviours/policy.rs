//! Who may open conversations with whom.

use anyhow::{Result, ensure};
use sarcenet_rig::{Container, tcp, udp};

use crate::case::{
    Case, PATIENCE, becomes_refused, connects, is_answered, is_refused, is_refused_udp, port,
};

/// Without a policy nothing passes, and the sender learns at once. The server listens, so a
/// refusal can only come from a cell.
pub(crate) fn default_is_deny(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _http = to.serve_http(8080)?;
    let _udp = to.serve_udp(8080)?;
    is_refused(from, port(to, 8080))?;
    is_refused_udp(from, port(to, 8080))
}

/// A policy names apps: all containers of the receiver's app can be reached, wherever they are,
/// also one that comes later.
pub(crate) fn allows_every_instance(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _allowed = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let second = world.attach(1 - to.cell(), to.app())?;
    for instance in [to, &second] {
        let _http = instance.serve_http(8080)?;
        let greeting = from.http(port(instance, 8080), PATIENCE)?.greeting()?;
        ensure!(greeting.starts_with(&format!("this is {}", case.receiver())), "{greeting}");
    }
    Ok(())
}

/// The receiver may not open conversations with the sender.
pub(crate) fn is_directional(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _allowed = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let _there = to.serve_http(8080)?;
    let _back = from.serve_http(8080)?;
    connects(from, port(to, 8080))?;
    is_refused(to, port(from, 8080))
}

/// A port range admits both of its ends and nothing outside; a single port only itself.
pub(crate) fn ports_are_exact(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _range = case.allow(tcp(case.sender(), case.receiver(), 7000..=8000))?;
    let _single = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let inside = [7000, 7001, 7500, 8000, 8080];
    let outside = [6999, 8001, 8079, 8081];
    let _servers = inside
        .into_iter()
        .chain(outside)
        .map(|number| to.serve_http(number))
        .collect::<Result<Vec<_>>>()?;
    for number in inside {
        connects(from, port(to, number))?;
    }
    for number in outside {
        is_refused(from, port(to, number))?;
    }
    Ok(())
}

/// A TCP policy admits no UDP on the same port, nor a UDP policy TCP.
pub(crate) fn protocols_are_exact(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _tcp = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let _udp = case.allow(udp(case.sender(), case.receiver(), 9090..=9090))?;
    let _servers =
        (to.serve_http(8080)?, to.serve_udp(8080)?, to.serve_http(9090)?, to.serve_udp(9090)?);
    connects(from, port(to, 8080))?;
    is_refused_udp(from, port(to, 8080))?;
    is_answered(from, port(to, 9090))?;
    is_refused(from, port(to, 9090))
}

/// Containers of one app need a policy to talk with each other, too.
pub(crate) fn between_instances_of_one_app(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let other = world.attach(to.cell(), from.app())?;
    let _http = other.serve_http(8080)?;
    is_refused(from, port(&other, 8080))?;
    let _allowed = case.allow(tcp(case.sender(), case.sender(), 8080..=8080))?;
    connects(from, port(&other, 8080))
}

/// After a policy is gone new connections are refused; one that is open lives on, also across
/// many packets each way.
pub(crate) fn removal_stops_new_connections_only(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _http = to.serve_http(8080)?;
    let allowed = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let mut open = from.http(port(to, 8080), PATIENCE)?;
    open.greeting()?;
    drop(allowed);
    becomes_refused(from, port(to, 8080))?;
    open.greeting()?;
    open.download(1 << 20)?;
    is_refused(from, port(to, 8080))
}

/// The receiver sees the sender's overlay address.
pub(crate) fn source_address_is_kept(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _allowed = (
        case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?,
        case.allow(udp(case.sender(), case.receiver(), 8080..=8080))?,
    );
    let _servers = (to.serve_http(8080)?, to.serve_udp(8080)?);
    let greeting = from.http(port(to, 8080), PATIENCE)?.greeting()?;
    ensure!(greeting.ends_with(&you_are(from)), "{greeting}");
    is_answered(from, port(to, 8080))
}

fn you_are(container: &Container) -> String {
    format!("you are {}\n", container.address())
}
