//! Who NATS lets in by credentials: an operator, an account and a user, each
//! vouched for by the one before, as `nsc` makes them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::conf::Conf;

/// The first line of every such token.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// An operator with one account, which nats-servers trust.
#[derive(Debug)]
pub struct Operator {
    token: String,
    account: KeyPair,
    account_token: String,
}

impl Operator {
    /// A new one.
    ///
    /// # Errors
    /// A key does not sign.
    pub fn new() -> Result<Self, nkeys::error::Error> {
        let operator = KeyPair::new_operator();
        let account = KeyPair::new_account();
        let of_operator = json!({ "type": "operator", "version": 2 });
        // -1: no limit.
        let all = json!({
            "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
            "data": -1, "payload": -1, "wildcards": true,
        });
        let of_account = json!({ "type": "account", "version": 2, "limits": all });
        Ok(Self {
            token: token(&operator, &operator.public_key(), "operator", &of_operator)?,
            account_token: token(&operator, &account.public_key(), "account", &of_account)?,
            account,
        })
    }

    /// A nats-server that trusts it.
    #[must_use]
    pub fn trusted_by(&self, conf: Conf) -> Conf {
        let account = self.account.public_key();
        conf.line(format!("operator: {}", self.token))
            .line("resolver: MEMORY")
            .line(format!(
                "resolver_preload: {{ {account}: {:?} }}",
                self.account_token
            ))
    }

    /// What a new user of the account shows: a credentials file.
    ///
    /// # Errors
    /// A key does not sign.
    pub fn credentials(&self) -> Result<String, nkeys::error::Error> {
        let user = KeyPair::new_user();
        let of_user = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {},
            "subs": -1, "data": -1, "payload": -1,
        });
        let token = token(&self.account, &user.public_key(), "user", &of_user)?;
        let seed = user.seed()?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

/// A token in which one vouches for another.
fn token(by: &KeyPair, of: &str, name: &str, nats: &Value) -> Result<String, nkeys::error::Error> {
    let claims = json!({
        "jti": name, "iat": 1_600_000_000, "iss": by.public_key(),
        "name": name, "sub": of, "nats": nats,
    });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(HEADER),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = by.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
