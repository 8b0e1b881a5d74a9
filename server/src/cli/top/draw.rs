//! One screen full.

use std::time::{Duration, SystemTime};

use persist_pubsub_proto::admin_v1::{
    FindingLevel, Shard, StatusGroup, StatusSample, StatusSession, WatchStatusResponse,
};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, Wrap};
use tokio::time::Instant;

use super::View;

/// Without a message for so long, what is shown is old.
const STALE: Duration = Duration::from_secs(5);
/// Findings that are shown, with what to do about them.
const FINDINGS: usize = 4;
/// And the rows that they may take.
const MOST_FINDING_ROWS: usize = 10;
const CHART: u16 = 4;
/// The server's histogram ends there.
const LONGEST_LATENCY: f64 = 10.0;

const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().fg(Color::DarkGray);
const GOOD: Style = Style::new().fg(Color::Green);
const WARNING: Style = Style::new().fg(Color::Yellow);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame, view: &View, now: Instant) {
    let Some(status) = &view.status else {
        let text = view.lost.as_deref().unwrap_or("waiting for the server");
        frame.render_widget(Paragraph::new(text), frame.area());
        return;
    };
    let findings = findings(status);
    let width = usize::from(frame.area().width).max(1);
    // A line may break at a word, and so take one more than it seems.
    let rows = |line: &Line| match line.width() {
        fits if fits <= width => 1,
        long => long.div_ceil(width) + 1,
    };
    let height = findings
        .iter()
        .map(rows)
        .sum::<usize>()
        .min(MOST_FINDING_ROWS);
    let groups = u16::try_from(status.groups.len())
        .unwrap_or(u16::MAX)
        .min(8);
    let height = u16::try_from(height).unwrap_or(u16::MAX);
    let [head, told, charts, kinds, rest] = Layout::vertical([
        Constraint::Length(if status.replicas.is_empty() { 2 } else { 3 }),
        Constraint::Length(height + 1),
        Constraint::Length(CHART + 2),
        Constraint::Length(groups + 2),
        Constraint::Fill(1),
    ])
    .areas(frame.area());
    // What sessions do not need, shards get.
    let rows = u16::try_from(status.sessions.len()).unwrap_or(u16::MAX);
    let most = rest.height / 2;
    let needed = rows.saturating_add(2).min(most);
    let [sessions, shards] =
        Layout::vertical([Constraint::Length(needed), Constraint::Fill(1)]).areas(rest);
    frame.render_widget(Paragraph::new(heading(view, status, now)), head);
    frame.render_widget(Paragraph::new(findings).wrap(Wrap { trim: true }), told);
    draw_charts(frame, charts, view);
    frame.render_widget(group_table(status), kinds);
    frame.render_widget(session_table(status), sessions);
    frame.render_widget(shard_table(status), shards);
}

fn heading<'a>(view: &'a View, status: &'a WatchStatusResponse, now: Instant) -> Vec<Line<'a>> {
    let silent = view.heard_at.map(|at| now.duration_since(at));
    let silent = silent.filter(|&silent| silent > STALE || view.lost.is_some());
    let server = status.server.clone().unwrap_or_default();
    let state = if server.state == "serving" {
        GOOD
    } else {
        ALARM
    };
    let first = match silent {
        None => Line::from(vec![
            Span::styled("persist-pubsub ", HEADING),
            Span::styled(server.state, state),
            Span::styled(
                format!("  {} {}", server.version, server.listen_address),
                FAINT,
            ),
            Span::styled("   q ends", FAINT),
        ]),
        Some(silent) => Line::styled(
            format!(
                "LOST for {} s: {}. What is shown is old.",
                silent.as_secs(),
                view.lost.as_deref().unwrap_or("nothing is heard")
            ),
            ALARM,
        ),
    };
    let second = format!(
        "{} sessions, {} subscriptions, {} shards, logs {} of {}",
        server.sessions,
        server.subscriptions,
        server.shards,
        bytesize::ByteSize(server.log_bytes),
        bytesize::ByteSize(server.log_bytes_limit),
    );
    let mut lines = vec![first, Line::raw(second)];
    let silent = status.replicas.iter().filter(|r| !r.missing.is_empty());
    let silent: Vec<_> = silent.map(|r| r.name.as_str()).collect();
    if !status.replicas.is_empty() {
        let there = status.replicas.iter().filter(|r| r.missing.is_empty());
        let there: Vec<_> = there.map(|r| r.name.as_str()).collect();
        let mut spans = vec![Span::raw(format!("replicas {}", there.join(", ")))];
        if !silent.is_empty() {
            spans.push(Span::styled(
                format!("; NOT HERE: {}", silent.join(", ")),
                ALARM,
            ));
        }
        lines.push(Line::from(spans));
    }
    lines
}

