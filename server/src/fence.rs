//! Which generations are let in: one fence per environment, which rises when
//! an upgrade is done.
//!
//! Who raises it sets the token first and looks through the census then; who
//! connects enters the census first and looks at the token then
//! ([`Session::introduce`]). So a session that comes at the moment of a fence
//! is ended by the one or by the other.

mod state_file;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::frame::Wire;
use crate::generation::Census;
use crate::logging::LogGate;
use crate::metrics::FenceMetrics;
use crate::session::{Profile, Session};
pub use state_file::BrokenState;
use state_file::StateFile;
pub(crate) use token::{Order, Token};

/// Environments that have a fence: each is a line of the state file, and is
/// kept for ever.
const MAX_FENCES: usize = 1000;
/// Bytes of an environment's name, as in a `Hello`.
pub(crate) const MAX_NAME: usize = 256;
/// One line a minute about all those who are refused: a process that was
/// fenced out may come back every few seconds, for days.
const KNOCKS: Duration = Duration::from_secs(60);

/// Why a fence was not set. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A name that no environment has.
    #[error("an environment's name has 1 to {MAX_NAME} bytes")]
    Name,
    /// No generation.
    #[error("generations begin at 1; to let everybody in again, force it to 0")]
    NoGeneration,
    /// A retry helps only with force.
    #[error(
        "a fence only rises: it stands at generation {stands} (epoch {epoch}), and {asked} was asked; to lower it, force it and name what it was"
    )]
    Lower {
        /// The generation that was asked for.
        asked: u64,
        /// The one that it stands at.
        stands: u64,
        /// Its epoch.
        epoch: u64,
    },
    /// The caller believes in a fence that is not there.
    #[error("the fence stands at generation {stands}, not at {named}")]
    NotThere {
        /// The generation that the caller named.
        named: u64,
        /// The one that it stands at.
        stands: u64,
    },
    /// There is no room for another environment's.
    #[error("{MAX_FENCES} environments have a fence, and more cannot")]
    TooMany,
    /// A retry can help.
    #[error("cannot write {path} (--state-file): {source}; the fence stands as before")]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A fence that stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raised {
    pub(crate) token: Token,
    /// It stood there already.
    pub(crate) changed: bool,
    /// Sessions that end.
    pub(crate) sessions: usize,
    /// With those that ended since it stands there.
    pub(crate) sessions_so_far: usize,
}

/// By environment.
type Tokens = BTreeMap<String, Token>;

/// All fences.
#[derive(Debug)]
pub(crate) struct Fences {
    /// Read at every `Hello`, for a look-up.
    tokens: Mutex<Tokens>,
    /// Held by who sets one, over the writing of the file: how many sessions
    /// each has ended since it stands where it stands.
    setting: Mutex<BTreeMap<String, usize>>,
    file: Option<StateFile>,
    /// There are some that the file has not: it could not be written.
    unsaved: AtomicBool,
    metrics: FenceMetrics,
    knocks: LogGate,
}

impl Fences {
    /// The fences of a state file, which is made if there is none; without one,
    /// none.
    pub(crate) fn open(file: Option<&Path>, metrics: FenceMetrics) -> Result<Self, BrokenState> {
        let (file, tokens) = match file {
            None => (None, BTreeMap::new()),
            Some(path) => {
                let (file, tokens) = StateFile::open(path)?;
                (Some(file), tokens)
            }
        };
        for (environment, token) in &tokens {
            tracing::info!(
                environment,
                generation = token.generation,
                epoch = token.epoch,
                unknown_v0 = token.unknown_v0,
                "a fence, as the state file has it"
            );
        }
        metrics.fences.set(crate::generation::count(tokens.len()));
        Ok(Self {
            tokens: Mutex::new(tokens),
            setting: Mutex::default(),
            file,
            unsaved: AtomicBool::new(false),
            metrics,
            knocks: LogGate::new(1, KNOCKS),
        })
    }

