//! A run: all sides alternating, then the table and the files.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use sarcenet_rig::{AttachKind, Backend, UplinkMode};

use crate::loading::Loading;
use crate::machine::Machine;
use crate::outcome::{Column, Outcome};
use crate::report::{self, Failure, Method, Results};
use crate::scenario::{ALL, Length, Scenario, Work};
use crate::side::{Building, Kind, Worlds};

/// Measures Sarcenet cells beside kernel cells.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Under five minutes: fewer and shorter runs, coarser searches
    #[arg(long)]
    quick: bool,

    /// Only these scenarios
    ///
    /// Names as `sarcenet-perf list` shows them, separated by commas; a name that ends in `*`
    /// stands for all that begin so. Soaks are only done when they are named.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    only: Vec<String>,

    /// Runs of each side, alternating [default: 5, quick: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pairs: Option<u16>,

    /// Seconds counted in each run [default: 2, quick: 0.5]
    ///
    /// iperf3 counts whole seconds, and at least one. More than 60 are for soaks alone.
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,

    /// What is behind the kernel cells' iptables
    #[arg(long, value_name = "BACKEND", default_value = "legacy")]
    kernel: Iptables,

    /// How packets of our cells travel to each other
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        value_parser = PossibleValuesParser::new(UplinkMode::ALL.map(UplinkMode::name))
            .try_map(|name| UplinkMode::named(&name).ok_or("unknown"))
    )]
    uplink: UplinkMode,

    /// What the interfaces of our containers are
    #[arg(long, value_name = "KIND", default_value = "tun")]
    attach: Attach,

    /// Argument for every sarcenet-dataplane, beyond its part of the workers; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    dataplane: Vec<String>,

    /// Write all numbers to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a plot of each scenario into a directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,

    /// Write the table into a Markdown file
    ///
    /// Between the two marks in it; what stands around them stays. A file that is not there is
    /// made.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attach {
    /// TUN devices
    Tun,
    /// Veth pairs
    Veth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Iptables {
    /// xtables
    Legacy,
    /// nftables
    Nft,
}

/// Longest run of a soak, in seconds.
const SOAK: f64 = 3600.0;
/// Longest run of everything else.
const LONGEST: f64 = 60.0;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=SOAK).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("a run has 0.1 to {SOAK} seconds"))
    }
}

impl Run {
    /// Does it all. An error if anything could not be measured; the rest is measured all the same.
    pub(crate) fn run(&self) -> Result<()> {
        let scenarios = self.scenarios()?;
        let (pairs, seconds) = if self.quick { (2, 0.5) } else { (5, 2.0) };
        let method = Method {
            pairs: self.pairs.map_or(pairs, usize::from),
            seconds: self.seconds.unwrap_or(seconds),
            quick: self.quick,
        };
        let (backend, iptables) = match self.kernel {
            Iptables::Legacy => (Backend::Legacy, "legacy"),
            Iptables::Nft => (Backend::Nft, "nft"),
        };
        let mut worlds = Worlds::new(Building {
            backend,
            uplink: self.uplink,
            attach: match self.attach {
                Attach::Tun => AttachKind::Tun,
                Attach::Veth => AttachKind::Veth,
            },
            dataplane: self.dataplane.clone(),
        });
        let steps: usize =
            scenarios.iter().map(|s| s.sides.kinds().len() * (method.pairs + 1)).sum();
        let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(
            "{elapsed_precise} {bar:30} {pos}/{len} {msg}",
        )?);
        let began = Instant::now();
        let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
        let mut links = Vec::new();
        for (position, scenario) in scenarios.iter().enumerate() {
            match compare(scenario, &mut worlds, method, &bar) {
                Ok(rows) => outcomes.extend(rows),
                Err(e) => {
                    bar.suspend(|| eprintln!("{}: {e:#}", scenario.id));
                    let error = format!("{e:#}");
                    failures.push(Failure { scenario: scenario.id, error });
                }
            }
            if links.is_empty()
                && let Ok(side) = worlds.side(Kind::Ours, scenario.loading)
            {
                links = side.modes().context("ask our cells for the modes of their links")?;
            }
            worlds.keep(&needed(&scenarios[position + 1..]));
        }
        bar.finish_and_clear();
        let machine = Machine::look(iptables, links)?;
        let results = Results { machine, method, scenarios: outcomes, failures };
        report::table::print(&results);
        println!("{} seconds in all.", began.elapsed().as_secs());
        report::write_json(&results, self.json.as_deref())?;
        if let Some(directory) = &self.svg {
            report::plot::write(&results, directory)?;
        }
        if let Some(path) = &self.markdown {
            report::markdown::write(&results, path)?;
        }
        let failed: Vec<_> = results.failures.iter().map(|failure| failure.scenario).collect();
        ensure!(failed.is_empty(), "could not measure {}", failed.join(", "));
        Ok(())
    }

    fn scenarios(&self) -> Result<Vec<Scenario>> {
        let matches = |scenario: &Scenario, wanted: &str| match wanted.strip_suffix('*') {
            Some(start) => scenario.id.starts_with(start),
            None => scenario.id == wanted,
        };
        if let Some(unknown) =
            self.only.iter().find(|wanted| !ALL.iter().any(|s| matches(s, wanted)))
        {
            let known: Vec<_> = ALL.iter().map(|s| s.id).collect();
            bail!("no scenario is called {unknown}; there are {}", known.join(", "));
        }
        let wanted = |s: &&Scenario| {
            (self.only.is_empty() && !s.work.takes_long())
                || self.only.iter().any(|wanted| matches(s, wanted))
        };
        Ok(ALL.iter().filter(wanted).copied().collect())
    }
}

/// Worlds that these scenarios need.
fn needed(scenarios: &[Scenario]) -> Vec<Loading> {
    let few = scenarios
        .iter()
        .filter(|scenario| matches!(scenario.work, Work::RulesCost { .. }))
        .map(|_| Loading::BASE);
    scenarios.iter().map(|scenario| scenario.loading).chain(few).collect()
}

/// Runs a scenario on all its sides in turns.
fn compare(
    scenario: &Scenario,
    worlds: &mut Worlds,
    method: Method,
    bar: &ProgressBar,
) -> Result<Vec<Outcome>> {
    let Scenario { id, work, loading, .. } = *scenario;
    let kinds = scenario.sides.kinds();
    let longest = if work.takes_long() { SOAK } else { LONGEST };
    let length = Length { seconds: method.seconds.min(longest), quick: method.quick };
    for &kind in kinds {
        bar.set_message(format!("{id}: building and checking, {kind:?}"));
        work.verify(worlds, kind, loading)
            .with_context(|| format!("check what arrives, {kind:?}"))?;
        worlds.side(kind, loading)?;
        bar.inc(1);
    }
    let empty = Column { values: vec![Vec::new(); scenario.rows.len()], cpu: Vec::new() };
    let mut columns: Vec<_> = kinds.iter().map(|&kind| (kind, empty.clone())).collect();
    for pair in 1..=method.pairs {
        for (kind, column) in &mut columns {
            bar.set_message(format!("{id}: pair {pair} of {}, {kind:?}", method.pairs));
            let sample = work
                .measure(worlds, *kind, loading, length)
                .with_context(|| format!("pair {pair}, {kind:?}"))?;
            for (values, value) in column.values.iter_mut().zip(sample.values) {
                values.push(value);
            }
            column.cpu.extend(sample.cpu);
            bar.inc(1);
        }
    }
    Ok((0..scenario.rows.len()).map(|row| Outcome::new(scenario, row, &columns)).collect())
}
