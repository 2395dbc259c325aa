//! Reads what `strace -f -xx` wrote: one event a line, in the order the kernel saw them.

use std::collections::BTreeMap;

/// A system call as far as the proof needs it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Its arguments as printed.
    pub(crate) arguments: String,
}

/// A line of the trace.
#[derive(Debug)]
pub(crate) enum Line {
    /// The call was entered; its data had been handed over.
    Entered { thread: u32, call: Call },
    /// The call returned.
    Returned { thread: u32, call: Call, result: i64 },
}

/// Puts `<unfinished ...>` and `resumed` together.
#[derive(Default)]
pub(crate) struct Reader {
    open: BTreeMap<u32, Call>,
}

impl Reader {
    /// The events of one line: none, one, or an entry with its return.
    pub(crate) fn read(&mut self, line: &str) -> Vec<Line> {
        let Some((thread, rest)) = line.split_once(' ') else { return Vec::new() };
        let Ok(thread) = thread.parse::<u32>() else { return Vec::new() };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(open) = self.open.remove(&thread) else { return Vec::new() };
            let Some((_, after)) = resumed.split_once(" resumed>") else { return Vec::new() };
            let result = result_of(after);
            let arguments = format!("{}{after}", open.arguments);
            return vec![Line::Returned { thread, call: Call { arguments, ..open }, result }];
        }
        let Some((name, arguments)) = rest.split_once('(') else { return Vec::new() };
        if let Some(arguments) = arguments.strip_suffix("<unfinished ...>") {
            let call =
                |arguments: &str| Call { name: name.to_owned(), arguments: arguments.to_owned() };
            self.open.insert(thread, call(arguments));
            return vec![Line::Entered { thread, call: call(arguments) }];
        }
        let result = result_of(arguments);
        let call = || Call { name: name.to_owned(), arguments: arguments.to_owned() };
        vec![
            Line::Entered { thread, call: call() },
            Line::Returned { thread, call: call(), result },
        ]
    }
}

fn result_of(text: &str) -> i64 {
    let result = text.rsplit_once(" = ").map(|(_, result)| result);
    let number = result.and_then(|result| result.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(-1)
}

impl Call {
    /// The first argument, if it is a number.
    pub(crate) fn descriptor(&self) -> Option<i32> {
        self.arguments.split([',', ')']).next()?.trim().parse().ok()
    }

    /// All strings among the arguments, joined: with `-xx` they are `\x01\x02`.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, part) in self.arguments.split('"').enumerate() {
            if index % 2 == 1 {
                bytes.extend(
                    part.split("\\x").skip(1).filter_map(|hex| u8::from_str_radix(hex, 16).ok()),
                );
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_whole_call_is_entered_and_returned() {
        let mut reader = Reader::default();
        let lines = reader.read(r#"12  write(7, "\x01\xff", 2) = 2"#);
        let [Line::Entered { call, .. }, Line::Returned { result: 2, .. }] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!((call.descriptor(), call.bytes()), (Some(7), vec![1, 255]));
    }

    #[test]
    fn an_interrupted_call_is_put_together() {
        let mut reader = Reader::default();
        let entered = reader.read("12  fdatasync(9 <unfinished ...>");
        assert!(matches!(&entered[..], [Line::Entered { .. }]));
        let returned = reader.read("12  <... fdatasync resumed>) = 0");
        let [Line::Returned { call, result: 0, .. }] = &returned[..] else {
            panic!("{returned:?}")
        };
        assert_eq!((call.name.as_str(), call.arguments.starts_with('9')), ("fdatasync", true));
    }
}