    fn setting(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.setting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an environment's fence stands. None: it was never set.
    pub(crate) fn get(&self, environment: &str) -> Option<Token> {
        self.tokens().get(environment).copied()
    }

    /// All that were ever set, by environment.
    pub(crate) fn all(&self) -> Vec<(String, Token)> {
        let tokens = self.tokens();
        tokens.iter().map(|(e, t)| (e.clone(), *t)).collect()
    }

    /// Whether a restarted server will know of them.
    pub(crate) fn survive(&self) -> bool {
        self.file.is_some()
    }

    /// What is counted of fences.
    pub(crate) fn metrics(&self) -> &FenceMetrics {
        &self.metrics
    }

    /// Refuses an environment that can have no fence here.
    pub(crate) fn may_hold(&self, environment: &str) -> Result<(), FenceError> {
        if environment.is_empty() || environment.len() > MAX_NAME {
            return Err(FenceError::Name);
        }
        let tokens = self.tokens();
        if tokens.len() >= MAX_FENCES && !tokens.contains_key(environment) {
            return Err(FenceError::TooMany);
        }
        Ok(())
    }

    /// The fence that keeps a session out.
    pub(crate) fn bars(
        &self,
        environment: &str,
        wire: Wire,
        generation: Option<u64>,
    ) -> Option<Token> {
        let token = self.get(environment)?;
        token.bars(wire, generation).then_some(token)
    }

    /// A session that came was refused.
    pub(crate) fn refused(&self, token: Token, session: &Session, profile: &Profile) {
        self.metrics.refused.inc();
        if let Some(unlogged) = self.knocks.admit(Instant::now()) {
            tracing::info!(
                wire = session.wire.as_str(),
                address = %session.address,
                caller = profile.caller_id,
                environment = profile.environment.name(),
                generation = profile.generation,
                fence = token.generation,
                epoch = token.epoch,
                unlogged,
                "refused: below the fence"
            );
        }
    }

    /// A session came while the fence was set, and has been ended by itself.
    pub(crate) fn caught(&self) {
        self.metrics.ended.inc();
    }

    /// Sets a fence. On the return it is in the state file, and nothing that a
    /// session below it publishes is accepted. Writes the file: blocks, unless
    /// there is none.
    pub(crate) fn set(
        &self,
        environment: &str,
        order: Order,
        census: &Census,
    ) -> Result<Raised, FenceError> {
        let mut ended = self.setting();
        self.may_hold(environment)?;
        let was = self.get(environment);
        let token = order.over(was.unwrap_or_default())?;
        if token != was.unwrap_or_default() {
            let tokens = self.with(environment, token);
            self.save(&tokens)?;
            self.replace(tokens);
        }
        let raised = self.raised(environment, was, token, census, &mut ended);
        if raised.changed && !self.survive() {
            tracing::warn!(
                environment,
                "the fence will not survive a restart of the server: there is no --state-file"
            );
        }
        Ok(raised)
    }

    /// Takes in a fence that stands elsewhere: from now on what it and the one
    /// that is held here come to stands here. It does also if the state file
    /// cannot be written: then that is logged, and tried again by `resave`. As
    /// `set` otherwise.
    pub(crate) fn adopt(
        &self,
        environment: &str,
        token: Token,
        census: &Census,
    ) -> Result<Raised, FenceError> {
        let mut ended = self.setting();
        self.may_hold(environment)?;
        let was = self.get(environment);
        let token = was.map_or(token, |was| was.join(token));
        if Some(token) != was {
            let tokens = self.with(environment, token);
            if let Err(error) = self.save(&tokens) {
                tracing::error!(environment, %error, "a fence stands, but not in the state file");
            }
            self.replace(tokens);
        }
        Ok(self.raised(environment, was, token, census, &mut ended))
    }

    /// What the fences become with one that is set.
    fn with(&self, environment: &str, token: Token) -> Tokens {
        let mut tokens = self.tokens().clone();
        tokens.insert(environment.to_owned(), token);
        tokens
    }

    fn save(&self, tokens: &Tokens) -> Result<(), FenceError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let written = file.write(tokens);
        self.unsaved.store(written.is_err(), Ordering::Relaxed);
        written.map_err(|source| FenceError::NotWritten {
            path: file.path().to_owned(),
            source,
        })
    }

    /// Whether the state file lacks a fence that stands.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Writes what could not be written before. Blocks.
    pub(crate) fn resave(&self) {
        let _alone = self.setting();
        let tokens = self.tokens().clone();
        // It was logged when it failed first.
        if self.is_unsaved() && self.save(&tokens).is_ok() {
            tracing::info!("the state file has all fences again");
        }
    }

    fn replace(&self, tokens: Tokens) {
        self.metrics
            .fences
            .set(crate::generation::count(tokens.len()));
        *self.tokens() = tokens;
    }

    /// The token stands: ends whom it keeps out. Also where nothing has
    /// changed: it costs a look, and helps one whose call was cut off.
    fn raised(
        &self,
        environment: &str,
        was: Option<Token>,
        token: Token,
        census: &Census,
        ended: &mut BTreeMap<String, usize>,
    ) -> Raised {
        let changed = token != was.unwrap_or_default();
        let below = census.all().into_iter().filter(|session| {
            session.profile().is_some_and(|profile| {
                profile.environment.name() == environment
                    && token.bars(session.wire, profile.generation)
                    && session.fence(token)
            })
        });
        let sessions = below.count();
        let so_far = ended.entry(environment.to_owned()).or_default();
        *so_far = sessions + if changed { 0 } else { *so_far };
        self.metrics.ended.inc_by(sessions as u64);
        tracing::info!(
            environment,
            generation = token.generation,
            epoch = token.epoch,
            unknown_v0 = token.unknown_v0,
            was = was.map_or(0, |was| was.generation),
            changed,
            sessions,
            "a fence was set"
        );
        Raised {
            token,
            changed,
            sessions,
            sessions_so_far: *so_far,
        }
    }
}

#[cfg(test)]
mod tests;
