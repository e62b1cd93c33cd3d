//! What is recorded of conversations.

use anyhow::{Result, ensure};
use sarcenet_rig::{GroupRule, eventually, tcp, udp};

use crate::case::{
    Case, PATIENCE, at, connects, fresh_address, is_answered, is_refused, is_refused_udp,
};
use crate::limits::BURST;

/// Packets of a kind that may be recorded only once a second.
const MANY: u32 = 20;

impl Case {
    /// What is recorded about the container.
    fn recorded(&self, event: &str) -> Result<u64> {
        // Log prefixes are cut.
        let prefix: String =
            format!("{event}_{}", self.container.handle()).chars().take(28).collect();
        self.world.cells()[0].logged(&prefix)
    }

    /// At least so much comes to be recorded about it.
    fn becomes_recorded(&self, event: &str, least: u64) -> Result<u64> {
        eventually(PATIENCE, || {
            let recorded = self.recorded(event)?;
            ensure!(recorded >= least, "{recorded} of {least} records {event}");
            Ok(recorded)
        })
    }
}

/// Connections beyond the limit are admitted, and recorded.
pub(crate) fn a_dry_run_refuses_nothing(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let target = at(fresh_address(), 80);
    let _open = case.open(&[GroupRule::tcp(target.ip(), "80")])?;
    let _server = case.outside()?.serve_http("outside", target)?;
    for _ in 0..BURST / 2 {
        connects(from, target)?;
    }
    ensure!(case.recorded("DENY_ORL")? == 0, "recorded below the limit");
    for _ in 0..BURST {
        connects(from, target)?;
    }
    let records = case.becomes_recorded("DENY_ORL", 1)?;
    ensure!(records < u64::from(BURST) / 2, "{records} records, not one a second");
    Ok(())
}

/// An admitted TCP connection between apps is recorded once, with the sender's tag and the
/// receiver's app, where it is admitted; refusals once a second, about the receiver.
pub(crate) fn between_apps(case: &Case) -> Result<()> {
    let to = &case.container;
    let tag = case.world.take_app()?;
    let from = case.world.attach(1, Some(&tag.id))?;
    let _servers = (to.serve_http(8080)?, to.serve_udp(8080)?);
    let app = to.app().unwrap_or_default();
    is_refused(from.namespace(), at(to.address(), 8080))?;
    case.becomes_recorded("DENY_C2C", 1)?;
    for _ in 0..MANY {
        is_refused_udp(from.namespace(), at(to.address(), 8080))?;
    }
    let refused = case.recorded("DENY_C2C")?;
    ensure!(refused < u64::from(MANY), "{refused} refusals recorded, not one a second");

    case.world.allow(&[tcp(&tag.id, app, 8080..=8080), udp(&tag.id, app, 8080..=8080)])?;
    let prefix = format!("OK_{:04X}_{app}", tag.tag);
    let cell = &case.world.cells()[0];
    ensure!(cell.logged(&prefix)? == 0, "recorded before it was");
    for count in 1..=3 {
        let mut client = from.http(at(to.address(), 8080), PATIENCE)?;
        client.download(100_000)?;
        client.upload(100_000)?;
        eventually(PATIENCE, || {
            let recorded = cell.logged(&prefix)?;
            ensure!(recorded == count, "{recorded} records of {count} connections");
            Ok(())
        })?;
    }
    is_answered(from.namespace(), at(to.address(), 8080), from.address())?;
    eventually(PATIENCE, || {
        let recorded = cell.logged(&prefix)?;
        ensure!(recorded > 3, "no record of UDP");
        Ok(())
    })
}

/// Admitted connections to the outside are recorded once each, refusals once a second.
pub(crate) fn on_the_way_out(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let target = at(fresh_address(), 80);
    let host = case.outside()?;
    let _servers = (host.serve_http("outside", target)?, host.serve_udp(target)?);
    is_refused(from, target)?;
    case.becomes_recorded("DENY", 1)?;
    for _ in 0..MANY {
        is_refused_udp(from, target)?;
    }
    let refused = case.recorded("DENY")?;
    ensure!(refused < u64::from(MANY), "{refused} refusals recorded, not one a second");

    let _open =
        case.open(&[GroupRule::tcp(target.ip(), "80"), GroupRule::udp(target.ip(), "80")])?;
    for count in 1..=3 {
        let mut client = from.http(target, PATIENCE)?;
        client.download(100_000)?;
        client.upload(100_000)?;
        ensure!(case.becomes_recorded("OK", count)? == count, "a connection recorded twice");
    }
    is_answered(from, target, case.cell_address())?;
    case.becomes_recorded("OK", 4).map(drop)
}
