//! `sarcenet demo`: two cells, two containers each, and the story of three apps, on one machine.

mod bulk;
mod outside;
mod setting;
mod steps;
mod teller;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sarcenet_rig::{World, serve_http_forever};

use setting::{APP_PORT, LABEL, Setting};
use teller::Teller;

/// What `sarcenet demo` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Leave everything running at the end and print how to look around
    #[arg(long, conflicts_with = "end")]
    keep: bool,
    /// Remove what an earlier `sarcenet demo --keep` left
    #[arg(long)]
    end: bool,
    /// Leave out the bulk transfers, which take half a minute
    #[arg(long)]
    no_bulk: bool,
    /// Serve HTTP under this name until killed; what a container of the demo runs
    #[arg(long, hide = true, value_name = "NAME")]
    serve: Option<String>,
}

/// Tells the story; the exit status says whether all of it came true.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(name) = &arguments.serve {
        serve_http_forever(APP_PORT, name)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.end {
        let ended = World::end_kept(LABEL)?;
        println!("{ended} demo(s) removed");
        return Ok(ExitCode::SUCCESS);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces, which only root can do; use sudo");
    }
    let mut teller = Teller::default();
    let setting = Setting::build().context("build the two cells")?;
    let namespaces: Vec<String> =
        setting.containers().map(|container| container.namespace().name().to_owned()).collect();
    setting.describe();
    let told = steps::tell(&mut teller, &setting).and_then(|()| {
        if arguments.no_bulk {
            return Ok(());
        }
        bulk::compare(&mut teller, &setting)
    });
    if told.is_err() {
        eprintln!("{}", setting.world.logs());
    }
    told?;
    if arguments.keep {
        setting.keep()?;
    } else {
        drop(setting);
        let left: Vec<_> =
            namespaces.iter().filter(|name| Path::new("/run/netns").join(name).exists()).collect();
        teller.step(
            "afterwards",
            "all namespaces removed",
            left.is_empty(),
            &match left.len() {
                0 => "none left".to_owned(),
                many => format!("{many} left: {left:?}"),
            },
        );
    }
    Ok(teller.end())
}
