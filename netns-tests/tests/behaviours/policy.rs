//! Who may open conversations with whom.

use anyhow::{Result, ensure};
use sarcenet_rig::{Container, tcp, udp};

use crate::case::{
    Case, PATIENCE, becomes_refused, connects, is_answered, is_refused, is_refused_from,
    is_refused_udp, port,
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

/// A policy names apps: all containers of the sender's app reach all of the receiver's, wherever
/// they are, also those that come later; and nobody else does.
pub(crate) fn allows_every_instance(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _allowed = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let second_sender = world.attach(1 - from.cell(), from.app())?;
    let second_receiver = world.attach(1 - to.cell(), to.app())?;
    let other = world.attach(from.cell(), Some(&world.take_app()?.id))?;
    for instance in [to, &second_receiver] {
        let _http = instance.serve_http(8080)?;
        for sender in [from, &second_sender] {
            let greeting = sender.http(port(instance, 8080), PATIENCE)?.greeting()?;
            ensure!(greeting.starts_with(&format!("this is {}", case.receiver())), "{greeting}");
        }
        is_refused(&other, port(instance, 8080))?;
    }
    Ok(())
}

/// The receiver may not open conversations with the sender, also not while one is open the other
/// way round, nor from the port that it serves.
pub(crate) fn is_directional(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _allowed = (
        case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?,
        case.allow(udp(case.sender(), case.receiver(), 9090..=9090))?,
    );
    let _there = to.serve_http(8080)?;
    let _back = (from.serve_http(8080)?, from.serve_udp(9090)?);
    let mut open = from.http(port(to, 8080), PATIENCE)?;
    open.greeting()?;
    is_refused(to, port(from, 8080))?;
    is_refused_udp(to, port(from, 9090))?;
    open.greeting()?;
    is_refused_from(to, 9090, port(from, 9090))
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

/// The same for UDP.
pub(crate) fn udp_ports_are_exact(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _range = case.allow(udp(case.sender(), case.receiver(), 7000..=8000))?;
    let _single = case.allow(udp(case.sender(), case.receiver(), 8080..=8080))?;
    let inside = [7000, 7500, 8000, 8080];
    let outside = [6999, 8001, 8079, 8081];
    let _servers = inside
        .into_iter()
        .chain(outside)
        .map(|number| to.serve_udp(number))
        .collect::<Result<Vec<_>>>()?;
    for number in inside {
        is_answered(from, port(to, number))?;
    }
    for number in outside {
        is_refused_udp(from, port(to, number))?;
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
    let _http = (from.serve_http(8080)?, other.serve_http(8080)?);
    is_refused(from, port(&other, 8080))?;
    is_refused(&other, port(from, 8080))?;
    let _allowed = case.allow(tcp(case.sender(), case.sender(), 8080..=8080))?;
    connects(from, port(&other, 8080))?;
    connects(&other, port(from, 8080))
}

/// After a policy is gone new connections are refused; one that is open lives on, across many
/// packets each way.
pub(crate) fn removal_stops_new_connections_only(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _http = to.serve_http(8080)?;
    let allowed = case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?;
    let mut open = from.http(port(to, 8080), PATIENCE)?;
    open.greeting()?;
    drop(allowed);
    becomes_refused(from, port(to, 8080))?;
    for _ in 0..3 {
        open.download(1 << 20)?;
        open.upload(1 << 20)?;
        is_refused(from, port(to, 8080))?;
    }
    Ok(())
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
