//! The ports with what each demands, and what of that is reloaded.

use std::sync::Arc;

use crate::access::Access;
use crate::config::{Config, InvalidConfig};
use crate::error::EndReason;
use crate::generation::Census;
use crate::listener::{Accept, Door, DoorTls};
use crate::metrics::TlsMetrics;
use crate::outbox::When;
use crate::reload::{Contents, File, Reload, Watched};
use crate::service::Port;
use crate::tls::{Tls, TlsFiles};

/// All ports.
pub(super) struct Doors<D, A> {
    pub(super) data: Door<D>,
    pub(super) plaintext: Option<Door<D>>,
    pub(super) admin: Door<A>,
}

impl<D, A> Doors<D, A>
where
    D: Accept,
    A: Accept,
{
    /// Reads the certificates. Gives them too, to be watched.
    pub(super) fn open(
        config: &Config,
        data: D,
        plaintext: Option<D>,
        admin: A,
        metrics: &TlsMetrics,
    ) -> Result<(Self, Vec<Watched>), InvalidConfig> {
        let mut watched = Vec::new();
        let mut tls = |files: Option<TlsFiles>, port: Port| {
            files
                .map(|files| {
                    let label = port.as_str();
                    let expiry = metrics.expiry.with_label_values(&[label]);
                    let (tls, contents) = Tls::new(files, expiry)?;
                    let reloads = |result| metrics.reloads.with_label_values(&[label, result]);
                    watched.push(Watched {
                        what: Arc::clone(&tls) as Arc<dyn Reload>,
                        contents,
                        reloaded: reloads("ok"),
                        failed: reloads("error"),
                    });
                    let errors = metrics.handshake_errors.with_label_values(&[label]);
                    Ok::<_, InvalidConfig>(DoorTls { tls, errors })
                })
                .transpose()
        };
        let doors = Self {
            data: Door {
                listener: data,
                port: Port::Data,
                tls: tls(config.access.tls()?, Port::Data)?,
            },
            plaintext: plaintext.map(|listener| Door {
                listener,
                port: Port::Plaintext,
                tls: None,
            }),
            admin: Door {
                listener: admin,
                port: Port::Admin,
                tls: tls(config.access.admin_tls()?, Port::Admin)?,
            },
        };
        Ok((doors, watched))
    }
}

/// The file of identities, and the sessions that live from it.
pub(super) struct Identities {
    pub(super) access: Arc<Access>,
    pub(super) census: Arc<Census>,
}

impl Reload for Identities {
    fn files(&self) -> Vec<File> {
        self.access.files()
    }

    /// Ends the sessions whose identity is gone, or is not what it was: they
    /// come back as what they are now.
    fn reload(&self, contents: &Contents) -> Result<(), InvalidConfig> {
        self.access.reload(contents)?;
        for session in self.census.all() {
            if !self.access.holds(&session.caller) {
                session.end(EndReason::IdentityGone, When::Answered);
            }
        }
        Ok(())
    }
}
