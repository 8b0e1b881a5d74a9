//! The subjects of the backplane; `backplane.proto` states them.

use async_nats::Subject;
use persist_pubsub_proto::ShardId;

/// What stands in the place of an environment, an instance or a shard when the
/// permissions are tried. No environment is called so: a byte that is not
/// spelled as it is has two digits behind its `=`.
pub(crate) const PROBE: &str = "=probe";

/// Makes subjects.
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    /// With the version.
    root: String,
    /// The replica's own name in subjects.
    instance: String,
}

/// What came to this replica alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToMe {
    Question,
    /// To the question of that number.
    Answer(u64),
}

impl Subjects {
    pub(crate) fn new(prefix: &str, instance: &str) -> Self {
        Self {
            root: format!("{prefix}.v1"),
            instance: instance.to_owned(),
        }
    }

    /// For publications on a shard.
    pub(crate) fn diff(&self, environment: &str, shard: ShardId) -> Subject {
        let (mut subject, text) = (String::with_capacity(128), shard.to_text());
        subject.push_str(&self.root);
        subject.push_str(".diff.");
        escape(&mut subject, environment);
        subject.push('.');
        text.iter().for_each(|&b| subject.push(char::from(b)));
        subject.into()
    }

    /// For digests of where an environment's shards stand.
    pub(crate) fn heads(&self, environment: &str) -> Subject {
        let mut subject = format!("{}.heads.", self.root);
        escape(&mut subject, environment);
        subject.into()
    }

    /// For questions to every replica.
    pub(crate) fn ask(&self) -> Subject {
        format!("{}.ask", self.root).into()
    }

    pub(crate) fn presence(&self) -> Subject {
        format!("{}.replica", self.root).into()
    }

    /// Where nobody listens.
    pub(crate) fn nowhere(&self) -> Subject {
        format!("{}.nowhere.{}", self.root, self.instance).into()
    }

    /// For questions to one replica. None: no instance is called so.
    pub(crate) fn ask_one(&self, instance: &str) -> Option<Subject> {
        let plain = !instance.is_empty() && instance.bytes().all(is_plain);
        plain.then(|| format!("{}.to.{instance}.ask", self.root).into())
    }

    /// Where answers to this replica's question `number` go.
    pub(crate) fn reply(&self, number: u64) -> Subject {
        format!("{}.to.{}.re.{number:x}", self.root, self.instance).into()
    }

    /// All that comes to this replica alone.
    pub(crate) fn to_me(&self) -> Subject {
        format!("{}.to.{}.>", self.root, self.instance).into()
    }

    /// What a subject of `to_me` is for.
    pub(crate) fn read_to_me(&self, subject: &str) -> Option<ToMe> {
        let rest = subject.strip_prefix(&self.root)?.strip_prefix(".to.")?;
        let rest = rest.strip_prefix(&self.instance)?;
        if rest == ".ask" {
            return Some(ToMe::Question);
        }
        let number = u64::from_str_radix(rest.strip_prefix(".re.")?, 16).ok()?;
        Some(ToMe::Answer(number))
    }

    /// One of each kind, which nobody uses.
    pub(crate) fn probes(&self) -> Vec<(&'static str, Subject)> {
        let probe = |kind: &str| Subject::from(format!("{}.{kind}", self.root));
        vec![
            ("diffs", probe(&format!("diff.{PROBE}.{PROBE}"))),
            ("digests", probe(&format!("heads.{PROBE}"))),
            ("questions", self.ask()),
            ("presence", self.presence()),
            ("answers", probe(&format!("to.{}.probe", self.instance))),
        ]
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Writes a name so that it is one word of a subject.
fn escape(subject: &mut String, name: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in name.bytes() {
        if is_plain(byte) {
            subject.push(char::from(byte));
        } else {
            subject.push('=');
            let digit = |at: u8| DIGITS.get(usize::from(at)).map_or('0', |&d| char::from(d));
            subject.push(digit(byte >> 4));
            subject.push(digit(byte & 15));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subjects_are_as_the_schema_states_them() {
        let subjects = Subjects::new("a.b", "00ff");
        let shard = ShardId::new([7; 16]);
        assert_eq!(
            subjects.diff("environment 1", shard).as_str(),
            format!("a.b.v1.diff.environment=201.{shard}")
        );
        assert_eq!(subjects.heads("x.y").as_str(), "a.b.v1.heads.x=2Ey");
        assert_eq!(subjects.reply(255).as_str(), "a.b.v1.to.00ff.re.ff");
        assert_eq!(subjects.ask_one("aa").unwrap().as_str(), "a.b.v1.to.aa.ask");
        assert_eq!(subjects.ask_one("a.>"), None);
        let read = |text: &str| subjects.read_to_me(text);
        assert_eq!(read("a.b.v1.to.00ff.re.ff"), Some(ToMe::Answer(255)));
        assert_eq!(read("a.b.v1.to.00ff.ask"), Some(ToMe::Question));
        assert_eq!(read("a.b.v1.to.00ff.re."), None);
        assert_eq!(read("a.b.v1.to.00ff1.ask"), None);
    }

    proptest! {
        #[test]
        fn names_are_words_of_their_own(a: String, b: String) {
            let word = |name: &str| { let mut w = String::new(); escape(&mut w, name); w };
            prop_assert!(word(&a).bytes().all(|b| is_plain(b) || b == b'='));
            prop_assert_eq!(word(&a) == word(&b), a == b);
            prop_assert_ne!(word(&a), PROBE);
        }
    }
}
