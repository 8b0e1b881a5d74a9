//! Of which generation a v0 process is: it cannot say so, but its caller id
//! may.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

/// Stands for the generation in a rule.
const PLACE: &str = "{generation}";

/// A rule of `--v0-generation`. Either `PATTERN=GENERATION`, or a pattern with
/// `{generation}` where the caller id has the number. `*` stands for anything.
///
/// ```
/// use persist_pubsub_server::config::V0Generation;
///
/// assert!("environmentd-old-*=1".parse::<V0Generation>().is_ok());
/// assert!("*-gen-{generation}-*".parse::<V0Generation>().is_ok());
/// assert!("environmentd".parse::<V0Generation>().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct V0Generation {
    text: String,
    pattern: Regex,
    /// None: the pattern has it.
    generation: Option<u64>,
}

/// A text that is no rule. A retry cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// Neither `=` and a generation, nor `{generation}`.
    #[error("expected PATTERN=GENERATION, or a PATTERN with {{generation}} in it")]
    NoGeneration,
    /// Both, or one of them twice.
    #[error("the generation stands in it twice: either PATTERN=GENERATION or {{generation}}")]
    Twice,
    /// What stands behind `=` is none.
    #[error("'{0}' is no generation: a whole number, 1 or higher")]
    Generation(String),
    /// A pattern without a character.
    #[error("the pattern is empty")]
    Empty,
    /// A pattern that is too large.
    #[error("the pattern cannot be used: {0}")]
    Pattern(String),
}

impl FromStr for V0Generation {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let (pattern, generation) = match (text.rsplit_once('='), text.matches(PLACE).count()) {
            (None, 0) => return Err(InvalidRule::NoGeneration),
            (None, 1) => (text, None),
            (Some((pattern, number)), 0) => {
                let generation = number.parse().ok().filter(|&g| g > 0);
                let generation =
                    generation.ok_or_else(|| InvalidRule::Generation(number.to_owned()))?;
                (pattern, Some(generation))
            }
            (_, _) => return Err(InvalidRule::Twice),
        };
        if pattern.is_empty() {
            return Err(InvalidRule::Empty);
        }
        // The first `*` takes as little as it can, so that no digit of the number
        // is left to it.
        let literal = |text: &str| regex::escape(text).replace(r"\*", ".*?");
        let pattern: Vec<_> = pattern.split(PLACE).map(literal).collect();
        let pattern = pattern.join("([0-9]+)");
        let pattern = Regex::new(&format!("^{pattern}$"));
        Ok(Self {
            text: text.to_owned(),
            pattern: pattern.map_err(|e| InvalidRule::Pattern(e.to_string()))?,
            generation,
        })
    }
}

impl fmt::Display for V0Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl V0Generation {
    /// The generation of the process of that caller id. None: the rule does not
    /// tell.
    fn of(&self, caller_id: &str) -> Option<u64> {
        let found = self.pattern.captures(caller_id)?;
        self.generation.or_else(|| {
            let number = found.get(1)?.as_str().parse().ok();
            number.filter(|&g| g > 0)
        })
    }
}

/// What the first rule that tells says. None: unknown.
pub(crate) fn of(rules: &[V0Generation], caller_id: &str) -> Option<u64> {
    rules.iter().find_map(|rule| rule.of(caller_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<V0Generation> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_rule_that_tells_decides() {
        let rules = rules(&["environmentd-old-*=1", "*-gen-{generation}-*", "env*=9"]);
        for (caller, generation) in [
            ("environmentd-old-0", Some(1)),
            ("environmentd-old", Some(9)),
            ("cluster-u1-replica-u2-gen-17-0", Some(17)),
            ("cluster-gen-0017-gen-18-x", Some(17)),
            ("environmentd-gen-0-0", Some(9)),
            ("cluster-gen-0-0", None),
            ("cluster-gen-99999999999999999999-0", None),
            ("an environmentd-old-0", None),
            ("", None),
        ] {
            assert_eq!(of(&rules, caller), generation, "{caller}");
        }
    }

    #[test]
    fn the_whole_number_is_taken() {
        for (rule, caller, generation) in [
            ("*{generation}", "env-3-12", Some(12)),
            ("*{generation}*", "env-12-3", Some(12)),
            ("env-{generation}*", "env-12-3", Some(12)),
            ("{generation}", "12", Some(12)),
            ("env.{generation}", "envx1", None),
        ] {
            assert_eq!(of(&rules(&[rule]), caller), generation, "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, error) in [
            ("", InvalidRule::NoGeneration),
            ("environmentd", InvalidRule::NoGeneration),
            ("env-{generation}=1", InvalidRule::Twice),
            ("{generation}{generation}", InvalidRule::Twice),
            ("env=", InvalidRule::Generation(String::new())),
            ("env=0", InvalidRule::Generation("0".to_owned())),
            ("env=one", InvalidRule::Generation("one".to_owned())),
            ("=1", InvalidRule::Empty),
        ] {
            assert_eq!(text.parse::<V0Generation>().unwrap_err(), error, "{text}");
        }
        // Nothing in it is more than its characters, but for the star.
        assert_eq!(of(&rules(&["(a|[=3"]), "(a|["), Some(3));
    }
}
