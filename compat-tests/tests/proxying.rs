//! The proxy does to a connection what it says, and nothing else.

use std::time::Duration;

use persist_pubsub_compat_tests::proxy::{CHUNK, CHUNKS, Cut, Passing, Proxy, Way};
use persist_pubsub_compat_tests::wait::within;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::{Failure, Verdict};

/// The two ends of a connection through a proxy.
struct Through {
    listener: TcpListener,
    proxy: Proxy,
    client: TcpStream,
    server: TcpStream,
}

impl Through {
    async fn connect() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(listener.local_addr()?).await?;
        let client = TcpStream::connect(proxy.address()).await?;
        let (server, _) = within("a connection", listener.accept()).await??;
        Ok(Self {
            listener,
            proxy,
            client,
            server,
        })
    }

    /// Both ways pass.
    async fn passes(&mut self) -> Verdict {
        say(&mut self.client, &mut self.server, b"to the server").await?;
        say(&mut self.server, &mut self.client, b"to the client").await
    }

    /// What is said now does not arrive: what is said on a connection that
    /// is whole, afterwards, overtakes it.
    async fn is_silent(&mut self, way: Way) -> Verdict {
        let (from, to) = match way {
            Way::ToServer => (&mut self.client, &mut self.server),
            Way::ToClient => (&mut self.server, &mut self.client),
        };
        from.write_all(b"lost").await?;
        let mut client = TcpStream::connect(self.proxy.address()).await?;
        let (mut server, _) = within("a connection", self.listener.accept()).await??;
        say(&mut client, &mut server, b"whole").await?;
        say(&mut server, &mut client, b"whole").await?;
        let nothing = to.try_read(&mut [0; 8]);
        assert!(
            nothing
                .as_ref()
                .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock),
            "{way:?}: {nothing:?}"
        );
        Ok(())
    }
}

async fn say(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Verdict {
    from.write_all(text).await?;
    let mut heard = vec![0; text.len()];
    within("what was said", to.read_exact(&mut heard)).await??;
    assert_eq!(heard, text);
    Ok(())
}

async fn end(of: &mut TcpStream) -> Result<std::io::Result<usize>, Failure> {
    Ok(within("the end", of.read(&mut [0; 8])).await?)
}

#[tokio::test]
async fn bytes_pass_late_or_one_at_a_time_and_whole() -> Verdict {
    let mut through = Through::connect().await?;
    through.passes().await?;
    let late = Duration::from_millis(100);
    through.proxy.pass(Way::ToServer, Passing::Late(late));
    let began = Instant::now();
    through.passes().await?;
    // Not a measurement: it cannot be sooner.
    assert!(began.elapsed() >= late);

    let trickling = Passing::Trickling(Duration::from_millis(1));
    through.proxy.pass(Way::ToServer, trickling);
    through.client.write_all(&[7; 20]).await?;
    let mut buffer = [0; 64];
    let (mut reads, mut total) = (0, 0);
    while total < 20 {
        let read = through.server.read(&mut buffer);
        total += within("bytes that trickle", read).await??;
        reads += 1;
    }
    assert!(reads > 1, "they came at once");
    through.proxy.pass_freely();
    through.passes().await
}

#[tokio::test]
async fn what_is_held_is_bounded_and_comes_afterwards() -> Verdict {
    let mut through = Through::connect().await?;
    through.proxy.pass(Way::ToServer, Passing::Held);
    // Until the sender feels it.
    let mut sent = 0;
    let chunk = [1; CHUNK];
    let pause = Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(pause, through.client.write(&chunk)).await {
        sent += written?;
    }
    assert!(sent >= CHUNKS * CHUNK, "{sent}");
    let nothing = through.server.try_read(&mut [0; 8]);
    assert!(nothing.is_err(), "{nothing:?}");
    through.proxy.pass_freely();
    let mut all = vec![0; sent];
    within("what was held", through.server.read_exact(&mut all)).await??;
    through.passes().await
}

#[tokio::test]
async fn each_cut_is_seen_as_what_it_is() -> Verdict {
    let mut through = Through::connect().await?;
    through.proxy.cut(Cut::Fin);
    assert_eq!(end(&mut through.client).await??, 0);
    assert_eq!(end(&mut through.server).await??, 0);

    let mut through = Through::connect().await?;
    through.proxy.cut(Cut::Reset);
    for side in [&mut through.client, &mut through.server] {
        let reset = end(side).await?;
        assert!(
            reset
                .as_ref()
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
            "{reset:?}"
        );
    }

    for way in [Way::ToServer, Way::ToClient] {
        let mut through = Through::connect().await?;
        through.proxy.cut(Cut::Silent(way));
        through.is_silent(way).await?;
        let (from, to) = match way {
            Way::ToServer => (&mut through.server, &mut through.client),
            Way::ToClient => (&mut through.client, &mut through.server),
        };
        say(from, to, b"the other way passes").await?;
        // Not even the end passes.
        to.shutdown().await?;
        through.is_silent_after_the_end(way).await?;
    }

    let mut through = Through::connect().await?;
    through.proxy.cut(Cut::SilentBoth);
    through.is_silent(Way::ToServer).await?;
    through.is_silent(Way::ToClient).await
}

impl Through {
    async fn is_silent_after_the_end(&mut self, way: Way) -> Verdict {
        let mut client = TcpStream::connect(self.proxy.address()).await?;
        let (mut server, _) = within("a connection", self.listener.accept()).await??;
        say(&mut client, &mut server, b"whole").await?;
        say(&mut server, &mut client, b"whole").await?;
        let to = match way {
            Way::ToServer => &self.server,
            Way::ToClient => &self.client,
        };
        let nothing = to.try_read(&mut [0; 8]);
        assert!(nothing.is_err(), "{way:?}: {nothing:?}");
        Ok(())
    }
}

#[tokio::test]
async fn new_connections_go_to_the_new_server_and_old_ones_stay() -> Verdict {
    let mut through = Through::connect().await?;
    let other = TcpListener::bind("127.0.0.1:0").await?;
    through.proxy.switch(other.local_addr()?);
    let mut client = TcpStream::connect(through.proxy.address()).await?;
    let (mut server, _) = within("the new server's connection", other.accept()).await??;
    say(&mut client, &mut server, b"new").await?;
    assert_eq!(through.proxy.accepted(), 2);
    // An end passes on, each way for itself.
    client.shutdown().await?;
    assert_eq!(end(&mut server).await??, 0);
    say(&mut server, &mut client, b"half open").await?;
    through.passes().await
}
