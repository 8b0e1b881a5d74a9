//! Wires everything. The one entry for the binary, for tests, for simulation
//! and for a server inside somebody else's process.

mod doors;

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

use crate::access::Access;
use crate::admin::{self, Admin, Facts};
pub use crate::backplane::BackplaneError;
use crate::backplane::{Backplane, Owner};
use crate::clock::Clock;
use crate::config::{Config, InvalidConfig};
use crate::drain::{Drain, DrainOutcome, DrainState};
pub use crate::fence::{BrokenState, FenceError};
use crate::fence::{Fences, Order};
use crate::fleet::{self, Agreement, Answering, Bucket, Fleet, Gather, Others, Peer, Peers};
use crate::listener::{self, Accept};
use crate::logging::LogGate;
use crate::metrics::{
    AccessMetrics, FenceMetrics, ListenerMetrics, ScrapeMetrics, SessionMetrics, TlsMetrics,
    TopicMetrics,
};
use crate::registry::Registry;
use crate::reload;
use crate::service::in_process::{Doorkeeper, InProcess};
use crate::service::{ServiceContext, V0Service, V1Service};
use crate::session::Shared;
use crate::status::{Board, Sources};
use doors::{Doors, Identities};

/// Log lines about bad messages that all peers together can cause a minute.
const BAD_MESSAGE_LINES: u32 = 10;
/// Log lines a minute about sessions that connect and end.
const SESSION_LINES: u32 = 1000;
/// How long connections may take to close when their streams have ended.
const CLOSING: Duration = Duration::from_secs(1);
/// How long a start may take to learn of the fences that stand elsewhere.
const FENCES_WITHIN: Duration = Duration::from_secs(3);

/// What health is asked of for whether the process lives, ready or not.
const LIVE: &str = "live";

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
    /// The backplane cannot come about as it was asked for. NATS that is
    /// merely not there is no error: the server begins without it.
    #[error(transparent)]
    Backplane(#[from] BackplaneError),
    /// A defect of this program: a metric or a schema that does not register.
    #[error("internal: {0}")]
    Internal(String),
}

/// A server that runs. Dropping it cuts everything; see [`Server::wait`] for
/// a decent end.
#[derive(Debug)]
pub struct Server {
    data: SocketAddr,
    plaintext: Option<SocketAddr>,
    admin: SocketAddr,
    metrics: prometheus::Registry,
    shared: Arc<Shared>,
    agreement: Arc<Agreement>,
    /// That it was started in.
    runtime: tokio::runtime::Handle,
    main: JoinHandle<DrainOutcome>,
    doorkeeper: Doorkeeper,
    _background: Vec<AbortOnDrop>,
}

