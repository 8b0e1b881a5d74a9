//! One arrangement at work: a store, whatever carries the notifications, and
//! the processes of two generations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::consensus::{Consensus, Row};
use super::content::{Content, Digest};
use super::member::{Left, Member, Seen};
use super::process::{Who, Wire};
use super::service::{Arrangement, Carrier};
use super::shards::{self, Number, Role};
use super::{Failure, now};

/// How often a process writes each of its shards: so it was recorded.
pub const PACE: Duration = Duration::from_millis(60);

/// A generation's process.
pub type Place = (u64, Role);

/// Everybody who is there.
#[derive(Debug)]
pub struct World {
    /// What it is.
    pub arrangement: Arrangement,
    /// What carries the notifications.
    pub carrier: Carrier,
    store_url: String,
    store: Consensus,
    members: BTreeMap<Place, Member>,
    left: Vec<Left>,
}

/// What an arrangement left.
#[derive(Debug)]
pub struct Remains {
    /// Its processes.
    pub left: Vec<Left>,
    /// What is in the store: each shard's diffs.
    pub log: BTreeMap<Number, Vec<Row>>,
}

impl World {
    /// One with nobody in it, and every shard created.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn start(
        arrangement: Arrangement,
        carrier: Carrier,
        store_url: String,
    ) -> Result<Self, Failure> {
        let store = Consensus::connect(&store_url).await?;
        for shard in shards::all() {
            let content = Content {
                generation: 1,
                fence: 0,
                after: Digest::default(),
            };
            store.compare_and_set(shard, 0, content.encode()).await?;
        }
        Ok(Self {
            arrangement,
            carrier,
            store_url,
            store,
            members: BTreeMap::new(),
            left: Vec::new(),
        })
    }

    /// Starts both processes of a generation, and waits until they are
    /// connected. Generation 1 speaks v0, generation 2 v1 where there is a
    /// server for it.
    ///
    /// # Errors
    /// They do not.
    pub async fn arrive(&mut self, generation: u64) -> Result<(), Failure> {
        let wire = match (generation, self.arrangement) {
            (2, Arrangement::Service) => Wire::V1,
            _ => Wire::V0,
        };
        for role in [Role::Environmentd, Role::Clusterd] {
            let name = format!("gen{generation}-{}", role.name());
            let who = self.who(&name, generation, role, wire);
            self.members.insert((generation, role), Member::start(who)?);
        }
        self.connected().await
    }

    /// Who a process is to be.
    #[must_use]
    pub fn who(&self, name: &str, generation: u64, role: Role, wire: Wire) -> Who {
        Who {
            name: name.to_owned(),
            generation,
            role,
            wire,
            pubsub: self.carrier.url((generation, role)),
            store: self.store_url.clone(),
            read_only: generation > 1,
        }
    }

    /// The processes of a generation, or of all.
    pub fn members(&mut self, generation: Option<u64>) -> impl Iterator<Item = &mut Member> {
        let of = move |place: &Place| generation.is_none_or(|generation| place.0 == generation);
        self.members
            .iter_mut()
            .filter(move |(place, _)| of(place))
            .map(|(_, member)| member)
    }

    /// A process, if it is there.
    pub fn member(&mut self, place: Place) -> Option<&mut Member> {
        self.members.get_mut(&place)
    }

    /// Both processes of a generation follow every shard.
    ///
    /// # Errors
    /// They do not.
    pub async fn follow(&mut self, generation: u64) -> Result<(), Failure> {
        for member in self.members(Some(generation)) {
            member.follow(0..=*shards::VIEWS.end()).await?;
        }
        Ok(())
    }

    /// Both processes of a generation write what their roles write.
    ///
    /// # Errors
    /// They do not.
    pub async fn write(&mut self, generation: u64, pace: Duration) -> Result<(), Failure> {
        for member in self.members(Some(generation)) {
            member.write(0..=*shards::VIEWS.end(), pace).await?;
        }
        Ok(())
    }

    /// Waits until everybody has a session, where there is something to have
    /// one with.
    ///
    /// # Errors
    /// Somebody has not.
    pub async fn connected(&mut self) -> Result<(), Failure> {
        self.everybody("to have a session", |seen| seen.session > 0)
            .await
    }

    /// Waits until everybody is as wanted, where there is something to have a
    /// session with.
    ///
    /// # Errors
    /// Somebody is not.
    pub async fn everybody(
        &mut self,
        what: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Result<(), Failure> {
        for member in self.members.values_mut() {
            if member.who().pubsub.is_some() {
                member.wait(what, &wanted).await?;
            }
        }
        Ok(())
    }

    /// Waits until everybody of a generation, or of all, has what is
    /// committed at this moment to the shards that they follow.
    ///
    /// # Errors
    /// Somebody has not.
    pub async fn caught_up(&mut self, generation: Option<u64>) -> Result<(), Failure> {
        let mut heads = BTreeMap::new();
        for shard in shards::all() {
            heads.insert(shard, self.store.head(shard).await?);
        }
        let head = |shard: &Number| heads.get(shard).copied().unwrap_or(0);
        // Who follows a shard has something of it: each has been created.
        let reached = |seen: &Seen| {
            let mut states = seen.states.iter();
            states.all(|(shard, state)| *state >= head(shard))
        };
        for member in self.members(generation) {
            member.wait("to have what is committed", reached).await?;
        }
        Ok(())
    }

    /// Somebody more: a process that is no part of a generation's pair.
    pub fn leave_behind(&mut self, left: Left) {
        self.left.push(left);
    }

    /// A process is told to end, if it is there.
    ///
    /// # Errors
    /// It does not end.
    pub async fn quit(&mut self, place: Place) -> Result<(), Failure> {
        if let Some(member) = self.members.remove(&place) {
            self.left.push(member.quit().await?);
        }
        Ok(())
    }

    /// Waits for a process that ends by itself: why it says it was fenced.
    ///
    /// # Errors
    /// It does not end, or is not there.
    pub async fn fenced(&mut self, place: Place) -> Result<String, Failure> {
        let mut member = self.members.remove(&place).ok_or("nobody is there")?;
        member
            .wait("to be fenced out", |seen| seen.fenced.is_some())
            .await?;
        let why = member.seen().fenced.unwrap_or_default();
        self.left.push(member.left().await?);
        Ok(why)
    }

    /// Nobody writes any more; everybody has to have all there is; then all
    /// end.
    ///
    /// # Errors
    /// Somebody does not.
    pub async fn end(mut self) -> Result<Remains, Failure> {
        for member in self.members.values_mut() {
            member
                .write(0..=*shards::VIEWS.end(), Duration::ZERO)
                .await?;
        }
        self.caught_up(None).await?;
        let places: Vec<_> = self.members.keys().copied().collect();
        for place in places {
            self.quit(place).await?;
        }
        let mut log = BTreeMap::new();
        for shard in shards::all() {
            log.insert(shard, self.store.since(shard, 0).await?);
        }
        Ok(Remains {
            left: self.left,
            log,
        })
    }
}

/// A moment that is named.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When it began, nanoseconds since the Unix epoch.
    pub at: u64,
    /// What began.
    pub name: &'static str,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now(name: &'static str) -> Self {
        Self { at: now(), name }
    }
}
