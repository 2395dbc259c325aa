//! Who calls, and what they may do.
//!
//! Whoever calls is known by what the connection proves, never by what a message says. Every
//! request on both ports carries its [`Caller`] in its extensions; what is audited is taken from
//! there.

use crate::refusal::Refusal;
use std::fmt;
use unanimous_core::ParticipantName;

/// The name of whoever comes over a connection that proves nothing.
const UNVERIFIED: &str = "unverified";

/// One of the things that a caller may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Begins and ends transactions.
    Client,
    /// Takes part in transactions, under its own names only.
    Participant,
    /// Sees everything, changes nothing.
    Reader,
    /// Changes the fate of transactions; a reader too.
    Operator,
    /// May do everything that people may do; an operator too.
    Admin,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Client, Self::Participant, Self::Reader, Self::Operator, Self::Admin];

    /// As it is written in certificates and files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Participant => "participant",
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether whoever has this role also has `other`.
    #[must_use]
    pub fn is_also(self, other: Self) -> bool {
        let rank = |role| match role {
            Self::Client | Self::Participant => None,
            Self::Reader => Some(1),
            Self::Operator => Some(2),
            Self::Admin => Some(3),
        };
        self == other || rank(other).is_some_and(|wanted| rank(self) >= Some(wanted))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which names a participant may take.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    Any,
    Only(Vec<ParticipantName>),
}

/// What somebody may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    held: Vec<Role>,
    names: Names,
}

impl Roles {
    pub(crate) fn none() -> Self {
        Self { held: Vec::new(), names: Names::Only(Vec::new()) }
    }

    fn every() -> Self {
        Self { held: Role::ALL.to_vec(), names: Names::Any }
    }

    /// One of the roles in words, or `participant:NAME`.
    pub(crate) fn add_word(&mut self, word: &str) -> Result<(), String> {
        if let Some(name) = word.strip_prefix("participant:") {
            let name = ParticipantName::new(name)
                .map_err(|error| format!("{name:?} is no participant's name: {error}"))?;
            self.add(&Self { held: vec![Role::Participant], names: Names::Only(vec![name]) });
            return Ok(());
        }
        let role = Role::ALL.into_iter().find(|role| role.word() == word);
        let role = role.filter(|role| *role != Role::Participant).ok_or_else(|| {
            format!(
                "{word:?} is no role: there are client, participant:NAME, reader, operator, admin"
            )
        })?;
        self.add(&Self { held: vec![role], names: Names::Only(Vec::new()) });
        Ok(())
    }

    pub(crate) fn add(&mut self, more: &Self) {
        for role in &more.held {
            if !self.held.contains(role) {
                self.held.push(*role);
            }
        }
        match (&mut self.names, &more.names) {
            (Names::Any, _) => {}
            (names, Names::Any) => *names = Names::Any,
            (Names::Only(names), Names::Only(more)) => names.extend(more.iter().cloned()),
        }
    }

    pub(crate) fn has(&self, wanted: Role) -> bool {
        self.held.iter().any(|role| role.is_also(wanted))
    }

    /// As [`Roles::add_word`] takes them.
    pub(crate) fn words(&self) -> Vec<String> {
        let named = self.held.iter().filter(|role| **role != Role::Participant);
        let mut words: Vec<String> = named.map(ToString::to_string).collect();
        if let Names::Only(names) = &self.names {
            words.extend(names.iter().map(|name| format!("participant:{name}")));
        }
        words
    }

    pub(crate) fn may_be_named(&self, name: &ParticipantName) -> bool {
        match &self.names {
            Names::Any => true,
            Names::Only(names) => names.contains(name),
        }
    }
}

/// What proves the caller's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A certificate that one of our authorities has signed.
    Certificate,
    /// A token that the tokens' file knows.
    Token,
    /// Nothing: the connection is not encrypted, and everybody may do everything.
    Unverified,
}

/// Whoever makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As proven; `unverified` where nothing is.
    pub(crate) name: String,
    /// The other end of the connection, address and port.
    pub(crate) from: String,
    pub(crate) roles: Roles,
    pub(crate) how: How,
}

