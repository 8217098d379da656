//! The certificates of the hub's port: its own, which joined machines pin and which is replaced with notice, and optionally
//! one of the operator's, for clients that trust authorities.
//!
//! `server::tls` encrypts connections; this file does not know which machines have joined.

use std::path::{Path, PathBuf};

use crate::config::HubSettings;
use crate::error::{Error, Kind, Result};

/// The hub's own certificate with its key, in the data directory.
#[cfg(feature = "tls")]
pub const FILE: &str = "tls.pem";
/// The next certificate.
#[cfg(feature = "tls")]
pub const NEXT_FILE: &str = "tls-next.pem";

/// The files of the operator's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorCertificate {
    cert: PathBuf,
    key: PathBuf,
}

impl OperatorCertificate {
    /// `None`: neither is set. One without the other is an error.
    pub fn of(settings: &HubSettings) -> Result<Option<OperatorCertificate>> {
        match (&settings.tls_cert, &settings.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(OperatorCertificate {
                cert: cert.clone(),
                key: key.clone(),
            })),
            _ => Err(Error::new(
                Kind::Settings,
                "cannot use the hub's certificate: tls_cert and tls_key need each other",
            )
            .hint("set both under [hub], or none")),
        }
    }
}

#[cfg(feature = "tls")]
mod real {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, SystemTime};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
    use rustls::sign::CertifiedKey;

    use super::{Error, FILE, Kind, NEXT_FILE, OperatorCertificate, Path, PathBuf, Result};
    use crate::error::plain;
    use crate::hub::bucket::shared_files::DataFileEdit;
    use crate::hub::server::tls::Acceptor;
    use crate::wire::files::Hash;
    use crate::wire::join;
    use crate::{clock, disk};

    /// Bytes of a certificate file or key file at most.
    const MAX_FILE_BYTES: usize = 256 * 1024;
    /// The time in which joined machines learn of the next certificate, before it is in force.
    pub const NOTICE: Duration = Duration::from_secs(30 * 86_400);
    const IN_FORCE_FROM: &str = "in force from ";

    /// The certificates that the port presents.
    #[derive(Debug)]
    pub struct Certificates {
        data_dir: PathBuf,
        loaded: Mutex<LoadedCertificate>,
    }

    #[derive(Debug)]
    struct LoadedCertificate {
        own: OwnCertificate,
        next: Option<PreparedCertificate>,
        given: Option<Arc<CertifiedKey>>,
    }

    #[derive(Debug)]
    struct OwnCertificate {
        shown: Arc<CertifiedKey>,
        fingerprint: Hash,
    }

    #[derive(Debug)]
    struct PreparedCertificate {
        fingerprint: Hash,
        from: SystemTime,
    }

    impl Certificates {
        /// Reads the certificates; makes the hub's own if it is missing.
        pub fn open(
            data_dir: &Path,
            given: Option<&OperatorCertificate>,
        ) -> Result<Arc<Certificates>> {
            make_if_missing(data_dir)?;
            let own = read_own(&data_dir.join(FILE))?;
            let given = given.map(read_given).transpose()?;
            let certificates = Certificates {
                data_dir: data_dir.into(),
                loaded: Mutex::new(LoadedCertificate {
                    own,
                    next: None,
                    given,
                }),
            };
            certificates.look_for_next();
            Ok(Arc::new(certificates))
        }

        /// The acceptor for connections with these certificates. It remembers nothing of closed connections.
        pub fn acceptor(self: &Arc<Certificates>) -> Result<Acceptor> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|e| Error::new(Kind::Failed, format!("cannot use TLS: {e}")))?;
            let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
            let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Acceptor(Arc::new(config)))
        }

        /// The fingerprint of the hub's own certificate in force.
        pub fn fingerprint(&self) -> Hash {
            self.look_for_next();
            self.loaded().own.fingerprint
        }

        /// The fingerprint of the next certificate, if there is one.
        pub fn next_fingerprint(&self) -> Option<Hash> {
            self.look_for_next();
            self.loaded().next.as_ref().map(|n| n.fingerprint)
        }

        /// SIGHUP: reads the operator's certificate again. A bad one changes nothing.
        pub fn reload(&self, given: Result<Option<OperatorCertificate>>) {
            let read = given.and_then(|given| given.as_ref().map(read_given).transpose());
            match read {
                Ok(given) => self.loaded().given = given,
                Err(e) => log::error!("cannot reload the certificate, keeping the old one: {e}"),
            }
        }

        fn loaded(&self) -> std::sync::MutexGuard<'_, LoadedCertificate> {
            self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Detects the next certificate, and puts it in force when it is time.
        fn look_for_next(&self) {
            let path = self.data_dir.join(NEXT_FILE);
            let mut loaded = self.loaded();
            if !path.exists() {
                loaded.next = None;
                return;
            }
            if loaded.next.is_none() {
                match read_next(&path) {
                    Ok(next) => loaded.next = Some(next),
                    Err(e) => return log::warn!("{e}"),
                }
            }
            if loaded.next.as_ref().is_none_or(|n| clock::now() < n.from) {
                return;
            }
            let own = read_own(&path).and_then(|own| {
                let file = DataFileEdit::begin(&self.data_dir, FILE)?;
                if file.is_shared() {
                    file.write(disk::read_secret(&path)?.as_bytes())?;
                    DataFileEdit::begin(&self.data_dir, NEXT_FILE)?.remove()?;
                } else {
                    disk::rename(&path, &self.data_dir.join(FILE))
                        .map_err(|e| Error::io(format!("rename {}", path.display()), &e))?;
                }
                Ok(own)
            });
            match own {
                Ok(own) => {
                    log::info!("new certificate in force fingerprint={}", own.fingerprint);
                    (loaded.own, loaded.next) = (own, None);
                }
                Err(e) => log::error!("{e}"),
            }
        }
    }

    impl ResolvesServerCert for Certificates {
        /// Joined machines ask for a special server name; all other clients get the operator's certificate.
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            self.look_for_next();
            let loaded = self.loaded();
            match &loaded.given {
                Some(given) if hello.server_name() != Some(join::SERVER_NAME) => {
                    Some(Arc::clone(given))
                }
                _ => Some(Arc::clone(&loaded.own.shown)),
            }
        }
    }

    /// Makes the hub's own certificate if it is missing.
    fn make_if_missing(data_dir: &Path) -> Result<()> {
        let path = data_dir.join(FILE);
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => make(&path, ""),
            // an unreadable file may exist
            _ => Ok(()),
        }
    }

    /// The fingerprint of the certificate in force, which is made if it is missing.
    pub fn own_fingerprint(data_dir: &Path) -> Result<Hash> {
        make_if_missing(data_dir)?;
        Ok(read_own(&data_dir.join(FILE))?.fingerprint)
    }

    /// Makes the next certificate; returns its fingerprint, and when it will be in force.
    pub fn renew(data_dir: &Path) -> Result<(Hash, SystemTime)> {
        make_if_missing(data_dir)?;
        let path = data_dir.join(NEXT_FILE);
        if path.exists() {
            let next = read_next(&path)?;
            let words = "cannot renew the certificate: the next one is there already";
            return Err(Error::new(Kind::Failed, words).hint(format!(
                "it will be in force from {}: let all joined machines log in before then",
                clock::local(next.from)
            )));
        }
        let from = clock::now() + NOTICE;
        make(&path, &format!("{IN_FORCE_FROM}{}\n", clock::rfc3339(from)))?;
        Ok((read_own(&path)?.fingerprint, from))
    }

    fn make(path: &Path, heading: &str) -> Result<()> {
        let failed = |e: rcgen::Error| {
            Error::new(
                Kind::Failed,
                format!("cannot make a certificate for {}: {e}", path.display()),
            )
        };
        let system = rustix::system::uname();
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1", join::SERVER_NAME]
            .map(String::from)
            .into();
        names.extend(crate::wire::check_host(
            &system.nodename().to_string_lossy(),
        ));
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut wanted = rcgen::CertificateParams::new(names).map_err(failed)?;
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        wanted
            .distinguished_name
            .push(rcgen::DnType::CommonName, "mesync hub");
        let made = wanted.self_signed(&key).map_err(failed)?;
        let text = format!("{heading}{}{}", made.pem(), key.serialize_pem());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        DataFileEdit::begin(disk::parent(path), &name)?.write(text.as_bytes())
    }

    fn read_own(path: &Path) -> Result<OwnCertificate> {
        let text = disk::read_secret(path)?;
        let shown = certified(path, text.as_bytes(), path, text.as_bytes()).map_err(|e| {
            e.hint("restore it from a backup; or remove it, and let every machine join again")
        })?;
        Ok(OwnCertificate {
            fingerprint: join::fingerprint(&shown.cert[0]),
            shown: Arc::new(shown),
        })
    }

    fn read_next(path: &Path) -> Result<PreparedCertificate> {
        let text = disk::read_secret(path)?;
        let from = text
            .lines()
            .find_map(|line| clock::parse_rfc3339(line.strip_prefix(IN_FORCE_FROM)?))
            .ok_or_else(|| bad(path, "it does not say when it will be in force"))?;
        let fingerprint = read_own(path)?.fingerprint;
        Ok(PreparedCertificate { fingerprint, from })
    }

    fn read_given(given: &OperatorCertificate) -> Result<Arc<CertifiedKey>> {
        let read = |path: &Path| {
            disk::read_at_most(path, MAX_FILE_BYTES).map_err(|e| bad(path, &plain(&e)))
        };
        let (cert, key) = (read(&given.cert)?, read(&given.key)?);
        certified(&given.cert, &cert, &given.key, &key).map(Arc::new)
    }

    fn certified(path: &Path, cert: &[u8], key_path: &Path, key: &[u8]) -> Result<CertifiedKey> {
        let chain = CertificateDer::pem_slice_iter(cert)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| bad(path, &e.to_string()))?;
        if chain.is_empty() {
            return Err(bad(path, "it has no certificate in PEM"));
        }
        // without the parser's message, which may quote the key
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| bad(key_path, "it has no key in PEM"))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| bad(key_path, "the kind of key is not supported"))?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(certified)
            }
            Err(_) => Err(bad(path, "the key is not the one of this certificate")),
        }
    }

    fn bad(path: &Path, why: &str) -> Error {
        Error::new(
            Kind::Settings,
            format!("cannot use the certificate in {}: {why}", path.display()),
        )
    }
}

