//! The certificates by which a joined machine knows its hub: TLS that trusts their SHA-256, and no
//! certificate authority.
//!
//! It does not know how a machine learns them (`joining` does).

use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::unversioned::resolver::Resolver;
#[cfg(not(feature = "tls"))]
use ureq::unversioned::transport::DefaultConnector;

use crate::wire::files::Hash;

/// The known certificates of a hub.
#[derive(Debug)]
pub struct Pins {
    known: Mutex<Vec<Hash>>,
}

impl Pins {
    /// If `known` is empty, the first certificate that a server shows is trusted, and no other.
    pub fn new(known: &[Hash]) -> Arc<Pins> {
        Arc::new(Pins {
            known: Mutex::new(known.to_vec()),
        })
    }

    pub fn add(&self, fingerprint: Hash) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&fingerprint) {
            known.push(fingerprint);
        }
    }

    pub fn first(&self) -> Option<Hash> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.first().copied()
    }

    #[cfg(feature = "tls")]
    fn accept(&self, shown: Hash) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            known.push(shown);
        }
        known.contains(&shown)
    }
}

/// The URL under which such a hub is called: the same port, over TLS.
pub fn secured(url: &str) -> String {
    let Some(rest) = url.strip_prefix("http://") else {
        return url.to_string();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    let port = if has_port { "" } else { ":80" };
    format!("https://{authority}{port}{path}")
}

pub const NO_TLS: &str = "it does not speak TLS on this port";

/// Whether a server responds to TLS with something else.
pub fn has_no_tls(e: &std::io::Error) -> bool {
    refusal(e).is_some_and(|(why, _)| why == NO_TLS)
}

/// If TLS is the reason why a connection failed: the error and its remedy.
pub fn refusal(e: &std::io::Error) -> Option<(&'static str, &'static str)> {
    #[cfg(feature = "tls")]
    {
        use rustls::{CertificateError, Error};
        match e.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                Some(OTHER_CERTIFICATE)
            }
            // signed by itself, or by an unknown authority
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) => Some((
                "its certificate is not signed by an authority that this machine trusts",
                "ca_file names one; a mesync hub with its own certificate is known after \"mesync join\"",
            )),
            Error::InvalidMessage(_) => Some((
                NO_TLS,
                "is that a mesync hub? one of an older version must be updated; or set MESYNC_API_KEY here",
            )),
            _ => None,
        }
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = e;
        None
    }
}

/// Whether the server has another certificate.
pub fn is_other_certificate(e: &std::io::Error) -> bool {
    refusal(e).is_some_and(|(_, hint)| hint == OTHER_CERTIFICATE.1)
}

const OTHER_CERTIFICATE: (&str, &str) = (
    "its certificate is not that of the hub that this machine joined",
    "another server or a relay answers there; if the hub was reinstalled, run \"mesync join\" here again",
);

#[cfg(not(feature = "tls"))]
pub fn agent(config: Config, _: &Arc<Pins>, resolver: impl Resolver) -> ureq::Agent {
    // settings with fingerprints are refused, and joining reports why it is impossible
    ureq::Agent::with_parts(config, DefaultConnector::default(), resolver)
}

#[cfg(feature = "tls")]
pub use pinned::{agent, client_config};

#[cfg(feature = "tls")]
mod pinned {
    use std::io::{Read, Write};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{
        CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
        SignatureScheme, StreamOwned,
    };
    use ureq::unversioned::transport::{
        Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers,
        NextTimeout, TcpConnector, Transport, TransportAdapter,
    };

    use super::{Arc, Config, Pins, Resolver};
    use crate::wire::join;

    /// The agent for a hub that is known by its certificate.
    pub fn agent(config: Config, pins: &Arc<Pins>, resolver: impl Resolver) -> ureq::Agent {
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector(client_config(pins).map(Arc::new)));
        ureq::Agent::with_parts(config, connector, resolver)
    }

    /// TLS with a server that has one of these certificates.
    pub fn client_config(pins: &Arc<Pins>) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier {
            pins: Arc::clone(pins),
            provider: Arc::clone(&provider),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }

    #[derive(Debug)]
    struct Verifier {
        pins: Arc<Pins>,
        provider: Arc<CryptoProvider>,
    }

    impl ServerCertVerifier for Verifier {
        fn verify_server_cert(
            &self,
            certificate: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            if self.pins.accept(join::fingerprint(certificate)) {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("only TLS 1.3 is spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    }

    #[derive(Debug)]
    struct TlsConnector(Result<Arc<ClientConfig>, Error>);

    impl<In: Transport> Connector<In> for TlsConnector {
        type Out = Either<In, TlsTransport>;

        fn connect(
            &self,
            details: &ConnectionDetails<'_>,
            chained: Option<In>,
        ) -> Result<Option<Self::Out>, ureq::Error> {
            let Some(transport) = chained else {
                return Ok(None);
            };
            // the connection to a proxy is plain, the connection through it is not
            if !details.needs_tls() || transport.is_tls() {
                return Ok(Some(Either::A(transport)));
            }
            let name = ServerName::try_from(join::SERVER_NAME)
                .map_err(|_| ureq::Error::Tls("no server name"))?;
            let config = self.0.clone()?;
            let mut conn = ClientConnection::new(config, name)?;
            let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
            sock.set_timeout(details.timeout);
            conn.complete_io(&mut sock)?;
            let buffers = LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            );
            let stream = StreamOwned { conn, sock };
            Ok(Some(Either::B(TlsTransport { buffers, stream })))
        }
    }

    struct TlsTransport {
        buffers: LazyBuffers,
        stream: StreamOwned<ClientConnection, TransportAdapter>,
    }

    impl std::fmt::Debug for TlsTransport {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("TlsTransport")
        }
    }

    impl Transport for TlsTransport {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(
            &mut self,
            amount: usize,
            timeout: NextTimeout,
        ) -> Result<(), ureq::Error> {
            self.stream.get_mut().set_timeout(timeout);
            self.stream.write_all(&self.buffers.output()[..amount])?;
            Ok(())
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
            self.stream.get_mut().set_timeout(timeout);
            let amount = self.stream.read(self.buffers.input_append_buf())?;
            self.buffers.input_appended(amount);
            Ok(amount > 0)
        }

        fn is_open(&mut self) -> bool {
            self.stream.get_mut().get_mut().is_open()
        }

        fn is_tls(&self) -> bool {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_called_through_tls_on_the_port_of_its_url() {
        for (url, wants) in [
            ("http://hub:8080", "https://hub:8080"),
            ("http://hub", "https://hub:80"),
            ("http://[::1]/x", "https://[::1]:80/x"),
            ("http://[::1]:8080/x:y", "https://[::1]:8080/x:y"),
            ("https://hub", "https://hub"),
        ] {
            assert_eq!(secured(url), wants);
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn of_no_known_certificate_the_first_is_right_and_no_other() {
        let (a, b) = (Hash([1; 32]), Hash([2; 32]));
        let pins = Pins::new(&[]);
        assert!(pins.accept(a) && !pins.accept(b) && pins.accept(a));
        let pins = Pins::new(&[a]);
        assert!(!pins.accept(b));
        pins.add(b);
        assert!(pins.accept(a) && pins.accept(b));
    }
}
