//! One self-contained page that draws every run over its time, both proxies below one another. Pure.

mod labels;
mod timeline;

use std::fmt::Write as _;
use std::time::Duration;

use super::gateway::Proxy;
use super::outcome::{Better, Row};
use super::record::Record;
use super::table::span;
use timeline::{Scale, draw};

/// Writes the page.
pub(crate) fn page(rows: &[Row], proxies: &[Proxy]) -> String {
    let mut text = String::from(HEAD);
    let mut last = "";
    for row in rows {
        if row.case != last {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "<h2>{} · {}</h2>", escape(row.case), escape(row.title));
            last = row.case;
        }
        section(&mut text, row, proxies);
    }
    if rows.is_empty() {
        text.push_str("<p>No case was run.</p>\n");
    }
    text.push_str("</main>\n</body>\n</html>\n");
    text
}

fn section(text: &mut String, row: &Row, proxies: &[Proxy]) {
    let verdict = match row.better() {
        Some(Better::Understudy) => " <span class=\"verdict\">Understudy lost fewer</span>",
        Some(Better::Envoy) => " <span class=\"verdict bad\">Envoy lost fewer</span>",
        Some(Better::Equal) => " <span class=\"verdict\">equal</span>",
        None => "",
    };
    let _ = write!(text, "<section>\n<h3>{}{verdict}</h3>\n", escape(&row.label));
    let records: Vec<&Record> = proxies.iter().filter_map(|proxy| row.of(*proxy)?.as_ref().ok()).collect();
    let scale = Scale::of(&records);
    for proxy in proxies {
        match row.of(*proxy) {
            None => {}
            Some(Err(why)) => {
                let _ = writeln!(text, "<p><b>{proxy}</b> could not run: {}</p>", escape(why));
            }
            Some(Ok(record)) => {
                let _ = writeln!(text, "<p><b>{proxy}</b> {}</p>", caption(record));
                text.push_str(&draw(record, &scale, &format!("{proxy}, case {}", row.name())));
            }
        }
    }
    text.push_str("</section>\n");
}

/// A run in a line.
fn caption(record: &Record) -> String {
    let summary = record.summary();
    let class = if summary.lost > 0 { "lost" } else { "none" };
    let mut text = format!(
        "<span class=\"{class}\">{} of {} lost</span>, primary {}, fallback {}, slowest {}",
        summary.lost,
        summary.requests,
        summary.primary,
        summary.fallback,
        span(summary.slowest)
    );
    if let Some(failover) = summary.failover {
        let _ = write!(text, ", failover after {}", span(failover));
    }
    if !summary.returns.is_empty() {
        let returns: Vec<String> = summary.returns.iter().map(|time: &Duration| span(*time)).collect();
        let _ = write!(text, ", back after {}", returns.join(", "));
    }
    text
}

/// Text that is only text in HTML and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

const HEAD: &str = r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Understudy: the failover drill</title>
<style>
body { margin: 0; background: #fff; color: #1d2733; font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 16px 20px 48px; }
h1 { font-size: 24px; margin: 8px 0 4px; }
h2 { font-size: 19px; margin: 34px 0 4px; padding-top: 14px; border-top: 2px solid #1d2733; }
h3 { font-size: 16px; margin: 18px 0 2px; }
p { margin: 6px 0 2px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #1d2733; }
.verdict { font-weight: normal; font-size: 13px; padding: 1px 8px; border-radius: 9px; background: #e3ecf5; }
.verdict.bad, .lost { color: #b3141b; font-weight: bold; }
.none { font-weight: bold; }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 14px; vertical-align: -1px; }
.primary { fill: #2f6fb3; background: #2f6fb3; }
.fallback { fill: #eda63a; background: #eda63a; }
.gateway { fill: #9aa5b1; background: #9aa5b1; }
.error { fill: #d2232a; background: #d2232a; }
.axis { stroke: #8994a0; stroke-width: 1; }
.grid { stroke: #e4e8ec; stroke-width: 1; }
.break { stroke: #b3141b; stroke-width: 1.5; stroke-dasharray: 4 3; }
.heal { stroke: #2c7a3f; stroke-width: 1.5; stroke-dasharray: 4 3; }
.failover { stroke: #b8730a; stroke-width: 1.5; }
.failback { stroke: #1d4f86; stroke-width: 1.5; }
</style>
</head>
<body>
<main>
<h1>The failover drill</h1>
<p>Requests in each tenth of a second, by what became of them:
<span class="key primary"></span>answered by the primary pool
<span class="key fallback"></span>by the fallback pool
<span class="key gateway"></span>by the gateway itself
<span class="key error"></span>lost</p>
<p>Dashed lines: what was done to the backends. Solid lines: when the clients saw the switch.</p>
"##;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::outcome::tests::{record, row};

    const BOTH: [Proxy; 2] = [Proxy::Understudy, Proxy::Envoy];

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\" id='y'>&"), "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;");
        let mut bad = row("1", "<script>", Some(Err("<b>".to_owned())), None);
        if let Some(Ok(record)) = &mut bad.envoy {
            record.marks.clear();
        }
        let mut drawn = record(1, 1);
        drawn.marks[0].label = "</svg><script>".to_owned();
        bad.envoy = Some(Ok(drawn));
        let page = page(&[bad], &BOTH);
        assert!(!page.contains("<script>") && !page.contains("<b></p>"), "{page}");
        assert!(page.contains("could not run: &lt;b&gt;"), "{page}");
        assert!(page.contains("&lt;/svg&gt;&lt;script&gt;"), "{page}");
    }

    #[test]
    fn a_page_of_nothing_says_so() {
        assert!(page(&[], &BOTH).contains("No case was run."));
        let empty = row("1", "x", Some(Ok(Record::default())), None);
        let page = page(&[empty], &BOTH);
        assert!(page.contains("no requests") && page.contains("0 of 0 lost"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn both_proxies_are_drawn_below_one_another() {
        let page = page(&[row("2", "no retry", Some(Ok(record(0, 20))), Some(Ok(record(2, 18))))], &BOTH);
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("</svg>").count(), 2);
        assert!(page.contains("Understudy lost fewer") && page.contains("2 of 20 lost"), "{page}");
        // Nothing is loaded from elsewhere.
        assert!(!page.contains("http"), "{page}");
    }
}
