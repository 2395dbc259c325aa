//! Identifiers and names (section 2). Fixed width, compared byte for byte, never reused.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The version byte of every gtrid made here.
const GTRID_VERSION: u8 = 1;
/// The kind byte of an ordinary top-level transaction.
pub const KIND_TRANSACTION: u8 = 0;

/// Why bytes or text are not an identifier or a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the one length that identifiers have.
    #[error("{what} has {found} bytes instead of 24")]
    Length {
        /// Which identifier.
        what: &'static str,
        /// Its length as it came.
        found: usize,
    },
    /// Text that is not 48 hexadecimal digits.
    #[error("{what} is not 48 hexadecimal digits")]
    Hex {
        /// Which identifier.
        what: &'static str,
    },
    /// A gtrid of a layout this version does not know.
    #[error("the gtrid has version {0}, known is {GTRID_VERSION}")]
    Version(u8),
    /// A name that breaks its rule.
    #[error("{what} {rule}")]
    Name {
        /// Which name.
        what: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
}

/// Names one log of one coordinator: a cluster's slot and the incarnation of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The cluster.
    pub cluster: u32,
    /// The coordinator in the cluster.
    pub slot: u16,
    /// Random; a new one at log creation, restore or copy.
    pub incarnation: u32,
}

/// One life of a coordinator: its log and the epoch of this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The coordinator's log.
    pub log: LogId,
    /// Grows with every start.
    pub epoch: u32,
}

impl Owner {
    fn write(&self, out: &mut [u8]) {
        out[0..4].copy_from_slice(&self.log.cluster.to_be_bytes());
        out[4..6].copy_from_slice(&self.log.slot.to_be_bytes());
        out[6..10].copy_from_slice(&self.log.incarnation.to_be_bytes());
        out[10..14].copy_from_slice(&self.epoch.to_be_bytes());
    }

    fn read(from: &[u8]) -> Self {
        Self {
            log: LogId {
                cluster: be_u32(&from[0..4]),
                slot: u16::from_be_bytes([from[4], from[5]]),
                incarnation: be_u32(&from[6..10]),
            },
            epoch: be_u32(&from[10..14]),
        }
    }
}

fn be_u32(from: &[u8]) -> u32 {
    u32::from_be_bytes([from[0], from[1], from[2], from[3]])
}

/// Names a transaction: version 1, cluster 4, slot 2, incarnation 4, epoch 4, sequence 8, kind 1
/// bytes, big endian.
///
/// Within one log, the byte order is the order of beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gtrid([u8; 24]);

impl Gtrid {
    /// The transaction with this sequence number in this life of a coordinator.
    #[must_use]
    pub fn new(owner: Owner, sequence: u64, kind: u8) -> Self {
        let mut bytes = [0; 24];
        bytes[0] = GTRID_VERSION;
        owner.write(&mut bytes[1..15]);
        bytes[15..23].copy_from_slice(&sequence.to_be_bytes());
        bytes[23] = kind;
        Self(bytes)
    }

    /// Reads the 24 bytes of a gtrid.
    ///
    /// # Errors
    /// Another length or an unknown version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        let bytes = fixed("the gtrid", bytes)?;
        if bytes[0] != GTRID_VERSION {
            return Err(IdError::Version(bytes[0]));
        }
        Ok(Self(bytes))
    }

    /// The 24 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }

    /// The coordinator's life in which the transaction began.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::read(&self.0[1..15])
    }

    /// The number of the transaction in that life, from 0.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[15..23]);
        u64::from_be_bytes(bytes)
    }

    /// What kind of transaction: [`KIND_TRANSACTION`]; others are foreseen.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.0[23]
    }

    /// The short form for people: the last 8 digits. Not an identifier.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[40..].to_owned()
    }
}

/// Names a branch in its transaction: resource manager 4, branch 4, owner 14, flags 2 bytes, big
/// endian.
///
/// The owner is the coordinator's life that drives this branch; inquiries are judged by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bqual([u8; 24]);

impl Bqual {
    /// A branch of a resource manager, driven by `owner`.
    #[must_use]
    pub fn new(resource_manager: u32, branch: u32, owner: Owner) -> Self {
        let mut bytes = [0; 24];
        bytes[0..4].copy_from_slice(&resource_manager.to_be_bytes());
        bytes[4..8].copy_from_slice(&branch.to_be_bytes());
        owner.write(&mut bytes[8..22]);
        Self(bytes)
    }

    /// Reads the 24 bytes of a bqual.
    ///
    /// # Errors
    /// Another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        fixed("the bqual", bytes).map(Self)
    }

    /// The 24 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }

    /// The number of the resource manager, made from a participant's name and resource id.
    #[must_use]
    pub fn resource_manager(&self) -> u32 {
        be_u32(&self.0[0..4])
    }

    /// The coordinator's life that drives the branch.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::read(&self.0[8..22])
    }
}