impl Caller {
    /// The caller of a request that has passed the door.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let found = request.extensions().get::<Self>().cloned();
        found.unwrap_or_else(|| Self::nobody("unknown".to_owned()))
    }

    /// Nothing is proven, nothing is allowed.
    pub(crate) fn nobody(from: String) -> Self {
        Self { name: UNVERIFIED.to_owned(), from, roles: Roles::none(), how: How::Unverified }
    }

    /// Nothing is proven, everything is allowed.
    pub(crate) fn unverified(from: String) -> Self {
        Self { roles: Roles::every(), ..Self::nobody(from) }
    }

    /// Whether the caller may make this call. `method` is its path.
    pub(crate) fn may(&self, method: &str) -> Result<(), Refusal> {
        let Some((_, roles)) = CALLS.iter().find(|(known, _)| *known == method) else {
            return Err(Refusal::unknown_call());
        };
        if roles.iter().any(|role| self.roles.has(*role)) {
            return Ok(());
        }
        Err(Refusal::role_missing(&self.name, roles))
    }
}

const CLIENT: &[Role] = &[Role::Client];
const READER: &[Role] = &[Role::Reader];
const OPERATOR: &[Role] = &[Role::Operator];
const CLIENT_OR_READER: &[Role] = &[Role::Client, Role::Reader];
const ANY: &[Role] = &Role::ALL;

/// The call's name in the table, if only operators may make it.
pub(crate) fn operators_call(method: &str) -> Option<&'static str> {
    let known = CALLS.iter().find(|(known, roles)| *known == method && *roles == OPERATOR);
    known.map(|(known, _)| *known)
}

/// The call of participants, under whose name the coordinator knows their branches.
pub(crate) const PARTICIPATE: &str = "/unanimous.v1.ParticipantService/Participate";

/// Every call there is, and the roles of which one is needed. What is not here is refused.
pub const CALLS: &[(&str, &[Role])] = &[
    (PARTICIPATE, &[Role::Participant]),
    ("/unanimous.v1.ClientService/Transact", CLIENT),
    ("/unanimous.v1.TransactionService/Begin", CLIENT),
    ("/unanimous.v1.TransactionService/Commit", CLIENT),
    ("/unanimous.v1.TransactionService/Rollback", CLIENT),
    ("/unanimous.v1.TransactionService/GetOutcome", CLIENT_OR_READER),
    ("/unanimous.v1.AdminService/GetStatus", READER),
    ("/unanimous.v1.AdminService/ListTransactions", READER),
    ("/unanimous.v1.AdminService/GetTransaction", READER),
    ("/unanimous.v1.AdminService/RetryTransaction", OPERATOR),
    ("/unanimous.v1.AdminService/ListParticipants", READER),
    ("/unanimous.v1.AdminService/GetParticipant", READER),
    ("/unanimous.v1.AdminService/ListOrphans", READER),
    ("/unanimous.v1.AdminService/Diagnose", READER),
    ("/unanimous.v1.AdminService/PlanAct", READER),
    ("/unanimous.v1.AdminService/ForceTransaction", OPERATOR),
    ("/unanimous.v1.AdminService/ProposeAct", OPERATOR),
    ("/unanimous.v1.AdminService/ApproveAct", OPERATOR),
    ("/unanimous.v1.AdminService/ListProposals", READER),
    ("/unanimous.v1.AdminService/ResolveOrphan", OPERATOR),
    ("/unanimous.v1.AdminService/ListAudit", READER),
    ("/grpc.health.v1.Health/Check", ANY),
    ("/grpc.health.v1.Health/Watch", ANY),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANY),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_passed_no_door_may_do_nothing() {
        let caller = Caller::of(&tonic::Request::new(()));
        assert_eq!(caller.name, "unverified");
        for (method, _) in CALLS {
            assert!(caller.may(method).is_err(), "{method}");
        }
    }

    #[test]
    fn the_ranks_of_people_include_the_lower_ones_and_nothing_else_does() {
        let also = |role: Role| -> Vec<&str> {
            Role::ALL.into_iter().filter(|other| role.is_also(*other)).map(Role::word).collect()
        };
        assert_eq!(also(Role::Admin), ["reader", "operator", "admin"]);
        assert_eq!(also(Role::Operator), ["reader", "operator"]);
        assert_eq!(also(Role::Reader), ["reader"]);
        assert_eq!(also(Role::Client), ["client"]);
        assert_eq!(also(Role::Participant), ["participant"]);
    }

    #[test]
    fn each_call_is_in_the_table_once_and_needs_a_role() {
        for (index, (method, roles)) in CALLS.iter().enumerate() {
            assert!(CALLS[..index].iter().all(|(other, _)| other != method), "{method}");
            assert!(!roles.is_empty(), "{method}");
        }
    }
}