fn findings(status: &WatchStatusResponse) -> Vec<Line<'_>> {
    if status.findings.is_empty() {
        return vec![Line::styled("Nothing to do: all is well.", GOOD)];
    }
    let shown = status.findings.iter().take(FINDINGS);
    shown
        .map(|finding| {
            let style = match finding.level() {
                FindingLevel::Alarm => ALARM,
                FindingLevel::Warning => WARNING,
                FindingLevel::Note | FindingLevel::Unspecified => Style::new(),
            };
            Line::from(vec![
                Span::styled(format!("{} ", finding.what), style),
                Span::styled(&finding.remedy, FAINT),
            ])
        })
        .collect()
}

/// What a chart shows of a sample.
type Value = fn(&StatusSample) -> f64;

fn draw_charts(frame: &mut Frame, area: Rect, view: &View) {
    let last = view.samples.back().cloned().unwrap_or_default();
    let charts: [(String, Value); 4] = [
        (
            format!("published/s {:.0}", last.publishes_per_second),
            |s| s.publishes_per_second,
        ),
        (
            format!("delivered/s {:.0}", last.deliveries_per_second),
            |s| s.deliveries_per_second,
        ),
        (
            format!(
                "latency p50 {} p99 {}",
                latency(last.latency_p50_seconds),
                latency(last.latency_p99_seconds)
            ),
            // In microseconds.
            |s| s.latency_p99_seconds.unwrap_or(0.0) * 1e6,
        ),
        (
            format!("gaps {} missed {}", last.gaps, last.diffs_missed),
            |s| (s.gaps + s.diffs_missed) as f64,
        ),
    ];
    let areas = Layout::horizontal([Constraint::Fill(1); 4])
        .spacing(2)
        .areas::<4>(area);
    for (area, (title, value)) in areas.into_iter().zip(charts) {
        let [above, below] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(CHART)]).areas(area);
        frame.render_widget(Line::styled(title, HEADING), above);
        // The newest at the right end.
        let fits = usize::from(below.width);
        let blank = fits.saturating_sub(view.samples.len());
        let skipped = view.samples.len().saturating_sub(fits);
        let values = view.samples.iter().skip(skipped);
        // What is shown is a bar of a few rows.
        let values = values.map(|sample| value(sample).max(0.0) as u64);
        let data: Vec<u64> = std::iter::repeat_n(0, blank).chain(values).collect();
        frame.render_widget(Sparkline::default().data(data), below);
    }
}

