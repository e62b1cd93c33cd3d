//! The uplink of running cells: its mode changes, and its interface goes and comes back.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sarcenet_dataplane_api::client::{Client, Snapshot};
use sarcenet_dataplane_api::{Cell, Logging, Revoke, Role, Tracking};
use sarcenet_rig::{CellKind, Container, Plan, SarcenetCell, UplinkMode, World, eventually, tcp};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that show that a connection carries more than its keep-alive.
const SOME: usize = 4 << 20;

/// Two cells, app-1 on the first and app-2 on the second, which app-1 may reach on port 8080.
struct Setting {
    world: World,
    from: Container,
    to: Container,
}

impl Setting {
    fn build(mode: UplinkMode) -> Result<Self> {
        let cells = [CellKind::Sarcenet, CellKind::Sarcenet];
        let plan = Plan::new("u", &cells).uplink(mode).from_files();
        let world = World::new(plan)?;
        let from = world.attach(0, Some("app-1"))?;
        let to = world.attach(1, Some("app-2"))?;
        world.allow(&[tcp("app-1", "app-2", 8080..=8080)])?;
        Ok(Self { world, from, to })
    }

    fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.to.address(), 8080)
    }

    /// Waits until the uplinks of both cells have this mode.
    fn wait_for(&self, mode: &str) -> Result<()> {
        eventually(PATIENCE, || {
            for cell in self.world.sarcenet_cells() {
                let found = uplink(cell)?;
                ensure!(found == mode, "{}: {found}", cell.plan().name);
            }
            Ok(())
        })
    }

    /// Writes another mode into the network file.
    fn set_mode(&self, mode: UplinkMode) -> Result<()> {
        let file = self.world.network_file();
        let text = std::fs::read_to_string(&file)?;
        let lines = text.lines().map(|line| match line.strip_prefix("uplink: ") {
            Some(_) => format!("uplink: {mode}\n"),
            None => format!("{line}\n"),
        });
        // Whoever reads the file must never see half of it.
        let new = file.with_extension("new");
        std::fs::write(&new, lines.collect::<String>())?;
        std::fs::rename(&new, &file).context("write the network file")
    }
}

/// The mode of a cell's uplink.
fn uplink(cell: &SarcenetCell) -> Result<String> {
    let links = cell.dataplane()?.status()?.links;
    let uplink = links.into_iter().find(|link| link.name == "uplink").context("an uplink")?;
    Ok(uplink.mode)
}

/// Another dataplane in a cell's namespace, whose AF_XDP uplink has the card. Killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn start(cell: &SarcenetCell, root: &Path) -> Result<Self> {
        let mut command = Command::new(&cell.binaries().dataplane);
        command.args(["--workers", "1", "--flows", "1024", "--root"]).arg(root);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stranger = Self(cell.namespace().spawn(&mut command)?);
        let socket = root.join("run/sarcenet/dataplane.sock");
        let mut client = eventually(PATIENCE, || Ok(Client::connect(&socket, Role::Controller)?))?;
        let other = Cell {
            underlay: cell.plan().underlay,
            subnet: "10.254.0.0/24".parse()?,
            overlay: "10.254.0.0/16".parse()?,
            vni: 2,
            tunnel_port: 4790,
            mtu: 1400,
            revoke: Revoke::Drain,
            uplink: UplinkMode::Xdp,
            host: false,
            outside: None,
            logging: Logging::default(),
            tracking: Tracking::default(),
            tag: 0,
            open: false,
        };
        client.snapshot(&Snapshot { cell: Some((other, None)), ..Snapshot::default() })?;
        let links = client.status()?.links;
        ensure!(links.iter().any(|link| link.mode.starts_with("xdp ")), "{links:?}");
        Ok(stranger)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Index of a container's interface; another one means that it was made anew.
fn eth0(container: &Container) -> Result<u32> {
    let index = container.namespace().run(|| nix::net::if_::if_nametoindex("eth0"))?;
    index.context("the container has lost its eth0")
}

fn told(mode: UplinkMode, test: impl FnOnce(&Setting) -> Result<()>) {
    let setting = Setting::build(mode).unwrap_or_else(|error| panic!("{error:#}"));
    test(&setting).unwrap_or_else(|error| panic!("{}\n{error:#}", setting.world.logs()));
}

/// Containers and their connections outlive every change of the mode.
#[test]
fn modes_change_by_the_network_file() {
    told(UplinkMode::Udp, |setting| {
        let Setting { from, to, .. } = setting;
        let _server = to.serve_http(8080)?;
        let interfaces = (eth0(from)?, eth0(to)?);
        let mut open = from.http(setting.target(), PATIENCE)?;
        for (mode, shown) in [
            (UplinkMode::Xdp, "xdp generic copy 1 queue"),
            (UplinkMode::TunnelGso, "tunnel-gso, udp gso gro"),
            (UplinkMode::Xdp, "xdp generic copy 1 queue"),
            (UplinkMode::Udp, "udp gso gro"),
        ] {
            setting.set_mode(mode)?;
            setting.wait_for(shown)?;
            open.download(SOME).with_context(|| format!("download with {mode}"))?;
            open.upload(SOME).with_context(|| format!("upload with {mode}"))?;
            from.http(setting.target(), PATIENCE)?.greeting()?;
        }
        ensure!(interfaces == (eth0(from)?, eth0(to)?), "a container's eth0 was made anew");
        Ok(())
    });
}

