//! The closing table, in Markdown. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use super::gateway::Proxy;
use super::outcome::{Better, Ran, Row};

/// The table; with an objection the Envoy column does not count.
pub(crate) fn table(rows: &[Row], proxies: &[Proxy], objection: Option<&str>) -> String {
    let mut text = String::from("| case | run |");
    let mut rule = String::from("\n| --- | --- |");
    for proxy in proxies {
        // Writing to a String cannot fail.
        let _ = write!(text, " {proxy}: lost | primary / fallback | times |");
        rule.push_str(" ---: | ---: | --- |");
    }
    let compares = proxies.len() > 1;
    if compares {
        text.push_str(" better |");
        rule.push_str(" --- |");
    }
    text.push_str(&rule);
    text.push('\n');
    let mut last = "";
    for row in rows {
        // The title once, in the first row of its case.
        let case = if row.case == last { String::new() } else { format!("**{}** {}", row.case, row.title) };
        last = row.case;
        let _ = write!(text, "| {} | {} |", cell(&case), cell(&row.label));
        for proxy in proxies {
            let _ = write!(text, " {} |", columns(row.of(*proxy), row.wire));
        }
        if compares {
            let better = match row.better() {
                Some(Better::Understudy) => "Understudy",
                Some(Better::Envoy) => "**Envoy**",
                Some(Better::Equal) => "equal",
                None => "–",
            };
            let open = if objection.is_some() && row.better().is_some() { ("(", ")") } else { ("", "") };
            let _ = write!(text, " {}{better}{} |", open.0, open.1);
        }
        text.push('\n');
    }
    text
}

/// Whether Understudy lost more requests, and what could not run, one line each.
pub(crate) fn complaints(rows: &[Row]) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in rows {
        for (proxy, why) in row.failures() {
            complaints.push(format!("case {}: {proxy} could not run: {why}", row.name()));
        }
        if row.better() == Some(Better::Envoy) {
            complaints.push(format!("case {}: Understudy lost more requests than Envoy", row.name()));
        }
        if row.wire
            && let Some(needlessly @ 1..) = row.counted(Proxy::Understudy)
        {
            complaints.push(format!(
                "case {}: Understudy lost {needlessly} requests that were on no connection that was reset",
                row.name()
            ));
        }
    }
    complaints
}

/// One sum over all rows that both ran.
pub(crate) fn totals(rows: &[Row]) -> Option<String> {
    let (mut lost, mut requests, mut compared) = ((0, 0), 0, 0);
    let (mut ours, mut equal, mut theirs) = (0, 0, 0);
    for row in rows {
        let (Some(Ok(understudy)), Some(Ok(envoy))) = (&row.understudy, &row.envoy) else { continue };
        compared += 1;
        lost.0 += understudy.summary().lost;
        lost.1 += envoy.summary().lost;
        requests += understudy.samples.len();
        match row.better() {
            Some(Better::Understudy) => ours += 1,
            Some(Better::Envoy) => theirs += 1,
            Some(Better::Equal) | None => equal += 1,
        }
    }
    (compared > 0).then(|| {
        format!(
            "{compared} runs with both: Understudy better in {ours}, equal in {equal}, Envoy better in {theirs}. \
             Lost in all of them: Understudy {} of {requests} requests, Envoy {}.",
            lost.0, lost.1
        )
    })
}

/// Lost, shares and times of a run.
fn columns(ran: Option<&Ran>, wire: bool) -> String {
    match ran {
        None => "not run | |".to_owned(),
        Some(Err(why)) => format!("could not run: {} | |", cell(why)),
        Some(Ok(record)) => {
            let summary = record.summary();
            let lost = format!("{} of {}", summary.lost, summary.requests);
            // What stands out is what was lost.
            let lost = if summary.lost > 0 { format!("**{lost}**") } else { lost };
            let lost = if wire { format!("{lost}, {} on the wire", record.on_the_wire) } else { lost };
            let mut times = Vec::new();
            if let Some(failover) = summary.failover {
                times.push(format!("failover {}", span(failover)));
            }
            if !summary.returns.is_empty() {
                let returns: Vec<String> = summary.returns.iter().map(|time| span(*time)).collect();
                times.push(format!("back {}", returns.join(", ")));
            }
            format!("{lost} | {} / {} | {}", summary.primary, summary.fallback, times.join("; "))
        }
    }
}

/// A time for people.
pub(crate) fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// Text that cannot end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::outcome::tests::{record, row};

    const BOTH: [Proxy; 2] = [Proxy::Understudy, Proxy::Envoy];

    #[test]
    fn both_columns_stand_beside_each_other_with_who_is_better() {
        let rows = [
            row("2", "no retry", Some(Ok(record(0, 20))), Some(Ok(record(1, 19)))),
            row("2", "retry", Some(Ok(record(0, 20))), Some(Err("a | b\nc".to_owned()))),
        ];
        let expected = "\
| case | run | Understudy: lost | primary / fallback | times | Envoy: lost | primary / fallback | times | better |
| --- | --- | ---: | ---: | --- | ---: | ---: | --- | --- |
| **2** a title | no retry | 0 of 20 | 0 / 20 | failover 12 ms | **1 of 20** | 0 / 19 | failover 32 ms | Understudy |
|  | retry | 0 of 20 | 0 / 20 | failover 12 ms | could not run: a \\| b c | | | – |
";
        assert_eq!(table(&rows, &BOTH, None), expected);
        let doubted = table(&rows, &BOTH, Some("case 8"));
        assert!(doubted.contains("| (Understudy) |"), "{doubted}");
        assert_eq!(complaints(&rows), ["case 2 (retry): Envoy could not run: a | b\nc"]);
    }

    #[test]
    fn one_proxy_alone_has_no_comparison() {
        let rows = [row("1", "x", Some(Ok(record(0, 1))), None)];
        let text = table(&rows, &BOTH[..1], None);
        assert!(!text.contains("better") && !text.contains("Envoy"), "{text}");
        assert_eq!(totals(&rows), None);
        assert!(complaints(&rows).is_empty());
    }

    #[test]
    fn losing_more_than_envoy_is_a_complaint() {
        let rows = [row("1", "x", Some(Ok(record(3, 1))), Some(Ok(record(2, 2))))];
        assert_eq!(complaints(&rows), ["case 1 (x): Understudy lost more requests than Envoy"]);
        let totals = totals(&rows).unwrap();
        assert!(totals.contains("Envoy better in 1") && totals.contains("Understudy 3 of 4"), "{totals}");
    }

    #[test]
    fn losing_what_was_on_no_connection_that_was_reset_is_a_complaint() {
        let wired = |lost, on_the_wire| crate::drill::record::Record { on_the_wire, ..record(lost, 1) };
        let mut row = row("10", "x", Some(Ok(wired(5, 5))), None);
        row.wire = true;
        assert!(complaints(std::slice::from_ref(&row)).is_empty());
        assert!(
            table(std::slice::from_ref(&row), &BOTH[..1], None).contains("| **5 of 6**, 5 on the wire |")
        );
        row.understudy = Some(Ok(wired(6, 5)));
        assert_eq!(
            complaints(&[row]),
            ["case 10 (x): Understudy lost 1 requests that were on no connection that was reset"]
        );
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(span(Duration::from_millis(999)), "999 ms");
        assert_eq!(span(Duration::from_millis(11_630)), "11.63 s");
    }
}
