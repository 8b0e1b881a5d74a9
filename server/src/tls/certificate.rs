//! What a certificate says of itself.

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The names that it is for: DNS names and URIs (SPIFFE ids are such), as they
/// stand in it. None of one that cannot be read; the subject's common name is
/// none.
pub(crate) fn names(der: &[u8]) -> Vec<String> {
    let names = || -> Option<Vec<String>> {
        let certificate = Certificate::from_der(der).ok()?;
        let found = certificate
            .tbs_certificate()
            .get_extension::<SubjectAltName>()
            .ok()?;
        let (_, SubjectAltName(names)) = found?;
        let text = |name: &GeneralName| match name {
            GeneralName::DnsName(name) | GeneralName::UniformResourceIdentifier(name) => {
                Some(name.as_str().to_owned())
            }
            _ => None,
        };
        Some(names.iter().filter_map(text).collect())
    };
    names().unwrap_or_default()
}

/// When it expires, in seconds since the Unix epoch.
pub(super) fn expiry(der: &[u8]) -> Result<i64, String> {
    let certificate = Certificate::from_der(der).map_err(|e| e.to_string())?;
    let end = certificate.tbs_certificate().validity().not_after;
    Ok(i64::try_from(end.to_unix_duration().as_secs()).unwrap_or(i64::MAX))
}
