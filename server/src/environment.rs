//! Environments never hear each other: each has shards of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// An environment that somebody is connected to, or has recent diffs in.
#[derive(Debug)]
pub(crate) struct Environment {
    name: Box<str>,
    id: u64,
    all: Weak<Environments>,
}

impl Environment {
    /// Its name, as clients give it.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Stands for the name in keys; never used again for another.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// The environments in use, each known as long as a session or a topic holds
/// it: a peer that makes names up costs no more than its sessions do.
#[derive(Debug, Default)]
pub(crate) struct Environments {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<Box<str>, Weak<Environment>>,
    last_id: u64,
}

impl Environments {
    /// The environment of that name.
    pub(crate) fn get(self: &Arc<Self>, name: &str) -> Arc<Environment> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.by_name.get(name).and_then(Weak::upgrade) {
            return known;
        }
        inner.last_id += 1;
        let environment = Arc::new(Environment {
            name: name.into(),
            id: inner.last_id,
            all: Arc::downgrade(self),
        });
        inner
            .by_name
            .insert(name.into(), Arc::downgrade(&environment));
        environment
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let Some(all) = self.all.upgrade() else {
            return;
        };
        let mut inner = all.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // Between the last holder's release and this lock, somebody may have
        // asked for the name and got a new environment: that one stays.
        if inner
            .by_name
            .get(&self.name)
            .is_some_and(|weak| weak.strong_count() == 0)
        {
            inner.by_name.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_known_while_it_is_used() {
        let all = Arc::new(Environments::default());
        let a = all.get("a");
        assert_eq!(all.get("a").id(), a.id());
        assert_ne!(all.get("b").id(), a.id());
        assert_eq!(all.inner.lock().unwrap().by_name.len(), 1, "b is forgotten");
        let id = a.id();
        drop(a);
        assert!(all.inner.lock().unwrap().by_name.is_empty());
        assert_ne!(all.get("a").id(), id);
    }
}