/// The resource manager number of a participant's resource: FNV-1a over name, a zero byte and
/// resource id.
///
/// It routes within one participant; a clash between participants is found at enlist, where the
/// whole bqual counts.
#[must_use]
pub fn resource_manager(participant: &ParticipantName, resource: &ResourceId) -> u32 {
    let bytes = participant.as_str().bytes().chain([0]).chain(resource.as_str().bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn fixed(what: &'static str, bytes: &[u8]) -> Result<[u8; 24], IdError> {
    <[u8; 24]>::try_from(bytes).map_err(|_| IdError::Length { what, found: bytes.len() })
}

fn parse_hex(what: &'static str, text: &str) -> Result<[u8; 24], IdError> {
    let digits = text.as_bytes();
    if digits.len() != 48 {
        return Err(IdError::Hex { what });
    }
    let mut bytes = [0; 24];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(IdError::Hex { what });
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| IdError::Hex { what })?;
    }
    Ok(bytes)
}

/// At most 24 bytes, in one piece: every branch's name is written many times.
fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = [0; 2 * 24];
    let text = &mut text[..2 * bytes.len()];
    for (to, digit) in text.iter_mut().zip(digits) {
        *to = DIGITS[usize::from(digit)];
    }
    f.write_str(str::from_utf8(text).map_err(|_| fmt::Error)?)
}

impl fmt::Display for Gtrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Gtrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gtrid({self})")
    }
}

impl FromStr for Gtrid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::from_bytes(&parse_hex("the gtrid", text)?)
    }
}

impl fmt::Display for Bqual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Bqual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bqual({self})")
    }
}

impl FromStr for Bqual {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex("the bqual", text).map(Self)
    }
}

/// Names one branch of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BranchId {
    /// The transaction.
    pub gtrid: Gtrid,
    /// The branch in it.
    pub bqual: Bqual,
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.gtrid, self.bqual)
    }
}

impl FromStr for BranchId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (gtrid, bqual) = text.split_once('.').ok_or(IdError::Hex { what: "the branch" })?;
        Ok(Self { gtrid: gtrid.parse()?, bqual: bqual.parse()? })
    }
}

/// One start of a participant's or client's process: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// Reads the 16 bytes of an instance id; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError::Name { what: $what, rule: $rule })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// The name that all instances of a participant share.
    ParticipantName,
    "the participant's name",
    "must be 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit",
    |text| {
        let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        (1..=64).contains(&text.len())
            && known(text.as_bytes()[0])
            && text.bytes().all(|c| known(c) || b"-_.".contains(&c))
    }
);

name!(
    /// Names the data behind a resource, wherever it is reached from.
    ResourceId,
    "the resource id",
    "must be 1 to 128 printable ASCII characters",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|c| (0x21..0x7f).contains(&c))
);

name!(
    /// What kind of business act a transaction is, for lists. May be empty.
    TransactionName,
    "the transaction's name",
    "must be at most 64 bytes without control characters",
    |text| text.len() <= 64 && !text.chars().any(char::is_control)
);

impl TransactionName {
    /// The name of a transaction that was given none.
    #[must_use]
    pub fn empty() -> Self {
        Self("".into())
    }
}

