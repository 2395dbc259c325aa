//! What was probably meant by a name that nobody has.

/// A distance above this is another word, not a slip.
const DISTANCE_MAX: usize = 3;

/// The nearest of `names`: at most three letters wrong and less than half of the name, or the same
/// letters in another order. The first of equally near ones.
pub(crate) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance = |name: &str| {
        let distance = strsim::damerau_levenshtein(wrong, name);
        let likely = distance <= DISTANCE_MAX && distance * 2 < name.len();
        if likely { Some(distance) } else { same_letters(wrong, name).then_some(DISTANCE_MAX + 1) }
    };
    let near = names.into_iter().filter_map(|name| Some((distance(name)?, name)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Whether nothing but `known` can have been meant: one letter wrong, two swapped, or the same
/// letters in another order.
pub(crate) fn is_slip_of(wrong: &str, known: &str) -> bool {
    strsim::damerau_levenshtein(wrong, known) == 1 || same_letters(wrong, known)
}

fn same_letters(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    one != other && sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = ["transactions_max", "drain", "slot", "calls_max", "keepalive"];
        let table = [
            ("transactons_max", Some("transactions_max")),
            ("transaction_max", Some("transactions_max")),
            ("max_transactions", Some("transactions_max")),
            ("darin", Some("drain")),
            ("solt", Some("slot")),
            ("call_max", Some("calls_max")),
            ("keepalive_ms", Some("keepalive")),
            ("foo", None),
            ("plot", Some("slot")),
            ("ploy", None),
            ("", None),
            ("something_else", None),
        ];
        for (wrong, meant) in table {
            assert_eq!(nearest(wrong, names), meant, "{wrong}");
        }
    }

    #[test]
    fn the_nearest_of_several_wins() {
        assert_eq!(nearest("retry_mix", ["retry_max", "retry_mux"]), Some("retry_max"));
        assert_eq!(nearest("retry_mi", ["retry_max", "retry_min"]), Some("retry_min"));
    }

    #[test]
    fn only_a_slip_is_unmistakable() {
        let table = [
            ("DATA_DIRR", "DATA_DIR", true),
            ("DAAT_DIR", "DATA_DIR", true),
            ("DIR_DATA", "DATA_DIR", true),
            ("DATA_DIR", "DATA_DIR", false),
            ("PORT", "SLOT", false),
            ("CRASH_POINT", "SLOT", false),
        ];
        for (wrong, known, slip) in table {
            assert_eq!(is_slip_of(wrong, known), slip, "{wrong}");
        }
    }
}
