//! The wire's reference page, made from the descriptors and the comments in them.

use anyhow::Context as _;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where the page is, from the root.
pub(crate) const PAGE: &str = "docs/wire.md";

const PACKAGE: &str = ".unanimous.v1.";
const FILES: [&str; 4] = ["common", "participant", "client", "admin"];
/// Longest line of prose.
const COLUMNS_MAX: usize = 110;
/// Field numbers in a descriptor, of which the paths of comments are made.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const PARTS: i32 = 2;
const SYNTAX: i32 = 12;

const HEAD: &str = "\
# Wire reference

Package `unanimous.v1`, made from the comments of the `.proto` files in
[proto](../proto/unanimous/v1) by `./tests/run docs --bless`; a run fails when the two differ. How
v1 may change: [compatibility](compatibility.md).
";

/// The page as it must be.
///
/// # Errors
/// The descriptors cannot be read.
pub(crate) fn page() -> anyhow::Result<String> {
    let set = FileDescriptorSet::decode(unanimous_proto::FILE_DESCRIPTOR_SET)?;
    let mut page = HEAD.to_owned();
    for name in FILES {
        let path = format!("unanimous/v1/{name}.proto");
        let file = set.file.iter().find(|file| file.name() == path);
        let file = file.with_context(|| format!("{path} is not among the descriptors"))?;
        write_file(&mut page, file)?;
    }
    Ok(page)
}

/// Comments by the path of what they are about.
type Comments = BTreeMap<Vec<i32>, String>;

fn write_file(page: &mut String, file: &FileDescriptorProto) -> anyhow::Result<()> {
    let info = file.source_code_info.as_ref().context("the descriptors have no comments")?;
    let mut comments = Comments::new();
    for location in &info.location {
        let detached = location.leading_detached_comments.join("\n");
        let leading = location.leading_comments();
        let text = if location.path == [SYNTAX] { detached + leading } else { leading.to_owned() };
        comments.entry(location.path.clone()).or_insert(text);
    }
    writeln!(page, "\n## {}\n", file.name())?;
    write_prose(page, comments.get(&vec![SYNTAX]))?;
    for (index, service) in (0..).zip(&file.service) {
        write_service(page, service, &comments, &[SERVICES, index])?;
    }
    for (index, message) in (0..).zip(&file.message_type) {
        write_message(page, message, &comments, &[MESSAGES, index])?;
    }
    for (index, one) in (0..).zip(&file.enum_type) {
        write_enum(page, one, &comments, &[ENUMS, index])?;
    }
    Ok(())
}

fn write_service(
    page: &mut String,
    service: &ServiceDescriptorProto,
    comments: &Comments,
    path: &[i32],
) -> anyhow::Result<()> {
    writeln!(page, "### service {}\n", service.name())?;
    write_prose(page, comments.get(path))?;
    writeln!(page, "| call | request | response | |\n| --- | --- | --- | --- |")?;
    for (index, method) in (0..).zip(&service.method) {
        let stream = |yes| if yes { "stream of " } else { "" };
        writeln!(
            page,
            "| `{}` | {}`{}` | {}`{}` | {} |",
            method.name(),
            stream(method.client_streaming()),
            short(method.input_type()),
            stream(method.server_streaming()),
            short(method.output_type()),
            cell(comments.get(&[path, &[PARTS, index]].concat()))
        )?;
    }
    page.push('\n');
    Ok(())
}

fn write_message(
    page: &mut String,
    message: &DescriptorProto,
    comments: &Comments,
    path: &[i32],
) -> anyhow::Result<()> {
    writeln!(page, "### {}\n", message.name())?;
    write_prose(page, comments.get(path))?;
    if message.field.is_empty() {
        writeln!(page, "No fields.\n")?;
        return Ok(());
    }
    writeln!(page, "| no. | field | type | |\n| --- | --- | --- | --- |")?;
    for (index, field) in (0..).zip(&message.field) {
        let comment = cell(comments.get(&[path, &[PARTS, index]].concat()));
        let kind = kind(message, field);
        writeln!(page, "| {} | `{}` | {kind} | {comment} |", field.number(), field.name())?;
    }
    for range in &message.reserved_range {
        writeln!(page, "| {} | | | Reserved. |", range.start())?;
    }
    page.push('\n');
    Ok(())
}

fn write_enum(
    page: &mut String,
    one: &EnumDescriptorProto,
    comments: &Comments,
    path: &[i32],
) -> anyhow::Result<()> {
    writeln!(page, "### enum {}\n", one.name())?;
    write_prose(page, comments.get(path))?;
    writeln!(page, "| no. | value | |\n| --- | --- | --- |")?;
    for (index, value) in (0..).zip(&one.value) {
        let comment = cell(comments.get(&[path, &[PARTS, index]].concat()));
        writeln!(page, "| {} | `{}` | {comment} |", value.number(), value.name())?;
    }
    page.push('\n');
    Ok(())
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        plain => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let one_of = field.oneof_index.and_then(|index| message.oneof_decl.get(index as usize));
    match one_of {
        _ if field.proto3_optional() => format!("optional `{name}`"),
        Some(one_of) => format!("`{name}`, one of {}", one_of.name()),
        None if field.label() == Label::Repeated => format!("repeated `{name}`"),
        None => format!("`{name}`"),
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix(PACKAGE).unwrap_or(name)
}

/// In a table everything is one line.
fn cell(comment: Option<&String>) -> String {
    let words: Vec<&str> = comment.map_or("", String::as_str).split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// Lines that are set off by spaces, lists and tables of a comment, stay as they are.
fn write_prose(page: &mut String, comment: Option<&String>) -> anyhow::Result<()> {
    let comment = comment.map_or("", |comment| comment.trim_end());
    if comment.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = comment.lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
    if lines.iter().any(|line| line.starts_with("  ")) {
        writeln!(page, "<!-- docs: picture -->\n```text\n{}\n```\n", lines.join("\n"))?;
        return Ok(());
    }
    for paragraph in lines.split(|line| line.is_empty()) {
        let mut width = 0;
        for word in paragraph.iter().flat_map(|line| line.split(' ')) {
            let word = word.replace('<', "&lt;");
            if width > 0 && width + word.len() < COLUMNS_MAX {
                page.push(' ');
                width += 1;
            } else if width > 0 {
                page.push('\n');
                width = 0;
            }
            page.push_str(&word);
            width += word.len();
        }
        page.push_str("\n\n");
    }
    Ok(())
}
