//! What goes wrong at each step.

use std::time::Duration;

use super::crowd::Crowd;
use super::member::Member;
use super::process::Wire;
use super::service::Service;
use super::shards::{self, Role};
use super::walk::Walker;
use super::{Failure, now};
use crate::wait::until;

/// How long a network stays cut.
const CUT: Duration = Duration::from_secs(1);
/// How long it takes a crowd to move slowly.
pub const SLOWLY: Duration = Duration::from_secs(4);

/// A walk with something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Variant {
    /// Nothing does.
    Calm,
    /// The service is replaced by another at each step.
    Restart,
    /// The service is killed at each step.
    Kill,
    /// The network between generation 1 and the service is cut at each step.
    #[value(name = "cut-1")]
    Cut1,
    /// The network between generation 2 and the service is cut at each step.
    #[value(name = "cut-2")]
    Cut2,
    /// Processes of generation 1 linger through step 9, and are fenced out.
    Linger,
    /// 1,000 connections move at step 7, at once and slowly.
    Crowd,
    /// Generation 2 is rolled back at each step, and comes again.
    RollBack,
}

impl Variant {
    /// All with something that goes wrong.
    pub const DISTURBED: [Self; 7] = [
        Self::Restart,
        Self::Kill,
        Self::Cut1,
        Self::Cut2,
        Self::Linger,
        Self::Crowd,
        Self::RollBack,
    ];

    /// As the table shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "nothing goes wrong",
            Self::Restart => "the service is replaced at each step",
            Self::Kill => "the service is killed at each step",
            Self::Cut1 => "generation 1's network is cut at each step",
            Self::Cut2 => "generation 2's network is cut at each step",
            Self::Linger => "generation 1 lingers through step 9",
            Self::Crowd => "1,000 connections move",
            Self::RollBack => "generation 2 is rolled back at each step",
        }
    }
}

/// Lets go wrong what the plan has for a step, and waits until everybody is
/// back.
///
/// # Errors
/// They are not.
pub async fn disturb(walker: &mut Walker, step: usize) -> Result<(), Failure> {
    let began = now();
    let before: Vec<_> = walker
        .world
        .members(None)
        .map(|member| member.seen().sessions)
        .collect();
    let concerned = match walker.plan.variant {
        Variant::Calm | Variant::Linger => return Ok(()),
        Variant::Crowd if step != 7 => return Ok(()),
        Variant::RollBack if step > 7 => return Ok(()),
        Variant::Restart => service(walker)?.restart().await?,
        Variant::Kill => service(walker)?.kill().await?,
        Variant::Cut1 | Variant::Cut2 => {
            let generation = if walker.plan.variant == Variant::Cut1 {
                1
            } else {
                2
            };
            if walker.world.members(Some(generation)).count() == 0 {
                return Ok(());
            }
            let concerned = service(walker)?.cut(generation);
            tokio::time::sleep(CUT).await;
            service(walker)?.mend(generation);
            concerned
        }
        Variant::Crowd => return crowd(walker).await,
        Variant::RollBack => return roll_back(walker, step).await,
    };
    // Those who lost their session have another, and have caught up.
    for (member, before) in walker.world.members(None).zip(before) {
        let who = member.who();
        if concerned.contains(&(who.generation, who.role)) {
            let again = |seen: &super::member::Seen| seen.session > before;
            member.wait("to have a new session", again).await?;
        }
    }
    recovered(walker, began).await
}

async fn recovered(walker: &mut Walker, began: u64) -> Result<(), Failure> {
    walker.world.connected().await?;
    walker.world.caught_up(None).await?;
    walker.disturbed.push((began, now()));
    Ok(())
}

fn service(walker: &mut Walker) -> Result<&mut Service, Failure> {
    let service = walker.world.carrier.service();
    Ok(service.ok_or("nothing can go wrong with a service that there is not")?)
}

