//! What a caller's certificate says, and until when one is valid.

use crate::identity::Roles;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use std::time::SystemTime;
use unanimous_core::record::cut;
use webpki::EndEntityCert;

/// A URI among a certificate's alternative names that begins so ends with its owner's name.
pub const NAME_URI: &str = "unanimous:name/";
/// One that begins so ends with a role.
pub const ROLE_URI: &str = "unanimous:role/";
/// One that begins so ends with the name of a participant.
pub const PARTICIPANT_URI: &str = "unanimous:participant/";

/// The longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// A verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its alternative names, URIs first, and last its digest, as `sha256:` and 64 digits.
    names: Vec<String>,
}

impl Certificate {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Self {
        let mut names: Vec<String> = Vec::new();
        if let Ok(read) = EndEntityCert::try_from(der) {
            names.extend(read.valid_uri_names().map(str::to_owned));
            names.extend(read.valid_dns_names().map(str::to_owned));
        }
        // What is cut is another name.
        names.retain(|name| name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control));
        let mut fingerprint = "sha256:".to_owned();
        for byte in digest(&SHA256, der).as_ref() {
            // Writing to a string does not fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        names.push(fingerprint);
        Self { names }
    }

    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// What its owner is called.
    pub(crate) fn name(&self) -> String {
        let own = self.names.iter().find_map(|name| name.strip_prefix(NAME_URI));
        let name = own.or_else(|| self.names.first().map(String::as_str)).unwrap_or_default();
        cut(name, NAME_BYTES_MAX).to_owned()
    }

    /// What it says that its owner may. Words that this version does not know are passed over.
    pub(crate) fn roles(&self) -> Roles {
        let mut roles = Roles::none();
        for name in &self.names {
            let word = match (name.strip_prefix(ROLE_URI), name.strip_prefix(PARTICIPANT_URI)) {
                (Some(role), _) => role.to_owned(),
                (_, Some(participant)) => format!("participant:{participant}"),
                (None, None) => continue,
            };
            if let Err(why) = roles.add_word(&word) {
                tracing::debug!(certificate = ?self.name(), why, "a role is passed over");
            }
        }
        roles
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What its owner is called.
    pub name: String,
    /// All its names: URIs and DNS names, and last its digest.
    pub names: Vec<String>,
    /// What it says that its owner may, in words.
    pub roles: Vec<String>,
    /// From when on it is valid, if it says so in a known way.
    pub begins: Option<SystemTime>,
    /// Until when it is valid, if it says so in a known way.
    pub ends: Option<SystemTime>,
}

impl Shown {
    pub(super) fn read(der: &CertificateDer<'_>) -> Self {
        let (certificate, valid) = (Certificate::read(der), validity(der));
        let (begins, ends) = (valid.map(|valid| valid.0), valid.map(|valid| valid.1));
        let (name, roles) = (certificate.name(), certificate.roles().words());
        Self { name, names: certificate.names, roles, begins, ends }
    }
}

/// From when to when a certificate is valid. Only that is read: it is a file of our own, and who
/// has to trust it verifies it.
pub(super) fn validity(der: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let mut outer = &der[..];
    let mut signed = element(&mut outer).filter(|(tag, _)| *tag == SEQUENCE)?.1;
    let mut fields = element(&mut signed).filter(|(tag, _)| *tag == SEQUENCE)?.1;
    if fields.first() == Some(&VERSION) {
        element(&mut fields)?;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        element(&mut fields)?;
    }
    let mut times = element(&mut fields).filter(|(tag, _)| *tag == SEQUENCE)?.1;
    Some((time(element(&mut times)?)?, time(element(&mut times)?)?))
}

/// The next element's tag and content.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], after) = rest.split_first_chunk::<2>()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x84 => {
            let (digits, after) = after.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), after)
        }
        _ => return None,
    };
    let (content, after) = after.split_at_checked(length)?;
    *rest = after;
    Some((tag, content))
}

fn time((tag, content): (u8, &[u8])) -> Option<SystemTime> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(content).ok().filter(|text| text.is_ascii())?;
    let full = match (tag, text.get(..2)?) {
        (UTC_TIME, year) if year < "50" => format!("20{text}"),
        (UTC_TIME, _) => format!("19{text}"),
        (GENERALIZED_TIME, _) => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| full.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Role;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};
    use unanimous_core::ParticipantName;

    fn signed(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn with_names(uris: &[&str]) -> Certificate {
        let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
        Certificate::read(&signed(|params| {
            params.subject_alt_names = uris.iter().map(uri).collect();
        }))
    }

    #[test]
    fn the_times_of_a_certificate_are_read_and_nothing_is_read_from_a_part_of_one() {
        // The second half of the century has another form.
        for (year, text) in [(2031, "2031-02-03T00:00:00Z"), (2061, "2061-02-03T00:00:00Z")] {
            let der = signed(|params| {
                params.not_before = date_time_ymd(1999, 12, 31);
                params.not_after = date_time_ymd(year, 2, 3);
            });
            let (begins, ends) = validity(&der).unwrap();
            let seconds = |at| humantime::format_rfc3339_seconds(at).to_string();
            assert_eq!((&*seconds(begins), &*seconds(ends)), ("1999-12-31T00:00:00Z", text));
            for length in 0..der.len() {
                assert_eq!(validity(&CertificateDer::from(&der[..length])), None);
            }
        }
        assert_eq!(validity(&CertificateDer::from(&b"\x30\x84\xff\xff\xff\xff\x30"[..])), None);
    }

    #[test]
    fn roles_are_the_ones_that_are_known_and_participants_have_good_names() {
        let roles = with_names(&[
            "unanimous:name/bank",
            "unanimous:role/client",
            "unanimous:role/emperor",
            "unanimous:role/participant",
            "unanimous:participant/bank-a",
            "unanimous:participant/BANK'; DROP",
            "unanimous:participant/",
            "https://unanimous:role/admin",
            "unanimous:role/admin/x",
        ])
        .roles();
        assert_eq!(roles.words(), ["client", "participant:bank-a"]);
        assert!(roles.may_be_named(&ParticipantName::new("bank-a").unwrap()));
        assert!(!roles.may_be_named(&ParticipantName::new("bank-b").unwrap()));
        let nothing = with_names(&["unanimous:name/bank"]).roles();
        assert!(Role::ALL.into_iter().all(|role| !nothing.has(role)));
        assert!(!nothing.may_be_named(&ParticipantName::new("bank-a").unwrap()));
    }

    #[test]
    fn a_name_is_the_own_one_or_the_first_or_the_digest_and_never_a_hostile_one() {
        let name = |uris: &[&str]| with_names(uris).name();
        assert_eq!(name(&["spiffe://corp/x", "unanimous:name/alice"]), "alice");
        assert_eq!(name(&["spiffe://corp/x"]), "spiffe://corp/x");
        assert!(name(&[]).starts_with("sha256:"));
        assert!(name(&["unanimous:name/a\u{1b}[2J\n"]).starts_with("sha256:"));
        let long = format!("unanimous:name/{}", "a".repeat(300));
        assert!(name(&[&long]).starts_with("sha256:"), "what is cut would be another name");
    }
}
