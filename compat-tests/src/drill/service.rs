//! What carries the notifications of an arrangement.

use std::net::SocketAddr;

use super::Failure;
use crate::broadcaster::{Broadcaster, QUEUE_OF_TODAY};
use crate::child::Child;
use crate::operator::Operator;
use crate::proxy::{Cut, Proxy};

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
    /// Starts it. `proxied`: with a network between it and each generation
    /// that can be cut.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        arrangement: Arrangement,
        flags: &[String],
        proxied: bool,
    ) -> Result<Self, Failure> {
        Ok(match arrangement {
            Arrangement::None => Self::None,
            Arrangement::Own => Self::Own([
                Broadcaster::start(QUEUE_OF_TODAY).await?,
                Broadcaster::start(QUEUE_OF_TODAY).await?,
            ]),
            Arrangement::Service => Self::Service(Box::new(Service::start(flags, proxied).await?)),
        })
    }

    /// Where a generation connects to.
    #[must_use]
    pub fn url(&self, generation: u64) -> Option<String> {
        match self {
            Self::None => None,
            Self::Own([one, two]) => Some(if generation == 1 { one } else { two }.url()),
            Self::Service(service) => Some(service.url(generation)),
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

/// This service, and the networks to it.
#[derive(Debug)]
pub struct Service {
    flags: Vec<String>,
    server: Child,
    /// Generation 1's and generation 2's.
    networks: Option<[Proxy; 2]>,
    /// When a server began to be the one that new connections come to.
    switched: Vec<u64>,
}

impl Service {
    async fn start(flags: &[String], proxied: bool) -> Result<Self, Failure> {
        // Whose a v0 session is.
        let rule = "--v0-generation=gen{generation}-*".to_owned();
        let flags = [&[rule], flags].concat();
        let server = Child::start(&flags).await?;
        let to = server.addresses().listen;
        let networks = if proxied {
            Some([Proxy::start(to).await?, Proxy::start(to).await?])
        } else {
            None
        };
        Ok(Self {
            flags,
            server,
            networks,
            switched: vec![super::now()],
        })
    }

    /// Where a generation connects to.
    #[must_use]
    pub fn url(&self, generation: u64) -> String {
        self.network(generation)
            .map_or_else(|| self.server.url(), Proxy::url)
    }

    /// The server of the moment.
    #[must_use]
    pub fn server(&self) -> &Child {
        &self.server
    }

    /// When each server began to be the one that new connections come to.
    #[must_use]
    pub fn switched(&self) -> &[u64] {
        &self.switched
    }

    fn network(&self, generation: u64) -> Option<&Proxy> {
        let [one, two] = self.networks.as_ref()?;
        Some(if generation == 1 { one } else { two })
    }

    fn lead_to(&mut self, server: SocketAddr) {
        self.switched.push(super::now());
        for network in self.networks.iter().flatten() {
            network.switch(server);
        }
    }

    /// Another server takes the place of this one, as in a roll-out: it
    /// serves before the old one is told to go.
    ///
    /// # Errors
    /// It does not start, or the old one does not end as it should.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        let new = Child::start(&self.flags).await?;
        self.lead_to(new.addresses().listen);
        let mut old = std::mem::replace(&mut self.server, new);
        old.terminate().await?;
        let status = old.wait().await?;
        if !status.success() {
            return Err(format!("the old server ended with {status}:\n{}", old.log()).into());
        }
        Ok(())
    }

    /// The server is killed, and then another one started.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.server.signal("KILL").await?;
        self.server.wait().await?;
        let new = Child::start(&self.flags).await?;
        self.lead_to(new.addresses().listen);
        self.server = new;
        Ok(())
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
        said(&self.server.ask(&command).await?)?;
        Ok(())
    }

    /// Fences out every generation below one, by the command line.
    ///
    /// # Errors
    /// It is refused.
    pub async fn fence(&self, below: u64) -> Result<String, Failure> {
        let below = format!("--below={below}");
        said(&self.server.ask(&["fence", &below]).await?)
    }

    /// Sessions below the fence that were ended or refused so far.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn fenced(&self) -> Result<f64, Failure> {
        let operator = Operator::connect(&self.server).await?;
        let mut fenced = 0.0;
        for outcome in ["ended", "refused"] {
            let series = format!("persist_pubsub_fenced_sessions_total{{outcome=\"{outcome}\"}}");
            fenced += operator.metric(&series).await?;
        }
        Ok(fenced)
    }

    /// The network of a generation breaks, and leads nowhere until it is
    /// mended.
    pub fn cut(&self, generation: u64) {
        if let Some(network) = self.network(generation) {
            // Nobody listens there: new connections close at once.
            network.switch(SocketAddr::from(([127, 0, 0, 1], 1)));
            network.cut(Cut::Reset);
        }
    }

    /// It leads to the server again.
    pub fn mend(&self, generation: u64) {
        if let Some(network) = self.network(generation) {
            network.switch(self.server.addresses().listen);
        }
    }
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