fn group_table(status: &WatchStatusResponse) -> Table<'static> {
    let now = status.at.and_then(|at| SystemTime::try_from(at).ok());
    let row = |g: &StatusGroup| {
        let published = g.last_publish.and_then(|at| SystemTime::try_from(at).ok());
        let ago = now
            .zip(published)
            .map(|(now, at)| now.duration_since(at).unwrap_or_default());
        let cells = [
            g.environment.clone(),
            g.generation
                .map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
            g.wire_version.clone(),
            dash(&g.role),
            g.mode.clone(),
            dash(&g.client_version),
            g.sessions.to_string(),
            g.sessions_behind.to_string(),
            g.subscriptions.to_string(),
            format!("{:.1}", g.publishes_per_second),
            format!("{:.1}", g.deliveries_per_second),
            ago.map_or_else(
                || "never".to_owned(),
                |ago| format!("{} s ago", ago.as_secs()),
            ),
            g.diffs_missed.to_string(),
        ];
        (g.replica.clone(), cells, g.sessions_behind > 0)
    };
    table(
        status,
        [
            ("ENVIRONMENT", Constraint::Fill(2)),
            ("GENERATION", Constraint::Length(10)),
            ("WIRE", Constraint::Length(4)),
            ("ROLE", Constraint::Fill(1)),
            ("MODE", Constraint::Length(10)),
            ("VERSION", Constraint::Fill(1)),
            ("SESSIONS", Constraint::Length(8)),
            ("BEHIND", Constraint::Length(6)),
            ("SUBS", Constraint::Length(8)),
            ("IN/S", Constraint::Length(9)),
            ("OUT/S", Constraint::Length(9)),
            ("PUBLISHED", Constraint::Length(12)),
            ("MISSED", Constraint::Length(8)),
        ],
        status.groups.iter().map(row),
    )
}

fn session_table(status: &WatchStatusResponse) -> Table<'static> {
    let row = |s: &StatusSession| {
        let session = s.session.as_ref()?;
        let waits = session.behind_for.and_then(|d| Duration::try_from(d).ok());
        let cells = [
            session.session_id.to_string(),
            dash(&session.caller_id),
            session.environment.clone(),
            session
                .generation
                .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            session.wire_version.clone(),
            session.address.clone(),
            session.subscriptions.to_string(),
            format!("{:.1}", s.publishes_per_second),
            format!("{:.1}", s.deliveries_per_second),
            waits.map_or_else(
                || "-".to_owned(),
                |waits| format!("{:.1} s", waits.as_secs_f64()),
            ),
            session.diffs_missed.to_string(),
        ];
        let late = waits.is_some_and(|w| w > crate::generation::BEHIND);
        Some((session.replica.clone(), cells, late))
    };
    table(
        status,
        [
            ("ID", Constraint::Length(6)),
            ("CALLER", Constraint::Fill(2)),
            ("ENVIRONMENT", Constraint::Fill(1)),
            ("GEN", Constraint::Length(5)),
            ("WIRE", Constraint::Length(4)),
            ("ADDRESS", Constraint::Length(21)),
            ("SUBS", Constraint::Length(7)),
            ("IN/S", Constraint::Length(9)),
            ("OUT/S", Constraint::Length(9)),
            ("BEHIND", Constraint::Length(9)),
            ("MISSED", Constraint::Length(8)),
        ],
        status.sessions.iter().filter_map(row),
    )
}

fn shard_table(status: &WatchStatusResponse) -> Table<'static> {
    let row = |s: &Shard| {
        let cells = [
            s.shard_id.clone(),
            s.environment.clone(),
            s.head_seqno
                .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            format!("{:.1}", s.diffs_per_second),
            s.subscribers.to_string(),
            s.log_entries.to_string(),
            bytesize::ByteSize(s.log_bytes).to_string(),
            s.held_back.to_string(),
        ];
        (s.replica.clone(), cells, false)
    };
    table(
        status,
        [
            ("SHARD", Constraint::Length(37)),
            ("ENVIRONMENT", Constraint::Fill(1)),
            ("SEQNO", Constraint::Length(12)),
            ("DIFFS/S", Constraint::Length(9)),
            ("SUBSCRIBERS", Constraint::Length(11)),
            ("DIFFS", Constraint::Length(7)),
            ("BYTES", Constraint::Length(10)),
            ("HELD", Constraint::Length(6)),
        ],
        status.shards.iter().map(row),
    )
}

