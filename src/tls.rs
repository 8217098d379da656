//! Which authorities a client trusts for `https://`: the user's own certificates instead of the public authorities.
//!
//! The only file that knows whether the program was built with TLS, the check of URLs in `config` aside.

use std::path::Path;

use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use crate::error::{Error, Kind, Result};

/// The certificates that a server's must be signed by.
#[cfg(feature = "tls")]
pub struct Trust(ureq::tls::RootCerts);

#[cfg(feature = "tls")]
impl Trust {
    /// Reads a file in PEM.
    pub fn read(file: &Path) -> Result<Trust> {
        use ureq::tls::{PemItem, RootCerts, parse_pem};
        let failed = |why: String| {
            Error::new(
                Kind::Settings,
                format!("cannot use the certificates in {}: {why}", file.display()),
            )
        };
        let text = std::fs::read(file).map_err(|e| failed(crate::error::plain(&e)))?;
        let mut found = Vec::new();
        for item in parse_pem(&text) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| failed(e.to_string()))? {
                found.push(certificate);
            }
        }
        if found.is_empty() {
            Err(failed(
                "there is none in it (PEM has lines \"-----BEGIN CERTIFICATE-----\")".into(),
            ))
        } else {
            Ok(Trust(RootCerts::new_with_certs(&found)))
        }
    }

    pub fn apply(&self, config: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
        config.tls_config(
            ureq::tls::TlsConfig::builder()
                .root_certs(self.0.clone())
                .build(),
        )
    }
}

/// Nobody: there is no TLS in this build.
#[cfg(not(feature = "tls"))]
pub enum Trust {}

#[cfg(not(feature = "tls"))]
impl Trust {
    pub fn read(file: &Path) -> Result<Trust> {
        let file = file.display();
        Err(Error::new(
            Kind::Settings,
            format!("cannot use the certificates in {file}: this program was built without TLS"),
        ))
    }

    pub fn apply(&self, _: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
        match *self {}
    }
}

#[cfg(test)]
#[cfg(feature = "tls")]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_the_expected_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let check = |wants: &str| {
            assert!(
                Trust::read(&path)
                    .err()
                    .is_some_and(|e| e.to_string().contains(wants)),
                "{wants}"
            )
        };
        check("no such file");
        std::fs::write(&path, "hello").unwrap();
        check("there is none in it");
    }
}
