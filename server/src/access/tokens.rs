//! The file of identities: TOML.
//!
//! No message quotes the file: what is wrong may be a token.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use toml::{Table as Toml, Value};

/// A token's characters, at least and at most: what is shorter can be guessed.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=4096;
/// Bytes of a name or an environment, at most: as of a `Hello`'s texts.
const MAX_TEXT: usize = 256;

/// SHA-256 of a token. Tokens are looked for by it, so that how long that
/// takes says nothing of how much of a token was right.
pub(super) type Digest = [u8; 32];

pub(super) fn digest(token: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, token);
    let mut bytes = Digest::default();
    // SHA-256 has as many.
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    bytes
}

/// What an identity may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Publish diffs.
    pub(crate) publish: bool,
    /// Subscribe to shards.
    pub(crate) subscribe: bool,
    /// Look into the server on the operators' port, at all environments.
    pub(crate) read: bool,
    /// Whatever the operators' port offers.
    pub(crate) admin: bool,
}

impl Rights {
    /// Of everybody, where there is no file of identities.
    pub(crate) const ALL: Self = Self {
        publish: true,
        subscribe: true,
        read: true,
        admin: true,
    };
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Arc<str>,
    /// The only one that it may speak of. None: it may neither publish nor
    /// subscribe.
    pub(crate) environment: Option<String>,
    pub(crate) rights: Rights,
}

/// Who is known, and by what. Holds no token.
#[derive(Default)]
pub(super) struct Table {
    pub(super) by_token: HashMap<Digest, Arc<Identity>>,
    pub(super) by_certificate: HashMap<String, Arc<Identity>>,
    pub(super) plaintext: Option<Arc<Identity>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("tokens", &self.by_token.len())
            .field("by_certificate", &self.by_certificate)
            .field("plaintext", &self.plaintext)
            .finish()
    }
}

impl Table {
    /// Reads the file. An error says which entry is wrong, and what is
    /// allowed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        let file: Toml = text.parse().map_err(|e: toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            format!("is not TOML at line {}", before.matches('\n').count() + 1)
        })?;
        only(&file, &["identity"]).map_err(|e| format!("{e} at its top"))?;
        let entries = match file.get("identity") {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            // Also what is left of a file that is being written.
            _ => return Err("has no [[identity]]".to_owned()),
        };
        let mut table = Self::default();
        let mut names = HashSet::new();
        for (at, entry) in entries.iter().enumerate() {
            let entry = entry.as_table().ok_or("has an identity that is no table")?;
            let place = || match entry.get("name").and_then(Value::as_str) {
                Some(name) if shown(name) => format!("identity '{name}'"),
                _ => format!("identity {}", at + 1),
            };
            let name = table
                .take(entry)
                .map_err(|what| format!("{}: {what}", place()))?;
            if !names.insert(name) {
                return Err(format!("{}: there is another of this name", place()));
            }
        }
        Ok(table)
    }

    /// Takes one entry in, and gives its name.
    fn take(&mut self, entry: &Toml) -> Result<Arc<str>, String> {
        only(
            entry,
            &[
                "name",
                "environment",
                "rights",
                "tokens",
                "certificates",
                "plaintext",
            ],
        )?;
        let name = text(entry, "name")?.ok_or("name is missing")?;
        let environment = text(entry, "environment")?;
        let rights = rights(entry)?;
        if environment.is_none() && (rights.publish || rights.subscribe) {
            return Err(
                "environment is missing: whoever publishes or subscribes does so in one".to_owned(),
            );
        }
        let plaintext = match entry.get("plaintext") {
            None => false,
            Some(Value::Boolean(plaintext)) => *plaintext,
            Some(_) => return Err("plaintext is true or false".to_owned()),
        };
        if plaintext && (rights.read || rights.admin) {
            return Err("plaintext goes with no right to read or admin".to_owned());
        }
        let tokens = list(entry, "tokens")?;
        let certificates = list(entry, "certificates")?;
        if tokens.is_empty() && certificates.is_empty() && !plaintext {
            return Err("has none of tokens, certificates and plaintext = true".to_owned());
        }
        let identity = Arc::new(Identity {
            name: name.into(),
            environment: environment.map(str::to_owned),
            rights,
        });
        for token in tokens {
            let plain = token.bytes().all(|b| b.is_ascii_graphic());
            if !TOKEN.contains(&token.len()) || !plain {
                return Err(format!(
                    "a token has {} to {} printable ASCII characters, and no space",
                    TOKEN.start(),
                    TOKEN.end()
                ));
            }
            let known = self
                .by_token
                .insert(digest(token.as_bytes()), Arc::clone(&identity));
            if known.is_some() {
                return Err("one of its tokens stands in the file twice".to_owned());
            }
        }
        for name in certificates {
            if !shown(name) {
                return Err(format!(
                    "a certificate's name has 1 to {MAX_TEXT} printable ASCII characters"
                ));
            }
            let known = self
                .by_certificate
                .insert(name.to_owned(), Arc::clone(&identity));
            if known.is_some() {
                return Err(format!("the certificate '{name}' stands in the file twice"));
            }
        }
        if plaintext && self.plaintext.replace(Arc::clone(&identity)).is_some() {
            return Err("another identity has plaintext = true".to_owned());
        }
        Ok(Arc::clone(&identity.name))
    }
}

