//! Ports of the cell that lead to containers.

use anyhow::{Result, ensure};
use sarcenet_rig::GroupRule;

use crate::case::{Case, PATIENCE, at, connects, curl, fresh_host_port, is_refused, sees};

/// Bytes of a large transfer.
const LARGE: usize = 4 << 20;

/// Each mapped port of the cell leads to its port of the container, for hosts outside, for other
/// cells and for the cell itself, under their own addresses. Ports that are not mapped lead nowhere, and a policy or
/// group is not asked for.
pub(crate) fn lead_to_the_container(case: &Case) -> Result<()> {
    let (first, second) = (fresh_host_port(), fresh_host_port());
    let spec = case.spec()?.mapping(first, 8080).mapping(second, 2222);
    let container = case.world.attach_as(0, &spec)?;
    let _servers = (container.serve_http(8080)?, container.serve_http(2222)?);
    let unmapped = container.serve_http(first);
    let host = case.outside()?;
    let cell = case.cell_address();
    let from = "198.51.100.2".parse()?;
    for port in [first, second] {
        sees(host, at(cell, port), from)?;
        let greeting = curl(host, at(cell, port))?;
        ensure!(greeting.contains(container.app().unwrap_or_default()), "{greeting}");
        let other = &case.world.cells()[1];
        sees(other.namespace(), at(cell, port), other.plan().underlay)?;
        // The kernel stack has no rule for what the cell itself sends.
        if !case.is_kernel() {
            sees(case.world.cells()[0].namespace(), at(cell, port), cell)?;
        }
    }
    drop(unmapped);
    is_refused(host, at(cell, fresh_host_port()))?;
    // The same ports of the other cell are not mapped.
    is_refused(host, at(case.world.cells()[1].plan().underlay, first))?;
    // The container's own address is not the way in.
    let direct = host.connect(at(container.address(), 8080), std::time::Duration::from_secs(1))?;
    ensure!(!direct.is_connected(), "{direct}");
    Ok(())
}

/// Large transfers by a mapped port arrive whole both ways, several at a time.
pub(crate) fn carry_every_byte(case: &Case) -> Result<()> {
    let port = fresh_host_port();
    let container = case.world.attach_as(0, &case.spec()?.mapping(port, 8080))?;
    let _server = container.serve_http(8080)?;
    let host = case.outside()?;
    let mut clients = (0..3)
        .map(|_| host.http(at(case.cell_address(), port), PATIENCE))
        .collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.download(LARGE)?;
        client.upload(LARGE)?;
    }
    Ok(())
}

/// A container that dials a mapped port of its own cell is refused, whatever its groups admit;
/// by way of another cell it is admitted, and seen with its own cell's address.
pub(crate) fn are_closed_to_the_own_cells_containers(case: &Case) -> Result<()> {
    let port = fresh_host_port();
    let container = case.world.attach_as(0, &case.spec()?.mapping(port, 8080))?;
    let _server = container.serve_http(8080)?;
    let _open = case.open(&[GroupRule::all("0.0.0.0/0")])?;
    let target = at(case.cell_address(), port);
    connects(case.outside()?, target)?;
    is_refused(case.container.namespace(), target)?;
    is_refused(container.namespace(), target)?;
    let remote = case.world.attach_as(1, &case.spec()?)?;
    sees(remote.namespace(), target, case.world.cells()[1].plan().underlay)
}
