use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use super::log::{self, LogFormat};
use super::output;
use crate::config::{ControlSpec, GroupsSpec, group_file};
use crate::paths::Root;
use crate::servers::{Prepared, process};

/// Run the servers that cells ask: policy server and subnet controller
///
/// The control file says which of them run here, where they listen, who knows the users' tokens
/// and where the database is. Several may run at once over one PostgreSQL. Changed certificates are
/// in force a few seconds later, or at once on SIGHUP; a changed tokens file at the next request; a
/// changed control file after a restart.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet certs init && sarcenet control
  sarcenet control --config control.yaml --check")]
pub(super) struct Arguments {
    /// The control file [default: /etc/sarcenet/control.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Only look for mistakes in the control file and in the files that it names
    #[arg(long)]
    check: bool,

    /// How log lines look
    #[arg(long, value_enum, default_value = "human", value_name = "FORMAT")]
    log: LogFormat,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let file = arguments.config.clone().unwrap_or_else(|| root.control_file());
    let spec = ControlSpec::load(&file, root)?;
    if arguments.check {
        return check(&file, spec);
    }
    log::start(arguments.log);
    process::run(spec)
}

fn check(file: &Path, spec: ControlSpec) -> Result<ExitCode> {
    let roles = [
        spec.external.is_some().then_some("policy-server"),
        spec.subnet_controller.is_some().then_some("subnet-controller"),
    ];
    let roles: Vec<_> = roles.into_iter().flatten().collect();
    if let Some(GroupsSpec::File(path)) = &spec.security_groups {
        group_file::load(path)?;
    }
    Prepared::new(spec)?;
    output::text(&format!("{}: no mistakes; {}", file.display(), roles.join(", ")))?;
    Ok(ExitCode::SUCCESS)
}
