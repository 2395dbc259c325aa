//! Certificates as they should be, and as they should not.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::transport::{Certificate as Root, ClientTlsConfig, Identity};

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, params: &CertificateParams) -> Signed {
        let key = KeyPair::generate().unwrap();
        let cert: Certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn server(&self, host: &str) -> Signed {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    pub fn expired_server(&self, host: &str) -> Signed {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 2, 3);
        self.sign(&params)
    }

    /// With these URIs among its names.
    pub fn client(&self, uris: &[&str]) -> Signed {
        self.sign(&client_params(uris))
    }

    pub fn expired_client(&self, uris: &[&str]) -> Signed {
        let mut params = client_params(uris);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 2, 3);
        self.sign(&params)
    }
}

fn client_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params
}

impl Signed {
    /// Writes both, the key for its owner only.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert).unwrap();
        write_secret(&key, &self.key);
        (cert, key)
    }
}

pub fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What a caller needs that trusts `authority` and is whoever `signed` says.
pub fn trust(authority: &Authority, signed: Option<&Signed>) -> ClientTlsConfig {
    let tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(&authority.pem));
    match signed {
        Some(Signed { cert, key }) => tls.identity(Identity::from_pem(cert, key)),
        None => tls,
    }
}
