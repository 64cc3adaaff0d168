//! One run as an SVG picture: stacked bars of a tenth of a second, and lines where something changed.

use std::fmt::Write as _;
use std::time::Duration;

use super::escape;
use super::labels::{Labels, ROWS};
use crate::drill::record::{Record, Sample, Side, Turn};

/// What a bar stands for.
const BIN: Duration = Duration::from_millis(100);
/// A shorter run does not fill the axis, or its few bars would be as broad as walls.
const SHORTEST: Duration = Duration::from_secs(1);
/// Units of the picture.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 992.0;
const LABEL_ROW: f64 = 15.0;
const TOP: f64 = LABEL_ROW * ROWS as f64 + 6.0;
const HEIGHT: f64 = 90.0;
const BOTTOM: f64 = TOP + HEIGHT;
/// Lost requests are seen, however few they are beside the others.
const LEAST_ERROR: f64 = 4.0;
/// More lines than that on the time's axis would be noise.
const TICKS: u128 = 14;

/// The classes of a bar's parts, from the bottom.
const CLASSES: [&str; 4] = ["primary", "fallback", "gateway", "error"];

/// What both pictures of a run share, so that they can be compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    /// Length of the time's axis.
    length: Duration,
    /// The highest bar.
    peak: usize,
}

impl Scale {
    pub(super) fn of(records: &[&Record]) -> Self {
        let length = records.iter().map(|record| record.length).max().unwrap_or_default().max(SHORTEST);
        let peak = records
            .iter()
            .flat_map(|record| bins(record))
            .map(|bin| bin.iter().sum::<usize>())
            .max()
            .unwrap_or_default()
            .max(1);
        Self { length, peak }
    }

    fn x(&self, at: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.as_secs_f64() / self.length.as_secs_f64()).min(1.0)
    }

    fn height(&self, count: usize) -> f64 {
        HEIGHT * count as f64 / self.peak as f64
    }
}

/// Draws a record.
pub(super) fn draw(record: &Record, scale: &Scale, title: &str) -> String {
    let total = BOTTOM + 20.0;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {total}\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    axes(&mut svg, scale);
    if record.samples.is_empty() {
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">no requests</text>", LEFT + 10.0, BOTTOM - 10.0);
    }
    bars(&mut svg, record, scale);
    lines(&mut svg, record, scale);
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String, scale: &Scale) {
    let step = tick(scale.length);
    let mut at = Duration::ZERO;
    while at <= scale.length {
        let x = scale.x(at);
        // Writing to a String cannot fail.
        let _ =
            writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>");
        let anchor = if x > RIGHT - 20.0 { "end" } else { "middle" };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{} s</text>",
            BOTTOM + 15.0,
            at.as_secs_f64()
        );
        at += step;
    }
    for (count, y) in [(scale.peak, TOP), (0, BOTTOM)] {
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{count}</text>", LEFT - 5.0, y + 4.0);
    }
    let _ =
        writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>");
}

/// A round step of the time's axis.
fn tick(length: Duration) -> Duration {
    [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000]
        .map(Duration::from_millis)
        .into_iter()
        .find(|step| length.as_millis() / step.as_millis() < TICKS)
        .unwrap_or_else(|| (length / 10).max(BIN))
}

