//! How a session begins: in which wire version, and on what terms.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::dial::Line;
use super::gate::{Gate, LinkId, Terms};
use super::link::{Incoming, said};
use super::outgoing::Outgoing;
use super::v1::Welcome;
use super::wire::{Frame, Refusal};
use super::{v0, v1};
use crate::config::{Config, Mode, WirePreference};
use crate::event::{ServerInfo, Wire};
use crate::home::{Inside, Place};
use crate::interest::Bounds;
use crate::shared::Shared;

/// Who greets, and as what.
pub(super) struct Greeting<'a> {
    pub(super) config: &'a Config,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) link: LinkId,
    pub(super) mode: Mode,
}

/// A greeting that was answered.
pub(super) struct Greeted {
    pub(super) wire: Wire,
    pub(super) server: ServerInfo,
    pub(super) terms: Terms,
    pub(super) bounds: Bounds,
    pub(super) writing: Writing,
    pub(super) incoming: Incoming,
}

/// What the reading half has of the writing half.
pub(super) struct Writing {
    pub(super) gate: Arc<Gate>,
    /// Ends when the network lets go of it.
    pub(super) dropped: oneshot::Receiver<()>,
}

impl Greeting<'_> {
    /// Greets over the network, in the wire version that is to be spoken. Not
    /// bounded in time, like the others here.
    pub(super) async fn say(&self, name: &Place, line: &Line) -> Result<Greeted, Refusal> {
        match self.config.wire {
            WirePreference::V0 => self.say_v0(line).await,
            WirePreference::V1 => self.say_v1(line).await,
            WirePreference::Auto => match self.say_v1(line).await {
                Err(Refusal::Unimplemented(_)) => {
                    let greeted = self.say_v0(line).await?;
                    tracing::info!(
                        server = %name,
                        "the pubsub server does not have v1: speaking v0 to it"
                    );
                    Ok(greeted)
                }
                greeted => greeted,
            },
        }
    }

    /// v1, whose messages a server in this process takes as they are.
    pub(super) async fn say_in_process(&self, inside: &Inside) -> Result<Greeted, Refusal> {
        let (outgoing, writing) = self.half(Some(v1::hello(self.config, self.mode)), v1::encode);
        let opened = inside.0.open(Box::pin(outgoing));
        let mut responses = opened.map_err(Refusal::Failed)?;
        let welcome = loop {
            let message = said(&mut responses).await.transpose();
            if let Some(answer) = v1::welcomed(message.map_err(Refusal::Failed)?) {
                break answer?;
            }
        };
        let incoming = Incoming::InProcess(responses);
        Ok(Greeted::v1(welcome, writing, incoming))
    }

    async fn say_v1(&self, line: &Line) -> Result<Greeted, Refusal> {
        let (outgoing, writing) = self.half(Some(v1::hello(self.config, self.mode)), v1::encode);
        let (channel, authorization) = (line.channel.clone(), line.authorization.clone());
        let (incoming, welcome) = v1::open(channel, authorization, outgoing).await?;
        Ok(Greeted::v1(welcome, writing, Incoming::V1(incoming)))
    }

    async fn say_v0(&self, line: &Line) -> Result<Greeted, Refusal> {
        let (outgoing, writing) = self.half(None, v0::encode);
        let (channel, authorization) = (line.channel.clone(), line.authorization.clone());
        let caller = &self.config.client_name;
        let incoming = v0::open(channel, authorization, caller, outgoing).await?;
        Ok(Greeted {
            wire: Wire::V0,
            server: ServerInfo::default(),
            terms: v0::TERMS,
            bounds: v0::BOUNDS,
            writing,
            incoming: Incoming::V0(incoming),
        })
    }

    /// A writing half that begins with this.
    fn half<M>(
        &self,
        greeting: Option<M>,
        encode: fn(Frame, &Shared) -> Option<M>,
    ) -> (Outgoing<M>, Writing) {
        let gate = Arc::new(Gate::default());
        let (sender, dropped) = oneshot::channel();
        let outgoing = Outgoing::new(
            Arc::clone(self.shared),
            Arc::clone(&gate),
            self.link,
            greeting,
            encode,
            sender,
        );
        (outgoing, Writing { gate, dropped })
    }
}

impl Greeted {
    fn v1(welcome: Welcome, writing: Writing, incoming: Incoming) -> Self {
        Self {
            wire: Wire::V1,
            server: welcome.server,
            terms: welcome.terms,
            bounds: welcome.bounds,
            writing,
            incoming,
        }
    }
}
