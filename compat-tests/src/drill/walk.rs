//! The nine steps of an upgrade, as `design/problem.md` has them, and what
//! the processes do in each.

use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use super::disturbance::{self, Variant};
use super::service::{Arrangement, Carrier};
use super::shards::{self, Role};
use super::world::{Moment, PACE, Remains, World};

/// The steps, as tables and charts name them.
pub const STEPS: [&str; 9] = [
    "it starts beside the old",
    "it boots, read-only",
    "it is ready",
    "it is promoted",
    "the old one still writes",
    "both serve, objects move",
    "routes move",
    "the old one is reaped",
    "the old one is fenced out",
];
/// Shards that move between clusters in step 6: some views.
const MOVING: std::ops::RangeInclusive<shards::Number> = 13..=14;
/// How much less a generation writes of what has moved on.
const SLOWER: u32 = 4;

/// How to walk.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What carries the notifications.
    pub arrangement: Arrangement,
    /// What goes wrong on the way.
    pub variant: Variant,
    /// How long a step lasts, at least.
    pub step: Duration,
    /// Further flags of the server.
    pub flags: Vec<String>,
    /// Servers that are replicas of each other.
    pub replicas: usize,
}

/// A walk that was walked.
#[derive(Debug)]
pub struct Walked {
    /// As it was planned.
    pub plan: Plan,
    /// When each step began.
    pub steps: Vec<Moment>,
    /// When the last one ended.
    pub ended: u64,
    /// What went wrong on purpose: from when to when everybody was back.
    pub disturbed: Vec<(u64, u64)>,
    /// When each server began to be the one that new connections come to.
    pub switched: Vec<u64>,
    /// What was seen on the way that belongs into the report.
    pub notes: Vec<String>,
    /// What it left.
    pub remains: Remains,
}

/// Somebody on the way.
pub struct Walker {
    /// Where.
    pub world: World,
    /// How.
    pub plan: Plan,
    /// As [`Walked::disturbed`].
    pub disturbed: Vec<(u64, u64)>,
    /// As [`Walked::notes`].
    pub notes: Vec<String>,
    steps: Vec<Moment>,
    /// When the step ends, if nothing takes longer.
    until: Instant,
}

/// Walks through all steps, in an empty store.
///
/// # Errors
/// It cannot go on.
pub async fn walk(plan: Plan, store_url: String) -> Result<Walked, Failure> {
    let proxied = plan.variant != Variant::Calm;
    let carrier = Carrier::start(plan.arrangement, &plan.flags, plan.replicas, proxied).await?;
    let mut world = World::start(plan.arrangement, carrier, store_url).await?;
    // The old generation is at work, and everything has been warm for a while.
    world.arrive(1).await?;
    world.follow(1).await?;
    world.write(1, PACE).await?;
    world.caught_up(None).await?;
    tokio::time::sleep(plan.step / 2).await;
    let mut walker = Walker {
        world,
        plan,
        disturbed: Vec::new(),
        notes: Vec::new(),
        steps: Vec::new(),
        until: Instant::now(),
    };
    for step in 1..=STEPS.len() {
        walker.begin(step);
        walker.take(step).await?;
        disturbance::disturb(&mut walker, step).await?;
        walker.rest().await?;
        walker.leave(step).await?;
    }
    let ended = super::now();
    let switched = walker.world.carrier.service();
    let switched = switched.map(|service| service.switched().to_vec());
    Ok(Walked {
        ended,
        plan: walker.plan,
        steps: walker.steps,
        disturbed: walker.disturbed,
        switched: switched.unwrap_or_default(),
        notes: walker.notes,
        remains: walker.world.end().await?,
    })
}

impl Walker {
    fn begin(&mut self, step: usize) {
        let name = STEPS.get(step - 1).copied().unwrap_or_default();
        self.steps.push(Moment::now(name));
        // From end to end, so that steps do not last longer for what they do.
        let now = Instant::now();
        let behind = now.saturating_duration_since(self.until);
        self.until = now - behind.min(self.plan.step / 2) + self.plan.step;
    }

    /// Lets the rest of the step pass; after a disturbance a whole one, which
    /// is measured.
    async fn rest(&mut self) -> Result<(), Failure> {
        if let Some((_, recovered)) = self.disturbed.last() {
            let began = self.steps.last().map_or(0, |step| step.at);
            if *recovered >= began {
                self.until = Instant::now() + self.plan.step;
            }
        }
        // A measurement takes its time.
        tokio::time::sleep_until(self.until).await;
        Ok(())
    }

    /// What the step begins with.
    async fn take(&mut self, step: usize) -> Result<(), Failure> {
        match step {
            1 => self.world.arrive(2).await,
            2 => self.world.follow(2).await,
            3 => self.world.caught_up(Some(2)).await,
            4 => self.promote().await,
            6 => self.objects_move().await,
            7 => self.routes_move().await,
            8 => self.world.quit((1, Role::Clusterd)).await,
            9 => disturbance::fence(self).await,
            _ => Ok(()),
        }
    }

    /// What it ends with.
    async fn leave(&mut self, step: usize) -> Result<(), Failure> {
        if step == 8 && self.plan.variant != Variant::Linger {
            self.world.quit((1, Role::Environmentd)).await?;
            // What an orchestrator waits for before it goes on.
            if let Some(service) = self.world.carrier.service() {
                service.wait_gone(1).await?;
            }
        }
        Ok(())
    }

    /// The new generation may write, and does.
    pub(super) async fn promote(&mut self) -> Result<(), Failure> {
        for member in self.world.members(Some(2)) {
            member.promote().await?;
        }
        self.world.connected().await?;
        self.world.write(2, PACE).await
    }

    /// Objects move from one cluster to another and back: each generation's
    /// `environmentd` gives them up and takes them again at once.
    async fn objects_move(&mut self) -> Result<(), Failure> {
        for shard in MOVING {
            for generation in [1, 2, 1, 2] {
                if let Some(member) = self.world.member((generation, Role::Environmentd)) {
                    member.leave(shard).await?;
                    member.follow(shard..=shard).await?;
                }
            }
        }
        Ok(())
    }

    /// What the old generation writes becomes less, shard by shard.
    async fn routes_move(&mut self) -> Result<(), Failure> {
        let shards: Vec<_> = shards::TABLES.chain(shards::VIEWS).collect();
        let pause = self.plan.step / u32::try_from(shards.len() * 2).unwrap_or(u32::MAX);
        for shard in shards {
            for member in self.world.members(Some(1)) {
                member.write(shard..=shard, PACE * SLOWER).await?;
            }
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}
