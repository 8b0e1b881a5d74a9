//! What carries the notifications of an arrangement.

use std::net::SocketAddr;

use super::Failure;
use super::shards::Role;
use super::world::Place;
use crate::broadcaster::{Broadcaster, QUEUE_OF_TODAY};
use crate::child::Child;
use crate::nats::Nats;
use crate::nats::conf::Conf;
use crate::operator::Operator;
use crate::proxy::{Cut, Proxy};
use crate::replicas::KNOWN;
use crate::wait::until;

/// Where processes connect from: each has a network of its own.
const PLACES: [Place; 4] = [
    (1, Role::Environmentd),
    (1, Role::Clusterd),
    (2, Role::Environmentd),
    (2, Role::Clusterd),
];

/// How two generations hear of each other's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrangement {
    /// They poll.
    None,
    /// Each has a plain server of its own: today's way.
    Own,
    /// Both use this service.
    Service,
}

impl Arrangement {
    /// All, the one to be judged last.
    pub const ALL: [Self; 3] = [Self::None, Self::Own, Self::Service];

    /// As tables show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no pubsub",
            Self::Own => "a plain server per generation",
            Self::Service => "persist-pubsub",
        }
    }
}

/// Whatever carries them.
#[derive(Debug)]
pub enum Carrier {
    /// Nothing does.
    None,
    /// A plain server for each generation.
    Own([Broadcaster; 2]),
    /// This service.
    Service(Box<Service>),
}

impl Carrier {
    /// Starts it; of this service, so many replicas. `proxied`: with a network
    /// between it and each process that can be cut.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        arrangement: Arrangement,
        flags: &[String],
        replicas: usize,
        proxied: bool,
    ) -> Result<Self, Failure> {
        Ok(match arrangement {
            Arrangement::None => Self::None,
            Arrangement::Own => Self::Own([
                Broadcaster::start(QUEUE_OF_TODAY).await?,
                Broadcaster::start(QUEUE_OF_TODAY).await?,
            ]),
            Arrangement::Service => {
                Self::Service(Box::new(Service::start(flags, replicas, proxied).await?))
            }
        })
    }

    /// Where a process connects to.
    #[must_use]
    pub fn url(&self, place: Place) -> Option<String> {
        match self {
            Self::None => None,
            Self::Own([one, two]) => Some(if place.0 == 1 { one } else { two }.url()),
            Self::Service(service) => Some(service.url(place)),
        }
    }

    /// This service, if it is that.
    pub fn service(&mut self) -> Option<&mut Service> {
        match self {
            Self::Service(service) => Some(service),
            _ => None,
        }
    }
}

/// This service: one server, or several replicas over NATS, and the networks
/// to it.
#[derive(Debug)]
pub struct Service {
    flags: Vec<String>,
    servers: Vec<Child>,
    /// Between replicas.
    _nats: Option<Nats>,
    /// Of each of [`PLACES`], the server that new connections come to.
    at: [usize; PLACES.len()],
    networks: Option<[Proxy; PLACES.len()]>,
    /// When a server began to be the one that new connections come to.
    switched: Vec<u64>,
    /// Servers that were replaced or killed.
    turn: usize,
}

impl Service {
    async fn start(flags: &[String], replicas: usize, proxied: bool) -> Result<Self, Failure> {
        // Whose a v0 session is.
        let rule = "--v0-generation=gen{generation}-*".to_owned();
        let mut flags = [&[rule], flags].concat();
        let nats = match replicas {
            ..=1 => None,
            _ => Some(Nats::start(&Conf::default()).await?),
        };
        flags.extend(
            nats.iter()
                .map(|nats| format!("--backplane={}", nats.url())),
        );
        let mut servers = Vec::new();
        for number in 0..replicas.max(1) {
            servers.push(server(&flags, number).await?);
        }
        let at = [0, 1, 2, 3].map(|place| place % servers.len());
        let to = at.map(|server| servers[server].addresses().listen);
        let networks = match proxied {
            true => Some([
                Proxy::start(to[0]).await?,
                Proxy::start(to[1]).await?,
                Proxy::start(to[2]).await?,
                Proxy::start(to[3]).await?,
            ]),
            false => None,
        };
        let service = Self {
            flags,
            servers,
            _nats: nats,
            at,
            networks,
            switched: vec![super::now()],
            turn: 0,
        };
        service.know(service.servers.len() - 1).await?;
        Ok(service)
    }

    /// Waits until each replica knows so many others.
    async fn know(&self, others: usize) -> Result<(), Failure> {
        for server in self.servers.iter().filter(|_| self.servers.len() > 1) {
            let operator = Operator::connect(server).await?;
            let known = until("replicas to know each other", async || {
                let known = operator.metric(KNOWN).await.ok()?;
                (known >= f64::from(u32::try_from(others).ok()?)).then_some(())
            });
            let known = known.await;
            known.map_err(|late| format!("{late}; a replica wrote:\n{}", server.log()))?;
        }
        Ok(())
    }

    /// Where a process connects to.
    #[must_use]
    pub fn url(&self, place: Place) -> String {
        let number = PLACES.iter().position(|it| *it == place).unwrap_or(0);
        match &self.networks {
            Some(networks) => networks[number].url(),
            None => self.servers[self.at[number]].url(),
        }
    }

