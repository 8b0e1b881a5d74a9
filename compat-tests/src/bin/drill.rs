//! An upgrade of Materialize, walked through with model processes:
//!
//! ```sh
//! cargo run --release -p persist-pubsub-compat-tests --bin persist-pubsub-drill
//! ```
//!
//! Processes of two generations write and read the same shards through the
//! nine steps of an upgrade: without pubsub, with a plain server for each
//! generation, and with this service. It prints how long each committed write
//! took to be visible to each pair of generations, and writes a chart.
//!
//! Exit code 0 if all is as it has to be, 1 if something is not, 2 if it could
//! not run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use persist_pubsub_compat_tests::child::workspace;
use persist_pubsub_compat_tests::drill::account::Account;
use persist_pubsub_compat_tests::drill::consensus::Store;
use persist_pubsub_compat_tests::drill::disturbance::Variant;
use persist_pubsub_compat_tests::drill::process::Who;
use persist_pubsub_compat_tests::drill::service::Arrangement;
use persist_pubsub_compat_tests::drill::verdict::Finding;
use persist_pubsub_compat_tests::drill::walk::{Plan, Walked, walk};
use persist_pubsub_compat_tests::drill::{
    Failure, chart, crowd, embedded, postgres, process, table, verdict,
};

/// Walks through an upgrade, and measures who sees whose writes when.
#[derive(clap::Parser)]
#[command(name = "persist-pubsub-drill")]
struct Arguments {
    #[command(subcommand)]
    inner: Option<Inner>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(clap::Args)]
struct Settings {
    /// The consensus store is PostgreSQL: the one of this URL, or one that is
    /// started in a temporary folder.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    postgres: Option<String>,
    /// How long each step lasts, at least.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    step: Duration,
    /// What goes wrong on the way; may be given several times. Without one:
    /// nothing, and then the baselines are walked as well.
    #[arg(long, value_name = "VARIANT")]
    variant: Vec<Wrong>,
    /// Latencies are printed and not judged: for a machine that is not idle.
    #[arg(long)]
    safety_only: bool,
    /// So many servers, replicas of each other over a nats-server.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// A further flag of the server, as in --server-flag=--reorder-window=1s.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Where the chart goes: NAME.svg and NAME.png.
    #[arg(long, value_name = "NAME")]
    chart: Option<PathBuf>,
}

/// A variant, or all of them.
#[derive(Clone)]
enum Wrong {
    All,
    One(Variant),
}

impl std::str::FromStr for Wrong {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        <Variant as clap::ValueEnum>::from_str(text, false)
            .map(Self::One)
            .map_err(|_| {
                let names = <Variant as clap::ValueEnum>::value_variants().iter();
                let names: Vec<_> = names
                    .filter_map(clap::ValueEnum::to_possible_value)
                    .map(|value| value.get_name().to_owned())
                    .collect();
                format!("there are all, {}", names.join(", "))
            })
    }
}

#[derive(clap::Subcommand)]
enum Inner {
    /// A model process; the drill starts it.
    #[command(hide = true)]
    Process(Who),
    /// A crowd; the drill starts it.
    #[command(hide = true)]
    Crowd,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.inner {
        Some(Inner::Process(who)) => process::run(who).await,
        Some(Inner::Crowd) => crowd::run().await,
        None => drill(arguments.settings).await,
    };
    ended.unwrap_or_else(|why| {
        eprintln!("persist-pubsub-drill: it could not run: {why}");
        ExitCode::from(2)
    })
}

async fn drill(settings: Settings) -> Result<ExitCode, Failure> {
    let store = match settings.postgres.as_deref() {
        None => Store::Embedded(embedded::Server::start().await?),
        Some("") => Store::Postgres(postgres::Server::start().await?),
        Some(url) => Store::Elsewhere(url.to_owned()),
    };
    let mut findings = Vec::new();
    let mut walks = Vec::new();
    for plan in plans(&settings) {
        let is_service = plan.arrangement == Arrangement::Service;
        let replicas = match plan.replicas {
            replicas @ 2.. if is_service => format!(", {replicas} replicas"),
            _ => String::new(),
        };
        println!(
            "walking: {}{replicas}, {}",
            plan.arrangement.name(),
            plan.variant.name()
        );
        store.clear().await?;
        let walked = walk(plan, store.url()).await?;
        let account = Account::of(&walked);
        findings.extend(report(&walked, &account));
        if is_service {
            findings.extend(judge(&walked, &account));
        }
        walks.push((walked, account));
    }
    println!("\nms from a committed write to its visibility, p50 / p99 / max, by generation");
    println!("\n{}\n{}", table::table(&walks), table::summary(&walks));
    if settings.variant.is_empty() {
        let folder = workspace().join("target/drill");
        let name = settings.chart.unwrap_or_else(|| folder.join("upgrade"));
        if let Some(folder) = name.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        chart::write(&walks, &name).await?;
        println!("chart: {}\n", name.with_extension("svg").display());
    }
    let judged = |finding: &&Finding| finding.is_safety || !settings.safety_only;
    let holds = findings.iter().filter(judged).all(|finding| finding.holds);
    println!(
        "{}",
        match (holds, settings.safety_only) {
            (true, true) => "all is as it has to be (latencies were not judged)",
            (true, false) => "all is as it has to be",
            (false, _) => "not all is as it has to be",
        }
    );
    Ok(ExitCode::from(u8::from(!holds)))
}

/// What is walked: all arrangements, or the service with all that goes wrong.
fn plans(settings: &Settings) -> Vec<Plan> {
    let plan = |arrangement, variant| Plan {
        arrangement,
        variant,
        step: settings.step,
        flags: settings.server_flag.clone(),
        replicas: usize::from(settings.replicas),
    };
    if settings.variant.is_empty() {
        let all = Arrangement::ALL.into_iter();
        return all.map(|it| plan(it, Variant::Calm)).collect();
    }
    let mut variants = Vec::new();
    for wrong in &settings.variant {
        match wrong {
            Wrong::All => variants.extend(Variant::DISTURBED),
            Wrong::One(variant) => variants.push(*variant),
        }
    }
    let variants = variants.into_iter();
    variants.map(|it| plan(Arrangement::Service, it)).collect()
}

fn report(walked: &Walked, account: &Account) -> [Finding; 1] {
    for note in &walked.notes {
        println!("  {note}");
    }
    if !walked.disturbed.is_empty() {
        let took = walked.disturbed.iter().map(|(from, to)| to - from);
        let longest = Duration::from_nanos(took.max().unwrap_or_default());
        println!(
            "  {} sessions were lost in {} disturbances; everybody was back and up to date after at most {:.1} s",
            account.lost_sessions,
            walked.disturbed.len(),
            longest.as_secs_f64()
        );
    }
    for text in &account.wrong {
        println!("  {text}");
    }
    let finding = verdict::of_all(account);
    println!("  {finding}");
    [finding]
}

fn judge(walked: &Walked, account: &Account) -> [Finding; 3] {
    for text in &account.discards_shown {
        println!("  {text}");
    }
    let findings = verdict::of_service(walked, account);
    for finding in &findings {
        println!("  {finding}");
    }
    findings
}
