//! A run: both sides alternating, the table, the JSON.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use sarcenet_rig::CellKind;
use serde::Serialize;

use crate::scenario::{ALL, Scenario};
use crate::side::Side;
use crate::stats::{Outcome, median, ratios};

/// Compares Sarcenet cells with kernel cells (VXLAN-GBP device and iptables) in this machine's
/// own network namespaces.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Shorter runs and fewer pairs.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    only: Vec<String>,
    /// Pairs of each scenario, ours and the kernel's alternating [default: 5, quick: 3].
    #[arg(long)]
    pairs: Option<usize>,
    /// Seconds counted in each run [default: 2, quick: 1].
    #[arg(long)]
    seconds: Option<f64>,
    /// Argument for every sarcenet-dataplane, beyond its part of the workers; may be repeated.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    dataplane: Vec<String>,
    /// Also write the results there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    scenarios: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    links: Vec<String>,
}

impl Run {
    /// Does it all.
    pub(crate) fn run(&self) -> Result<()> {
        let scenarios = self.scenarios()?;
        let (pairs, seconds) = if self.quick { (3, 1.0) } else { (5, 2.0) };
        let (pairs, seconds) = (self.pairs.unwrap_or(pairs), self.seconds.unwrap_or(seconds));
        let ours = Side::new("perfs", CellKind::Sarcenet, &self.dataplane)
            .context("build the Sarcenet cells")?;
        let kernel = Side::new("perfk", CellKind::KERNEL, &[]).context("build the kernel cells")?;
        let machine = Machine::look(ours.modes()?)?;
        let bar = ProgressBar::new((scenarios.len() * (pairs + 1) * 2) as u64).with_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")?,
        );
        let mut outcomes = Vec::new();
        for scenario in scenarios {
            bar.set_message(scenario.id);
            for side in [&ours, &kernel] {
                scenario.verify(side).with_context(|| format!("{}: check payload", scenario.id))?;
                bar.inc(1);
            }
            outcomes.push(compare(scenario, &ours, &kernel, pairs, seconds, &bar)?);
        }
        bar.finish_and_clear();
        print(&machine, &outcomes);
        if let Some(path) = &self.json {
            let file = File::create(path)
                .with_context(|| format!("create {} for the results", path.display()))?;
            serde_json::to_writer_pretty(file, &Results { machine, scenarios: outcomes })
                .with_context(|| format!("write the results to {}", path.display()))?;
        }
        Ok(())
    }

    fn scenarios(&self) -> Result<Vec<Scenario>> {
        if let Some(unknown) = self.only.iter().find(|id| ALL.iter().all(|s| s.id != **id)) {
            let known: Vec<_> = ALL.iter().map(|s| s.id).collect();
            bail!("no scenario is called {unknown}; there are {}", known.join(", "));
        }
        let wanted = |s: &&Scenario| self.only.is_empty() || self.only.iter().any(|id| s.id == id);
        Ok(ALL.iter().filter(wanted).copied().collect())
    }
}

fn compare(
    scenario: Scenario,
    ours: &Side,
    kernel: &Side,
    pairs: usize,
    seconds: f64,
    bar: &ProgressBar,
) -> Result<Outcome> {
    let (mut values, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..pairs {
        for (i, side) in [ours, kernel].into_iter().enumerate() {
            let seen = scenario.measure(side, seconds).with_context(|| scenario.id)?;
            let (value, per_unit) = scenario.read(&seen);
            values[i].push(value);
            cpu[i].push(per_unit);
            bar.inc(1);
        }
    }
    let [ours, kernel] = values;
    let ratios = ratios(&ours, &kernel);
    Ok(Outcome {
        id: scenario.id,
        title: scenario.title,
        unit: scenario.unit(),
        ratio_median: median(&ratios),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        ours,
        kernel,
        ours_cpu: median(&cpu[0]),
        kernel_cpu: median(&cpu[1]),
        cpu_unit: scenario.cpu_unit(),
        bar: scenario.bar,
    })
}

impl Machine {
    fn look(links: Vec<String>) -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".into(), |(_, name)| name.to_owned());
        let uname = Command::new("uname").arg("-sr").output().context("run uname")?;
        Ok(Self {
            processor,
            cores: std::thread::available_parallelism()?.get(),
            kernel: String::from_utf8_lossy(&uname.stdout).trim().to_owned(),
            links,
        })
    }
}

fn print(machine: &Machine, outcomes: &[Outcome]) {
    println!("{}, {} cores, {}", machine.processor, machine.cores, machine.kernel);
    for link in &machine.links {
        println!("  {link}");
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "scenario",
        "ours",
        "kernel",
        "unit",
        "ratio",
        "min",
        "max",
        "bar",
        "ours CPU",
        "kernel CPU",
        "per",
    ]);
    for outcome in outcomes {
        let number =
            |value: f64| Cell::new(format!("{value:.2}")).set_alignment(CellAlignment::Right);
        let color = match outcome.bar {
            None => Color::Reset,
            Some(bar) if outcome.ratio_median >= bar => Color::Green,
            Some(_) => Color::Red,
        };
        table.add_row([
            Cell::new(format!("{}: {}", outcome.id, outcome.title)),
            number(median(&outcome.ours)),
            number(median(&outcome.kernel)),
            Cell::new(outcome.unit),
            number(outcome.ratio_median).fg(color),
            number(outcome.ratio_min),
            number(outcome.ratio_max),
            outcome.bar.map_or_else(|| Cell::new(""), number),
            number(outcome.ours_cpu),
            number(outcome.kernel_cpu),
            Cell::new(outcome.cpu_unit),
        ]);
    }
    println!("{table}");
    println!("Medians; the ratio is ours / kernel of each pair, then the median of these.");
}
