//! The figures as a picture: a bar for each contender, with the spread over the
//! rounds; a line for each curve. Plain SVG: a plotting library would bring more code than these
//! hundred lines save.

use std::fmt::Write as _;

use super::curves::Curve;
use super::table::{Table, machine, number};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
/// Between a bar's beginning and the longest bar's end.
const BARS: f64 = 560.0;
const BAR: f64 = 14.0;
const LINE: f64 = 18.0;
const PLOT: f64 = 120.0;
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.h{font-weight:bold}.s{fill:#666}\
                     .ours{fill:#2166ac}.other{fill:#b2b2b2}.w{stroke:#222}.c{stroke:#2166ac;fill:none;stroke-width:2}";

/// A drawing that grows downwards.
struct Drawing {
    body: String,
    y: f64,
}

impl Drawing {
    fn text(&mut self, x: f64, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let y = self.y;
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#
        );
    }

    fn down(&mut self, by: f64) {
        self.y += by;
    }
}

pub(crate) fn svg(table: &Table, curves: &[Curve]) -> String {
    let mut drawing = Drawing {
        body: String::new(),
        y: 24.0,
    };
    drawing.text(10.0, "s", &machine());
    drawing.down(LINE * 1.5);
    for (at, row) in table.rows.iter().enumerate() {
        for (figure, _) in row.figures {
            drawing.text(10.0, "h", &format!("{}: {}", row.name, figure.name()));
            drawing.down(LINE);
            let spreads: Vec<_> = (0..table.contenders.len())
                .filter_map(|who| Some((&table.contenders[who], table.spread(at, who, *figure)?)))
                .collect();
            // By the medians: one round that went astray is cut off.
            let most = spreads
                .iter()
                .map(|(_, s)| s.median)
                .fold(f64::MIN_POSITIVE, f64::max);
            let scale = |value: f64| BARS * (value / most).clamp(0.0, 1.15);
            for (contender, spread) in spreads {
                let class = if contender.is_ours() { "ours" } else { "other" };
                let (top, middle) = (drawing.y - BAR + 3.0, drawing.y - BAR / 2.0 + 3.0);
                let _ = writeln!(
                    drawing.body,
                    r#"<rect x="{LEFT}" y="{top:.1}" width="{:.1}" height="{BAR}" class="{class}"/><line x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}" class="w"/>"#,
                    scale(spread.median),
                    LEFT + scale(spread.least),
                    LEFT + scale(spread.most),
                );
                drawing.text(10.0, "", &contender.name);
                let end = LEFT + scale(spread.most.max(spread.median)) + 6.0;
                drawing.text(end, "s", &number(spread.median));
                drawing.down(LINE);
            }
            drawing.down(LINE / 2.0);
        }
    }
    for curve in curves {
        for (at, figure) in curve.figures.iter().enumerate() {
            plot(&mut drawing, curve, at, figure);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\"><style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
        drawing.y, drawing.body
    )
}

/// One figure of a curve, over the logarithm of the number.
fn plot(drawing: &mut Drawing, curve: &Curve, figure: usize, name: &str) {
    drawing.text(10.0, "h", &format!("{}: {name}", curve.name));
    drawing.down(PLOT + LINE);
    let value = |values: &[f64]| values.get(figure).copied().unwrap_or(0.0);
    let most = curve
        .points
        .iter()
        .map(|(_, v)| value(v))
        .fold(f64::MIN_POSITIVE, f64::max);
    let last = curve.points.last().map_or(1, |(n, _)| *n);
    let log = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX)).ln();
    let (first, width) = (
        curve.points.first().map_or(0.0, |(n, _)| log(*n)),
        log(last),
    );
    let bottom = drawing.y - LINE;
    let mut line = String::new();
    for (n, values) in &curve.points {
        let x = LEFT + BARS * (log(*n) - first) / (width - first).max(f64::MIN_POSITIVE);
        let y = bottom - PLOT * 0.8 * value(values).max(0.0) / most;
        let _ = write!(line, "{x:.1},{y:.1} ");
        let _ = writeln!(
            drawing.body,
            r#"<text x="{x:.1}" y="{:.1}" class="s">{}</text>"#,
            y - 6.0,
            number(value(values))
        );
        drawing.text(x, "s", &n.to_string());
    }
    let _ = writeln!(drawing.body, r#"<polyline points="{line}" class="c"/>"#);
    drawing.text(10.0, "s", curve.of);
    drawing.down(LINE * 1.5);
}
