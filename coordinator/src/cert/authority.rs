//! Signing. The authority is two files and nothing else: there is no list of what it has signed.

use super::place::{CA_CERT, CA_KEY, Kind, check_free, make_dir, write_new};
use crate::cli::CertPlace;
use crate::codes::Code;
use crate::errors::Failure;
use jiff::civil::Date;
use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::path::{Path, PathBuf};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// Which bytes of an authority's public key (a point, after its first byte) are in its name.
const NAME_BYTES: std::ops::Range<usize> = 1..5;
const AUTHORITY_DAYS: u16 = 3_650;

/// Whom a certificate is about.
pub(super) struct Subject<'a> {
    pub(super) common_name: &'a str,
    /// What a caller is called and may do.
    pub(super) uris: Vec<String>,
    /// Where a server is reached; for a caller, none.
    pub(super) hosts: &'a [String],
}

pub(super) struct Authority {
    dir: PathBuf,
    cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes its certificate and key.
    pub(super) fn init(dir: &Path) -> Result<(PathBuf, PathBuf), Failure> {
        make_dir(dir)?;
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        check_free(&[&cert_path, &key_path])?;
        let key = KeyPair::generate().map_err(not_made)?;
        let mut params = authority_params(&key);
        valid_for(&mut params, AUTHORITY_DAYS)?;
        let cert = params.self_signed(&key).map_err(not_made)?;
        write_new(&key_path, key.serialize_pem().as_bytes(), Kind::Secret)?;
        write_new(&cert_path, cert.pem().as_bytes(), Kind::Public)?;
        Ok((cert_path, key_path))
    }

    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|error| no_authority(&path, &error.to_string()))
        };
        let (cert, key) = (read(CA_CERT)?, read(CA_KEY)?);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|error| no_authority(&dir.join(CA_CERT), &error.to_string()))?;
        // Whatever is wrong with a key, it is in no message.
        let key = KeyPair::from_pem(&key)
            .map_err(|_| no_authority(&dir.join(CA_KEY), "there is no private key (PEM) in it"))?;
        let issuer = Issuer::new(authority_params(&key), key);
        Ok(Self { dir: dir.to_owned(), cert, issuer })
    }

    /// Signs, and writes `name.pem` and `name.key`.
    pub(super) fn sign(
        &self,
        name: &str,
        subject: &Subject<'_>,
        place: &CertPlace,
    ) -> Result<(PathBuf, PathBuf), Failure> {
        let params = params(subject, place.days)?;
        let key = KeyPair::generate().map_err(not_made)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(not_made)?;
        self.check(cert.der(), subject)?;
        let to = place.to.as_deref().unwrap_or(&place.authority);
        make_dir(to)?;
        let (cert_path, key_path) =
            (to.join(format!("{name}.pem")), to.join(format!("{name}.key")));
        check_free(&[&cert_path, &key_path])?;
        write_new(&key_path, key.serialize_pem().as_bytes(), Kind::Secret)?;
        write_new(&cert_path, cert.pem().as_bytes(), Kind::Public)?;
        Ok((cert_path, key_path))
    }

    /// The two files may be of two authorities, or of one that was made elsewhere.
    fn check(&self, cert: &CertificateDer<'_>, subject: &Subject<'_>) -> Result<(), Failure> {
        let usage = match subject.hosts {
            [] => KeyUsage::client_auth(),
            _ => KeyUsage::server_auth(),
        };
        let verified = anchor_from_trusted_cert(&self.cert).and_then(|anchor| {
            let read = EndEntityCert::try_from(cert)?;
            let (algorithms, now) = (ALL_VERIFICATION_ALGS, UnixTime::now());
            read.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).map(drop)
        });
        verified.map_err(|error| {
            let why = format!("what its key signs does not fit its certificate: {error}");
            no_authority(&self.dir.join(CA_CERT), &why)
        })
    }
}

/// Whatever it signs has to name it again, so its name is made from its key; and each has another
/// name, so that who is shown the wrong one's certificate can tell.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let point = key.public_key_raw().get(NAME_BYTES).unwrap_or_default();
    let digits: String = point.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("unanimous authority {digits}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(subject: &Subject<'_>, days: u16) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(subject.hosts).map_err(|error| {
        let next = "unanimous cert server --host localhost --host 127.0.0.1";
        Failure::new(Code::Usage, "a host cannot be in a certificate", error.to_string(), next)
    })?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    for uri in &subject.uris {
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(&**uri).map_err(not_made)?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match subject.hosts {
        [] => ExtendedKeyUsagePurpose::ClientAuth,
        _ => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, days)?;
    Ok(params)
}

/// From yesterday on: clocks differ.
fn valid_for(params: &mut CertificateParams, days: u16) -> Result<(), Failure> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let moved = |days: i64| today.checked_add(Span::new().days(days));
    let begins = moved(-1).map_err(not_made)?;
    let ends = moved(i64::from(days) + 1).map_err(not_made)?;
    let ((year, month, day), end) = (numbers(begins)?, numbers(ends)?);
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(end.0, end.1, end.2);
    Ok(())
}

/// Year, month and day.
fn numbers(date: Date) -> Result<(i32, u8, u8), Failure> {
    let small = |number: i8| u8::try_from(number).map_err(not_made);
    Ok((i32::from(date.year()), small(date.month())?, small(date.day())?))
}

fn not_made(error: impl std::fmt::Display) -> Failure {
    Failure::io("making a certificate", error, "date, and see whether the clock is right")
}

fn no_authority(path: &Path, why: &str) -> Failure {
    let what = format!("there is no authority in {}", path.display());
    let next = "unanimous cert init DIR, once, and --authority DIR from then on";
    Failure::new(Code::NoAuthority, what, why, next)
}
