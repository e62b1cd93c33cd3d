//! Containers with a veth: what the kernel could do behind the dataplane's back, and does not.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{CLEARED_AWAY, PATIENCE};
use sarcenet_rig::{AttachKind, CellKind, Container, Plan, World, eventually};

/// How long to wait for something that must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// Said by the container.
const WORD: &[u8] = b"let me in";

fn told(world: &World, test: impl FnOnce() -> Result<()>) {
    test().unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}

fn world() -> World {
    let plan = Plan::new("v", &[CellKind::Sarcenet, CellKind::KERNEL]).attach(AttachKind::Veth);
    World::new(plan).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The cell's end of a container's veth.
fn host_end(container: &Container) -> String {
    let [a, b, c, d] = container.address().octets();
    format!("s-{a:03}{b:03}{c:03}{d:03}")
}

/// A socket of the cell's, open to everybody.
fn listen(world: &World, cell: usize) -> Result<UdpSocket> {
    let namespace = world.cells()[cell].namespace();
    let socket = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7777)))??;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Whatever the container sends, the cell's own IP stack gets none of it: neither to deliver nor to
/// forward, with the dataplane alive or dead. It would have, were it not for the filter.
#[test]
fn the_cells_ip_stack_never_sees_a_container() {
    let world = world();
    told(&world, || {
        let from = world.attach(0, Some("app-1"))?;
        let cell = world.cells()[0].namespace();
        let end = host_end(&from);
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            (&*format!("ipv4/conf/{end}/rp_filter"), "0"),
        ] {
            cell.sysctl(name, value)?;
        }
        let near = SocketAddrV4::new(world.cells()[0].plan().underlay, 7777);
        let far = SocketAddrV4::new(world.cells()[1].plan().underlay, 7777);
        let (here, there) = (listen(&world, 0)?, listen(&world, 1)?);
        let say = |to| -> Result<()> {
            let socket = from.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
            socket.send_to(WORD, to).context("send")?;
            Ok(())
        };
        let silent = |when: &str| -> Result<()> {
            for (to, socket) in [(near, &here), (far, &there)] {
                say(to)?;
                let heard = socket.recv_from(&mut [0; 100]);
                ensure!(heard.is_err(), "{when}: {to} heard {heard:?}");
            }
            Ok(())
        };
        silent("with a dataplane")?;
        let sarcenet = world.sarcenet_cells().next().context("a Sarcenet cell")?;
        sarcenet.kill_agent()?;
        sarcenet.kill_dataplane()?;
        silent("without a dataplane")?;
        // So the test would have noticed.
        cell.checked(Command::new("tc").args(["qdisc", "del", "dev", &end, "ingress"]))?;
        eventually(PATIENCE, || {
            say(near)?;
            here.recv_from(&mut [0; 100]).context("without a filter nothing arrives either")?;
            Ok(())
        })
    });
}

/// Names and addresses are those that Silk gives (contract section 6.2); nothing is left of a
/// container that is detached, or whose namespace ends.
#[test]
fn the_pair_is_as_silks_and_goes_with_its_container() {
    let world = world();
    told(&world, || {
        let cell = world.cells()[0].namespace();
        let container = world.attach(0, Some("app-1"))?;
        let end = host_end(&container);
        let show = |namespace: &sarcenet_rig::Namespace, arguments: &[&str]| {
            namespace.checked(Command::new("ip").args(arguments))
        };
        let inside = container.namespace();
        let [a, b, c, d] = container.address().octets();
        let hex = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let link = show(cell, &["link", "show", &end])?;
        ensure!(link.contains(&format!("link/ether aa:aa:{hex}")), "{link}");
        ensure!(link.contains("NOARP") && link.contains("mtu 1450"), "{link}");
        let addresses = show(cell, &["addr", "show", "dev", &end])?;
        ensure!(!addresses.contains("inet"), "{addresses}");
        let link = show(inside, &["link", "show", "eth0"])?;
        ensure!(link.contains(&format!("link/ether ee:ee:{hex}")), "{link}");
        ensure!(link.contains("NOARP") && link.contains("mtu 1450"), "{link}");
        let addresses = show(inside, &["addr", "show", "dev", "eth0"])?;
        let own = format!("inet {} peer 169.254.0.1/32 scope link", container.address());
        ensure!(addresses.contains(&own) && !addresses.contains("inet6"), "{addresses}");
        let routes = show(inside, &["route"])?;
        let source = format!("src {}", container.address());
        let default = routes.lines().find(|line| line.starts_with("default via 169.254.0.1 "));
        ensure!(default.is_some_and(|line| line.contains(&source)), "{routes}");
        let neighbours = show(inside, &["neigh"])?;
        let gateway = format!("169.254.0.1 dev eth0 lladdr aa:aa:{hex} PERMANENT");
        ensure!(neighbours.contains(&gateway), "{neighbours}");

        let sarcenet = world.sarcenet_cells().next().context("a Sarcenet cell")?;
        let mode = |name: &str| -> Result<Option<String>> {
            let links = sarcenet.dataplane()?.status()?.links;
            Ok(links.into_iter().find(|link| link.name == name).map(|link| link.mode))
        };
        let found = mode(container.handle())?;
        ensure!(found.as_deref() == Some("veth vnet-hdr csum tso uso"), "{found:?}");
        let there = |end: &str| cell.run(|| nix::net::if_::if_nametoindex(end).is_ok());
        ensure!(there(&end)?);
        world.detach(&container)?;
        ensure!(!there(&end)?, "{end} is still there");
        world.detach(&container)?;

        let second = world.attach(0, Some("app-1"))?;
        let end = host_end(&second);
        ensure!(there(&end)?);
        let deleted =
            Command::new("ip").args(["netns", "del", second.namespace().name()]).status()?;
        ensure!(deleted.success());
        eventually(CLEARED_AWAY, || {
            ensure!(!there(&end)?, "{end} is still there");
            Ok(())
        })?;
        world.detach(&second)
    });
}

/// A container that resolves addresses by ARP after all gets its answers.
#[test]
fn arp_is_answered() {
    let world = world();
    told(&world, || {
        let from = world.attach(0, Some("app-1"))?;
        from.namespace().ip("neigh flush dev eth0 nud permanent\nlink set eth0 arp on\n")?;
        let cell = SocketAddrV4::new(world.cells()[0].plan().underlay, 7777);
        eventually(PATIENCE, || {
            let outcome = from.connect(cell, PATIENCE)?;
            ensure!(outcome.is_refused(), "{outcome}");
            Ok(())
        })
    });
}
