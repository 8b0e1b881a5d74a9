//! The fences in NATS: a key-value bucket of JetStream with a key for each
//! environment, changed by who knows its revision.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::kv::{Entry, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::{self, Context, Error as Refused, ErrorCode, stream};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::fence::{FenceError, MAX_NAME, Token};

/// How long JetStream may take to answer. One that is off says so at once; one
/// that is not permitted never answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Attempts to change a fence that others change at the same time.
const ATTEMPTS: u32 = 8;
/// Until the next attempt: the copy that is read may be a moment old.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes that the bucket may take: an account may demand a bound. Several times
/// what all fences with the longest names take.
const MAX_BYTES: i64 = 8 * 1024 * 1024;
/// Bytes of a value: of JSON with a few numbers and a name.
const MAX_VALUE: i32 = 4096;
/// Copies in a cluster that has so many servers. A single server has one.
const COPIES: usize = 3;

/// The bucket, whether it can be had or not.
#[derive(Debug)]
pub(crate) struct Bucket {
    context: Context,
    name: String,
    /// Or why it cannot be had, for people.
    store: Mutex<Result<Store, String>>,
}

/// Why a fence was not changed in the bucket.
#[derive(Debug)]
pub(super) enum NotKept {
    /// It may not be changed so, wherever it stands.
    Refused(FenceError),
    /// The bucket cannot be had, for people.
    Lost(String),
}

impl Bucket {
    pub(crate) fn new(client: async_nats::Client, prefix: &str) -> Self {
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_WITHIN);
        Self {
            context,
            name: format!("{}-fences", escape(prefix, b"-", '_')),
            store: Mutex::new(Err("JetStream was not asked yet".to_owned())),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The bucket, or why it cannot be had.
    pub(super) fn store(&self) -> Result<Store, String> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.clone()
    }

    /// From now on it can be had, or not. True: that is news.
    pub(super) fn put(&self, store: Result<Store, String>) -> bool {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match (&*held, &store) {
            (Ok(_), Ok(_)) => false,
            (Err(before), Err(after)) => before != after,
            _ => true,
        };
        *held = store;
        news
    }

    /// Looks for the bucket, and makes it if there is none.
    pub(super) async fn open(&self) -> Result<Store, String> {
        match self.context.get_key_value(&self.name).await {
            Ok(store) => return Ok(store),
            Err(error) if is_not_there(&error) => {}
            Err(error) => return Err(self.explain(&error)),
        }
        // What the library's own call for it adds, an old server does not answer
        // as the library expects.
        let mut config = stream::Config {
            name: format!("KV_{}", self.name),
            description: Some("Fences of persist-pubsub, by environment".to_owned()),
            subjects: vec![format!("$KV.{}.>", self.name)],
            max_messages_per_subject: 1,
            max_bytes: MAX_BYTES,
            max_message_size: MAX_VALUE,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: COPIES,
            ..stream::Config::default()
        };
        let made = match self.context.create_stream(config.clone()).await {
            Err(_) => {
                // A single server, or a small cluster, or one that is not whole.
                config.num_replicas = 1;
                self.context.create_stream(config).await
            }
            made => made,
        };
        // Another replica may have made it meanwhile.
        let store = self.context.get_key_value(&self.name).await;
        store.map_err(|error| match made {
            Err(why) => self.explain(&why),
            Ok(_) => self.explain(&error),
        })
    }

