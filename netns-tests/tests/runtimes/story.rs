//! What containers of a runtime see, and what becomes of them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::outside::DNS_SERVER;
use sarcenet_rig::{World, eventually, tcp};

use crate::image::{LARGE, PORT};
use crate::left;
use crate::name_server::{self, NameServer};
use crate::network::{BURST, RATE};
use crate::podman::Podman;
use crate::runtime::{Runtime, Wanted};

/// On the first cell, the one that asks.
const ASKER: Wanted<'_> = Wanted { name: "app-1", host_port: None, limited: false };
/// On the second cell, with a port that leads to it.
const SERVER: Wanted<'_> = Wanted { name: "app-2", host_port: Some(61_002), limited: false };
/// On the second cell.
const LIMITED: Wanted<'_> = Wanted { name: "app-3", host_port: None, limited: true };

/// The largest packet, which passes as soon as nothing is owed, in bits.
const LARGEST: u64 = 65_535 * 8;

/// What a container gets from a server, or the complaint.
fn fetch(from: &impl Runtime, name: &str, address: Ipv4Addr, path: &str) -> Result<String> {
    let url = format!("http://{address}:{PORT}/{path}");
    let patience = PATIENCE.as_secs().to_string();
    let output =
        from.exec(name, &["/bin/timeout", &patience, "/bin/wget", "-q", "-O", "-", &url])?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} got no {url}: {}: {complaint}", output.status);
    String::from_utf8(output.stdout).context("a text")
}

/// The asker reaches the server, once that serves.
fn reaches([one, two]: &[impl Runtime; 2], server: &str) -> Result<()> {
    eventually(PATIENCE, || {
        let said = fetch(one, ASKER.name, two.info(server)?.attachment.address, "")?;
        ensure!(said.trim() == server, "{said}");
        Ok(())
    })
}

fn is_refused([one, two]: &[impl Runtime; 2], server: &str) -> Result<()> {
    let address = two.info(server)?.attachment.address;
    let Err(error) = fetch(one, ASKER.name, address, "") else {
        anyhow::bail!("{server} was reached")
    };
    let error = format!("{error:#}");
    ensure!(error.contains("onnection refused"), "{error}");
    Ok(())
}

/// The server's port of the cell, from outside.
fn port_leads_to_server(world: &World, two: &impl Runtime) -> Result<()> {
    eventually(PATIENCE, || {
        let greeting = world.outside()?.namespace().http(host_port(two), PATIENCE)?.greeting()?;
        ensure!(greeting.trim() == SERVER.name, "{greeting}");
        Ok(())
    })
}

fn port_leads_nowhere(world: &World, two: &impl Runtime) -> Result<()> {
    eventually(PATIENCE, || {
        let outcome = world.outside()?.namespace().connect(host_port(two), PATIENCE)?;
        ensure!(outcome.is_refused(), "{outcome}");
        Ok(())
    })
}

fn host_port(two: &impl Runtime) -> SocketAddrV4 {
    SocketAddrV4::new(two.cell().plan().underlay, SERVER.host_port.unwrap_or_default())
}

/// Policies, ports, names and limits hold for containers that run.
pub(crate) fn tell<R: Runtime>(world: &World, runtimes: &[R; 2]) -> Result<()> {
    let [one, two] = runtimes;
    one.start(ASKER)?;
    two.start(SERVER)?;
    port_leads_to_server(world, two)?;
    is_refused(runtimes, SERVER.name)?;
    let policy = [tcp(ASKER.name, SERVER.name, PORT..=PORT)];
    world.allow(&policy)?;
    reaches(runtimes, SERVER.name)?;
    // It is the app that may, not the cell.
    two.start(LIMITED)?;
    is_refused(runtimes, LIMITED.name)?;
    world.revoke(&policy)?;
    is_refused(runtimes, SERVER.name)?;
    world.allow(&policy)?;
    names_are_answered(one)?;
    limits_are_kept(world, runtimes)?;
    left::ended(two, LIMITED.name, || two.remove(LIMITED.name))
}

fn names_are_answered(one: &impl Runtime) -> Result<()> {
    let _server = NameServer::start(one.cell().namespace(), DNS_SERVER)?;
    let output = one.exec(ASKER.name, &["/bin/cat", "/etc/resolv.conf"])?;
    let resolv = String::from_utf8(output.stdout)?;
    ensure!(resolv.contains(&format!("nameserver {DNS_SERVER}\n")), "{resolv:?}");
    eventually(PATIENCE, || {
        let output = one.exec(ASKER.name, &["/bin/nslookup", name_server::NAME])?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(said.contains(&name_server::ADDRESS.to_string()), "{said}");
        Ok(())
    })
}

/// No more arrives than the limit lets, and what it does not is counted.
fn limits_are_kept<R: Runtime>(world: &World, [one, two]: &[R; 2]) -> Result<()> {
    world.allow(&[tcp(LIMITED.name, ASKER.name, PORT..=PORT)])?;
    let address = one.info(ASKER.name)?.attachment.address;
    let dropped = two.cell().drops("rate_limit")?;
    let began = Instant::now();
    let large = fetch(two, LIMITED.name, address, "large")?;
    // This includes the start of the one that asks: the transfer took less.
    let took = began.elapsed();
    ensure!(large.len() == LARGE, "{} bytes", large.len());
    let most = (BURST + LARGEST) as f64 + RATE as f64 * took.as_secs_f64();
    ensure!((LARGE * 8) as f64 <= most, "{LARGE} bytes in {took:?}");
    ensure!(two.cell().drops("rate_limit")? > dropped, "nothing was dropped for the limit");
    Ok(())
}

/// What podman does with containers that run or have run.
pub(crate) fn stop_kill_and_restart(world: &World, runtimes: &[Podman<'_>; 2]) -> Result<()> {
    let [_, two] = runtimes;
    two.checked(&["restart", SERVER.name])?;
    reaches(runtimes, SERVER.name)?;
    port_leads_to_server(world, two)?;
    for end in ["stop", "kill"] {
        left::ended(two, SERVER.name, || two.checked(&[end, SERVER.name]).map(drop))?;
        left::nothing(two).with_context(|| format!("after podman {end}"))?;
        port_leads_nowhere(world, two)?;
        two.checked(&["start", SERVER.name])?;
        reaches(runtimes, SERVER.name)?;
        port_leads_to_server(world, two)?;
    }
    Ok(())
}

/// A cell loses all that runs and all that its runtime had in memory. Containers that are started
/// again work as before, and take the place of what they were; what is not started again is there
/// until it is collected.
pub(crate) fn after_a_reboot<R: Runtime>(world: &World, runtimes: &mut [R; 2]) -> Result<()> {
    runtimes[1].start(LIMITED)?;
    runtimes[1].reboot(&[SERVER.name, LIMITED.name])?;
    runtimes[1].start_again(SERVER)?;
    reaches(runtimes, SERVER.name)?;
    port_leads_to_server(world, &runtimes[1])?;
    let [one, two] = runtimes;
    left::ended(one, ASKER.name, || one.remove(ASKER.name))?;
    left::ended(two, SERVER.name, || two.remove(SERVER.name))?;
    port_leads_nowhere(world, two)?;
    left::nothing(one)?;
    two.collect()?;
    left::nothing(two)
}