/// Rows are a replica, its cells, and whether they are alarming. The replica is
/// shown where there are several.
fn table<const N: usize>(
    status: &WatchStatusResponse,
    columns: [(&'static str, Constraint); N],
    rows: impl Iterator<Item = (String, [String; N], bool)>,
) -> Table<'static> {
    let named = !status.replicas.is_empty();
    let names = status
        .replicas
        .iter()
        .map(|replica| replica.name.chars().count());
    let widest = names.max().unwrap_or_default().clamp(7, 24);
    let width = Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX));
    let first = named.then_some(("REPLICA", width));
    let (titles, widths): (Vec<_>, Vec<_>) = first.into_iter().chain(columns).unzip();
    let rows = rows.map(|(replica, cells, alarming)| {
        let first = named.then_some(replica);
        let row = Row::new(first.into_iter().chain(cells).map(Cell::from));
        if alarming { row.style(ALARM) } else { row }
    });
    Table::new(rows, widths).header(Row::new(titles).style(HEADING))
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s >= LONGEST_LATENCY => "≥10 s".to_owned(),
        Some(s) if s >= 1.0 => format!("{s:.1} s"),
        Some(s) => format!("{:.1} ms", s * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use persist_pubsub_proto::admin_v1::{GetServerInfoResponse, Session, StatusFinding};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn status() -> WatchStatusResponse {
        WatchStatusResponse {
            server: Some(GetServerInfoResponse {
                state: "serving".to_owned(),
                sessions: 1,
                ..GetServerInfoResponse::default()
            }),
            samples: vec![StatusSample {
                publishes_per_second: 7.0,
                latency_p50_seconds: Some(0.0004),
                ..StatusSample::default()
            }],
            sessions: vec![StatusSession {
                session: Some(Session {
                    caller_id: "environmentd".to_owned(),
                    behind_for: Some(prost_types::Duration {
                        seconds: 3,
                        nanos: 0,
                    }),
                    ..Session::default()
                }),
                ..StatusSession::default()
            }],
            findings: vec![StatusFinding {
                level: FindingLevel::Alarm.into(),
                what: "The logs are full.".to_owned(),
                remedy: "Raise them.".to_owned(),
                ..StatusFinding::default()
            }],
            ..WatchStatusResponse::default()
        }
    }

    fn screen(view: &View, width: u16, height: u16, now: Instant) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, now)).unwrap();
        let cells = terminal.backend().buffer().content();
        let rows = cells.chunks(width.into());
        let row =
            |row: &[ratatui::buffer::Cell]| row.iter().map(|c| c.symbol()).collect::<String>();
        rows.map(row).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn what_matters_is_on_the_screen() {
        let mut view = View::default();
        view.take(status());
        let shown = screen(&view, 132, 40, Instant::now());
        for text in [
            "serving",
            "The logs are full. Raise them.",
            "published/s 7",
            "p50 0.4 ms p99 -",
            "environmentd",
            "3.0 s",
        ] {
            assert!(shown.contains(text), "{text:?} is not in\n{shown}");
        }
    }

    #[tokio::test]
    async fn what_is_old_is_said_to_be() {
        let mut view = View::default();
        assert!(screen(&view, 80, 24, Instant::now()).contains("waiting"));
        view.take(status());
        let later = Instant::now() + Duration::from_secs(60);
        let shown = screen(&view, 80, 24, later);
        assert!(shown.contains("LOST for 60 s: nothing is heard"), "{shown}");
        view.lost = Some("connection refused".to_owned());
        let shown = screen(&view, 80, 24, Instant::now());
        assert!(shown.contains("connection refused"), "{shown}");
    }

    #[tokio::test]
    async fn no_terminal_is_too_small() {
        let mut view = View::default();
        view.take(status());
        for (width, height) in [(1, 1), (20, 5), (5, 60), (300, 3)] {
            screen(&view, width, height, Instant::now());
        }
    }
}
