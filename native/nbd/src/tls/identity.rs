//! The names in a certificate that was verified.

use rustls::crypto::ring::default_provider;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::Certificate;

use crate::tls::TlsError;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whom a certificate stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The distinguished name as RFC 4514 writes it: `CN=backup,O=Example`.
    pub subject: String,
    /// `subject:` and the distinguished name, `cn:` and each common name in it, `dns:`, `email:` and `uri:` and each
    /// alternative name of these kinds, `sha256:` and the certificate's digest in lower-case hexadecimal digits.
    pub names: Vec<String>,
}

impl Identity {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Result<Identity, TlsError> {
        let parsed = Certificate::from_der(certificate)?;
        let tbs = &parsed.tbs_certificate;
        let subject = tbs.subject.to_string();
        let mut names = vec![format!("subject:{subject}")];
        let attributes = tbs.subject.0.iter().flat_map(|part| part.0.iter());
        names.extend(attributes.filter(|attribute| attribute.oid == COMMON_NAME).filter_map(common_name));
        if let Some((_, alternatives)) = tbs.get::<SubjectAltName>()? {
            names.extend(alternatives.0.iter().filter_map(alternative_name));
        }
        names.push(format!("sha256:{}", sha256(certificate)?));
        Ok(Identity { subject, names })
    }
}

fn common_name(attribute: &AttributeTypeAndValue) -> Option<String> {
    let text = match attribute.value.tag() {
        Tag::Utf8String => attribute.value.decode_as::<Utf8StringRef<'_>>().ok()?.to_string(),
        Tag::PrintableString => attribute.value.decode_as::<PrintableStringRef<'_>>().ok()?.to_string(),
        _ => return None,
    };
    Some(format!("cn:{text}"))
}

fn alternative_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("dns:{name}")),
        GeneralName::Rfc822Name(name) => Some(format!("email:{name}")),
        GeneralName::UniformResourceIdentifier(name) => Some(format!("uri:{name}")),
        _ => None,
    }
}

fn sha256(certificate: &[u8]) -> Result<String, TlsError> {
    let suites = default_provider().cipher_suites;
    let sha256 = suites.iter().find(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let Some(rustls::SupportedCipherSuite::Tls13(suite)) = sha256 else {
        return Err(TlsError("there is no SHA-256".to_owned()));
    };
    let digest = suite.common.hash_provider.hash(certificate);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
