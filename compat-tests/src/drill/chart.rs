//! What walks came to, as a picture: time on x, latency on a log scale on y,
//! the steps marked, one line per arrangement.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::account::Account;
use super::service::Arrangement;
use super::walk::Walked;
use crate::browser::{Browser, BrowserError, Look};

const WIDTH: u32 = 1_000;
const HEIGHT: u32 = 520;
/// What lies around the plot.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 46.0;
/// The latencies at the bottom and the top, milliseconds.
const RANGE: (f64, f64) = (0.1, 10_000.0);
/// A line's points are so far apart.
const BUCKET: Duration = Duration::from_millis(250);

/// The picture, as SVG.
#[must_use]
pub fn svg(walks: &[(Walked, Account)]) -> String {
    let Some((last, _)) = walks.last() else {
        return String::new();
    };
    let scale = Scale {
        seconds: seconds(last).max(1.0),
    };
    let mut svg = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="22" font-size="16" font-weight="bold">From a committed write to its visibility, through an upgrade</text>
<text x="{LEFT}" y="40">every 250 ms the 99th of 100, thin: the median; all four pairs of generations; log scale</text>"##
    );
    axes(&mut svg, &scale);
    marks(&mut svg, &scale, last);
    for (turn, (walked, account)) in walks.iter().enumerate() {
        lines(&mut svg, &scale, last, walked, account);
        let (x, colour) = (LEFT + 250.0 * turn as f64, colour(walked));
        let name = walked.plan.arrangement.name();
        let _ = writeln!(
            svg,
            r#"<line x1="{x}" y1="58" x2="{}" y2="58" stroke="{colour}" stroke-width="3"/><text x="{}" y="62">{name}</text>"#,
            x + 24.0,
            x + 30.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Writes a picture of an SVG file as PNG, by a browser.
///
/// # Errors
/// There is no browser; others.
pub async fn png(svg: &Path, png: &Path) -> Result<(), BrowserError> {
    let mut browser = Browser::start().await?;
    let look = Look {
        width: WIDTH,
        height: HEIGHT,
        dark: false,
    };
    browser.look(look).await?;
    let svg = std::path::absolute(svg)?;
    browser.open(&format!("file://{}", svg.display())).await?;
    browser
        .until("document.documentElement.tagName == 'svg'")
        .await?;
    browser.picture(png).await
}

/// Writes both, side by side: `NAME.svg` and, where there is a browser,
/// `NAME.png`.
///
/// # Errors
/// They cannot be written.
pub async fn write(walks: &[(Walked, Account)], name: &Path) -> Result<(), Failure> {
    let to = name.with_extension("svg");
    tokio::fs::write(&to, svg(walks)).await?;
    match png(&to, &name.with_extension("png")).await {
        Err(BrowserError::Missing(why)) => eprintln!("no PNG: {why}"),
        other => other?,
    }
    Ok(())
}

struct Scale {
    seconds: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (f64::from(WIDTH) - LEFT - RIGHT) * seconds / self.seconds
    }

    fn y(&self, millis: f64) -> f64 {
        let (low, high) = (RANGE.0.log10(), RANGE.1.log10());
        let up = (millis.clamp(RANGE.0, RANGE.1).log10() - low) / (high - low);
        f64::from(HEIGHT) - BOTTOM - (f64::from(HEIGHT) - BOTTOM - TOP) * up
    }
}

fn began(walked: &Walked) -> u64 {
    walked.steps.first().map_or(walked.ended, |step| step.at)
}

fn seconds(walked: &Walked) -> f64 {
    Duration::from_nanos(walked.ended.saturating_sub(began(walked))).as_secs_f64()
}

fn colour(walked: &Walked) -> &'static str {
    match walked.plan.arrangement {
        Arrangement::None => "#999",
        Arrangement::Own => "#d55e00",
        Arrangement::Service => "#0072b2",
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    let (left, right) = (scale.x(0.0), scale.x(scale.seconds));
    let mut millis = RANGE.0;
    while millis <= RANGE.1 * 1.01 {
        let y = scale.y(millis);
        let label = if millis < 1_000.0 {
            format!("{millis} ms")
        } else {
            format!("{} s", millis / 1_000.0)
        };
        let _ = writeln!(
            svg,
            r##"<line x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{label}</text>"##,
            left - 8.0,
            y + 4.0
        );
        millis *= 10.0;
    }
    let bottom = f64::from(HEIGHT) - BOTTOM;
    let mut second = 0.0;
    while second <= scale.seconds {
        let x = scale.x(second);
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{second}</text>"#,
            bottom + 18.0
        );
        second += if scale.seconds > 60.0 { 10.0 } else { 2.0 };
    }
    let _ = writeln!(
        svg,
        r#"<text x="{right}" y="{:.1}" text-anchor="end">seconds</text>"#,
        bottom + 36.0
    );
}

/// The steps: where each begins, its number and its name.
fn marks(svg: &mut String, scale: &Scale, walked: &Walked) {
    for (index, step) in walked.steps.iter().enumerate() {
        let since = Duration::from_nanos(step.at.saturating_sub(began(walked)));
        let x = scale.x(since.as_secs_f64());
        let bottom = f64::from(HEIGHT) - BOTTOM;
        let (number, name) = (index + 1, step.name);
        // Names take turns in two rows, so that neighbours do not meet.
        let y = TOP - if index.is_multiple_of(2) { 16.0 } else { 4.0 };
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="#888" stroke-dasharray="3 3"/><text x="{x:.1}" y="{y}" font-size="11"><tspan font-weight="bold">{number}</tspan> {name}</text>"##
        );
    }
}

/// Where a moment of one walk lies in another, in seconds: as far along in the
/// same step. Steps do not take equally long in all of them.
fn along(walked: &Walked, other: &Walked, at: u64) -> f64 {
    let bounds = |walked: &Walked, step: usize| {
        let begins = |step: usize| walked.steps.get(step).map_or(walked.ended, |it| it.at);
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(began(walked))).as_secs_f64();
        (since(begins(step)), since(begins(step + 1)))
    };
    let step = walked.steps.iter().rposition(|step| step.at <= at);
    let step = step.unwrap_or(0);
    let (from, to) = bounds(walked, step);
    let seconds = Duration::from_nanos(at.saturating_sub(began(walked))).as_secs_f64();
    let share = ((seconds - from) / (to - from).max(f64::EPSILON)).clamp(0.0, 1.0);
    let (from, to) = bounds(other, step);
    from + (to - from) * share
}

/// The 99th of 100 of each bucket, and the median.
fn lines(svg: &mut String, scale: &Scale, last: &Walked, walked: &Walked, account: &Account) {
    let bucket = u64::try_from(BUCKET.as_nanos()).unwrap_or(u64::MAX);
    let (from, to) = (began(walked), walked.ended);
    for (percent, width) in [(99, 2.2), (50, 0.8)] {
        let mut points = String::new();
        let mut at = from;
        while at < to {
            let latencies = account.among(at, at + bucket, |_| true);
            if latencies.count() > 0 {
                let [latency] = latencies.percentiles([percent]);
                let middle = along(walked, last, at + bucket / 2);
                let (x, y) = (scale.x(middle), scale.y(latency.as_secs_f64() * 1e3));
                let _ = write!(points, "{x:.1},{y:.1} ");
            }
            at += bucket;
        }
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="{width}" stroke-linejoin="round"/>"#,
            points.trim_end(),
            colour(walked)
        );
    }
}
