//! Which generations are let in: one fence per environment, which rises when
//! an upgrade is done.
//!
//! Who raises it sets the token first and looks through the census then; who
//! connects enters the census first and looks at the token then
//! ([`Session::introduce`]). So a session that comes at the moment of a fence
//! is ended by the one or by the other.

mod state_file;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
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

/// Environments that have a fence: each is a line of the state file, and is
/// kept for ever.
const MAX_FENCES: usize = 1000;
/// Bytes of an environment's name, as in a `Hello`.
const MAX_NAME: usize = 256;
/// One line a minute about all those who are refused: a process that was
/// fenced out may come back every few seconds, for days.
const KNOCKS: Duration = Duration::from_secs(60);

/// What an environment's fence stands at. Set and read as one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Token {
    /// The lowest generation that is let in. 0: all are.
    pub(crate) generation: u64,
    /// Counts the changes, and only rises.
    pub(crate) epoch: u64,
    /// v0 sessions of unknown generation are kept out, too. Those of v1 never
    /// are: operators' tools name none.
    pub(crate) unknown_v0: bool,
}

impl Token {
    /// Whether a session stays outside.
    pub(crate) fn bars(&self, wire: Wire, generation: Option<u64>) -> bool {
        match generation {
            Some(generation) => generation < self.generation,
            None => self.unknown_v0 && wire == Wire::V0,
        }
    }
}

/// What those who are fenced out are told.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fenced out by generation {} (epoch {} of the fence)",
            self.generation, self.epoch
        )
    }
}

/// Where somebody wants a fence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) generation: u64,
    pub(crate) unknown_v0: bool,
    /// Lower or not: where it stands now. None: it can only rise.
    pub(crate) force_was: Option<u64>,
}

impl Order {
    /// What the token becomes. The same if there is nothing to change.
    fn over(self, current: Token) -> Result<Token, FenceError> {
        let wanted = Token {
            generation: self.generation,
            epoch: current.epoch,
            unknown_v0: self.unknown_v0,
        };
        let wanted = match self.force_was {
            Some(was) if was != current.generation => {
                return Err(FenceError::NotThere {
                    named: was,
                    stands: current.generation,
                });
            }
            Some(_) => wanted,
            None if self.generation == 0 => return Err(FenceError::NoGeneration),
            None if self.generation < current.generation => {
                return Err(FenceError::Lower {
                    asked: self.generation,
                    stands: current.generation,
                    epoch: current.epoch,
                });
            }
            None => Token {
                unknown_v0: wanted.unknown_v0 || current.unknown_v0,
                ..wanted
            },
        };
        if wanted == current {
            return Ok(current);
        }
        Ok(Token {
            // One change a nanosecond would take it 500 years.
            epoch: current.epoch.saturating_add(1),
            ..wanted
        })
    }
}

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
}

/// All fences.
#[derive(Debug)]
pub(crate) struct Fences {
    /// Read at every `Hello`, for a look-up.
    tokens: Mutex<BTreeMap<String, Token>>,
    /// Held by who sets one, over the writing of the file.
    setting: Mutex<()>,
    file: Option<StateFile>,
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
            setting: Mutex::new(()),
            file,
            metrics,
            knocks: LogGate::new(1, KNOCKS),
        })
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<String, Token>> {
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
        if environment.is_empty() || environment.len() > MAX_NAME {
            return Err(FenceError::Name);
        }
        let _alone = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.get(environment);
        let token = order.over(current.unwrap_or_default())?;
        let changed = token != current.unwrap_or_default();
        if changed {
            self.change(environment, token)?;
        }
        // Also where nothing has changed: it costs a look, and helps one whose
        // call was cut off.
        let ended = census.all().into_iter().filter(|session| {
            session.profile().is_some_and(|profile| {
                profile.environment.name() == environment
                    && token.bars(session.wire, profile.generation)
                    && session.fence(token)
            })
        });
        let sessions = ended.count();
        self.metrics.ended.inc_by(sessions as u64);
        tracing::info!(
            environment,
            generation = token.generation,
            epoch = token.epoch,
            unknown_v0 = token.unknown_v0,
            was = current.map_or(0, |token| token.generation),
            changed,
            sessions,
            "a fence was set"
        );
        if changed && !self.survive() {
            tracing::warn!(
                environment,
                "the fence will not survive a restart of the server: there is no --state-file"
            );
        }
        Ok(Raised {
            token,
            changed,
            sessions,
        })
    }

    fn change(&self, environment: &str, token: Token) -> Result<(), FenceError> {
        let mut tokens = self.tokens().clone();
        tokens.insert(environment.to_owned(), token);
        if tokens.len() > MAX_FENCES {
            return Err(FenceError::TooMany);
        }
        if let Some(file) = &self.file {
            file.write(&tokens)
                .map_err(|source| FenceError::NotWritten {
                    path: file.path().to_owned(),
                    source,
                })?;
        }
        self.metrics
            .fences
            .set(crate::generation::count(tokens.len()));
        *self.tokens() = tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
