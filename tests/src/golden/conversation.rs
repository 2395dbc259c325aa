//! A recorded conversation: its file, its text for people, and its form that two runs share.

use anyhow::Context as _;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value as Field,
};
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Whole sessions and calls, in the order in which they went on.
#[derive(Clone, PartialEq, Message)]
pub struct Conversation {
    /// The sessions and calls.
    #[prost(message, repeated, tag = "1")]
    pub calls: Vec<Call>,
    /// What was said.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<Entry>,
    /// Of the coordinator that was recorded.
    #[prost(message, optional, tag = "3")]
    pub life: Option<Life>,
}

/// One session or call.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// Who calls, for people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// "/package.Service/Method".
    #[prost(string, tag = "2")]
    pub path: String,
}

/// Something that was said.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Index of the call.
    #[prost(uint32, tag = "1")]
    pub call: u32,
    /// By whom.
    #[prost(bool, tag = "2")]
    pub from_coordinator: bool,
    /// The message.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    /// Nothing is said: the coordinator is told to stop.
    #[prost(bool, tag = "4")]
    pub stop: bool,
}

/// What differs in all identifiers of two coordinators with logs of their own.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Life {
    /// Of the log.
    #[prost(uint32, tag = "1")]
    pub incarnation: u32,
    /// Of the process.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
}

impl Life {
    /// As it stands in identifiers.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        [self.incarnation.to_be_bytes(), self.epoch.to_be_bytes()].concat()
    }
}

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The message that one side of a call sends, in a release's words.
///
/// # Errors
/// The release has no such call.
pub fn descriptor(
    pool: &DescriptorPool,
    path: &str,
    from_coordinator: bool,
) -> anyhow::Result<MessageDescriptor> {
    let method = method(pool, path)?;
    Ok(if from_coordinator { method.output() } else { method.input() })
}

/// A call of a release.
///
/// # Errors
/// The release has no such call.
pub fn method(
    pool: &DescriptorPool,
    path: &str,
) -> anyhow::Result<prost_reflect::MethodDescriptor> {
    let (service, method) = path.trim_start_matches('/').split_once('/').context("no path")?;
    let service = pool.get_service_by_name(service).with_context(|| format!("no {service}"))?;
    service.methods().find(|one| one.name() == method).with_context(|| format!("no {path}"))
}

/// A message in the form that two runs share: identifiers relative to the coordinator's life; `"*"`
/// for what depends on the clock or on how records were grouped; without words for people.
#[must_use]
pub fn common_form(message: &DynamicMessage, life: Life) -> Value {
    let mut object = Map::new();
    for (field, value) in message.fields() {
        let name = field.name();
        let for_people = name == "detail" && message.descriptor().name() != "Result";
        // Which messages it rides along with depends on when records became durable.
        if name == "ended" && message.descriptor().name() == "ParticipateResponse" {
            continue;
        }
        let clock = name.ends_with("_ms") && name != "timeout_ms";
        let value = match (name, value) {
            ("frame" | "version", _) => Value::from("*"),
            _ if clock || for_people => Value::from("*"),
            ("incarnation", Field::U32(n)) if *n == life.incarnation => {
                Value::from("<incarnation>")
            }
            ("epoch" | "sender_epoch", Field::U32(n)) if *n == life.epoch => Value::from("<epoch>"),
            (_, value) => form(&field.kind(), value, life),
        };
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

fn form(kind: &prost_reflect::Kind, value: &Field, life: Life) -> Value {
    let relative = |text: String| Value::from(text.replace(&hex(&life.bytes()), "<life>"));
    match value {
        Field::Message(message) => common_form(message, life),
        Field::List(values) => values.iter().map(|value| form(kind, value, life)).collect(),
        Field::Bytes(bytes) => relative(hex(bytes)),
        Field::String(text) => relative(text.clone()),
        Field::EnumNumber(number) => {
            let value = kind.as_enum().and_then(|kind| kind.get_value(*number));
            value.map_or_else(|| Value::from(*number), |value| Value::from(value.name()))
        }
        Field::Bool(yes) => Value::from(*yes),
        Field::U32(number) => Value::from(*number),
        Field::U64(number) => Value::from(*number),
        other => Value::from(format!("{other:?}")),
    }
}

impl Conversation {
    /// The coordinator that was recorded.
    ///
    /// # Errors
    /// It is not named.
    pub fn life(&self) -> anyhow::Result<Life> {
        self.life.context("the conversation does not say whose it is")
    }

    /// An entry in the form that two runs share.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn form_of(&self, pool: &DescriptorPool, entry: &Entry) -> anyhow::Result<Value> {
        let call = self.call(entry)?;
        let descriptor = descriptor(pool, &call.path, entry.from_coordinator)?;
        let message = DynamicMessage::decode(descriptor, entry.bytes.as_slice())?;
        Ok(common_form(&message, self.life()?))
    }

    /// The call of an entry.
    ///
    /// # Errors
    /// There is none.
    pub fn call(&self, entry: &Entry) -> anyhow::Result<&Call> {
        self.calls.get(usize::try_from(entry.call)?).context("an entry of no call")
    }

    /// For people who read a change of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(&self, pool: &DescriptorPool) -> anyhow::Result<String> {
        let mut text = String::new();
        for entry in &self.entries {
            if entry.stop {
                writeln!(text, "-- the coordinator is told to stop --")?;
                continue;
            }
            let call = self.call(entry)?;
            let way = if entry.from_coordinator { "<-" } else { "->" };
            writeln!(text, "{} {way} {}", call.name, self.form_of(pool, entry)?)?;
        }
        Ok(text)
    }
}