    /// What its servers have written.
    #[must_use]
    pub fn log(&self) -> String {
        self.servers.iter().map(Child::log).collect()
    }

    /// When each server began to be the one that new connections come to.
    /// Replicas are one server: what one has the others have.
    #[must_use]
    pub fn switched(&self) -> &[u64] {
        &self.switched
    }

    /// The networks of some places lead to where their servers are, as of now.
    fn lead(&self, which: impl Fn(usize) -> bool) {
        for (number, network) in self.networks.iter().flatten().enumerate() {
            if which(number) {
                network.switch(self.servers[self.at[number]].addresses().listen);
            }
        }
    }

    /// Who comes to a server.
    fn at_server(&self, server: usize) -> Vec<Place> {
        let at = PLACES.iter().zip(self.at).filter(|(_, at)| *at == server);
        at.map(|(place, _)| *place).collect()
    }

    /// The server to which something happens next: somebody is there.
    fn next(&mut self) -> usize {
        self.turn += 1;
        self.at[(self.turn - 1) % PLACES.len()]
    }

    /// Another server takes the place of one, as in a roll-out: it serves
    /// before the old one is told to go. Who has to come to another.
    ///
    /// # Errors
    /// It does not start, or the old one does not end as it should.
    pub async fn restart(&mut self) -> Result<Vec<Place>, Failure> {
        let replaced = self.next();
        let new = server(&self.flags, replaced).await?;
        let mut old = std::mem::replace(&mut self.servers[replaced], new);
        self.know(self.servers.len()).await?;
        self.has_switched();
        self.lead(|it| self.at[it] == replaced);
        old.terminate().await?;
        let status = old.wait().await?;
        if !status.success() {
            return Err(format!("the old server ended with {status}:\n{}", old.log()).into());
        }
        Ok(self.at_server(replaced))
    }

    /// A server is killed, and then another one started. Who was there comes
    /// to the new one; or to another replica, where there are several.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kill(&mut self) -> Result<Vec<Place>, Failure> {
        let killed = self.next();
        let concerned = self.at_server(killed);
        self.servers[killed].signal("KILL").await?;
        self.servers[killed].wait().await?;
        let others = (0..self.servers.len()).filter(|it| *it != killed);
        if let Some(other) = others.min_by_key(|it| self.at_server(*it).len()) {
            let moves = |place: usize| concerned.contains(&PLACES[place]);
            (0..PLACES.len())
                .filter(|it| moves(*it))
                .for_each(|it| self.at[it] = other);
            self.lead(moves);
        }
        self.servers[killed] = server(&self.flags, killed).await?;
        self.know(self.servers.len() - 1).await?;
        self.has_switched();
        self.lead(|it| self.at[it] == killed);
        Ok(concerned)
    }

    fn has_switched(&mut self) {
        if self.servers.len() == 1 {
            self.switched.push(super::now());
        }
    }

    /// Asks what an orchestrator asks, by the command line: waits until nobody
    /// of a generation is connected any more.
    ///
    /// # Errors
    /// Somebody is.
    pub async fn wait_gone(&self, generation: u64) -> Result<(), Failure> {
        let gone = format!("--wait-gone={generation}");
        // A server that took another's place is believed at once: everybody
        // has been seen to be back.
        let command = ["generations", &gone, "--timeout=30s", "--settle=0s"];
        said(&self.any().ask(&command).await?)?;
        Ok(())
    }

    /// Whom an operator asks: any answers for all.
    fn any(&self) -> &Child {
        &self.servers[self.turn % self.servers.len()]
    }

    /// Fences out every generation below one, by the command line.
    ///
    /// # Errors
    /// It is refused.
    pub async fn fence(&self, below: u64) -> Result<String, Failure> {
        let below = format!("--below={below}");
        said(&self.any().ask(&["fence", &below]).await?)
    }

    /// Sessions below the fence that were ended or refused so far.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn fenced(&self) -> Result<f64, Failure> {
        let mut fenced = 0.0;
        for server in &self.servers {
            let operator = Operator::connect(server).await?;
            for outcome in ["ended", "refused"] {
                let series =
                    format!("persist_pubsub_fenced_sessions_total{{outcome=\"{outcome}\"}}");
                fenced += operator.metric(&series).await?;
            }
        }
        Ok(fenced)
    }

    /// The networks of a generation break, and lead nowhere until they are
    /// mended. Who has to come again.
    pub fn cut(&self, generation: u64) -> Vec<Place> {
        let networks = self.networks.iter().flatten().zip(PLACES);
        for (network, _) in networks.filter(|(_, place)| place.0 == generation) {
            // Nobody listens there: new connections close at once.
            network.switch(SocketAddr::from(([127, 0, 0, 1], 1)));
            network.cut(Cut::Reset);
        }
        PLACES.into_iter().filter(|it| it.0 == generation).collect()
    }

    /// They lead to their servers again.
    pub fn mend(&self, generation: u64) {
        self.lead(|place| PLACES[place].0 == generation);
    }
}

/// Starts a server; where there are several, by their numbers.
async fn server(flags: &[String], number: usize) -> Result<Child, Failure> {
    let name = format!("--replica-name=replica-{number}");
    Ok(Child::start(&[flags, &[name]].concat()).await?)
}

/// What a command printed, if it ended well.
fn said(output: &std::process::Output) -> Result<String, Failure> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {}", output.status, text(&output.stderr)).into())
    }
}
