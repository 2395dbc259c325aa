//! A recorded application and its participants, against today's coordinator: what an old SDK would
//! hear from it.

use super::conversation::{self, Conversation, Life, common_form, hex};
use super::raw::Line;
use super::script::{Running, connect};
use super::wire;
use anyhow::{Context as _, ensure};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, ReflectMessage as _, Value};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::path::Path;

/// A field that this version does not know.
const LATER: &str = "of_a_later_version";
const LATER_NUMBER: i32 = 20_000;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The release that was recorded, byte for byte.
    Release,
    /// A later one: every message, and every message within it, has a field more.
    Later,
}

/// Says what was said then; what is heard must be what was heard then, as far as that release can
/// read it.
///
/// # Errors
/// It is not, with the place.
pub async fn replay(
    release: &str,
    conversation: &Conversation,
    speaker: Speaker,
    dir: &Path,
) -> anyhow::Result<()> {
    let pool = wire::pool(release)?;
    let later = DescriptorPool::from_file_descriptor_set(with_later_fields(wire::of(release)?))?;
    let then = conversation.life()?;
    let mut now = None;
    let running = Running::start(dir).await?;
    let channel = connect(running.sessions).await?;
    let mut lines: Vec<Line> = Vec::new();
    for (index, entry) in conversation.entries.iter().enumerate() {
        if entry.stop {
            running.stop();
            continue;
        }
        let call = conversation.call(entry)?;
        let place = format!("entry {}, {}", index + 1, call.name);
        // Calls are opened in the order of their first words.
        if lines.len() <= entry.call as usize {
            let streams = conversation::method(&pool, &call.path)?.is_client_streaming();
            lines.push(Line::open(&channel, &call.path, streams).await.context(place.clone())?);
        }
        let line = &mut lines[entry.call as usize];
        let descriptor = conversation::descriptor(&pool, &call.path, entry.from_coordinator)?;
        if !entry.from_coordinator {
            let bytes =
                now.map_or_else(|| entry.bytes.clone(), |now| live(&entry.bytes, then, now));
            let bytes = match speaker {
                Speaker::Release => bytes,
                Speaker::Later => {
                    let name = descriptor.full_name();
                    let descriptor = later.get_message_by_name(name).context("no such message")?;
                    let mut message = DynamicMessage::decode(descriptor, bytes.as_slice())?;
                    add_later(&mut message);
                    message.encode_to_vec()
                }
            };
            line.say(bytes).await.context(place)?;
            continue;
        }
        let heard = line.hear().await.with_context(|| place.clone())?;
        let heard = DynamicMessage::decode(descriptor, heard.as_slice())?;
        now = now.or_else(|| life_of(&heard));
        let found = common_form(&heard, now.with_context(|| format!("{place}: no welcome"))?);
        let expected = conversation.form_of(&pool, entry)?;
        ensure!(found == expected, "{place}:\n  then {expected}\n  now  {found}");
    }
    Ok(())
}

/// The same words about the identifiers of today's coordinator.
fn live(bytes: &[u8], then: Life, now: Life) -> Vec<u8> {
    let bytes = exchanged(bytes, &then.bytes(), &now.bytes());
    exchanged(&bytes, hex(&then.bytes()).as_bytes(), hex(&now.bytes()).as_bytes())
}

fn exchanged(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

/// Whose welcome it is.
fn life_of(heard: &DynamicMessage) -> Option<Life> {
    let welcome = heard.get_field_by_name("welcome")?;
    let coordinator = welcome.as_message()?.get_field_by_name("coordinator")?;
    let number = |name| coordinator.as_message()?.get_field_by_name(name)?.as_u32();
    Some(Life { incarnation: number("incarnation")?, epoch: number("epoch")? })
}

fn with_later_fields(mut set: FileDescriptorSet) -> FileDescriptorSet {
    let field = FieldDescriptorProto {
        name: Some(LATER.to_owned()),
        number: Some(LATER_NUMBER),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..FieldDescriptorProto::default()
    };
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.for_each(|message: &mut DescriptorProto| message.field.push(field.clone()));
    set
}

fn add_later(message: &mut DynamicMessage) {
    for field in message.descriptor().fields() {
        if !matches!(field.kind(), Kind::Message(_)) || !message.has_field(&field) {
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => add_later(inner),
            Value::List(all) => all.iter_mut().for_each(|one| {
                if let Value::Message(inner) = one {
                    add_later(inner);
                }
            }),
            _ => {}
        }
    }
    message.set_field_by_name(LATER, Value::String("words".to_owned()));
}
