//! The harness itself, end to end: a tiny run of a few scenarios, and mistakes on its command
//! line. Needs root, as everything with namespaces does, and the programs of a cell.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

fn perf(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarcenet-perf"));
    command.args(arguments).output().context("run sarcenet-perf")
}

fn numbers(row: &Value, side: &str) -> Vec<f64> {
    row[side].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

#[test]
fn a_tiny_run_measures_every_side_and_writes_every_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (json, svg, markdown) = (path("results.json"), path("plots"), path("RESULTS.md"));
    let output = perf(&[
        "run",
        "--quick",
        "--only=tcp-local-4-threads,udp-1400,rr-udp,flows-10,cps-10,snat-tcp-back,dnat-tcp,\
         snat-cps,asg-10k,idle,restart",
        "--pairs=1",
        "--seconds=0.3",
        &format!("--json={json}"),
        &format!("--svg={svg}"),
        &format!("--markdown={markdown}"),
    ])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");

    let results: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    assert!(results["machine"]["cores"].as_u64() >= Some(1), "{}", results["machine"]);
    let links = results["machine"]["links"].as_array().context("modes of the links")?;
    assert!(links.iter().any(|link| link.as_str().is_some_and(|link| link.contains("uplink"))));
    let rows = results["scenarios"].as_array().context("a list of scenarios")?;
    let rows: BTreeMap<_, _> = rows.iter().map(|row| (row["id"].as_str(), row)).collect();
    for (id, unit, sides) in [
        ("tcp-local-4-threads", "Gbit/s", 3),
        ("udp-1400", "kpps", 3),
        ("rr-udp-p50", "us", 3),
        ("rr-udp-p99", "us", 3),
        ("rr-udp-p99.9", "us", 3),
        ("flows-10", "flows/s", 2),
        ("cps-10", "connections/s", 2),
        ("snat-tcp-back", "Gbit/s", 2),
        ("dnat-tcp", "Gbit/s", 2),
        ("snat-cps", "connections/s", 2),
        ("asg-10k", "flows/s", 2),
        ("idle", "% of a core", 1),
        ("restart", "ms", 1),
    ] {
        let row = rows.get(&Some(id)).with_context(|| format!("{id} is missing in {results}"))?;
        assert_eq!(row["unit"], unit, "{row}");
        for (n, side) in ["ours", "kernel", "reference"].into_iter().enumerate() {
            let values = numbers(row, side);
            assert_eq!(values.len(), usize::from(n < sides), "{side} of {row}");
            assert!(values.iter().all(|value| *value > 0.0), "{side} of {row}");
        }
        let ratio = row["ratio_median"].as_f64();
        assert_eq!(ratio.is_some(), sides > 1, "{row}");
        if let Some(ratio) = ratio {
            let wanted = numbers(row, "ours")[0] / numbers(row, "kernel")[0];
            assert!((ratio / wanted - 1.0).abs() < 1e-9, "{row}");
            assert_eq!(row["ratio_min"], row["ratio_max"], "of one pair: {row}");
        }
    }
    for plot in
        ["tcp-local-4-threads", "udp-1400", "rr-udp", "flows-10", "cps-10", "idle", "restart"]
    {
        let text = std::fs::read_to_string(format!("{svg}/{plot}.svg"))?;
        assert!(text.starts_with("<svg") && text.contains("<circle"), "{plot}: {text}");
    }
    assert!(std::fs::read_to_string(&markdown)?.contains("| `rr-udp-p99` |"));
    Ok(())
}

#[test]
fn mistakes_are_explained() -> Result<()> {
    for (arguments, words) in [
        (["run", "--only=tcp-2"], "no scenario is called tcp-2; there are tcp-1, "),
        (["run", "--seconds=0"], "0.1 to 3600 seconds"),
        (["run", "--pairs=0"], "0 is not in 1..=100"),
        (["run", "--kernel=bpf"], "possible values: legacy, nft"),
        (["run", "--uplink=fast"], "possible values: auto, udp, tunnel-gso, xdp"),
        (["run", "--attach=tap"], "possible values: tun, veth"),
    ] {
        let output = perf(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} succeeds");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn scenarios_are_listed_with_their_bars() -> Result<()> {
    let output = perf(&["list"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    for words in [
        "tcp-1",
        "rr-tcp-busy-p99",
        "at least 0.6 of the kernel's",
        "flows-10k",
        "at most 160 MB",
        "soak-snat-memory",
        "at least 10 of the kernel's",
    ] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    Ok(())
}

#[test]
fn every_cell_has_a_subnet_of_its_own() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("storm.json");
    let json = json.to_string_lossy();
    let output = perf(&["lease-storm", "--cells=20", "--json", &json])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let said = String::from_utf8_lossy(&output.stdout);
    for words in ["20 cells ask at once", "PostgreSQL, 2 controllers", "SQLite, 1 controller "] {
        ensure!(said.contains(words), "{words} is missing in {said}");
    }
    ensure!(said.contains("bar: all have theirs within 5000 ms: "), "{said}");
    let numbers: Value = serde_json::from_slice(&std::fs::read(&*json)?)?;
    for storm in 0..2 {
        let storm = &numbers["storms"][storm];
        assert_eq!(storm["cell"]["samples"], 20, "{numbers}");
        assert!(storm["all_ms"].as_f64() >= storm["cell"]["max_ms"].as_f64(), "{numbers}");
    }
    Ok(())
}

#[test]
fn every_agent_hears_of_every_change() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("latency.json");
    let json = json.to_string_lossy();
    let sizes = ["--policies=1500", "--agents=5", "--changes=6"];
    let output = perf(&[&["policy-latency", "--json", &json], &sizes[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("1500 policies, 5 observers, 6 changes"), "{said}");
    ensure!(said.contains("bar: p99 to each observer below 1000 ms: "), "{said}");
    let numbers: Value = serde_json::from_slice(&std::fs::read(&*json)?)?;
    for (spread, samples) in [("observer", 30), ("last", 6), ("request", 6)] {
        let spread = &numbers[spread];
        assert_eq!(spread["samples"], samples, "{numbers}");
        assert!(spread["max_ms"].as_f64() >= spread["p50_ms"].as_f64(), "{numbers}");
    }
    assert!(numbers["server"]["processor_seconds"].as_f64() > Some(0.0), "{numbers}");
    assert!(numbers["server"]["resident_mb_after"].as_f64() > Some(1.0), "{numbers}");
    Ok(())
}

#[test]
fn a_cell_is_filled_and_emptied() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("containers.json");
    let json = json.to_string_lossy();
    let output = perf(&["containers", "--containers=12", "--json", &json])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("12 containers on one cell, each reached by a policy"), "{said}");
    ensure!(said.contains("bar: ADD besides process start below 10 ms: "), "{said}");
    let numbers: Value = serde_json::from_slice(&std::fs::read(&*json)?)?;
    for spread in ["process_start", "add", "add_to_full", "add_at_once", "del_at_once"] {
        let spread = &numbers[spread];
        assert_eq!(spread["samples"], 12, "{numbers}");
        assert!(spread["max_ms"].as_f64() >= spread["p50_ms"].as_f64(), "{numbers}");
    }
    for process in ["agent", "dataplane"] {
        assert!(numbers[process]["with_mb"].as_f64() > Some(1.0), "{numbers}");
    }
    Ok(())
}
