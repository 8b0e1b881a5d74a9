//! Wires everything. The one entry for the binary, for tests, for simulation
//! and for a server inside somebody else's process.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tonic::service::Routes;

use crate::admin::{self, Admin, Facts};
use crate::clock::Clock;
use crate::config::{Config, InvalidConfig};
use crate::drain::{Drain, DrainOutcome, DrainState};
pub use crate::fence::BrokenState;
use crate::fence::Fences;
use crate::listener::{self, Accept};
use crate::logging::LogGate;
use crate::metrics::{FenceMetrics, ListenerMetrics, ScrapeMetrics, SessionMetrics, TopicMetrics};
use crate::registry::Registry;
use crate::service::in_process::{Doorkeeper, InProcess};
use crate::service::{ServiceContext, V0Service, V1Service};
use crate::session::Shared;
use crate::status::{Board, Sources};

/// Log lines about bad messages that all peers together can cause a minute.
const BAD_MESSAGE_LINES: u32 = 10;
/// Log lines a minute about sessions that connect and end.
const SESSION_LINES: u32 = 1000;
/// How long connections may take to close when their streams have ended.
const CLOSING: Duration = Duration::from_secs(1);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that cannot be. A retry cannot help.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A port that is not to be had. A retry can help once it is free.
    #[error("cannot listen on {address} ({flag}): {source}")]
    Bind {
        /// The flag that names the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The file that `--addresses-file` names cannot be written.
    #[error("cannot write {path} (--addresses-file): {source}")]
    AddressesFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file that `--state-file` names cannot be used.
    #[error(transparent)]
    StateFile(#[from] BrokenState),
    /// A defect of this program: a metric or a schema that does not register.
    #[error("internal: {0}")]
    Internal(String),
}

/// A server that runs. Dropping it cuts everything; see [`Server::wait`] for
/// a decent end.
#[derive(Debug)]
pub struct Server {
    data: SocketAddr,
    admin: SocketAddr,
    metrics: prometheus::Registry,
    main: JoinHandle<DrainOutcome>,
    doorkeeper: Doorkeeper,
    _background: Vec<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// The data port's address, with the port that was free if 0 was asked.
    #[must_use]
    pub fn data_addr(&self) -> SocketAddr {
        self.data
    }

    /// The operators' port's address.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The metrics that `/metrics` shows.
    #[must_use]
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.metrics
    }

    /// The way in for clients in this process: no network, no encoding, and
    /// sessions like any other: with the same promises, bounds and drain, and
    /// shown to operators with the address `in-process`.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        self.doorkeeper.door().clone()
    }

    /// Waits until the shutdown that was given to [`start`] has come and the
    /// drain is over: at most `drain_timeout` and about a second after it.
    pub async fn wait(mut self) -> DrainOutcome {
        // Fails only if the task panicked; then nothing runs any more.
        (&mut self.main)
            .await
            .unwrap_or(DrainOutcome::DeadlinePassed(0))
    }
}

