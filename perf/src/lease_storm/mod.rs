//! All cells of a deployment ask for a subnet at once, as when it starts.
//!
//! The subnet controllers are processes of their own. Each cell has a connection of its own, which is
//! opened with the request: the handshakes of mTLS are a part of what is measured.

mod report;
mod storm;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sarcenet_test_postgres::Postgres;

use self::report::{Report, StormReport};
use self::storm::{BLOCKS, storm};
use crate::control::Control;
use crate::report::write_json;

/// What is measured
///
/// From the moment in which all cells ask for a subnet until each has it: from two subnet
/// controllers over one PostgreSQL, which is started for this, and from one over SQLite. Cells,
/// controllers and PostgreSQL share this machine's cores and speak over the loopback interface.
/// That all subnets are distinct, that the first one is given to nobody, and that the first cell
/// too many is told so is looked at, too, and is an error otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Cells
    #[arg(long, default_value_t = 250, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(BLOCKS)))]
    cells: u16,

    /// Write all numbers to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const CONTROL: &str = "\
roles: [subnet-controller]
leases: {listen: '127.0.0.1:0', overlay: 10.255.0.0/16, block_prefix: 24}
status: {listen: '127.0.0.1:0'}
";

/// Measures, and prints what was measured.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start threads")?;
    let measure = |database: &'static str, controllers: &[Control]| -> Result<StormReport> {
        let took = runtime.block_on(storm(controllers, arguments.cells));
        let took = took.with_context(|| format!("subnets from {database}"))?;
        Ok(StormReport::new(database, controllers.len(), &took))
    };
    let postgres = Postgres::start();
    let url = postgres.database();
    let replicas = [Control::start(CONTROL, Some(&url))?, Control::start(CONTROL, Some(&url))?];
    let on_postgres = measure("PostgreSQL", &replicas)?;
    drop((replicas, postgres));
    let on_sqlite = measure("SQLite", &[Control::start(CONTROL, None)?])?;
    let report = Report::new(arguments.cells, vec![on_postgres, on_sqlite]);
    report.print();
    write_json(&report, arguments.json.as_deref())
}