/// Somebody else's XDP program has the card of one cell. Forcing AF_XDP is refused there, in words
/// that say why and what to do, and the sockets go on. Connections cross from one mode to the other.
#[test]
fn af_xdp_on_a_card_that_another_one_has_is_refused() {
    told(UplinkMode::Udp, |setting| {
        let Setting { world, from, to } = setting;
        let _server = to.serve_http(8080)?;
        let mut open = from.http(setting.target(), PATIENCE)?;
        let mut cells = world.sarcenet_cells();
        let (first, second) = (cells.next().context("a cell")?, cells.next().context("two")?);
        let root = tempfile::tempdir()?;
        let stranger = Stranger::start(first, root.path())?;
        setting.set_mode(UplinkMode::Xdp)?;
        eventually(PATIENCE, || {
            let log = first.logs();
            for words in
                ["attaching the XDP program to eth0", "another XDP program", "ip link show"]
            {
                ensure!(log.contains(words), "{words:?} is not said");
            }
            Ok(())
        })?;
        eventually(PATIENCE, || {
            let found = uplink(second)?;
            ensure!(found == "xdp generic copy 1 queue", "{found}");
            Ok(())
        })?;
        ensure!(uplink(first)? == "udp gso gro", "{}", uplink(first)?);
        open.download(SOME).context("download over both")?;
        open.upload(SOME).context("upload over both")?;
        drop(stranger);
        setting.set_mode(UplinkMode::Udp)?;
        setting.wait_for("udp gso gro")?;
        setting.set_mode(UplinkMode::Xdp)?;
        setting.wait_for("xdp generic copy 1 queue")?;
        open.download(SOME).context("download after all")
    });
}

/// Queues of the card come while the cell runs.
#[test]
fn new_queues_are_taken_into_use() {
    told(UplinkMode::Xdp, |setting| {
        let Setting { world, from, to } = setting;
        let _server = to.serve_http(8080)?;
        let mut open = from.http(setting.target(), PATIENCE)?;
        let [first, second] = world.cells() else { anyhow::bail!("two cells") };
        first.namespace().ip("link del eth0\n")?;
        setting.wait_for("xdp gone")?;
        let queues = "numrxqueues 4 numtxqueues 4";
        first.namespace().ip(&format!(
            "link add eth0 {queues} type veth peer name eth0 {queues} netns {}\n",
            second.namespace().name()
        ))?;
        let use_queues = |n: u8| -> Result<()> {
            for cell in [first, second] {
                let n = n.to_string();
                let arguments = ["-L", "eth0", "rx", &n, "tx", &n];
                cell.namespace().checked(Command::new("ethtool").args(arguments))?;
            }
            Ok(())
        };
        use_queues(2)?;
        for cell in [first, second] {
            let address = cell.plan().underlay;
            cell.namespace().ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up\n"))?;
        }
        setting.wait_for("xdp generic copy 2 queues")?;
        eventually(PATIENCE, || from.http(setting.target(), PATIENCE)?.greeting())?;
        use_queues(4)?;
        open.download(SOME).context("download while the uplink is opened anew")?;
        setting.wait_for("xdp generic copy 4 queues")?;
        open.upload(SOME).context("upload over all queues")
    });
}

fn an_interface_goes_and_comes_back(mode: UplinkMode, gone: &str, back: &str) {
    told(mode, |setting| {
        let Setting { world, from, to } = setting;
        let _server = to.serve_http(8080)?;
        let mut open = from.http(setting.target(), PATIENCE)?;
        open.greeting()?;
        let [first, second] = world.cells() else { anyhow::bail!("two cells") };
        first.namespace().ip("link del eth0\n")?;
        setting.wait_for(gone)?;
        first.namespace().ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n",
            second.namespace().name()
        ))?;
        for cell in [first, second] {
            let address = cell.plan().underlay;
            cell.namespace().ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up\n"))?;
        }
        setting.wait_for(back)?;
        eventually(PATIENCE, || from.http(setting.target(), PATIENCE)?.greeting())?;
        open.greeting().context("the connection that was open")?;
        Ok(())
    });
}

#[test]
fn an_interface_goes_and_comes_back_with_sockets() {
    an_interface_goes_and_comes_back(UplinkMode::Udp, "udp gso gro", "udp gso gro");
}

#[test]
fn an_interface_goes_and_comes_back_with_af_xdp() {
    let mode = "xdp generic copy 1 queue";
    an_interface_goes_and_comes_back(UplinkMode::Xdp, "xdp gone", mode);
}
