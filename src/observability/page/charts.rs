//! Two charts over the last cycles, as inline SVG: how old what we knew was, and what was written.
//!
//! Shapes only are drawn, stretched to the width there is; all words stand beside them as text, so that they stay readable
//! on a phone and for those who cannot see them.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use crate::daemon::status::{CyclePoint, Status};
use crate::telemetry::words::{count, instant, number_text, span};

/// The drawing's own units; the browser stretches them.
const WIDTH: f64 = 600.0;
/// See [`WIDTH`].
const HEIGHT: f64 = 120.0;
/// The lag chart reaches up to this at least, in seconds: a quiet day is a low line.
const LAG_TOP_MIN: f64 = 300.0;
/// As [`LAG_TOP_MIN`], for writes of one cycle.
const WRITES_TOP_MIN: f64 = 5.0;
/// Fewer cycles than this make no chart.
const POINTS_MIN: usize = 2;

/// Both charts; nothing until there are cycles enough.
pub(super) fn charts(status: &Status) -> Markup {
    let points = &status.recent_cycles;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return html! {} };
    if points.len() < POINTS_MIN {
        return html! {};
    }
    let lags: Vec<f64> = points.iter().map(|point| point.lag_seconds.unwrap_or(0) as f64).collect();
    let writes: Vec<f64> = points.iter().map(|point| point.written as f64).collect();
    let written: u64 = points.iter().map(|point| point.written).sum();
    let failed: u64 = points.iter().map(|point| point.failed).sum();
    let requests: u64 = points.iter().map(|point| point.requests).sum();
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let lag_most = most(&lags);
    let (lag_top, write_top) = (lag_most.max(LAG_TOP_MIN), most(&writes).max(WRITES_TOP_MIN));
    let over = format!("over the last {}", count(points.len() as u64, "cycle"));
    let lag_words =
        format!("{} at most, {} at the end", span(lag_most as u64), span(*lags.last().unwrap_or(&0.0) as u64));
    let failures = if failed > 0 { format!(", {} failed", number_text(failed)) } else { String::new() };
    let write_words = format!("{}{failures}, {}", count(written, "write"), count(requests, "request"));
    html! {
        section aria-labelledby="charts" {
            h2 id="charts" { "The last " (count(points.len() as u64, "cycle")) }
            div.pair {
                (chart("Lag", &lag_words, &format!("{lag_words}, {over}"), &span(lag_top as u64), first, last, &line(points, &lags, lag_top)))
                (chart("Writes", &write_words, &format!("{write_words}, {over}"), &number_text(write_top as u64), first, last, &bars(points, &writes, write_top)))
            }
        }
    }
}

fn chart(
    title: &str,
    words: &str,
    long: &str,
    most: &str,
    first: &CyclePoint,
    last: &CyclePoint,
    shapes: &str,
) -> Markup {
    html! {
        figure.card {
            figcaption { strong { (title) } ": " (words) }
            div.plot {
                span.most aria-hidden="true" { (most) }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (title) ": " (long) } {
                    (PreEscaped(shapes))
                }
            }
            div.axis { (edge(first)) (edge(last)) }
        }
    }
}

/// The time of day at an edge of the chart; the whole instant is at hand.
fn edge(point: &CyclePoint) -> Markup {
    let whole = instant(point.started);
    html! { time datetime=(point.started) title=(whole) { (whole.get(11..16).unwrap_or_default()) " UTC" } }
}

/// Where a cycle stands on the way from left to right: by the clock, so that a pause shows as one.
fn x(points: &[CyclePoint], index: usize) -> f64 {
    let (first, last) = (points[0].started.millis(), points[points.len() - 1].started.millis());
    let span = (last - first).max(1) as f64;
    (points[index].started.millis() - first) as f64 / span * WIDTH
}

fn y(value: f64, most: f64) -> f64 {
    // A little room above, so that the line is not cut.
    HEIGHT - value / most.max(1.0) * (HEIGHT - 6.0) - 1.0
}

/// A line with the area below it.
fn line(points: &[CyclePoint], values: &[f64], most: f64) -> String {
    let mut path = String::new();
    for (index, value) in values.iter().enumerate() {
        let verb = if index == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{verb}{:.1} {:.1}", x(points, index), y(*value, most));
    }
    format!(
        "<path class=\"area\" d=\"{path}L{WIDTH:.1} {HEIGHT:.1}L0 {HEIGHT:.1}Z\"/>\
         <path class=\"line\" d=\"{path}\"/>{}",
        marks(points)
    )
}

/// A bar for each cycle.
fn bars(points: &[CyclePoint], values: &[f64], most: f64) -> String {
    let width = (WIDTH / points.len() as f64 * 0.8).clamp(1.0, 24.0);
    let mut shapes = String::new();
    for (index, value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
        let top = y(*value, most);
        let left = (x(points, index) - width / 2.0).clamp(0.0, WIDTH - width);
        let _ = write!(
            shapes,
            "<rect class=\"bar\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            HEIGHT - top
        );
    }
    shapes + &marks(points)
}

/// A mark at the foot for each cycle that had trouble.
fn marks(points: &[CyclePoint]) -> String {
    let is_trouble = |point: &CyclePoint| !matches!(point.outcome.as_str(), "complete" | "unfinished");
    let mut shapes = String::new();
    for (index, _) in points.iter().enumerate().filter(|(_, point)| is_trouble(point)) {
        let x = x(points, index);
        let _ = write!(shapes, "<path class=\"trouble\" d=\"M{x:.1} {HEIGHT:.1}V{:.1}\"/>", HEIGHT - 12.0);
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::{HEIGHT, WIDTH, charts, line, x, y};
    use crate::daemon::Status;
    use crate::daemon::status::CyclePoint;
    use crate::model::Timestamp;

    fn point(seconds: i64) -> CyclePoint {
        CyclePoint { started: Timestamp::from_seconds(seconds), outcome: "complete".into(), ..CyclePoint::default() }
    }

    #[test]
    fn cycles_stand_where_the_clock_puts_them_and_stay_inside() {
        let points = [point(0), point(60), point(600)];
        assert_eq!([x(&points, 0), x(&points, 1), x(&points, 2)], [0.0, 60.0, WIDTH]);
        assert!(y(5.0, 5.0) > 0.0 && y(0.0, 5.0) < HEIGHT && y(0.0, 0.0) < HEIGHT);
        let same = [point(7), point(7)];
        assert!(!line(&same, &[1.0, 2.0], 2.0).contains("NaN"), "two cycles within one millisecond");
    }

    #[test]
    fn one_cycle_makes_no_chart() {
        let with = |points| charts(&Status { recent_cycles: points, ..Status::default() }).into_string();
        assert_eq!(with(vec![]), "");
        assert_eq!(with(vec![point(1)]), "");
        assert!(with(vec![point(1), point(61)]).contains("<svg"));
    }
}
