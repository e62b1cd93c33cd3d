//! A cell full of containers: how long each takes to be attached, alone and with all others, what
//! they take of memory, and that nothing of them is left.

mod cell;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use sarcenet_rig::AttachKind;

use self::report::Report;
use crate::report::write_json;

/// What containers are attached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attach {
    /// TUN devices.
    Tun,
    /// Veth pairs.
    Veth,
    /// One by a TUN, the next by a veth.
    Both,
}

impl Attach {
    fn kinds(self) -> &'static [AttachKind] {
        match self {
            Self::Tun => &[AttachKind::Tun],
            Self::Veth => &[AttachKind::Veth],
            Self::Both => &[AttachKind::Tun, AttachKind::Veth],
        }
    }
}

/// What is measured
///
/// How long the CNI plugin takes to attach a container to an empty cell, all containers in the same
/// moment, and one more to a full cell; beside it how long the plugin takes that only tells its
/// versions. Each ADD and DEL is a process of its own, each container a network namespace. That every
/// container is reached from another one by a policy, that all addresses are distinct, and that
/// nothing of any is left after the last DEL is looked at, too, and is an error otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Containers; a cell has 253 addresses, and one is for who looks
    #[arg(long, default_value_t = 250, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=252))]
    containers: u16,

    /// What they are attached by
    #[arg(long, value_enum, default_value_t = Attach::Both, value_name = "KIND")]
    attach: Attach,

    /// Write all numbers to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, and prints what was measured.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let measured = cell::measure(arguments.containers, arguments.attach.kinds())?;
    let report = Report::new(arguments.containers, &measured);
    report.print();
    write_json(&report, arguments.json.as_deref())
}
