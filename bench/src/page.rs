//! The page: what was measured, on what, and whether it is what was wanted.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use crate::{
    chart::{self, Bar, Kind},
    results::{Results, Summary},
    scenario::{self, Measure, Scenario, SystemId, Times, Wanted},
    text::figure,
};

const HEAD: &str = include_str!("page/head.md");
const PAGE: &str = "performance-side-by-side.md";
const PICTURES: &str = "pictures";
/// The page that gets the overview, between these two lines.
const OVERVIEW: &str = "performance.md";
const BEGIN: &str = "<!-- written by bench/run: begin -->\n";
const END: &str = "<!-- written by bench/run: end -->";

pub(crate) fn write(results: &Results, docs: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(docs.join(PICTURES))?;
    let mut page = HEAD.to_owned();
    page.push_str("\n## The machine\n\n");
    facts(&mut page, &results.machine);
    page.push_str("\nVersions, all but Courser as Debian packages:\n\n");
    facts(&mut page, &results.versions);
    page.push_str("\n## Results\n");
    for scenario in scenario::all(&Times::full()) {
        let measured = |record: &&crate::results::Record| record.scenario == scenario.name;
        if results.records.iter().any(|record| measured(&record)) {
            section(&mut page, results, &scenario, docs)?;
        }
    }
    fs::write(docs.join(PAGE), page)?;
    println!("wrote {}", docs.join(PAGE).display());
    let overview = overview(results);
    println!("\n{overview}");
    put_overview(&docs.join(OVERVIEW), &overview)
}

/// The first measure of every scenario, and what was wanted of Courser.
fn overview(results: &Results) -> String {
    let mut text = String::from("| medians |");
    for system in SystemId::ALL {
        let _ = write!(text, " {} |", system.title());
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(SystemId::ALL.len()));
    let mut judged =
        String::from("| scenario | wanted of Courser | seen | |\n|---|---|---:|---|\n");
    for scenario in scenario::all(&Times::full()) {
        let first = scenario.measures[0];
        if results
            .summary(scenario.name, SystemId::Courser, first)
            .is_none()
        {
            continue;
        }
        let _ = write!(text, "| `{}`: {} |", scenario.name, first.title());
        for system in SystemId::ALL {
            let summary = results.summary(scenario.name, system, first);
            let median = summary.map_or_else(String::new, |summary| figure(summary.median));
            let _ = write!(text, " {median} |");
        }
        text.push('\n');
        for judged_one in scenario
            .wanted
            .iter()
            .filter_map(|wanted| judge(results, &scenario, *wanted))
        {
            let Judged {
                text,
                seen,
                verdict,
            } = judged_one;
            let _ = writeln!(
                judged,
                "| `{}` | {text} | {seen} | {verdict} |",
                scenario.name
            );
        }
    }
    text.push('\n');
    text + &judged
}