/// Starts a server on TCP: binds first, so that the addresses are known, then
/// serves until `shutdown` completes, then drains. Has to be called within a
/// tokio runtime.
///
/// ```
/// # async fn example() -> Result<(), persist_pubsub_server::app::StartError> {
/// use persist_pubsub_server::{app, config::Config};
///
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let server = app::start(Config::default(), async { let _ = stopped.await; }).await?;
/// println!("serves on {}", server.data_addr());
/// let _ = stop.send(());
/// server.wait().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`StartError`]. Nothing is left running then.
pub async fn start(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Server, StartError> {
    // Before anything is bound.
    config.validate()?;
    let data = bind("--listen", config.listen).await?;
    let admin = bind("--admin-listen", config.admin_listen).await?;
    start_on(config, data, admin, Clock::system(), shutdown).await
}

/// As [`start`], with connections and the time of day from elsewhere:
/// `listen` and `admin_listen` of the config are not looked at. For a
/// simulation, or for a server that is reached without a network.
///
/// # Errors
/// See [`StartError`]; never [`StartError::Bind`]. Nothing is left running
/// then.
pub async fn start_on(
    config: Config,
    data: impl Accept,
    admin: impl Accept,
    clock: Clock,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Server, StartError> {
    config.validate()?;
    let unknown = |e: io::Error| StartError::Internal(e.to_string());
    let data_addr = data.local_addr().map_err(unknown)?;
    let admin_addr = admin.local_addr().map_err(unknown)?;

    let metrics = prometheus::Registry::new();
    let defect = |e: prometheus::Error| StartError::Internal(e.to_string());
    let topic_metrics = TopicMetrics::new(&metrics).map_err(defect)?;
    let registry = Registry::new(config.registry_limits(), topic_metrics.clone());
    let shared = Arc::new(Shared {
        registry: Arc::clone(&registry),
        census: Arc::new(config.census()),
        fences: Fences::open(
            config.state_file.as_deref(),
            FenceMetrics::new(&metrics).map_err(defect)?,
        )?,
        metrics: SessionMetrics::new(&metrics).map_err(defect)?,
        limits: config.session_limits(),
        clock: clock.clone(),
        lines: LogGate::new(SESSION_LINES, Duration::from_secs(60)),
    });
    let drain = Drain::new();
    let instance_id = format!("{:016x}", fastrand::u64(..));
    let context = Arc::new(ServiceContext {
        shared: Arc::clone(&shared),
        drain: drain.clone(),
        limits: config.service_limits(),
        bad_messages: LogGate::new(BAD_MESSAGE_LINES, Duration::from_secs(60)),
        instance_id: instance_id.clone(),
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<V0Service>().await;
    health.set_serving::<V1Service>().await;
    let routes = Routes::new(health_service)
        .add_service(reflection(persist_pubsub_proto::FILE_DESCRIPTOR_SET)?)
        .add_service(V0Service::new(Arc::clone(&context)))
        .add_service(V1Service::new(Arc::clone(&context)));
    let listener_metrics = ListenerMetrics::new(&metrics).map_err(defect)?;
    let board = Board::new(Facts {
        shared: Arc::clone(&shared),
        drain: drain.clone(),
        instance_id,
        started_at: clock.now(),
        started: Instant::now(),
        data_addr,
        v0_environment: config.v0_environment.clone(),
    });
    let sampling = Arc::clone(&board).run(Sources {
        sessions: shared.metrics.clone(),
        topics: topic_metrics,
        listener: listener_metrics.clone(),
    });
    let admin_service = Admin {
        facts: board.facts().clone(),
        board,
        scrape: ScrapeMetrics::new(&metrics).map_err(defect)?,
        metrics: metrics.clone(),
    };
    let admin_router = admin::router(
        admin_service,
        reflection(persist_pubsub_proto::admin_v1::FILE_DESCRIPTOR_SET)?,
    );
    if let Some(path) = &config.addresses_file {
        write_addresses(path, data_addr, admin_addr).map_err(|source| {
            StartError::AddressesFile {
                path: path.clone(),
                source,
            }
        })?;
    }

    let mut serving = tokio::spawn(listener::serve(
        data,
        routes,
        config.connection_limits(),
        listener_metrics,
        drain.clone(),
    ));
    let background = vec![
        AbortOnDrop(serving.abort_handle()),
        AbortOnDrop(tokio::spawn(admin::serve(admin, admin_router)).abort_handle()),
        AbortOnDrop(tokio::spawn(registry.age()).abort_handle()),
        AbortOnDrop(tokio::spawn(sampling).abort_handle()),
        AbortOnDrop(tokio::spawn(unhealthy_when_leaving(drain.clone(), health)).abort_handle()),
    ];
    let (window, timeout) = (config.drain_window, config.drain_timeout);
    let main = tokio::spawn(async move {
        shutdown.await;
        let outcome = drain.run(&shared.census, "shutdown", window, timeout).await;
        let closed = tokio::time::timeout(CLOSING, &mut serving).await;
        if closed.is_err() {
            // A peer that does not close its end.
            serving.abort();
        }
        outcome
    });
    Ok(Server {
        data: data_addr,
        admin: admin_addr,
        metrics,
        main,
        doorkeeper: Doorkeeper::new(context, tokio::runtime::Handle::current()),
        _background: background,
    })
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind {
            flag,
            address,
            source,
        })
}

/// Server reflection over a schema and the health service's.
fn reflection(
    schema: &'static [u8],
) -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    StartError,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(schema)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| StartError::Internal(e.to_string()))
}

/// Turns the health of every service off when the server begins to go.
async fn unhealthy_when_leaving(drain: Drain, health: tonic_health::server::HealthReporter) {
    drain.reached(DrainState::NotReady).await;
    let down = tonic_health::ServingStatus::NotServing;
    health.set_service_status("", down).await;
    health.set_not_serving::<V0Service>().await;
    health.set_not_serving::<V1Service>().await;
}

/// Writes the addresses where a script can wait for them: whole, or not at
/// all.
fn write_addresses(path: &PathBuf, data: SocketAddr, admin: SocketAddr) -> io::Result<()> {
    let json = serde_json::json!({
        "listen": data.to_string(),
        "admin_listen": admin.to_string(),
        "pid": std::process::id(),
    });
    let mut draft = path.clone().into_os_string();
    draft.push(".new");
    std::fs::write(&draft, format!("{json}\n"))?;
    std::fs::rename(&draft, path)
}
