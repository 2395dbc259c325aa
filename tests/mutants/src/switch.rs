//! All mutants of a file in one source, each behind a switch: built once, run as often as there
//! are mutants.

use crate::list::{Genre, Mutant};
use anyhow::{Context as _, Result};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// The number of a mutant, from 1; 0 is the code as it is.
pub(crate) type Number = usize;

/// The switch itself, put at the end of the core's `lib.rs`.
pub(crate) const SWITCH: &str = r#"
#[doc(hidden)]
pub mod mutant {
    #![allow(missing_docs, clippy::disallowed_types, clippy::disallowed_methods)]
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, OnceLock};

    struct Switches {
        active: usize,
        reached: Option<(Mutex<std::fs::File>, Vec<AtomicBool>)>,
    }

    fn switches() -> Switches {
        let active = std::env::var("UNANIMOUS_MUTANT").ok();
        let file = std::env::var("UNANIMOUS_REACHED").ok().map(|path| {
            Mutex::new(std::fs::File::options().append(true).create(true).open(path).unwrap())
        });
        let flags = || (0..10_000).map(|_| AtomicBool::new(false)).collect();
        Switches {
            active: active.and_then(|text| text.parse().ok()).unwrap_or(0),
            reached: file.map(|file| (file, flags())),
        }
    }

    pub fn on(number: usize) -> bool {
        static SWITCHES: OnceLock<Switches> = OnceLock::new();
        let switches = SWITCHES.get_or_init(switches);
        if let Some((file, flags)) = &switches.reached
            && !flags[number].swap(true, Ordering::Relaxed)
        {
            let line = format!("{number}\n");
            file.lock().unwrap().write_all(line.as_bytes()).unwrap();
        }
        switches.active == number
    }

    /// One of two iterators, where a function gives out only that it is one.
    pub enum Either<A, B> {
        Mutated(A),
        AsItIs(B),
    }

    impl<A: Iterator, B: Iterator<Item = A::Item>> Iterator for Either<A, B> {
        type Item = A::Item;

        fn next(&mut self) -> Option<A::Item> {
            match self {
                Self::Mutated(mutated) => mutated.next(),
                Self::AsItIs(as_it_is) => as_it_is.next(),
            }
        }
    }
}
"#;

/// A file with its switches.
pub(crate) struct Switched {
    pub(crate) text: String,
    /// Where in `text` each mutant stands.
    pub(crate) places: Vec<(Range<usize>, Number)>,
    /// Those that have no place for a switch.
    pub(crate) unplaced: BTreeSet<Number>,
    /// Those that no compiler takes: a `let` is only ever joined by `&&`.
    pub(crate) unviable: BTreeSet<Number>,
}

/// What the syntax says about the places that cargo-mutants names by their first byte.
#[derive(Default)]
struct Syntax {
    /// From an operator, a guard, or a field of a struct expression, to the whole expression.
    wholes: BTreeMap<usize, Range<usize>>,
    /// From an arm to the end of its pattern and to its guard.
    arms: BTreeMap<usize, (usize, Option<Range<usize>>)>,
    /// Operands with a `let` cannot be put in parentheses.
    with_let: BTreeSet<usize>,
    /// From the first statement to the end of the last, of functions that return some iterator.
    iterators: BTreeMap<usize, usize>,
}

impl Syntax {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let opaque = matches!(&signature.output, syn::ReturnType::Type(_, of)
            if matches!(&**of, syn::Type::ImplTrait(_)));
        if let (true, Some(first), Some(last)) = (opaque, block.stmts.first(), block.stmts.last()) {
            let (first, last) = (first.span().byte_range(), last.span().byte_range());
            self.iterators.insert(first.start, last.end);
        }
    }
}