/// Words about a transaction, by key: what the business act is about, for people and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Labels of one transaction.
    pub const LEN_MAX: usize = 8;

    /// Checks and takes labels; they are kept in the order of their keys.
    ///
    /// # Errors
    /// The rule that they break.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, IdError> {
        let broken = |what, rule| Err(IdError::Name { what, rule });
        let mut kept: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        for (key, value) in labels {
            let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
            if !(1..=32).contains(&key.len()) || !key.bytes().all(known) {
                let rule = "must be 1 to 32 of a-z, 0-9, '-', '_' and '.'";
                return broken("a label's key", rule);
            }
            if value.len() > 128 || value.chars().any(char::is_control) {
                let rule = "must be at most 128 bytes without control characters";
                return broken("a label's value", rule);
            }
            kept.push((key.into(), value.into()));
        }
        kept.sort();
        if kept.len() > Self::LEN_MAX || kept.windows(2).any(|two| two[0].0 == two[1].0) {
            return broken("the labels", "must be at most 8, each key once");
        }
        Ok(Self(kept.into()))
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The value under a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner =
        Owner { log: LogId { cluster: 1, slot: 2, incarnation: 3 }, epoch: 0x0102_0304 };

    #[test]
    fn a_gtrid_has_the_documented_layout_and_reads_back() {
        let gtrid = Gtrid::new(OWNER, 5, KIND_TRANSACTION);
        assert_eq!(gtrid.to_string(), "010000000100020000000301020304000000000000000500");
        assert_eq!(gtrid.to_string().parse(), Ok(gtrid));
        assert_eq!((gtrid.owner(), gtrid.sequence(), gtrid.kind()), (OWNER, 5, 0));
    }

    #[test]
    fn a_bqual_has_the_documented_layout_and_reads_back() {
        let bqual = Bqual::new(7, 8, OWNER);
        assert_eq!(bqual.to_string(), "000000070000000800000001000200000003010203040000");
        assert_eq!(bqual.to_string().parse(), Ok(bqual));
        assert_eq!((bqual.resource_manager(), bqual.owner()), (7, OWNER));
        let branch = BranchId { gtrid: Gtrid::new(OWNER, 5, KIND_TRANSACTION), bqual };
        assert_eq!(branch.to_string().parse(), Ok(branch));
        assert!("".parse::<BranchId>().is_err() && bqual.to_string().parse::<BranchId>().is_err());
    }

    #[test]
    fn every_digit_of_an_identifier_counts() {
        let log = LogId { cluster: 0xfedc_ba98, slot: 0x7654, incarnation: 0x3210_f0e1 };
        let owner = Owner { log, epoch: 0xd2c3_b4a5 };
        let gtrid = Gtrid::new(owner, 0x8796_a5b4_c3d2_e1f0, 0xab);
        assert_eq!(gtrid.to_string(), "01fedcba9876543210f0e1d2c3b4a58796a5b4c3d2e1f0ab");
        assert_eq!(gtrid.to_string().parse(), Ok(gtrid));
        assert_eq!((gtrid.owner(), gtrid.kind()), (owner, 0xab));
        assert_eq!(gtrid.short(), "d2e1f0ab");
        let bytes: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(InstanceId::from_bytes(&bytes), Some(InstanceId(bytes)));
        assert_eq!(InstanceId::from_bytes(&bytes[1..]), None);
    }

    /// The number stands in prepared branches of databases: a later version must make the same.
    #[test]
    fn the_number_of_a_resource_manager_stays() {
        let name = |text| ParticipantName::new(text).unwrap();
        let id = |text| ResourceId::new(text).unwrap();
        assert_eq!(resource_manager(&name("bank-a"), &id("accounts")), 0xf886_45e3);
        assert_ne!(
            resource_manager(&name("bank"), &id("aaccounts")),
            resource_manager(&name("banka"), &id("accounts"))
        );
    }

    #[test]
    fn begin_order_is_byte_order_across_epochs() {
        let later = Owner { epoch: OWNER.epoch + 1, ..OWNER };
        assert!(Gtrid::new(OWNER, 9, 0) < Gtrid::new(OWNER, 10, 0));
        assert!(Gtrid::new(OWNER, u64::MAX, 0) < Gtrid::new(later, 0, 0));
    }

    #[test]
    fn b_02_bad_identifiers_are_refused_with_the_reason() {
        let good = Gtrid::new(OWNER, 0, 0);
        assert_eq!(
            Gtrid::from_bytes(&[1; 23]),
            Err(IdError::Length { what: "the gtrid", found: 23 })
        );
        assert_eq!(Gtrid::from_bytes(&[2; 24]), Err(IdError::Version(2)));
        for text in [
            "",
            "zz",
            &good.to_string()[1..],
            &format!("{good}0"),
            &"g".repeat(48),
            &"é".repeat(24),
        ] {
            assert_eq!(text.parse::<Gtrid>(), Err(IdError::Hex { what: "the gtrid" }), "{text:?}");
        }
    }

    #[test]
    fn labels_are_few_short_and_in_the_order_of_their_keys() {
        let labels = Labels::new([("order", "4711"), ("customer", "Müller & \"Co\"")]).unwrap();
        let all: Vec<_> = labels.iter().collect();
        assert_eq!(all, [("customer", "Müller & \"Co\""), ("order", "4711")]);
        assert_eq!((labels.value("order"), labels.value("x")), (Some("4711"), None));
        let long = "v".repeat(129);
        for bad in [("", "v"), ("A", "v"), ("a b", "v"), ("ä", "v"), ("k", &long), ("k", "\u{1b}")]
        {
            assert!(Labels::new([bad]).is_err(), "{bad:?}");
        }
        assert!(Labels::new([(&*"k".repeat(33), "v")]).is_err());
        assert!(Labels::new([("k", "1"), ("k", "2")]).is_err(), "twice");
        let keys: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let many = |n: usize| Labels::new(keys[..n].iter().map(|key| (&**key, "")));
        assert!(many(8).is_ok() && many(9).is_err());
    }

    #[test]
    fn z_08_hostile_names_are_refused() {
        for text in ["", "-a", "A", "a b", "a'b", "a\0", "a\n", "\u{1b}[31m", "ä", &"a".repeat(65)]
        {
            assert!(ParticipantName::new(text).is_err(), "{text:?}");
        }
        assert!(ParticipantName::new("bank-a.eu_1").is_ok());
        for text in ["", "a b", "a\n", "é", &"r".repeat(129)] {
            assert!(ResourceId::new(text).is_err(), "{text:?}");
        }
        assert!(TransactionName::new("").is_ok());
        assert!(TransactionName::new("Überweisung 'x'").is_ok());
        assert!(TransactionName::new("a\u{1b}[2J").is_err());
    }
}