/// A fence that was raised on all replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fenced {
    /// Its epoch.
    pub epoch: u64,
    /// The replicas that are not known to hold it, by name: they may let in
    /// whom it keeps out until they are reached. "others": this one does not
    /// reach the backplane, and so knows of none.
    pub unconfirmed: Vec<String>,
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

    /// The address of the data port without TLS, if there is one beside the one
    /// with it.
    #[must_use]
    pub fn plaintext_addr(&self) -> Option<SocketAddr> {
        self.plaintext
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
    /// shown to operators with the address `in-process`. They are read in the
    /// runtime that the server was started in; clients may be in another.
    ///
    /// A diff that is pushed so is kept as the host gave it, for as long as the
    /// log keeps it: a slice of a larger buffer keeps that.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use bytes::Bytes;
    /// use persist_pubsub_client::{Config, Event, Home, ShardId, connect};
    /// use persist_pubsub_server::{app, config};
    ///
    /// let shard = ShardId::new([7; 16]);
    /// // For the processes that reach it over the network, and for this one.
    /// let server = app::start(config::Config::default(), std::future::pending()).await?;
    /// let home = Home::in_process(server.in_process());
    /// let (writer, _its_events) = connect(Config::with_homes([home.clone()]));
    /// let (reader, mut events) = connect(Config::with_homes([home]));
    ///
    /// let _token = reader.subscribe_from(&shard, 17);
    /// writer.push_diff(&shard, 18, Bytes::from_static(b"what was committed"));
    /// while let Some(event) = events.next().await {
    ///     if let Event::Diff { seqno, diff, .. } = event {
    ///         assert_eq!((seqno, &diff[..]), (18, &b"what was committed"[..]));
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        self.doorkeeper.door().clone()
    }

    /// Raises the fence of an environment, as the operators' `SetFence` does: for
    /// a host that knows when a generation is done. Returns the fence's epoch.
    /// When it returns, nothing that a session of a generation below publishes
    /// here is accepted any more. Sessions of unknown generation stay. Writes the
    /// state file, if there is one: blocks for that long.
    ///
    /// With a backplane, the other replicas are told meanwhile, and whoever
    /// cannot be reached is when it can be: [`Server::fence_on_all`] says who
    /// holds it.
    ///
    /// # Errors
    /// See [`FenceError`]; nothing has changed then.
    pub fn fence(&self, environment: &str, generation: u64) -> Result<u64, FenceError> {
        let order = Order {
            generation,
            unknown_v0: false,
            force_was: None,
        };
        let shared = &self.shared;
        let raised = shared.fences.set(environment, order, &shared.census)?;
        if self.agreement.has_others() {
            let (agreement, environment) = (Arc::clone(&self.agreement), environment.to_owned());
            self.runtime
                .spawn(async move { agreement.spread(&environment, raised).await });
        }
        Ok(raised.token.epoch)
    }

    /// As [`Server::fence`], on all replicas: waits until each has confirmed that
    /// it holds the fence, for a few seconds at most. Has to be called within a
    /// tokio runtime. Dropped early, the fence is raised all the same.
    ///
    /// # Errors
    /// See [`FenceError`]; nothing has changed then.
    pub async fn fence_on_all(
        &self,
        environment: &str,
        generation: u64,
    ) -> Result<Fenced, FenceError> {
        let order = Order {
            generation,
            unknown_v0: false,
            force_was: None,
        };
        let (agreement, of) = (Arc::clone(&self.agreement), environment.to_owned());
        let set = self
            .runtime
            .spawn(async move { agreement.set(&of, order).await });
        let agreed = match set.await {
            Ok(set) => set?,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The server's runtime ends: nothing is served any more.
            Err(_) => std::future::pending().await,
        };
        let token = agreed.raised.token;
        let unconfirmed = agreed.holders.iter().filter(|h| !h.confirms(token));
        Ok(Fenced {
            epoch: token.epoch,
            unconfirmed: unconfirmed.map(|h| h.peer.name.clone()).collect(),
        })
    }

    /// Waits until the shutdown that was given to [`start`] has come, or an
    /// operator's call to drain, and the drain is over: at most `drain_timeout` and about a second after it.
    pub async fn wait(mut self) -> DrainOutcome {
        // Fails only if the task panicked; then nothing runs any more.
        (&mut self.main)
            .await
            .unwrap_or(DrainOutcome::DeadlinePassed(0))
    }
}

/// Starts a server on TCP: binds first, so that the addresses are known, then
/// serves until `shutdown` completes, then drains. Has to be called within a
/// tokio runtime, with time and I/O enabled: the server lives in it. Clients
/// in the same process need no network: [`Server::in_process`].
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
    let plaintext = match config.access.listen_plaintext {
        Some(address) => Some(bind("--listen-plaintext", address).await?),
        None => None,
    };
    let admin = bind("--admin-listen", config.admin_listen).await?;
    serve(config, data, plaintext, admin, Clock::system(), shutdown).await
}

/// As [`start`], with connections and the time of day from elsewhere:
/// the addresses of the config are not looked at, and there is one data port. For a
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
    serve(config, data, None, admin, clock, shutdown).await
}

