//! What goes wrong, and when.

use std::time::Duration;

use fastrand::Rng;
use persist_pubsub_compat_tests::proxy::{Cut, Passing, Way};
use tokio::time::Instant;

use crate::Failure;
use crate::verdict::Tally;
use crate::world::{World, start_server};

/// Between one fault and the next, milliseconds.
const PAUSE: std::ops::Range<u64> = 100..1_500;
/// How long a bad network stays so, milliseconds: some sessions survive it,
/// some do not.
const BAD: std::ops::Range<u64> = 200..6_000;
/// How long a server is away or stands still, milliseconds.
const AWAY: std::ops::Range<u64> = 0..5_000;

/// Chooses faults.
pub(crate) struct Faults {
    rng: Rng,
    /// The networks that are bad, and until when.
    bad: Vec<(Instant, usize)>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            bad: Vec::new(),
        }
    }

    /// Waits a little, then makes one fault happen. Those of the server last
    /// until this returns; networks stay bad behind it.
    pub(crate) async fn next(
        &mut self,
        world: &mut World,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        tokio::time::sleep(self.millis(PAUSE)).await;
        self.mend_those_due(world);
        move_a_shard(&mut self.rng, world);
        // Servers change less often than networks.
        match self.rng.u8(..24) {
            0 => self.kill(world, tally).await,
            1 => self.freeze(world, tally).await,
            2 => drain(world, tally).await,
            3..=6 => self.cut("cut with FIN", Cut::Fin, world, tally),
            7..=9 => self.cut("cut with RST", Cut::Reset, world, tally),
            10 => self.cut("silent both ways", Cut::SilentBoth, world, tally),
            11 => self.cut(
                "silent to the server",
                Cut::Silent(Way::ToServer),
                world,
                tally,
            ),
            12 => self.cut(
                "silent to the client",
                Cut::Silent(Way::ToClient),
                world,
                tally,
            ),
            13..=16 => self.worsen("stall", Passing::Held, world, tally),
            17..=19 => {
                let trickling = Passing::Trickling(Duration::ZERO);
                self.worsen("trickle", trickling, world, tally)
            }
            _ => {
                let late = Passing::Late(self.millis(1..300));
                self.worsen("delay", late, world, tally)
            }
        }
    }

    /// Every network is whole again.
    pub(crate) fn mend(&mut self, world: &World) {
        self.bad.clear();
        for proxy in &world.proxies {
            proxy.pass_freely();
        }
    }

    fn mend_those_due(&mut self, world: &World) {
        let now = Instant::now();
        self.bad.retain(|&(until, index)| {
            if let Some(proxy) = world.proxies.get(index).filter(|_| until <= now) {
                proxy.pass_freely();
            }
            until > now
        });
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    fn cut(
        &mut self,
        name: &'static str,
        cut: Cut,
        world: &World,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if let Some(proxy) = self.rng.choice(&world.proxies) {
            proxy.cut(cut);
            tally.fault(name);
        }
        Ok(())
    }

    fn worsen(
        &mut self,
        name: &'static str,
        passing: Passing,
        world: &World,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let index = self.rng.usize(..world.proxies.len());
        let ways: &[Way] = match self.rng.u8(..3) {
            0 => &[Way::ToServer],
            1 => &[Way::ToClient],
            _ => &[Way::ToServer, Way::ToClient],
        };
        if let Some(proxy) = world.proxies.get(index) {
            for &way in ways {
                proxy.pass(way, passing);
            }
            let until = Instant::now() + self.millis(BAD);
            self.bad.push((until, index));
            tally.fault(name);
        }
        Ok(())
    }

    async fn kill(&mut self, world: &mut World, tally: &mut Tally) -> Result<(), Failure> {
        world.server.signal("KILL").await?;
        world.server.wait().await?;
        tally.fault("kill -9");
        tokio::time::sleep(self.millis(AWAY)).await;
        let killed = world.switch(start_server().await?);
        tally.server_ended(&killed.log(), None);
        Ok(())
    }

    async fn freeze(&mut self, world: &World, tally: &mut Tally) -> Result<(), Failure> {
        world.server.signal("STOP").await?;
        tally.fault("SIGSTOP");
        tokio::time::sleep(self.millis(AWAY)).await;
        world.server.signal("CONT").await?;
        Ok(())
    }
}

/// The server is replaced as in an upgrade: the new one serves before the old
/// one is told to go.
async fn drain(world: &mut World, tally: &mut Tally) -> Result<(), Failure> {
    let mut old = world.switch(start_server().await?);
    old.terminate().await?;
    tally.fault("drain");
    let status = old.wait().await?;
    tally.server_ended(&old.log(), Some(status));
    Ok(())
}

/// An object moves between clusters: a process leaves a shard and, at once,
/// follows it again.
fn move_a_shard(rng: &mut Rng, world: &World) {
    if let (Some(process), Some(&shard)) = (rng.choice(&world.v1), rng.choice(&world.shards)) {
        process.leave(shard);
        process.follow(shard);
    }
}
