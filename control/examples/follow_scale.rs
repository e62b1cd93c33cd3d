//! How long the agent takes from what a policy server says to what the dataplane is told: 10,000
//! policies between 5,000 apps, of which 250 have a container here.
//!
//! `cargo run --release -p sarcenet --example follow_scale`

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use sarcenet_agent_api::AttachmentId;
use sarcenet_control::config::Network;
use sarcenet_control::desired::{Attached, Desired, Here};
use sarcenet_control::egress::EgressBook;
use sarcenet_control::follow::policies::{List, Policies};
use sarcenet_control::followed::Followed;
use sarcenet_control::rule_names::RuleNames;
use sarcenet_dataplane_api::Attach;
use sarcenet_server::lease::Lease;
use sarcenet_server::policy::{Policy, Protocol, TagNumber, TaggedPolicy};

const POLICIES: u32 = 10_000;
const APPS: u32 = 5_000;
const CONTAINERS: u32 = 250;
const ROUNDS: u32 = 20;

fn policy(number: u32) -> TaggedPolicy {
    let (source, destination) = (number % APPS, (number * 7 + number / APPS + 1) % APPS);
    let name = |app: u32| format!("{app:08x}-0000-4000-8000-000000000000");
    TaggedPolicy {
        policy: Policy {
            source: name(source),
            destination: name(destination),
            protocol: Protocol::Tcp,
            first_port: 8080,
            last_port: 8080 + number / APPS,
        },
        source_tag: TagNumber(source + 1),
        destination_tag: TagNumber(destination + 1),
    }
}

fn list(numbers: impl Iterator<Item = u32>) -> List {
    List { policies: numbers.map(policy).collect(), left_out: 0 }
}

fn main() -> anyhow::Result<()> {
    let text = "{overlay: 10.255.0.0/16, control: {underlay: 10.77.0.11}}";
    let base = Network::parse(text).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let subnet: ipnet::Ipv4Net = "10.255.55.0/24".parse()?;
    let lease = Lease { underlay: [10, 77, 0, 11].into(), subnet, mac: [0; 6] };
    let queue = Arc::new(OwnedFd::from(File::open("/dev/null")?));
    let first = u32::from(subnet.network());
    let containers: Vec<_> = (0..CONTAINERS)
        .map(|number| {
            let address = (first + 2 + number).into();
            Attached {
                id: AttachmentId { container: format!("c{number}"), ifname: "eth0".into() },
                address,
                app: Some(policy(number).policy.source),
                attach: Attach::Tun,
                terms: Arc::default(),
                queue: Arc::clone(&queue),
            }
        })
        .collect();
    let (mut names, mut book) = (RuleNames::default(), EgressBook::default());
    let mut desired = |policies: &Arc<Policies>| {
        let (lease, policies) = (Some(lease.clone()), Some(Arc::clone(policies)));
        let followed = Followed { lease, policies, ..Followed::default() };
        let network = followed.network(&base, "cell1");
        let here = Here {
            network: &network,
            cell: &network.cells[0],
            mtu: 1450,
            host: None,
            addresses: &[],
        };
        Desired::new(here, &containers, &mut names, &mut book)
    };
    let before = Arc::new(Policies::new(list(0..POLICIES - 1))?);
    let old = desired(&before);
    let (mut change, mut outcome) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let after = before.changed(list(POLICIES - 1..POLICIES), &list(0..1))?;
        change += begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        std::hint::black_box(desired(&Arc::new(after)).since(&old));
        outcome += begin.elapsed().as_secs_f64();
    }
    let millis = |seconds: f64| seconds * 1000.0 / f64::from(ROUNDS);
    println!(
        "{POLICIES} policies, {APPS} apps, {CONTAINERS} containers, {} rules here: \
         {:.2} ms to apply a change, {:.2} ms from policies to the dataplane's change",
        old.rules(),
        millis(change),
        millis(outcome)
    );
    Ok(())
}