#[cfg(not(feature = "tls"))]
mod real {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::{Error, Kind, OperatorCertificate, Path, Result};
    use crate::hub::server::tls::Acceptor;
    use crate::wire::files::Hash;

    /// This build has no TLS.
    #[derive(Debug)]
    pub enum Certificates {}

    impl Certificates {
        pub fn acceptor(self: &Arc<Certificates>) -> Result<Acceptor> {
            match **self {}
        }

        pub fn fingerprint(&self) -> Hash {
            match *self {}
        }

        pub fn next_fingerprint(&self) -> Option<Hash> {
            match *self {}
        }

        pub fn reload(&self, _: Result<Option<OperatorCertificate>>) {
            match *self {}
        }
    }

    pub fn own_fingerprint(_: &Path) -> Result<Hash> {
        Err(without())
    }

    pub fn renew(_: &Path) -> Result<(Hash, SystemTime)> {
        Err(without())
    }

    fn without() -> Error {
        Error::new(Kind::Settings, "this program was built without TLS")
    }
}

pub use real::{Certificates, own_fingerprint, renew};

/// The certificates of a hub with these settings. `None`: this build has no TLS.
pub fn open(settings: &HubSettings) -> Result<Option<std::sync::Arc<Certificates>>> {
    let given = OperatorCertificate::of(settings)?;
    #[cfg(feature = "tls")]
    return Certificates::open(&settings.data_dir, given.as_ref()).map(Some);
    #[cfg(not(feature = "tls"))]
    match given {
        Some(_) => Err(Error::new(
            Kind::Settings,
            "cannot use tls_cert: this program was built without TLS",
        )),
        None => Ok(None),
    }
}
