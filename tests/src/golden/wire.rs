//! A release's descriptors: no field, number, type, value or call of them may change or go.

use super::{VERSION, folder};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};
use std::collections::BTreeMap;

/// Today's descriptors, without comments.
///
/// # Errors
/// They cannot be read.
pub fn today() -> anyhow::Result<FileDescriptorSet> {
    let mut set = FileDescriptorSet::decode(unanimous_proto::FILE_DESCRIPTOR_SET)?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    Ok(set)
}

/// A release's descriptors.
///
/// # Errors
/// There are none.
pub fn of(release: &str) -> anyhow::Result<FileDescriptorSet> {
    let path = folder("wire").join(format!("{release}.bin"));
    Ok(FileDescriptorSet::decode(std::fs::read(path)?.as_slice())?)
}

/// A release's descriptors, to read its messages with.
///
/// # Errors
/// There are none.
pub fn pool(release: &str) -> anyhow::Result<DescriptorPool> {
    Ok(DescriptorPool::from_file_descriptor_set(of(release)?)?)
}

/// Writes today's as this version's.
///
/// # Errors
/// The disk.
pub fn bless() -> anyhow::Result<()> {
    std::fs::create_dir_all(folder("wire"))?;
    let path = folder("wire").join(format!("{VERSION}.bin"));
    Ok(std::fs::write(path, today()?.encode_to_vec())?)
}

/// Everything of `old` that is not in `new`, or is different there, in words.
#[must_use]
pub fn broken(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (facts(old), facts(new));
    let mut broken = Vec::new();
    for (name, fact) in old {
        match new.get(&name) {
            None => broken.push(format!("{name} is gone")),
            Some(now) if *now != fact => broken.push(format!("{name} was {fact}, is {now}")),
            Some(_) => {}
        }
    }
    broken
}

/// What somebody who speaks the wire relies on, by its name.
fn facts(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            add_message(&mut facts, file.package(), message);
        }
        for one in &file.enum_type {
            add_enum(&mut facts, file.package(), one);
        }
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                facts.insert(name, call(method));
            }
        }
    }
    facts
}

fn add_message(facts: &mut BTreeMap<String, String>, scope: &str, message: &DescriptorProto) {
    let scope = format!("{scope}.{}", message.name());
    facts.insert(scope.clone(), "a message".to_owned());
    for one in &message.field {
        facts.insert(format!("{scope}.{}", one.name()), field(message, one));
    }
    for nested in &message.nested_type {
        add_message(facts, &scope, nested);
    }
    for nested in &message.enum_type {
        add_enum(facts, &scope, nested);
    }
}

fn add_enum(facts: &mut BTreeMap<String, String>, scope: &str, one: &EnumDescriptorProto) {
    for value in &one.value {
        let name = format!("{scope}.{}.{}", one.name(), value.name());
        facts.insert(name, format!("the value {}", value.number()));
    }
}

fn field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let one_of = field.oneof_index.filter(|_| !field.proto3_optional());
    let one_of = one_of.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    format!(
        "number {}, {:?} {:?} {}{}{}",
        field.number(),
        field.label(),
        field.r#type(),
        field.type_name(),
        if field.proto3_optional() { ", optional" } else { "" },
        one_of.map(|one_of| format!(", one of {}", one_of.name())).unwrap_or_default()
    )
}

fn call(method: &MethodDescriptorProto) -> String {
    let stream = |yes| if yes { "stream " } else { "" };
    format!(
        "{}{} -> {}{}",
        stream(method.client_streaming()),
        method.input_type(),
        stream(method.server_streaming()),
        method.output_type()
    )
}
