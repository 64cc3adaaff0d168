//! The benchmark's picture: four small bar charts, readable on a light and on a dark page. Pure.

use std::fmt::Write as _;

use super::columns::{BARE, Column, Spread, UNDERSTUDY};
use super::report::Report;

const WIDTH: u32 = 880;
/// Around everything, and between panels.
const MARGIN: u32 = 28;
const TITLE: u32 = 62;
const FOOT: u32 = 40;
const PANEL_WIDTH: u32 = (WIDTH - 3 * MARGIN) / 2;
const PANEL_HEAD: u32 = 30;
const ROW: u32 = 28;
const BAR: u32 = 16;
/// Where bars begin and end within a panel: names stand before them, figures after them.
const BARS_FROM: u32 = 96;
const BARS_TO: u32 = PANEL_WIDTH - 112;

/// Its own background, so that it fits any page; colours follow the reader's light or dark preference.
const STYLE: &str = "\
.card{fill:#ffffff;stroke:#d0d7de}text{fill:#1f2328;font:13px system-ui,-apple-system,'Segoe UI',sans-serif}\
.title{font-size:18px;font-weight:600}.head{font-weight:600}.dim{fill:#59636e;font-size:12px}\
.bar{fill:#a3adb8}.own{fill:#0b6bcb}.name-own{font-weight:600}.range{stroke:#1f2328;stroke-width:1.5}\
@media (prefers-color-scheme:dark){.card{fill:#0d1117;stroke:#30363d}text{fill:#e6edf3}.dim{fill:#9198a1}\
.bar{fill:#59636e}.own{fill:#4493f8}.range{stroke:#e6edf3}}";

/// One chart.
struct Panel {
    title: &'static str,
    better: &'static str,
    figure: fn(&Column) -> Spread,
    label: fn(&Column) -> String,
}

const PANELS: [Panel; 4] = [
    Panel { title: "CPU time per request", better: "less is better", figure: |c| c.cpu_us, label: cpu },
    Panel {
        title: "Requests a second on one processor",
        better: "more is better",
        figure: |c| c.rate,
        label: |c| thousands(c.rate.median),
    },
    Panel {
        title: "99th percentile of latency",
        better: "less is better",
        figure: |c| c.p99_us,
        label: |c| format!("{:.2} ms", c.p99_us.median / 1000.0),
    },
    Panel {
        title: "Resident memory",
        better: "less is better",
        figure: |c| c.resident_mb,
        label: |c| format!("{:.1} MB", c.resident_mb.median),
    },
];

/// Draws a report.
pub(crate) fn picture(report: &Report) -> String {
    let rows = u32::try_from(report.columns.len()).unwrap_or(u32::MAX).min(100);
    let panel_height = PANEL_HEAD + rows * ROW;
    let height = TITLE + 2 * (panel_height + MARGIN) + FOOT;
    let summary = summary(report);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{0}\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"card\" x=\".5\" y=\".5\" width=\"{1}\" height=\"{2}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"38\">{0}</text>\n",
        escaped(&summary),
        WIDTH - 1,
        height - 1,
    );
    for (index, panel) in (0u32..).zip(&PANELS) {
        let x = MARGIN + (index % 2) * (PANEL_WIDTH + MARGIN);
        let y = TITLE + (index / 2) * (panel_height + MARGIN);
        draw(&mut svg, panel, &report.columns, x, y);
    }
    let setting = &report.setting;
    let words = format!(
        "HTTP/1.1, keep-alive, one worker, {} connections; {} rounds of {} s in turns. Bars: median; lines: least to \
         most. {}",
        setting.connections,
        report.valid_rounds,
        setting.seconds,
        match setting.overload {
            Some(_) => "MEASURED ON A BUSY MACHINE",
            None => setting.machine.split(',').next().unwrap_or_default(),
        }
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<text class=\"dim\" x=\"{MARGIN}\" y=\"{}\">{}</text>\n</svg>",
        height - 20,
        escaped(&words)
    );
    svg
}

fn draw(svg: &mut String, panel: &Panel, columns: &[Column], x: u32, y: u32) {
    let _ = writeln!(
        svg,
        "<text class=\"head\" x=\"{x}\" y=\"{0}\">{1}</text>\
         <text class=\"dim\" x=\"{2}\" y=\"{0}\" text-anchor=\"end\">{3}</text>",
        y + 14,
        panel.title,
        x + PANEL_WIDTH,
        panel.better
    );
    let most = columns.iter().map(|column| (panel.figure)(column).max).fold(0.0, f64::max);
    for (row, column) in (0u32..).zip(columns) {
        let spread = (panel.figure)(column);
        let top = y + PANEL_HEAD + row * ROW;
        let middle = top + BAR / 2;
        let length = f64::from(BARS_TO - BARS_FROM);
        let at = |figure: f64| if most > 0.0 { length * figure / most } else { 0.0 };
        let own = column.name == UNDERSTUDY;
        let from = f64::from(x + BARS_FROM);
        let _ = writeln!(
            svg,
            "<text{} x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{from}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            if own { " class=\"name-own\"" } else { "" },
            x + BARS_FROM - 8,
            top + 13,
            escaped(&column.name),
            if own { "own" } else { "bar" },
            at(spread.median),
            from + at(spread.min),
            from + at(spread.max),
            from + at(spread.max) + 8.0,
            top + 13,
            escaped(&(panel.label)(column)),
        );
    }
}

/// The figure, and how it compares.
fn cpu(column: &Column) -> String {
    let figure = format!("{:.1} µs", column.cpu_us.median);
    match column.to_bare {
        Some(ratio) if column.name != BARE => format!("{figure} ({:.2}×)", ratio.median),
        _ => figure,
    }
}

fn summary(report: &Report) -> String {
    let ours = report.columns.iter().find(|column| column.name == UNDERSTUDY);
    let ratio = |spread: Option<Spread>| spread.map(|spread| format!("{:.2}", spread.median));
    match ours.map(|column| (ratio(column.to_bare), ratio(column.to_envoy))) {
        Some((Some(bare), Some(envoy))) => {
            format!("Understudy: {bare} × the CPU time of bare Pingora, {envoy} × Envoy's")
        }
        Some((Some(bare), None)) => format!("Understudy: {bare} × the CPU time of bare Pingora"),
        _ => "CPU time per request".to_owned(),
    }
}

/// With a thin space between thousands.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_proxy_has_a_bar_in_every_panel_and_all_stays_within_the_picture() {
        let report = report();
        let svg = picture(&report);
        assert_eq!(svg.matches("<rect class=\"own\"").count(), 4, "{svg}");
        assert_eq!(svg.matches("<rect class=\"bar\"").count(), 4 * (report.columns.len() - 1));
        assert!(svg.contains("Understudy: 1.20 × the CPU time of bare Pingora, 0.50 × Envoy's"), "{svg}");
        assert!(svg.contains("prefers-color-scheme:dark") && svg.ends_with("</svg>\n"));
        for end in svg.split("x2=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(end.parse::<f64>().unwrap() <= f64::from(WIDTH - 112), "{end}");
        }
        assert_eq!(thousands(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(escaped("a<b>&\""), "a&lt;b&gt;&amp;&quot;");
    }
}
