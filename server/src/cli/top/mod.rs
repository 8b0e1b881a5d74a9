//! `persist-pubsub top`: the status page in a terminal.

mod draw;

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use persist_pubsub_proto::admin_v1::{StatusSample, WatchStatusRequest, WatchStatusResponse};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Failure;
use super::listing::told;
use super::target::{AdminPort, OfReplica};

/// Samples that the charts show: as many as the server keeps.
const KEPT: usize = 300;
/// Until the next attempt, when the server is lost.
const RETRY: Duration = Duration::from_secs(1);
/// How often the age of what is shown is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What `--once` fills where the terminal's size is not known.
const SIZE: (u16, u16) = (132, 50);

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    admin: AdminPort,
    /// Print once, as text, and end
    #[arg(long, env = "PERSIST_PUBSUB_ONCE")]
    once: bool,
    #[command(flatten)]
    of: OfReplica,
}

impl TopArgs {
    fn request(&self) -> WatchStatusRequest {
        WatchStatusRequest {
            replica: self.of.named(),
        }
    }
}

/// What is shown.
#[derive(Debug, Default)]
struct View {
    status: Option<WatchStatusResponse>,
    samples: VecDeque<StatusSample>,
    /// When `status` came.
    heard_at: Option<Instant>,
    /// Why there is no connection.
    lost: Option<String>,
}

impl View {
    fn take(&mut self, mut status: WatchStatusResponse) {
        self.samples.extend(std::mem::take(&mut status.samples));
        let beyond = self.samples.len().saturating_sub(KEPT);
        self.samples.drain(..beyond);
        self.status = Some(status);
        self.heard_at = Some(Instant::now());
        self.lost = None;
    }
}

pub(super) async fn run(args: TopArgs) -> Result<(), Failure> {
    if args.once {
        return once(&args).await;
    }
    if !std::io::stdout().is_terminal() {
        return Err("standard output is not a terminal: --once prints text".into());
    }
    // A wrong address is said before the screen is taken.
    args.admin.connect().await?;
    let mut ends = signal(SignalKind::terminate())?;
    let mut terminal = ratatui::try_init()?;
    let shown = tokio::select! {
        shown = show(&args, &mut terminal) => shown,
        _ = ends.recv() => Ok(()),
    };
    ratatui::try_restore()?;
    shown
}

async fn once(args: &TopArgs) -> Result<(), Failure> {
    let mut client = args.admin.connect().await?;
    let messages = client.watch_status(args.request()).await;
    let mut messages = messages.map_err(told)?.into_inner();
    let mut view = View::default();
    // Rates of sessions are those between two looks.
    for _ in 0..2 {
        let message = messages.message().await.map_err(told)?;
        let message = message.ok_or("the server has gone")?;
        args.of.check(&message.replicas)?;
        view.take(message);
    }
    let (width, height) = terminal::size().unwrap_or(SIZE);
    // Where nothing is cut off.
    let size = (width.max(SIZE.0), height.max(SIZE.1));
    let Ok(mut terminal) = Terminal::new(TestBackend::new(size.0, size.1));
    let Ok(_) = terminal.draw(|frame| draw::draw(frame, &view, Instant::now()));
    let buffer = terminal.backend().buffer();
    let mut out = std::io::stdout().lock();
    for row in buffer.content().chunks(usize::from(size.0)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        if writeln!(out, "{}", line.trim_end()).is_err() {
            // A pipe that was closed: nobody wants more.
            break;
        }
    }
    Ok(())
}

/// Shows until the reader has had enough.
async fn show(args: &TopArgs, terminal: &mut ratatui::DefaultTerminal) -> Result<(), Failure> {
    let (told, mut heard) = mpsc::channel(1);
    let listening = listen(args, told);
    tokio::pin!(listening);
    let mut keys = keys();
    let mut ticks = tokio::time::interval(EVERY);
    let mut view = View::default();
    loop {
        terminal.draw(|frame| draw::draw(frame, &view, Instant::now()))?;
        tokio::select! {
            () = &mut listening => {}
            news = heard.recv() => match news {
                Some(News::Connected) => view.samples.clear(),
                Some(News::Status(status)) => view.take(*status),
                Some(News::Lost(why)) => view.lost = Some(why),
                None => {}
            },
            key = keys.recv() => if key.is_none_or(|key| ends(&key)) {
                return Ok(());
            },
            _ = ticks.tick() => {}
        }
    }
}

enum News {
    /// What follows begins with all that the server keeps.
    Connected,
    Status(Box<WatchStatusResponse>),
    Lost(String),
}

/// Tells what the server tells, and connects again for ever.
async fn listen(args: &TopArgs, told: mpsc::Sender<News>) {
    loop {
        let watching = async {
            let mut client = args.admin.connect().await?;
            let messages = client.watch_status(args.request()).await;
            let mut messages = messages.map_err(super::listing::told)?.into_inner();
            // Nobody hears any more: the whole command ends.
            let _ = told.send(News::Connected).await;
            while let Some(status) = messages.message().await.map_err(super::listing::told)? {
                args.of.check(&status.replicas)?;
                let _ = told.send(News::Status(Box::new(status))).await;
            }
            Err::<(), Failure>("the server has gone".into())
        };
        if let Err(why) = watching.await {
            let _ = told.send(News::Lost(why.to_string())).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What is typed, and that the terminal was resized. Ends with the terminal.
fn keys() -> mpsc::Receiver<Event> {
    let (told, keys) = mpsc::channel(16);
    // Reading blocks; the thread ends with the process.
    std::thread::spawn(move || {
        while let Ok(key) = event::read() {
            if told.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    key.kind == KeyEventKind::Press
        && (matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
            || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
}