async fn serve<D: Accept>(
    config: Config,
    data: D,
    plaintext: Option<D>,
    admin: impl Accept,
    clock: Clock,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Server, StartError> {
    let unknown = |e: io::Error| StartError::Internal(e.to_string());
    let data_addr = data.local_addr().map_err(unknown)?;
    let plaintext_addr = plaintext.as_ref().map(Accept::local_addr);
    let plaintext_addr = plaintext_addr.transpose().map_err(unknown)?;
    let admin_addr = admin.local_addr().map_err(unknown)?;

    let metrics = prometheus::Registry::new();
    let defect = |e: prometheus::Error| StartError::Internal(e.to_string());
    // The process's own: start, memory, CPU, file descriptors. Read at a scrape.
    #[cfg(target_os = "linux")]
    metrics
        .register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))
        .map_err(defect)?;
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
    let tls_metrics = TlsMetrics::new(&metrics).map_err(defect)?;
    let (doors, mut watched) = Doors::open(&config, data, plaintext, admin, &tls_metrics)?;
    let access_metrics = AccessMetrics::new(&metrics).map_err(defect)?;
    let (access, identities) = Access::new(
        config.access.tokens(),
        config.identity_limits(),
        access_metrics.clone(),
    )?;
    let access = Arc::new(access);
    watched.extend(identities.map(|contents| reload::Watched {
        what: Arc::new(Identities {
            access: Arc::clone(&access),
            census: Arc::clone(&shared.census),
        }),
        contents,
        reloaded: access_metrics.reloaded,
        failed: access_metrics.not_reloaded,
    }));
    if config.access.shows_tokens() {
        tracing::warn!(
            "tokens pass in the clear where a port has no TLS (--tls-cert, --admin-tls-cert)"
        );
    }
    let shared_by_all = Arc::clone(&shared);
    let drain = Drain::new();
    let instance_id = format!("{:016x}", fastrand::u64(..));
    let backplane = if config.backplane.is_wanted() {
        let owner = Owner {
            registry: Arc::clone(&registry),
            census: Arc::clone(&shared.census),
            drain: drain.clone(),
            instance: instance_id.clone(),
        };
        Some(Backplane::start(&config, owner, &metrics).await?)
    } else {
        None
    };
    let context = Arc::new(ServiceContext {
        shared: Arc::clone(&shared),
        access: Arc::clone(&access),
        drain: drain.clone(),
        limits: config.service_limits(),
        bad_messages: LogGate::new(BAD_MESSAGE_LINES, Duration::from_secs(60)),
        instance_id: instance_id.clone(),
        backplane: backplane.clone(),
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<V0Service>().await;
    health.set_serving::<V1Service>().await;
    // Stays so to the end: who is told to end a process that is not live
    // must not cut a drain short.
    let live = tonic_health::ServingStatus::Serving;
    health.set_service_status(LIVE, live).await;
    let routes = Routes::new(health_service.clone())
        .add_service(reflection(persist_pubsub_proto::FILE_DESCRIPTOR_SET)?)
        .add_service(V0Service::new(Arc::clone(&context)))
        .add_service(V1Service::new(Arc::clone(&context)));
    let listener_metrics = ListenerMetrics::new(&metrics).map_err(defect)?;
    let others = backplane
        .as_ref()
        .map(|b| Arc::new(Others::of(b)) as Arc<dyn Peers>);
    let fleet = Fleet::new(Peer::new(&config.replica_name(), &instance_id), others);
    let bucket = backplane.as_ref().map(|backplane| {
        Bucket::new(
            backplane.client().clone(),
            &config.backplane.backplane_prefix,
        )
    });
    let agreement = Agreement::new(Arc::clone(&shared), fleet.clone(), bucket);
    let board = Board::new(Facts {
        shared: Arc::clone(&shared),
        drain: drain.clone(),
        instance_id,
        started_at: clock.now(),
        started: Instant::now(),
        data_addr,
        v0_environment: config.v0_environment.clone(),
        fleet,
        backplane: backplane.clone(),
    });
    let sampling = Arc::clone(&board).run(Sources {
        sessions: shared.metrics.clone(),
        topics: topic_metrics,
        listener: listener_metrics.clone(),
    });
    let answering = Answering::new(
        board.facts().clone(),
        Arc::clone(&board),
        Arc::clone(&agreement),
    );
    let agreeing = agree(Arc::clone(&agreement), backplane.clone(), answering);
    let agreeing = AbortOnDrop(tokio::spawn(agreeing).abort_handle());
    if backplane.is_some() {
        // Whom the fence keeps out is not let in first. Not for long: what
        // cannot be had now is taken in when it can be.
        let _ = tokio::time::timeout(FENCES_WITHIN, agreement.caught_up()).await;
    }
    let admin_service = Admin {
        facts: board.facts().clone(),
        gather: Gather::new(board.facts().clone(), Arc::clone(&board)),
        agreement: Arc::clone(&agreement),
        scrape: ScrapeMetrics::new(&metrics).map_err(defect)?,
        metrics: metrics.clone(),
    };
    let admin_routes = admin::router(
        admin_service,
        access,
        health_service,
        reflection(persist_pubsub_proto::admin_v1::FILE_DESCRIPTOR_SET)?,
    );
    let admin_metrics = ListenerMetrics::admin(&metrics).map_err(defect)?;
    if let Some(path) = &config.addresses_file {
        write_addresses(path, data_addr, plaintext_addr, admin_addr).map_err(|source| {
            StartError::AddressesFile {
                path: path.clone(),
                source,
            }
        })?;
    }

    let mut serving = tokio::spawn(listener::serve(
        doors.data,
        doors.plaintext,
        routes,
        config.connection_limits(),
        listener_metrics,
        drain.clone(),
    ));
    let mut serving_admin = tokio::spawn(listener::serve(
        doors.admin,
        None,
        admin_routes,
        config.admin_connection_limits(),
        admin_metrics,
        drain.clone(),
    ));
    let background = vec![
        AbortOnDrop(serving.abort_handle()),
        AbortOnDrop(serving_admin.abort_handle()),
        AbortOnDrop(
            tokio::spawn(reload::watch(watched, config.access.reload_interval)).abort_handle(),
        ),
        AbortOnDrop(tokio::spawn(registry.age()).abort_handle()),
        agreeing,
        AbortOnDrop(tokio::spawn(sampling).abort_handle()),
        AbortOnDrop(tokio::spawn(unhealthy_when_leaving(drain.clone(), health)).abort_handle()),
    ];
    let (window, timeout) = (config.drain_window, config.drain_timeout);
    // A server that is dropped without a word takes its backplane with it.
    let leaving = backplane.as_ref().map(Arc::downgrade);
    let main = tokio::spawn(async move {
        let why = tokio::select! {
            () = shutdown => "shutdown",
            why = drain.asked() => why,
        };
        let deadline = Instant::now() + timeout;
        let outcome = drain.run(&shared.census, why, window, timeout).await;
        if let Some(backplane) = leaving.and_then(|backplane| backplane.upgrade()) {
            backplane.leave(deadline).await;
        }
        // The answer to whoever asked for the drain, too.
        let closed = async { tokio::join!(&mut serving, &mut serving_admin) };
        if tokio::time::timeout(CLOSING, closed).await.is_err() {
            // A peer that does not close its end.
            serving.abort();
            serving_admin.abort();
        }
        outcome
    });
    Ok(Server {
        data: data_addr,
        plaintext: plaintext_addr,
        admin: admin_addr,
        metrics,
        shared: shared_by_all,
        agreement,
        runtime: tokio::runtime::Handle::current(),
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

/// Keeps the fences as the other replicas have them, and answers these, until
/// it is dropped.
async fn agree(agreement: Arc<Agreement>, backplane: Option<Arc<Backplane>>, answering: Answering) {
    let answering = Arc::new(answering);
    if let Some(backplane) = backplane {
        fleet::serve(&backplane, &answering);
        agreement.run().await;
    }
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
fn write_addresses(
    path: &PathBuf,
    data: SocketAddr,
    plaintext: Option<SocketAddr>,
    admin: SocketAddr,
) -> io::Result<()> {
    let json = serde_json::json!({
        "listen": data.to_string(),
        "listen_plaintext": plaintext.map(|address| address.to_string()),
        "admin_listen": admin.to_string(),
        "pid": std::process::id(),
    });
    let mut draft = path.clone().into_os_string();
    draft.push(".new");
    std::fs::write(&draft, format!("{json}\n"))?;
    std::fs::rename(&draft, path)
}
