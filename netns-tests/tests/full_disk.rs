//! The file system with the agent's state is full. Alone in its file: the test has mounts of its
//! own.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{CellKind, Plan, World, eventually, tcp};

/// Port that the policy opens.
const PORT: u16 = 8080;

/// A network namespace's devices but the loopback.
fn devices(namespace: &str) -> Result<Vec<String>> {
    let path = PathBuf::from("/run/netns").join(namespace);
    let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let names = std::thread::scope(|scope| {
        let look = scope.spawn(move || -> Result<Vec<String>> {
            nix::sched::setns(&file, CloneFlags::CLONE_NEWNET)?;
            let index = nix::net::if_::if_nameindex()?;
            Ok(index.iter().map(|one| one.name().to_string_lossy().into_owned()).collect())
        });
        look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(names.into_iter().filter(|name| name != "lo").collect())
}

#[test]
fn a_full_disk_stops_nothing_but_changes() -> Result<()> {
    // Of this thread and of what it starts: the world's programs and what removes it.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let world = World::new(Plan::new("f", &[CellKind::Sarcenet, CellKind::Sarcenet]))?;
    let told = tell(&world);
    // Nobody else can see it, so nobody else could take it away.
    nix::mount::umount(&disk(&world)?)?;
    told.with_context(|| world.logs())
}

fn disk(world: &World) -> Result<PathBuf> {
    let cell = world.sarcenet_cells().next().context("a cell")?;
    Ok(cell.root().join("var/lib/sarcenet"))
}

fn tell(world: &World) -> Result<()> {
    let cell = world.sarcenet_cells().next().context("a cell")?;
    let disk = disk(world)?;
    mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
    let from = world.attach(0, Some("app-1"))?;
    let to = world.attach(0, Some("app-2"))?;
    world.allow(&[tcp("app-1", "app-2", PORT..=PORT)])?;
    let _server = to.serve_http(PORT)?;
    let target = SocketAddrV4::new(to.address(), PORT);
    let mut open = from.http(target, PATIENCE)?;
    open.greeting()?;

    let ballast = disk.join("ballast");
    ensure!(std::fs::write(&ballast, vec![0; 1 << 20]).is_err(), "the disk is not full");
    let state = std::fs::read(disk.join("containers.json"))?;
    let free = cell.agent()?.status()?.addresses_free;
    let names = || -> Result<Vec<String>> {
        let prefix = format!("sn-{}-", world.id());
        let entries = std::fs::read_dir("/run/netns")?;
        let names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    };
    let before = names()?;
    let refused = world.attach(0, Some("app-2"));
    let text = match refused {
        Err(error) => format!("{error:#}"),
        Ok(container) => anyhow::bail!("{} was attached", container.address()),
    };
    ensure!(text.contains("No space left on device") && text.contains("make room"), "{text}");
    let new: Vec<_> = names()?.into_iter().filter(|name| !before.contains(name)).collect();
    ensure!(new.len() == 1, "{new:?} are new");
    ensure!(devices(&new[0])?.is_empty(), "{:?} are left", devices(&new[0])?);
    ensure!(
        devices(world.cells()[0].namespace().name())?.iter().all(|name| !name.starts_with("sn-"))
    );
    let agent = cell.agent()?.status()?;
    ensure!((agent.containers, agent.addresses_free) == (2, free), "{agent:?}");
    ensure!(std::fs::read(disk.join("containers.json"))? == state, "the state was changed");

    // What is there goes on. Policies come into force, and that they are not kept is said.
    open.download(4 << 20)?;
    from.http(target, PATIENCE)?.greeting()?;
    world.allow(&[tcp("app-1", "app-2", 1..=2)])?;
    eventually(PATIENCE, || {
        ensure!(world.logs().contains("a restart would bring older policies back"), "not said");
        Ok(())
    })?;

    std::fs::remove_file(&ballast)?;
    let later = world.attach(0, Some("app-2"))?;
    let _server = later.serve_http(PORT)?;
    from.http(SocketAddrV4::new(later.address(), PORT), PATIENCE)?.greeting()?;
    world.detach(&to)?;
    Ok(())
}
