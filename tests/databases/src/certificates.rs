//! Certificates for encrypted connections to a server on this machine.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority, and a server on 127.0.0.1 that it vouches for. All of it is PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate: what a client trusts.
    pub authority: String,
    /// The server's certificate.
    pub server: String,
    /// Its private key.
    pub key: String,
}

impl Certificates {
    /// New ones.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let server = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self { authority, server: server.pem(), key: key.serialize_pem() })
    }
}