    /// Changes the fence of an environment to what `decide` makes of the one
    /// that stands there, unless that is the same: what stands there then.
    pub(super) async fn change(
        &self,
        environment: &str,
        decide: impl Fn(Option<Token>) -> Result<Token, FenceError> + Send,
    ) -> Result<Token, NotKept> {
        let store = self.store().map_err(NotKept::Lost)?;
        let key = key(environment);
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(PAUSE * attempt).await;
            let entry = store.entry(key.as_str()).await;
            let entry = entry.map_err(|e| NotKept::Lost(self.explain(&e)))?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let stands = entry.as_ref().and_then(token).map(|(_, token)| token);
            let wanted = decide(stands).map_err(NotKept::Refused)?;
            if stands == Some(wanted) {
                return Ok(wanted);
            }
            let value = Bytes::from(show(environment, wanted));
            match store.update(&key, value, revision).await {
                Ok(_) => return Ok(wanted),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(NotKept::Lost(self.explain(&error))),
            }
        }
        Err(NotKept::Lost(format!(
            "others changed it, each of {ATTEMPTS} times"
        )))
    }

    /// What an error of the NATS client means, for people.
    pub(super) fn explain(&self, error: &(dyn Error + 'static)) -> String {
        let name = &self.name;
        let text = error.to_string();
        match causes(error).find_map(refusal) {
            Some(refused) => match refused.kind() {
                ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT | ErrorCode::NO_ACCOUNT => {
                    "the NATS account has no JetStream".to_owned()
                }
                ErrorCode::JETSTREAM_NOT_ENABLED => "JetStream is off".to_owned(),
                ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED
                | ErrorCode::MAXIMUM_STREAMS_LIMIT => {
                    format!("JetStream has no room for the bucket {name}: {refused}")
                }
                _ => format!("JetStream refuses the bucket {name}: {refused}"),
            },
            None if text.contains("does not exist") || text.contains("unavailable") => {
                "JetStream is off".to_owned()
            }
            None if text.contains("timed out") => format!(
                "JetStream does not answer within {} s: it is busy, or the user has no permission for $JS.API.> and $KV.{name}.>",
                ANSWER_WITHIN.as_secs()
            ),
            None => format!("the bucket {name}: {text}"),
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn is_not_there(error: &(dyn Error + 'static)) -> bool {
    let refused = causes(error).find_map(refusal);
    refused.is_some_and(|e| e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// What JetStream answered. None: it is another error.
fn refusal(error: &(dyn Error + 'static)) -> Option<Refused> {
    if let Some(error) = error.downcast_ref::<GetStreamError>()
        && let GetStreamErrorKind::JetStream(refused) = error.kind()
    {
        return Some(refused);
    }
    if let Some(error) = error.downcast_ref::<CreateStreamError>()
        && let CreateStreamErrorKind::JetStream(refused) = error.kind()
    {
        return Some(refused);
    }
    error.downcast_ref::<Refused>().cloned()
}

/// Letters and digits, and `also`, stay; any other byte is a `mark` and two
/// hexadecimal digits.
fn escape(text: &str, also: &[u8], mark: char) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || also.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("{mark}{byte:02X}"));
        }
    }
    escaped
}

fn key(environment: &str) -> String {
    escape(environment, b"_-", '=')
}

fn show(environment: &str, token: Token) -> String {
    json!({
        "environment": environment,
        "generation": token.generation,
        "epoch": token.epoch,
        "unknown_v0": token.unknown_v0,
        "forced": token.forced,
    })
    .to_string()
}

/// The fence that an entry is. None: it was deleted, or is none.
pub(super) fn token(entry: &Entry) -> Option<(String, Token)> {
    if entry.operation != Operation::Put {
        return None;
    }
    let (environment, token) = parse(&entry.value)?;
    (key(&environment) == entry.key).then_some((environment, token))
}

fn parse(value: &[u8]) -> Option<(String, Token)> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let number = |field: &str| value.get(field).and_then(Value::as_u64);
    let environment = value.get("environment")?.as_str()?;
    let token = Token {
        generation: number("generation")?,
        epoch: number("epoch")?,
        unknown_v0: value.get("unknown_v0")?.as_bool()?,
        forced: number("forced")?,
    };
    (1..=MAX_NAME)
        .contains(&environment.len())
        .then(|| (environment.to_owned(), token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token {
        generation: 3,
        epoch: 7,
        unknown_v0: true,
        forced: 5,
    };

    #[test]
    fn what_is_kept_is_read() {
        for environment in ["default", "\"e\n", "environment-1_é.x"] {
            let value = show(environment, TOKEN);
            assert_eq!(
                parse(value.as_bytes()),
                Some((environment.to_owned(), TOKEN))
            );
        }
        let longest = "\u{1}".repeat(MAX_NAME);
        let largest = Token {
            generation: u64::MAX,
            epoch: u64::MAX,
            forced: u64::MAX,
            unknown_v0: false,
        };
        assert!(show(&longest, largest).len() < MAX_VALUE as usize);
    }

    #[test]
    fn what_is_no_fence_is_none() {
        let good = show("a", TOKEN);
        assert!(parse(good.as_bytes()).is_some());
        for bad in ["", "{}", "[]", "7", "\u{0}"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        for (part, other) in [
            ("\"a\"", "\"\""),
            (":7", ":-7"),
            (":7", ":7.5"),
            ("true", "1"),
            (":3", ":99999999999999999999999"),
        ] {
            let bad = good.replace(part, other);
            assert_ne!(bad, good);
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(&[0xff; 100]), None);
    }

    #[test]
    fn names_stay_apart() {
        assert_eq!(key("env-1_a"), "env-1_a");
        assert_eq!(key("env.1"), "env=2E1");
        assert_eq!(key("env=2E1"), "env=3D2E1");
        assert_eq!(key("é"), "=C3=A9");
        assert_eq!(escape("a.b_c-d", b"-", '_'), "a_2Eb_5Fc-d");
    }
}