impl<'ast> Visit<'ast> for Syntax {
    fn visit_expr(&mut self, expr: &'ast syn::Expr) {
        let whole = expr.span().byte_range();
        match expr {
            syn::Expr::Binary(binary) => {
                let operator = binary.op.span().byte_range().start;
                if has_let(&binary.left) || has_let(&binary.right) {
                    self.with_let.insert(operator);
                }
                self.wholes.insert(operator, whole);
            }
            syn::Expr::Unary(unary) => {
                self.wholes.insert(unary.op.span().byte_range().start, whole);
            }
            syn::Expr::Struct(of) => {
                for field in &of.fields {
                    self.wholes.insert(field.span().byte_range().start, whole.clone());
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_impl_item_fn(&mut self, of: &'ast syn::ImplItemFn) {
        self.function(&of.sig, &of.block);
        visit::visit_impl_item_fn(self, of);
    }

    fn visit_item_fn(&mut self, of: &'ast syn::ItemFn) {
        self.function(&of.sig, &of.block);
        visit::visit_item_fn(self, of);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let guard = arm.guard.as_ref().map(|(_, guard)| guard.span().byte_range());
        if let Some(guard) = &guard {
            self.wholes.insert(guard.start, guard.clone());
        }
        let pattern = arm.pat.span().byte_range();
        self.arms.insert(arm.span().byte_range().start, (pattern.end, guard));
        visit::visit_arm(self, arm);
    }
}

fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Text that is put in, and what decides its order among others at the same byte: what ends comes
/// first, the inner before the outer; then what begins, the outer before the inner.
struct Insertion {
    at: usize,
    rank: Rank,
    /// The distance to its other end: for one that ends.
    inner_first: usize,
    /// For one that begins.
    outer_first: Reverse<usize>,
    text: String,
    /// Which parts of the text belong to which mutant.
    parts: Vec<(Range<usize>, Number)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ExpressionEnd,
    GuardEnd,
    BodyEnd,
    Statement,
    ExpressionBegin,
}

impl Insertion {
    fn new(at: usize, rank: Rank, text: String, number: Option<Number>) -> Self {
        let parts = number.map(|number| (0..text.len(), number)).into_iter().collect();
        Self { at, rank, inner_first: 0, outer_first: Reverse(0), text, parts }
    }
}

/// Puts a switch into `text` for each of the mutants, all of this file. `switch` is the path of the
/// function that [`SWITCH`] defines.
pub(crate) fn switched(
    text: &str,
    mutants: &[(Number, &Mutant)],
    switch: &str,
) -> Result<Switched> {
    let file = syn::parse_file(text).context("parsing")?;
    let mut syntax = Syntax::default();
    syntax.visit_file(&file);
    let mut edits = Edits { switch, insertions: Vec::new(), choices: BTreeMap::new() };
    let (mut unplaced, mut unviable) = (BTreeSet::new(), BTreeSet::new());
    for (number, mutant) in mutants {
        if syntax.with_let.contains(&mutant.span.start) && mutant.replacement == "||" {
            unviable.insert(*number);
        } else if edits.add(text, &syntax, *number, mutant).is_none() {
            unplaced.insert(*number);
        }
    }
    let (text, places) = edits.write(text);
    Ok(Switched { text, places, unplaced, unviable })
}

struct Edits<'a> {
    switch: &'a str,
    insertions: Vec<Insertion>,
    /// For an expression: what each mutant makes of it.
    choices: BTreeMap<(usize, usize), Vec<(Number, String)>>,
}

impl Edits<'_> {
    /// `None`: there is no place for a switch.
    fn add(&mut self, text: &str, syntax: &Syntax, number: Number, mutant: &Mutant) -> Option<()> {
        let start = mutant.span.start;
        let (on, replacement) = (format!("{}({number})", self.switch), &mutant.replacement);
        let mut insert = |at: usize, rank: Rank, text: String, number: Option<Number>| {
            self.insertions.push(Insertion::new(at, rank, text, number));
        };
        match mutant.genre {
            Genre::FnValue if syntax.iterators.contains_key(&start) => {
                let either = self.switch.trim_end_matches("on");
                let (mutated, as_it_is) =
                    (format!("{either}Either::Mutated"), format!("{either}Either::AsItIs"));
                let opens =
                    format!("if {on} {{ {mutated}({replacement}) }} else {{ {as_it_is}({{ ");
                insert(start, Rank::Statement, opens, Some(number));
                insert(syntax.iterators[&start], Rank::BodyEnd, " }) }".to_owned(), None);
            }
            Genre::FnValue => {
                let early = format!("if {on} {{ return {replacement}; }} ");
                insert(start, Rank::Statement, early, Some(number));
            }
            Genre::MatchArm => match syntax.arms.get(&start)? {
                (_, Some(guard)) => {
                    insert(guard.start, Rank::Statement, format!("!{on} && ("), Some(number));
                    insert(guard.end, Rank::GuardEnd, ")".to_owned(), None);
                }
                (pattern_end, None) => {
                    let guard = format!(" if !{on}");
                    insert(*pattern_end, Rank::Statement, guard, Some(number));
                }
            },
            Genre::BinaryOperator
            | Genre::UnaryOperator
            | Genre::MatchArmGuard
            | Genre::StructField => {
                let whole = syntax.wholes.get(&start)?;
                if syntax.with_let.contains(&start) || mutant.span.end > whole.end {
                    return None;
                }
                let before = &text[whole.start..start];
                let after = &text[mutant.span.end..whole.end];
                let choice = (number, format!("{before}{replacement}{after}"));
                self.choices.entry((whole.start, whole.end)).or_default().push(choice);
            }
        }
        Some(())
    }

    fn write(mut self, text: &str) -> (String, Vec<(Range<usize>, Number)>) {
        for ((start, end), choices) in &self.choices {
            let mut opening = String::from("(");
            let mut parts = Vec::new();
            for (number, mutated) in choices {
                let from = opening.len();
                let on = format!("{}({number})", self.switch);
                opening.push_str(&format!("if {on} {{ {mutated} }} else "));
                parts.push((from..opening.len(), *number));
            }
            opening.push_str("{ ");
            let opens = Insertion::new(*start, Rank::ExpressionBegin, opening, None);
            let closes = Insertion::new(*end, Rank::ExpressionEnd, " })".to_owned(), None);
            let extent = end - start;
            self.insertions.push(Insertion { outer_first: Reverse(extent), parts, ..opens });
            self.insertions.push(Insertion { inner_first: extent, ..closes });
        }
        self.insertions.sort_by_key(|one| (one.at, one.rank, one.inner_first, one.outer_first));
        let (mut written, mut places, mut at) = (String::new(), Vec::new(), 0);
        for insertion in &self.insertions {
            written.push_str(&text[at..insertion.at]);
            at = insertion.at;
            let begun = written.len();
            written.push_str(&insertion.text);
            let moved = |part: &Range<usize>| begun + part.start..begun + part.end;
            places.extend(insertion.parts.iter().map(|(part, number)| (moved(part), *number)));
        }
        written.push_str(&text[at..]);
        (written, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mutant that makes `what`, within `place`, into `replacement`.
    fn mutant(source: &str, genre: Genre, place: &str, what: &str, replacement: &str) -> Mutant {
        let start = source.find(place).unwrap() + place.find(what).unwrap();
        Mutant {
            name: String::new(),
            package: String::new(),
            file: String::new(),
            genre,
            span: start..start + what.len(),
            replacement: replacement.to_owned(),
            line: String::new(),
        }
    }

    fn switched_text(source: &str, mutants: &[Mutant]) -> Switched {
        let numbered: Vec<_> = (1..).zip(mutants).collect();
        switched(source, &numbered, "on").unwrap()
    }

    #[test]
    fn an_operator_becomes_a_choice_and_outer_ones_hold_inner_ones() {
        let source = "fn f(a: bool, b: u8) -> bool { a && !(b == 1) }";
        let text = switched_text(
            source,
            &[
                mutant(source, Genre::BinaryOperator, "a && !", "&&", "||"),
                mutant(source, Genre::BinaryOperator, "b == 1", "==", "!="),
                mutant(source, Genre::UnaryOperator, "!(", "!", ""),
                mutant(source, Genre::FnValue, "a && !(b == 1)", "a && !(b == 1)", "true"),
            ],
        )
        .text;
        let expected = "fn f(a: bool, b: u8) -> bool { if on(4) { return true; } \
            (if on(1) { a || !(b == 1) } else { \
            a && (if on(3) { (b == 1) } else { \
            !((if on(2) { b != 1 } else { b == 1 })) }) }) }";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_returns_some_iterator_returns_one_of_several() {
        let source = "fn f(a: &[u8]) -> impl Iterator<Item = &u8> { let b = a; b.iter() }";
        let body = "let b = a; b.iter()";
        let empty = mutant(source, Genre::FnValue, body, body, "std::iter::empty()");
        let once = mutant(source, Genre::FnValue, body, body, "std::iter::once(&1)");
        let text = switched_text(source, &[empty, once]).text;
        let expected = "fn f(a: &[u8]) -> impl Iterator<Item = &u8> { \
            if on(1) { Either::Mutated(std::iter::empty()) } else { Either::AsItIs({ \
            if on(2) { Either::Mutated(std::iter::once(&1)) } else { Either::AsItIs({ \
            let b = a; b.iter() }) } }) } }";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_arm_is_taken_out_by_its_guard() {
        let source = "fn f(a: u8) -> u8 { match a { 0 => 1, n if n > 7 => 2, _ => 3 } }";
        let text = switched_text(
            source,
            &[
                mutant(source, Genre::MatchArm, "0 => 1,", "0 => 1,", ""),
                mutant(source, Genre::MatchArm, "n if n > 7 => 2,", "n if n > 7 => 2,", ""),
                mutant(source, Genre::MatchArmGuard, "n > 7 =", "n > 7", "true"),
            ],
        )
        .text;
        let expected = "fn f(a: u8) -> u8 { match a { 0 if !on(1) => 1, \
            n if !on(2) && ((if on(3) { true } else { n > 7 })) => 2, _ => 3 } }";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_mutant_is_found_again_where_it_stands() {
        let source = "fn f(s: S) -> S { S { a: 1, ..s } }";
        let field = mutant(source, Genre::StructField, "a: 1,", "a: 1,", "");
        let switched = switched_text(source, &[field]);
        let (place, number) = &switched.places[0];
        assert_eq!((&switched.text[place.clone()], *number), ("if on(1) { S {  ..s } } else ", 1));
    }

    #[test]
    fn what_binds_names_has_no_place_for_a_switch() {
        let source =
            "fn f(a: Option<u8>) -> bool { if let Some(n) = a && n > 1 { true } else { false } }";
        let or = mutant(source, Genre::BinaryOperator, "a && n", "&&", "||");
        let and = mutant(source, Genre::BinaryOperator, "a && n", "&&", "&");
        let switched = switched_text(source, &[or, and]);
        assert_eq!((switched.unviable, switched.unplaced), ([1].into(), [2].into()));
    }
}
