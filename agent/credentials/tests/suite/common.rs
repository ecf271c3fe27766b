//! A small authority for tests, which also makes what no authority should.

use std::sync::Arc;

use bulkhead_credentials::{Bundle, Credentials, Der, HandshakeError, Keeper, Key, Peer, SpiffeId, Usage};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const DOMAIN: &str = "example.org";

pub fn name(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "host", account).unwrap()
}

/// An authority: root or intermediate.
pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: Der,
    /// What follows a workload's certificate in its chain.
    pub above: Vec<Der>,
}

impl Authority {
    pub fn root(common_name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(common_name, None);
        let der = Der::from(params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), der, above: Vec::new() }
    }

    pub fn intermediate(&self, common_name: &str) -> Self {
        self.intermediate_with(common_name, |_| {})
    }

    pub fn intermediate_with(&self, common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority(common_name, Some(0));
        change(&mut params);
        let der = Der::from(params.signed_by(&key, &self.issuer).unwrap().der());
        let above = std::iter::once(der.clone()).chain(self.above.clone()).collect();
        Self { issuer: Issuer::new(params, key), der, above }
    }

    pub fn leaf(&self, name: &SpiffeId) -> Credentials {
        self.leaf_with(name, |_| {})
    }

    /// A workload's credentials, with whatever `change` does to them.
    pub fn leaf_with(&self, name: &SpiffeId, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf(name.as_str());
        change(&mut params);
        let der = Der::from(params.signed_by(&key, &self.issuer).unwrap().der());
        let chain = std::iter::once(der).chain(self.above.clone()).collect();
        Credentials { name: name.clone(), chain, key: Key::new(key.serialize_der()) }
    }

    /// A revocation list.
    pub fn list(&self, serials: &[u64]) -> Der {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - Duration::HOUR,
            next_update: now + Duration::HOUR,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now - Duration::HOUR,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Der::from(params.signed_by(&self.issuer).unwrap().der().to_vec())
    }
}

fn authority(common_name: &str, path: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(path.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::HOUR;
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub fn bundle(roots: &[&Authority], lists: Vec<Der>) -> Bundle {
    Bundle { domain: DOMAIN.to_owned(), roots: roots.iter().map(|root| root.der.clone()).collect(), lists }
}

/// A node that believes `root` and shows `credentials`.
pub fn node(root: &Authority, credentials: &Credentials) -> Keeper {
    let keeper = Keeper::new();
    keeper.believe(bundle(&[root], Vec::new())).unwrap();
    keeper.install(credentials).unwrap();
    keeper
}

/// What one end of a handshake found.
pub type Found = Result<Peer, HandshakeError>;

/// A handshake over loopback between two nodes; what each found of the other, after one byte each way.
pub async fn shake(client: (&Keeper, &SpiffeId), server: (&Keeper, &SpiffeId)) -> (Found, Found) {
    shake_with(client, client.0.client(client.1).unwrap(), server).await
}

pub async fn shake_with(
    client: (&Keeper, &SpiffeId),
    config: Arc<rustls::ClientConfig>,
    server: (&Keeper, &SpiffeId),
) -> (Found, Found) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        dialled(client.0, config, tcp).await
    };
    let answer = async {
        let (tcp, _) = listener.accept().await.unwrap();
        answered(server.0, server.1, tcp).await
    };
    tokio::join!(dial, answer)
}

pub async fn dialled(keeper: &Keeper, config: Arc<rustls::ClientConfig>, tcp: TcpStream) -> Found {
    let address = tcp.peer_addr().unwrap().ip();
    let mut tls = TlsConnector::from(config)
        .connect(address.into(), tcp)
        .await
        .map_err(|error| HandshakeError::from_io(&error))?;
    // The server's verdict on our certificate comes with the first read.
    let mut byte = [0];
    if let Err(error) = tls.read_exact(&mut byte).await {
        return Err(HandshakeError::from_io(&error));
    }
    let _ = tls.write_all(&byte).await;
    let _ = tls.shutdown().await;
    let chain = tls.get_ref().1.peer_certificates();
    keeper
        .peer(chain, Usage::Server, None)
        .map_err(|error| HandshakeError { reason: error.reason(), text: error.to_string() })
}

pub async fn answered(keeper: &Keeper, own: &SpiffeId, tcp: TcpStream) -> Found {
    let mut tls = TlsAcceptor::from(keeper.server(own).unwrap())
        .accept(tcp)
        .await
        .map_err(|error| HandshakeError::from_io(&error))?;
    let _ = tls.write_all(b"!").await;
    let _ = tls.read_u8().await;
    let chain = tls.get_ref().1.peer_certificates();
    keeper
        .peer(chain, Usage::Client, None)
        .map_err(|error| HandshakeError { reason: error.reason(), text: error.to_string() })
}

/// A node whose peers see `credentials`, which it would refuse itself: with checks that pass everything.
pub mod careless {
    use super::*;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
    use rustls::{
        DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, SupportedProtocolVersion,
    };

    #[derive(Debug)]
    pub struct Everybody;

    pub fn client(
        credentials: Option<&Credentials>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> rustls::ClientConfig {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Everybody));
        let mut config = match credentials.map(parts) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub fn server(credentials: &Credentials) -> rustls::ServerConfig {
        let (chain, key) = parts(credentials);
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Everybody))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn parts(credentials: &Credentials) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain =
            credentials.chain.iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
        let key = serde_json::to_vec(&credentials.key).unwrap();
        let key: Vec<u8> = serde_json::from_slice(&key).unwrap();
        (chain, PrivateKeyDer::try_from(key).unwrap())
    }

    impl ServerCertVerifier for Everybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    impl ClientCertVerifier for Everybody {
        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn client_auth_mandatory(&self) -> bool {
            false
        }

        fn verify_client_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            Ok(ClientCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
