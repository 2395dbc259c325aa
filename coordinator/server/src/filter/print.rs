//! A filter as the grammar writes it: parsed again it is the same.

use super::{By, Comparison, Filter, Flag, Order, Quantity, Word};
use crate::view;

/// As the grammar writes it, every comparison in its normal form.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let joined = |f: &mut std::fmt::Formatter<'_>, filters: &[Self], word: &str| {
            for (at, filter) in filters.iter().enumerate() {
                let between = if at == 0 { String::new() } else { format!(" {word} ") };
                let open = match filter {
                    Self::Any(_) => true,
                    Self::All(_) => word == "and",
                    Self::Not(_) | Self::Compare(_) => false,
                };
                let (open, close) = if open { ("(", ")") } else { ("", "") };
                write!(f, "{between}{open}{filter}{close}")?;
            }
            Ok(())
        };
        match self {
            Self::Any(filters) => joined(f, filters, "or"),
            Self::All(filters) => joined(f, filters, "and"),
            Self::Not(filter) if matches!(**filter, Self::Any(_) | Self::All(_)) => {
                write!(f, "not ({filter})")
            }
            Self::Not(filter) => write!(f, "not {filter}"),
            Self::Compare(comparison) => write!(f, "{comparison}"),
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is = |is: bool| if is { "=" } else { "!=" };
        match self {
            Self::State(yes, state) => write!(f, "state{}{}", is(*yes), view::state_word(*state)),
            Self::Outcome(yes, outcome) => {
                write!(f, "outcome{}{}", is(*yes), view::outcome_word(*outcome))
            }
            Self::Word(word, by, text) => {
                let name = match word {
                    Word::Id => "id",
                    Word::Name => "name",
                    Word::Label(key) => &format!("label.{key}"),
                    Word::Participant => "participant",
                    Word::Resource => "resource",
                    Word::WaitingOn => "waiting_on",
                };
                let by = match by {
                    By::Is => "=",
                    By::IsNot => "!=",
                    By::Contains => "~",
                };
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "{name}{by}\"{text}\"")
            }
            Self::Quantity(quantity, order, amount) => {
                let (name, amount) = match quantity {
                    Quantity::Age => ("age", time(*amount)),
                    Quantity::Locked => ("locked", time(*amount)),
                    Quantity::Remaining => ("remaining", time(*amount)),
                    Quantity::Tries => ("tries", amount.to_string()),
                    Quantity::Branches => ("branches", amount.to_string()),
                };
                let order = match order {
                    Order::Is => "=",
                    Order::IsNot => "!=",
                    Order::Less => "<",
                    Order::AtMost => "<=",
                    Order::More => ">",
                    Order::AtLeast => ">=",
                };
                write!(f, "{name}{order}{amount}")
            }
            Self::Flag(Flag::Stuck, is) => write!(f, "stuck={is}"),
            Self::Flag(Flag::Recovered, is) => write!(f, "recovered={is}"),
            Self::Flag(Flag::Resolved, is) => write!(f, "resolved={is}"),
        }
    }
}

/// What is read counts milliseconds in nanoseconds: a long time in them alone would be too long.
fn time(time_ms: u64) -> String {
    match (time_ms / 1_000, time_ms % 1_000) {
        (0, ms) => format!("{ms}ms"),
        (s, 0) => format!("{s}s"),
        (s, ms) => format!("{s}s{ms}ms"),
    }
}