fn shown(text: &str) -> bool {
    (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// A mistyped key would otherwise be a right that somebody lacks, or a token
/// that lives on.
fn only(table: &Toml, keys: &[&str]) -> Result<(), String> {
    if table.keys().all(|key| keys.contains(&key.as_str())) {
        return Ok(());
    }
    Err(format!("has a key that is none of {}", keys.join(", ")))
}

fn text<'a>(entry: &'a Toml, key: &str) -> Result<Option<&'a str>, String> {
    match entry.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if shown(text) => Ok(Some(text)),
        Some(_) => Err(format!(
            "{key} is a text of 1 to {MAX_TEXT} printable ASCII characters"
        )),
    }
}

fn list<'a>(entry: &'a Toml, key: &str) -> Result<Vec<&'a str>, String> {
    let texts = match entry.get(key) {
        None => Some(Vec::new()),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    texts.ok_or_else(|| format!("{key} is a list of texts"))
}

fn rights(entry: &Toml) -> Result<Rights, String> {
    let mut rights = Rights::default();
    for right in list(entry, "rights")? {
        match right {
            "publish" => rights.publish = true,
            "subscribe" => rights.subscribe = true,
            "read" => rights.read = true,
            "admin" => {
                rights.admin = true;
                rights.read = true;
            }
            _ => return Err("rights are publish, subscribe, read and admin".to_owned()),
        }
    }
    if rights == Rights::default() {
        return Err("rights is missing: a list of publish, subscribe, read and admin".to_owned());
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "swordfish-swordfish";

    const GOOD: &str = r#"
        [[identity]]
        name = "blue"
        environment = "blue-0"
        rights = ["publish", "subscribe"]
        tokens = ["swordfish-swordfish", "the-one-before-it"]
        certificates = ["spiffe://cluster/blue"]

        [[identity]]
        name = "deployed"
        environment = "default"
        rights = ["publish", "subscribe"]
        plaintext = true

        [[identity]]
        name = "on-call"
        rights = ["admin"]
        tokens = ["operator-operator"]
    "#;

    #[test]
    fn each_is_known_by_what_the_file_says() {
        let table = Table::parse(GOOD.as_bytes()).unwrap();
        let blue = &table.by_token[&digest(SECRET.as_bytes())];
        assert_eq!(blue.environment.as_deref(), Some("blue-0"));
        assert!(blue.rights.publish && !blue.rights.read);
        assert_eq!(&table.by_token[&digest(b"the-one-before-it")], blue);
        assert_eq!(&table.by_certificate["spiffe://cluster/blue"], blue);
        assert_eq!(&*table.plaintext.as_ref().unwrap().name, "deployed");
        let operator = &table.by_token[&digest(b"operator-operator")];
        assert!(operator.rights.read && operator.rights.admin && !operator.rights.publish);
        assert!(!format!("{table:?}").contains(SECRET));
    }

    #[test]
    fn what_is_wrong_is_named_and_never_quoted() {
        let changes = [
            ("[[identity]]", "[[identity", "line 2"),
            (
                "[[identity]]",
                "[[identities]]",
                "key that is none of identity",
            ),
            ("name = \"blue\"", "", "identity 1: name is missing"),
            (
                "name = \"on-call\"",
                "name = \"blue\"",
                "'blue': there is another",
            ),
            (
                "environment = \"blue-0\"",
                "",
                "'blue': environment is missing",
            ),
            (
                "environment = \"blue-0\"",
                "environment = 7",
                "environment is a text",
            ),
            (
                "[\"publish\", \"subscribe\"]",
                "[\"publihs\"]",
                "rights are publish",
            ),
            ("[\"publish\", \"subscribe\"]", "[]", "rights is missing"),
            ("tokens = [\"s", "token = [\"s", "key that is none of"),
            (
                "[\"swordfish-swordfish\", ",
                "\"swordfish-swordfish\" # ",
                "tokens is a list",
            ),
            ("swordfish-swordfish", "swordfish", "'blue': a token has 16"),
            ("swordfish-swordfish", "sword fish sword fish", "no space"),
            ("the-one-before-it", SECRET, "stands in the file twice"),
            (
                "operator-operator",
                SECRET,
                "'on-call': one of its tokens stands",
            ),
            (
                "[\"spiffe://cluster/blue\"]",
                "[7]",
                "certificates is a list",
            ),
            (
                "plaintext = true",
                "plaintext = 1",
                "plaintext is true or false",
            ),
            ("plaintext = true", "", "none of tokens"),
            (
                "rights = [\"admin\"]",
                "rights = [\"admin\"]\nplaintext = true",
                "no right to read",
            ),
        ];
        for (what, by, expected) in changes {
            let text = GOOD.replacen(what, by, 1);
            assert_ne!(text, GOOD, "{what}");
            let error = Table::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains("swordfish"), "{error}");
        }
        for empty in ["", "# later", "identity = []", "identity = 3"] {
            let error = Table::parse(empty.as_bytes()).unwrap_err();
            assert!(error.contains("[[identity]]"), "{empty}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panicking(bytes: Vec<u8>, cut in 0..GOOD.len()) {
            let _ = Table::parse(&bytes);
            let _ = Table::parse(&GOOD.as_bytes()[..cut]);
        }
    }
}
