//! Who gets in: certificates, tokens, and what each may take.

mod limits;
mod rotation;
mod tls;
mod tokens;

use persist_pubsub_compat_tests::certificates::Issued;
use persist_pubsub_compat_tests::child::{Child, Folder};
use persist_pubsub_compat_tests::entrant::Entrant;
use persist_pubsub_compat_tests::v0_peer::PeerError;
use persist_pubsub_compat_tests::v1_peer::{Peer, hello};
use persist_pubsub_proto::v1::Hello;
use tonic::Code;

use super::{Failure, Verdict};

/// How often the servers of these tests look at their files.
const QUICK: &str = "--reload-interval=20ms";

/// The flags of a port with a certificate; `prefix` is `""` or `"admin-"`.
fn tls_flags(prefix: &str, issued: &Issued) -> Vec<String> {
    let flag =
        |name: &str, file: &str| format!("--{prefix}tls-{name}={}", issued.file(file).display());
    vec![flag("cert", "tls.crt"), flag("key", "tls.key")]
}

fn refs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// The data port over TLS, and by a name that certificates can be for.
fn https(server: &Child) -> String {
    format!("https://localhost:{}", server.addresses().listen.port())
}

fn hello_of(environment: &str) -> Hello {
    Hello {
        environment_id: environment.to_owned(),
        ..hello("a peer")
    }
}

/// The status that a peer is turned away with: at once, or by the end of its
/// stream.
async fn turned_away(entrant: &Entrant, hello: Hello) -> Result<tonic::Status, Failure> {
    match Peer::connect_as(entrant, hello).await {
        Err(PeerError::Status(status)) => Ok(status),
        Err(other) => Err(other.into()),
        Ok(_) => Err("it got in".into()),
    }
}

/// A file of identities in a folder of its own.
struct Identities {
    folder: Folder,
}

impl Identities {
    fn new(text: &str) -> Result<Self, Failure> {
        let identities = Self {
            folder: Folder::new()?,
        };
        identities.write(text)?;
        Ok(identities)
    }

    /// Whole, or not at all.
    fn write(&self, text: &str) -> Verdict {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, self.folder.path().join("identities.toml"))?;
        Ok(())
    }

    fn flag(&self) -> String {
        let file = self.folder.path().join("identities.toml");
        format!("--tokens-file={}", file.display())
    }
}

/// What a peer hears last, where it is to be an error.
fn status(error: PeerError) -> Result<(Code, String), Failure> {
    match error {
        PeerError::Status(status) => Ok((status.code(), status.message().to_owned())),
        other => Err(other.into()),
    }
}
