//! Replicas as their operators see them, over real nats-servers: a fence is the
//! environment's, and any replica tells what all of them hold.

mod census;
mod fences;
mod keeping;

use persist_pubsub_compat_tests::command_line;
use persist_pubsub_compat_tests::replicas::{Replica, Replicas};
use persist_pubsub_compat_tests::v1_peer::{self, Peer, hello};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::v1::Hello;
use persist_pubsub_proto::v1::session_request::Message as Request;

use super::{Failure, Verdict};

fn of(generation: u64) -> Hello {
    Hello {
        deploy_generation: generation,
        ..hello("environmentd")
    }
}

/// A session of a generation at each replica.
async fn one_each(replicas: &Replicas, generation: u64) -> Result<Vec<Peer>, Failure> {
    let mut peers = Vec::new();
    for replica in replicas.all() {
        peers.push(Peer::connect_as(&replica.url(), of(generation)).await?);
    }
    Ok(peers)
}

/// Runs a subcommand against a replica: the exit code, and all that it printed.
async fn ask(replica: &Replica, command: &[&str]) -> Result<(Option<i32>, String), Failure> {
    let admin = replica.child().admin_url();
    let (name, rest) = command.split_first().ok_or("no command")?;
    let said = command_line::run(&[&[*name, "--admin", &admin], rest].concat()).await?;
    Ok((said.code, said.output + &said.error))
}

/// A session of a generation below the fence is told of it in the place of a
/// welcome.
async fn refuses(replica: &Replica, generation: u64) -> Verdict {
    let (sender, mut receiver) = v1_peer::open(&replica.url()).await?;
    sender.say(Request::Hello(of(generation))).await?;
    receiver.expect_fenced("to be refused").await?;
    Ok(())
}

/// Waits until a command ends with a code and says something.
async fn comes_to(
    replica: &Replica,
    command: &[&str],
    code: i32,
    words: &str,
) -> Result<String, Failure> {
    let mut last = String::new();
    let what = format!("{command:?} to say {words:?}");
    let came = until(&what, async || {
        let (exit, said) = ask(replica, command).await.ok()?;
        last = format!("{exit:?}: {said}");
        (exit == Some(code) && said.contains(words)).then_some(said)
    });
    let came = came.await;
    came.map_err(|late| late.but(&last).into())
}
