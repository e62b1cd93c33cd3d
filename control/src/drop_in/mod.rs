//! Cloud Foundry's programs under their own names: the same flags, the same JSON files, the same
//! ports and exit statuses, so that a deployment changes over by exchanging a binary.
//!
//! A program is chosen by the name under which this one was started, or by `sarcenet as NAME`. What
//! is in the file of a server becomes a [`ControlSpec`], and in those of a cell's programs what the
//! network file would say, in one module for each program. A key that has no use here is accepted and named once in the log (contract section 13).

mod asg_syncer;
mod cell;
mod database;
mod flags;
mod keys;
mod migrate_db;
mod platform;
mod policy_server;
mod policy_server_internal;
mod silk_controller;
mod silk_daemon;
mod silk_daemon_bootstrap;
mod vxlan_policy_agent;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use sarcenet_server::database::DatabaseSettings;
use tracing::info;

use self::flags::Flags;
use self::keys::Keys;
use self::silk_daemon_bootstrap::BootstrapSpec;
use crate::cli::log;
use crate::config::{ControlSpec, Network};
use crate::follow::beside::BesideSpec;
use crate::paths::Root;
use crate::process::tear_down;
use crate::servers::process;

/// A program of Cloud Foundry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// The policy server's external API.
    PolicyServer,
    /// The policy server's internal API.
    PolicyServerInternal,
    /// Leases of subnets.
    SilkController,
    /// The sync of security groups.
    PolicyServerAsgSyncer,
    /// Brings the policy server's database up to date, and ends.
    MigrateDb,
    /// A cell's agent, which is told by vxlan-policy-agent what the policy server says.
    SilkDaemon,
    /// Asks for the tag that what a router's cell sends carries, and ends.
    SilkDaemonBootstrap,
    /// Gives a cell's lease back and removes its devices, and ends.
    SilkTeardown,
    /// Follows the policy server for the agent that runs as silk-daemon.
    VxlanPolicyAgent,
}

/// Why a program does not run with its file.
#[derive(Debug, thiserror::Error)]
pub enum DropInError {
    /// The file cannot be read.
    #[error("could not read config file: {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not one JSON object.
    #[error("could not read config file: {path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Keys are missing, or have values that are of no use.
    #[error("could not read config file: {path}: invalid config: {}", .mistakes.join("; "))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them.
        mistakes: Vec<String>,
    },
}

/// Run a program of Cloud Foundry with its own flags and configuration file
///
/// Also when this program is started under the name of the other one. Keys of the file that have no
/// use are named once in the log.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet as policy-server -config-file=/var/vcap/jobs/policy-server/config/policy-server.json
  sarcenet as silk-controller -config /var/vcap/jobs/silk-controller/config/silk-controller.json
  sarcenet as silk-daemon -config=/var/vcap/jobs/silk-daemon/config/client-config.json")]
pub struct Arguments {
    /// The program
    #[arg(value_enum, value_name = "NAME")]
    program: Program,

    /// The flags of that program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// What a program is to do.
enum Action {
    Serve(Option<Box<ControlSpec>>),
    Migrate(Option<DatabaseSettings>),
    Agent(Option<Box<Network>>),
    TearDown(Option<Box<Network>>),
    Bootstrap(Option<BootstrapSpec>),
    Beside(Option<Box<BesideSpec>>),
}

impl Arguments {
    /// Runs the program that they name. Paths of a cell's programs are below `root`.
    pub fn run(&self, root: Root) -> Result<ExitCode> {
        self.program.run(root, self.flags.clone())
    }
}

impl Program {
    /// The program that this process was started as, if it is one of them.
    pub fn started_as(path: &OsStr) -> Option<Self> {
        let name = Path::new(path).file_name()?.to_str()?;
        Self::value_variants().iter().copied().find(|program| program.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PolicyServer => "policy-server",
            Self::PolicyServerInternal => "policy-server-internal",
            Self::SilkController => "silk-controller",
            Self::PolicyServerAsgSyncer => "policy-server-asg-syncer",
            Self::MigrateDb => "migrate-db",
            Self::SilkDaemon => "silk-daemon",
            Self::SilkDaemonBootstrap => "silk-daemon-bootstrap",
            Self::SilkTeardown => "silk-teardown",
            Self::VxlanPolicyAgent => "vxlan-policy-agent",
        }
    }

    /// The flag that names its configuration file.
    fn config_flag(self) -> &'static str {
        match self {
            Self::SilkController
            | Self::SilkDaemon
            | Self::SilkDaemonBootstrap
            | Self::SilkTeardown => "config",
            _ => "config-file",
        }
    }

    /// Runs it with these flags, until it ends. Called before the process has other threads.
    pub fn run(self, root: Root, flags: Vec<OsString>) -> Result<ExitCode> {
        let file = match flags::parse(self.config_flag(), flags) {
            Flags::File(file) => file,
            Flags::Help => {
                eprintln!("{}", self.usage());
                return Ok(ExitCode::SUCCESS);
            }
            Flags::Wrong(reason) => {
                eprintln!("{reason}\n{}", self.usage());
                return Ok(ExitCode::from(2));
            }
        };
        let mut keys = Keys::load(&file)?;
        let level = keys.log_level();
        let serve = |spec: Option<ControlSpec>| Action::Serve(spec.map(Box::new));
        let action = match self {
            Self::PolicyServer => serve(policy_server::spec(&mut keys)),
            Self::PolicyServerInternal => serve(policy_server_internal::spec(&mut keys)),
            Self::SilkController => serve(silk_controller::spec(&mut keys)),
            Self::PolicyServerAsgSyncer => serve(asg_syncer::spec(&mut keys)),
            Self::MigrateDb => Action::Migrate(migrate_db::spec(&mut keys)),
            Self::SilkDaemon => Action::Agent(silk_daemon::spec(&mut keys).map(Box::new)),
            Self::SilkDaemonBootstrap => Action::Bootstrap(silk_daemon_bootstrap::spec(&mut keys)),
            Self::SilkTeardown => Action::TearDown(silk_daemon::spec(&mut keys).map(Box::new)),
            Self::VxlanPolicyAgent => {
                Action::Beside(vxlan_policy_agent::spec(&mut keys).map(Box::new))
            }
        };
        let unused = keys.finish(&file)?;
        log::start_at(log::LogFormat::Json, level);
        info!(program = self.name(), file = %file.display(), "started");
        if !unused.is_empty() {
            info!(keys = unused.join(", "), "these keys of the file have no use here");
        }
        // All that was missing has been told.
        match action {
            Action::Serve(Some(spec)) => process::run(*spec),
            Action::Migrate(Some(spec)) => migrate_db::run(&spec),
            Action::Agent(Some(network)) => silk_daemon::run(*network, &file, root),
            Action::Bootstrap(Some(spec)) => silk_daemon_bootstrap::run(&spec, &root),
            Action::TearDown(Some(network)) => tear_down(Ok(network.control), &root),
            Action::Beside(Some(spec)) => vxlan_policy_agent::run(*spec, &root),
            Action::Serve(None)
            | Action::Migrate(None)
            | Action::Agent(None)
            | Action::TearDown(None)
            | Action::Bootstrap(None)
            | Action::Beside(None) => Ok(ExitCode::FAILURE),
        }
    }

    fn usage(self) -> String {
        let (name, flag) = (self.name(), self.config_flag());
        format!("Usage of {name}:\n  -{flag} string\n    \tpath to config file")
    }
}