/// One path for each class, which keeps the page small.
fn bars(svg: &mut String, record: &Record, scale: &Scale) {
    let mut paths: [String; CLASSES.len()] = Default::default();
    let width = ((RIGHT - LEFT) * BIN.as_secs_f64() / scale.length.as_secs_f64()).max(1.2);
    for (index, bin) in bins(record).iter().enumerate() {
        let x = scale.x(BIN * u32::try_from(index).unwrap_or(u32::MAX));
        let mut y = BOTTOM;
        for (part, count) in bin.iter().enumerate().filter(|(_, count)| **count > 0) {
            let is_error = part + 1 == CLASSES.len();
            let height = scale.height(*count).max(if is_error { LEAST_ERROR } else { 0.0 });
            y -= height;
            let shown = if width > 3.0 { width - 0.6 } else { width };
            // The last tenth of a second may reach beyond the end of the run.
            let shown = shown.min(RIGHT - x).max(1.2);
            let _ = write!(paths[part], "M{x:.1} {y:.1}h{shown:.1}v{height:.1}h-{shown:.1}z");
        }
    }
    for (class, path) in CLASSES.iter().zip(paths).filter(|(_, path)| !path.is_empty()) {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
}

/// What was done, and the switches that followed, from left to right.
fn lines(svg: &mut String, record: &Record, scale: &Scale) {
    let mut all: Vec<(Duration, &str, &str)> = record
        .marks
        .iter()
        .map(|mark| {
            let class = match mark.turn {
                Turn::Break => "break",
                Turn::Heal => "heal",
            };
            (mark.at, class, mark.label.as_str())
        })
        .collect();
    all.extend(record.failovers().iter().map(|(_, served)| (*served, "failover", "failover")));
    all.extend(record.returns().iter().map(|(_, served)| (*served, "failback", "failback")));
    all.sort_by_key(|(at, _, _)| *at);
    let mut labels = Labels::default();
    for (at, class, label) in all {
        let x = scale.x(at);
        let place = labels.place(x + 3.0, label, RIGHT);
        let top = place.map_or(TOP, |place| LABEL_ROW * place.row as f64 + 2.0);
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{BOTTOM}\"><title>{} at {:.2} s</title></line>",
            escape(label),
            at.as_secs_f64()
        );
        if let Some(place) = place {
            let y = LABEL_ROW * place.row as f64 + 12.0;
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{y}\">{}</text>", place.x, escape(label));
        }
    }
}

/// Requests in each tenth of a second by class, by the time of their end: that is when the client saw it.
fn bins(record: &Record) -> Vec<[usize; CLASSES.len()]> {
    let mut bins: Vec<[usize; CLASSES.len()]> = Vec::new();
    for sample in &record.samples {
        let end = sample.at + sample.took;
        let index = usize::try_from(end.as_millis() / BIN.as_millis()).unwrap_or(usize::MAX);
        // An hour; nothing in a drill is longer.
        if index >= 36_000 {
            continue;
        }
        if bins.len() <= index {
            bins.resize(index + 1, Default::default());
        }
        bins[index][class(sample)] += 1;
    }
    bins
}

fn class(sample: &Sample) -> usize {
    match sample.side() {
        _ if sample.is_lost() => 3,
        Some(Side::Primary) => 0,
        Some(Side::Fallback) => 1,
        None => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::record::Reply;

    fn sample(at: u64, status: u16, side: Option<Side>) -> Sample {
        Sample { at: Duration::from_millis(at), took: Duration::ZERO, reply: Reply::Whole { status, side } }
    }

    fn record() -> Record {
        Record {
            samples: vec![
                sample(0, 200, Some(Side::Primary)),
                sample(99, 503, None),
                sample(100, 200, Some(Side::Fallback)),
                sample(150, 404, None),
            ],
            length: Duration::from_secs(1),
            ..Record::default()
        }
    }

    #[test]
    fn requests_fall_into_tenths_of_a_second_by_what_became_of_them() {
        assert_eq!(bins(&record()), [[1, 0, 0, 1], [0, 1, 1, 0]]);
        assert_eq!(bins(&Record::default()).len(), 0);
    }

    #[test]
    fn one_lost_request_among_many_is_seen() {
        let mut many = record();
        many.samples.extend((0..1000).map(|_| sample(50, 200, Some(Side::Primary))));
        let svg = draw(&many, &Scale::of(&[&many]), "x");
        let path = svg.lines().find(|line| line.contains("class=\"error\"")).unwrap();
        assert!(path.contains("v4.0h"), "{path}");
    }

    #[test]
    fn both_pictures_of_a_run_have_one_scale() {
        let short = Record { length: Duration::from_millis(500), ..record() };
        assert_eq!(Scale::of(&[&record(), &short]), Scale { length: Duration::from_secs(1), peak: 2 });
        assert_eq!(Scale::of(&[]), Scale { length: SHORTEST, peak: 1 });
    }

    #[test]
    fn every_length_has_a_handful_of_ticks() {
        for (seconds, expected) in [(1, 100), (3, 500), (10, 1000), (65, 5000), (400, 30_000)] {
            assert_eq!(tick(Duration::from_secs(seconds)), Duration::from_millis(expected), "{seconds} s");
        }
        assert_eq!(tick(Duration::from_secs(6000)), Duration::from_secs(600));
    }
}