async fn crowd(walker: &mut Walker) -> Result<(), Failure> {
    let (one, two) = {
        let service = service(walker)?;
        let url = |generation| service.url((generation, Role::Environmentd));
        (url(1), url(2))
    };
    let began = now();
    let mut crowd = Crowd::start(&one).await?;
    walker.disturbed.push((began, now()));
    let at_once = crowd.move_to(&two, Duration::ZERO).await?;
    // This is what is measured: the crowd moves while everybody works.
    let slowly = crowd.move_to(&one, SLOWLY).await?;
    walker.notes.push(format!(
        "{} connections moved at once in {:.2} s, and slowly in {:.2} s",
        super::crowd::CONNECTIONS,
        at_once.as_secs_f64(),
        slowly.as_secs_f64(),
    ));
    crowd.end().await
}

async fn roll_back(walker: &mut Walker, step: usize) -> Result<(), Failure> {
    let began = now();
    for role in [Role::Environmentd, Role::Clusterd] {
        walker.world.quit((2, role)).await?;
    }
    // The old one is alone again, and works.
    tokio::time::sleep(walker.plan.step / 2).await;
    walker.world.caught_up(None).await?;
    walker.world.arrive(2).await?;
    if step >= 2 {
        walker.world.follow(2).await?;
    }
    if step >= 4 {
        walker.promote().await?;
    }
    recovered(walker, began).await
}

/// The catalog is upgraded, and whoever lingers of generation 1 ends.
///
/// # Errors
/// They do not.
pub async fn fence(walker: &mut Walker) -> Result<(), Failure> {
    if walker.plan.variant == Variant::Linger {
        return linger(walker).await;
    }
    if let Some(service) = walker.world.carrier.service() {
        service.fence(2).await?;
    }
    upgrade_catalog(walker).await
}

async fn upgrade_catalog(walker: &mut Walker) -> Result<(), Failure> {
    if let Some(member) = walker.world.member((2, Role::Environmentd)) {
        member.fence(2).await?;
    }
    Ok(())
}

/// Two processes of generation 1 are still there: one speaks v0, as it did all
/// along; the other, which comes late, v1. The service ends both sessions: the
/// second is told why and ends, the first knocks in vain, until it finds in
/// the catalog that it was fenced out.
async fn linger(walker: &mut Walker) -> Result<(), Failure> {
    let who = walker.world.who("gen1-late", 1, Role::Clusterd, Wire::V1);
    let mut late = Member::start(who)?;
    late.wait("to have a session", |seen| seen.session > 0)
        .await?;
    late.follow(0..=*shards::VIEWS.end()).await?;
    let said = service(walker)?.fence(2).await?;
    walker
        .notes
        .push(format!("fence --below=2: {}", said.trim()));
    late.wait("to be fenced out", |seen| seen.fenced.is_some())
        .await?;
    let why = late.seen().fenced.unwrap_or_default();
    walker.notes.push(format!("gen1-late ended: {why}"));
    walker.world.leave_behind(late.left().await?);
    // Two were ended; the third is the first one's next attempt.
    let server = service(walker)?;
    until("gen1-environmentd to be refused", async || {
        let fenced = server.fenced().await.ok()?;
        (fenced >= 3.0).then_some(())
    })
    .await?;
    upgrade_catalog(walker).await?;
    let why = walker.world.fenced((1, Role::Environmentd)).await?;
    walker.notes.push(format!("gen1-environmentd ended: {why}"));
    let (fenced, log) = {
        let server = service(walker)?;
        server.wait_gone(1).await?;
        (server.fenced().await?, server.log())
    };
    let lines: Vec<_> = log.lines().filter(|line| line.contains("fence")).collect();
    walker.notes.push(format!(
        "{fenced} sessions were fenced out, for which the service wrote {} lines:",
        lines.len()
    ));
    walker.notes.extend(lines.into_iter().map(str::to_owned));
    Ok(())
}