/// Puts the overview into its page, if the page is there and has a place for it.
fn put_overview(path: &Path, overview: &str) -> anyhow::Result<()> {
    let Ok(page) = fs::read_to_string(path) else {
        return Ok(());
    };
    if let Some((before, rest)) = page.split_once(BEGIN)
        && let Some((_, after)) = rest.split_once(END)
    {
        fs::write(path, format!("{before}{BEGIN}{overview}{END}{after}"))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn facts(page: &mut String, facts: &BTreeMap<String, String>) {
    page.push_str("| | |\n|---|---|\n");
    for (name, value) in facts {
        let _ = writeln!(page, "| {name} | {value} |");
    }
}

fn section(
    page: &mut String,
    results: &Results,
    scenario: &Scenario,
    docs: &Path,
) -> anyhow::Result<()> {
    let first = scenario.measures[0];
    let bars = bars(results, scenario, first);
    let heading = format!("{} ({})", first.title(), less_or_more(first));
    let picture = format!("{PICTURES}/{}.svg", scenario.name);
    fs::write(docs.join(&picture), chart::draw(&heading, &bars))?;
    let Scenario { name, title, .. } = scenario;
    let _ = write!(
        page,
        "\n### {title}\n\n![{heading}]({picture})\n\n`bench/run {name}`\n\n"
    );
    table(page, results, scenario);
    wanted(page, results, scenario);
    checks(page, results, scenario);
    Ok(())
}

fn less_or_more(measure: Measure) -> &'static str {
    if measure.less_is_better() {
        "less is better"
    } else {
        "more is better"
    }
}

fn bars(results: &Results, scenario: &Scenario, measure: Measure) -> Vec<Bar> {
    let bar = |system: &SystemId| {
        let kind = match system {
            SystemId::Courser => Kind::Ours,
            system if system.is_limit() => Kind::Limit,
            _ => Kind::Peer,
        };
        Some(Bar {
            label: system.title(),
            kind,
            summary: results.summary(scenario.name, *system, measure)?,
        })
    };
    scenario.systems.iter().filter_map(bar).collect()
}

/// Medians, and below each the least and the most.
fn table(page: &mut String, results: &Results, scenario: &Scenario) {
    let first = scenario.measures[0];
    page.push_str("| |");
    for measure in scenario.measures {
        let _ = write!(page, " {} |", measure.title());
    }
    page.push_str(" Courser to this |\n|---|");
    page.push_str(&"---:|".repeat(scenario.measures.len() + 1));
    page.push('\n');
    let median = |system| {
        let summary = results.summary(scenario.name, system, first)?;
        Some(summary.median)
    };
    for system in SystemId::ALL {
        if results.of(scenario.name, system).next().is_none() {
            continue;
        }
        let _ = write!(page, "| {} |", system.title());
        for measure in scenario.measures {
            let summary = results.summary(scenario.name, system, *measure);
            let _ = write!(page, " {} |", summary.map_or_else(String::new, spread));
        }
        let ratio = match (median(SystemId::Courser), median(system)) {
            (Some(ours), Some(theirs)) if system != SystemId::Courser && theirs > 0.0 => {
                format!("{}x", figure(ours / theirs))
            }
            _ => String::new(),
        };
        let _ = writeln!(page, " {ratio} |");
    }
}

fn spread(summary: Summary) -> String {
    let Summary {
        median,
        least,
        most,
    } = summary;
    if least < most {
        let (median, least, most) = (figure(median), figure(least), figure(most));
        format!("**{median}** ({least} - {most})")
    } else {
        format!("**{}**", figure(median))
    }
}

fn wanted(page: &mut String, results: &Results, scenario: &Scenario) {
    if scenario.wanted.is_empty() {
        return;
    }
    page.push_str("\n| wanted of Courser | seen | |\n|---|---:|---|\n");
    for wanted in &scenario.wanted {
        if let Some(Judged {
            text,
            seen,
            verdict,
        }) = judge(results, scenario, *wanted)
        {
            let _ = writeln!(page, "| {text} | {seen} | {verdict} |");
        }
    }
}

struct Judged {
    text: String,
    seen: String,
    verdict: &'static str,
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

/// `None` when something it needs was not measured.
fn judge(results: &Results, scenario: &Scenario, wanted: Wanted) -> Option<Judged> {
    let median = |name, system, measure| -> Option<f64> {
        let summary = results.summary(name, system, measure)?;
        Some(summary.median)
    };
    let ours = |measure| median(scenario.name, SystemId::Courser, measure);
    let times = |value: f64| format!("{}x", figure(value));
    Some(match wanted {
        Wanted::Times(measure, peer, now, then) => {
            let seen = ours(measure)? / median(scenario.name, peer, measure)?;
            let (title, measure) = (peer.title(), measure.title());
            Judged {
                text: format!("{measure}: {now}x {title}, then {then}x"),
                seen: times(seen),
                verdict: match seen {
                    seen if seen >= then => "met, both",
                    seen => verdict(seen >= now),
                },
            }
        }
        Wanted::AtMostTimes(measure, peer, most) => {
            let seen = ours(measure)? / median(scenario.name, peer, measure)?;
            let (title, measure) = (peer.title(), measure.title());
            Judged {
                text: format!("{measure}: at most {most}x {title}"),
                seen: times(seen),
                verdict: verdict(seen <= most),
            }
        }
        Wanted::Below(measure, peer) => {
            let (ours, theirs) = (ours(measure)?, median(scenario.name, peer, measure)?);
            Judged {
                text: format!("{}: below {}", measure.title(), peer.title()),
                seen: format!("{} to {}", figure(ours), figure(theirs)),
                verdict: verdict(ours < theirs),
            }
        }
        Wanted::AtMost(measure, most) => {
            let seen = ours(measure)?;
            Judged {
                text: format!("{}: at most {most}", measure.title()),
                seen: figure(seen),
                verdict: verdict(seen <= most),
            }
        }
        Wanted::OfLimits(measure, part) => {
            let (limit, most) = results.limit(scenario, measure)?;
            let seen = ours(measure)? / most;
            let (measure, limit) = (measure.title(), limit.title());
            Judged {
                text: format!("{measure}: at least {part} of the lower limit ({limit})"),
                seen: figure(seen),
                verdict: verdict(seen >= part),
            }
        }
        Wanted::OfOther(measure, other, other_measure, factor) => {
            let seen = ours(measure)? / median(other, SystemId::Courser, other_measure)?;
            let measure = measure.title();
            Judged {
                text: format!("{measure}: at least {factor}x those of `{other}`"),
                seen: times(seen),
                verdict: verdict(seen >= factor),
            }
        }
        Wanted::AtMostOfOther(measure, other, other_measure, factor) => {
            let seen = ours(measure)? / median(other, SystemId::Courser, other_measure)?;
            let measure = measure.title();
            Judged {
                text: format!("{measure}: at most {factor}x those of `{other}`"),
                seen: times(seen),
                verdict: verdict(seen <= factor),
            }
        }
    })
}

/// Says of every run that was not as it must be what was wrong with it.
fn checks(page: &mut String, results: &Results, scenario: &Scenario) {
    let mut clean = true;
    for record in &results.records {
        if record.scenario != scenario.name {
            continue;
        }
        let (system, repetition) = (&record.system, record.repetition);
        if let Some(why) = &record.failed {
            clean = false;
            let _ = writeln!(page, "\nFailed: {system}, repetition {repetition}: {why}");
        } else if !record.checks.are_clean() {
            clean = false;
            let checks = &record.checks;
            let _ = writeln!(
                page,
                "\nNot clean: {system}, repetition {repetition}: {checks:?}"
            );
        }
    }
    if clean {
        page.push_str("\nIn every run every message came, once, and every ack was taken.\n");
    }
}
