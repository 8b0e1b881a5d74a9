//! The consensus store, as a process sees it: each shard is a list of diffs
//! with consecutive seqnos from 1, and grows by compare-and-set alone.

use std::sync::Arc;

use bytes::Bytes;

use super::shards::Number;
use super::{Failure, embedded, postgres};

/// How a process reaches its store. A clone is the same connections.
#[derive(Clone, Debug)]
pub enum Consensus {
    /// The drill's own.
    Embedded(Arc<embedded::Client>),
    /// PostgreSQL.
    Postgres(Arc<postgres::Client>),
}

/// A diff and its seqno.
pub type Row = (u64, Bytes);

impl Consensus {
    /// Connects to a store: `tcp://ADDRESS` is the drill's own, anything else
    /// what PostgreSQL's clients take.
    ///
    /// # Errors
    /// There is none.
    pub async fn connect(url: &str) -> Result<Self, Failure> {
        Ok(match url.strip_prefix(embedded::SCHEME) {
            Some(address) => Self::Embedded(Arc::new(embedded::Client::connect(address).await?)),
            None => Self::Postgres(Arc::new(postgres::Client::connect(url).await?)),
        })
    }

    /// Appends a diff to a shard whose state is at `at`. Whether it was: if
    /// not, somebody else was faster.
    ///
    /// # Errors
    /// The store does not answer. Whether the diff was appended is not known.
    pub async fn compare_and_set(
        &self,
        shard: Number,
        at: u64,
        diff: Bytes,
    ) -> Result<bool, Failure> {
        match self {
            Self::Embedded(client) => client.compare_and_set(shard, at, diff).await,
            Self::Postgres(client) => client.compare_and_set(shard, at, &diff).await,
        }
    }

    /// The diffs of a shard above `at`, in order.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn since(&self, shard: Number, at: u64) -> Result<Vec<Row>, Failure> {
        match self {
            Self::Embedded(client) => client.since(shard, at).await,
            Self::Postgres(client) => client.since(shard, at).await,
        }
    }

    /// The seqno of a shard's newest diff; 0 if there is none.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn head(&self, shard: Number) -> Result<u64, Failure> {
        match self {
            Self::Embedded(client) => client.head(shard).await,
            Self::Postgres(client) => client.head(shard).await,
        }
    }
}

/// Whoever runs the store: it lives as long as this.
#[derive(Debug)]
pub enum Store {
    /// The drill's own.
    Embedded(embedded::Server),
    /// A PostgreSQL of the drill's own.
    Postgres(postgres::Server),
    /// Somebody else's.
    Elsewhere(String),
}

impl Store {
    /// Where processes connect to.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Embedded(server) => server.url(),
            Self::Postgres(server) => server.url(),
            Self::Elsewhere(url) => url.clone(),
        }
    }

    /// Empties it, for the next arrangement: whoever used it is gone.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn clear(&self) -> Result<(), Failure> {
        match self {
            Self::Embedded(server) => {
                server.clear();
                Ok(())
            }
            Self::Postgres(_) | Self::Elsewhere(_) => postgres::clear(&self.url()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every store has to do.
    async fn holds(store: &Store) -> Result<(), Failure> {
        store.clear().await?;
        let (one, other) = (
            Consensus::connect(&store.url()).await?,
            Consensus::connect(&store.url()).await?,
        );
        let diff = |text: &'static [u8]| Bytes::from_static(text);
        assert_eq!(one.head(3).await?, 0);
        assert!(one.compare_and_set(3, 0, diff(b"one")).await?);
        assert!(!other.compare_and_set(3, 0, diff(b"another")).await?);
        assert!(other.compare_and_set(3, 1, diff(b"two")).await?);
        assert_eq!(
            one.since(3, 0).await?,
            [(1, diff(b"one")), (2, diff(b"two"))]
        );
        assert_eq!(one.since(3, 1).await?, [(2, diff(b"two"))]);
        assert_eq!(one.since(4, 0).await?, []);
        assert_eq!((one.head(3).await?, one.head(4).await?), (2, 0));
        // Of many who append to the same state, one does.
        let racers = (0..16).map(|n: u8| {
            let store = if n.is_multiple_of(2) { &one } else { &other };
            let store = store.clone();
            tokio::spawn(async move { store.compare_and_set(3, 2, vec![n].into()).await })
        });
        let mut won = 0;
        for racer in racers.collect::<Vec<_>>() {
            won += u64::from(racer.await??);
        }
        assert_eq!((won, one.head(3).await?), (1, 3));
        store.clear().await?;
        assert_eq!(one.head(3).await?, 0);
        Ok(())
    }

    #[tokio::test]
    async fn the_embedded_store_compares_and_sets() -> Result<(), Failure> {
        holds(&Store::Embedded(embedded::Server::start().await?)).await
    }

    #[tokio::test]
    async fn postgresql_compares_and_sets() -> Result<(), Failure> {
        match postgres::Server::start().await {
            Ok(server) => holds(&Store::Postgres(server)).await,
            Err(postgres::StartError::Missing(why)) => {
                crate::tools::left_out("postgresql_compares_and_sets", &why);
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }
}
