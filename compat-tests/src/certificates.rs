//! Authorities that live as long as a test, and what they issue.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::child::Folder;

/// An authority that a test trusts, or does not.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as files.
#[derive(Debug)]
pub struct Issued {
    folder: Folder,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The library refuses.
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
    /// It cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Authority {
    /// A new one. Two of the same name differ by their keys.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for names: URIs are those with `://`, addresses those
    /// that read as such, the rest DNS names. Valid until long after the test.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn issue(&self, names: &[&str]) -> Result<Issued, CertificateError> {
        self.issue_until(names, 2100)
    }

    /// The same, valid until the beginning of `year`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn issue_until(&self, names: &[&str], year: i32) -> Result<Issued, CertificateError> {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|n| n.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others)?;
        for uri in uris {
            let name = SanType::URI(uri.try_into()?);
            params.subject_alt_names.push(name);
        }
        // A name that must not count.
        params
            .distinguished_name
            .push(DnType::CommonName, "common-name");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let key = key.serialize_pem();
        let folder = Folder::new()?;
        fs::write(folder.path().join("tls.crt"), &certificate)?;
        fs::write(folder.path().join("tls.key"), &key)?;
        fs::write(folder.path().join("ca.crt"), self.pem())?;
        Ok(Issued {
            folder,
            certificate,
            key,
        })
    }
}

impl Issued {
    /// Where `tls.crt`, `tls.key` and the authority's `ca.crt` lie, as in a
    /// Secret that Kubernetes has mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One of these files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// A folder that points to another, and is led to a third in one step, as
/// Kubernetes updates what it has mounted.
#[derive(Debug)]
pub struct Mount {
    folder: Folder,
}

impl Mount {
    /// Leads to `target`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(target: &Path) -> io::Result<Self> {
        let mount = Self {
            folder: Folder::new()?,
        };
        mount.lead_to(target)?;
        Ok(mount)
    }

    /// Leads to another folder from now on.
    ///
    /// # Errors
    /// It cannot.
    pub fn lead_to(&self, target: &Path) -> io::Result<()> {
        let next = self.folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(target, &next)?;
        fs::rename(next, self.folder.path().join("..data"))
    }

    /// A file as it is seen through it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("..data").join(name)
    }
}
