//! Names of hosts: in the order in which people count, and many of them in few words.

use std::cmp::Ordering;

use crate::format::shell;

/// Fewer names of a row than this are better read one by one.
const ROW: usize = 3;

/// More digits than this are no number of a range that `send` accepts.
const DIGITS: usize = 6;

/// A name around its last number: `rack1-web`, `07`, `-a`.
#[derive(PartialEq, Eq)]
struct Parts<'a> {
    head: &'a str,
    digits: &'a str,
    tail: &'a str,
}

/// By letters, and where these are the same by number: `web9` is before `web10`.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let key = |name| {
        let Parts { head, digits, tail } = split(name);
        let number = digits.trim_start_matches('0');
        (head, number.len(), number, tail)
    };
    key(one).cmp(&key(other)).then_with(|| one.cmp(other))
}

/// The same hosts in few words, as `send` and a shell take them: `'web[03-05]' web17`. Only names of one width and without a gap
/// become a range.
pub(crate) fn collapse<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by(|one, other| compare(one, other));
    names.dedup();
    let mut words = vec![];
    let mut rest = &names[..];
    while let Some(first) = rest.first() {
        let (row, others) = rest.split_at(row(rest));
        rest = others;
        match row.last() {
            Some(last) if row.len() >= ROW => {
                let Parts { head, digits, tail } = split(first);
                words.push(shell(&format!("{head}[{digits}-{}]{tail}", split(last).digits)));
            }
            _ => words.extend(row.iter().map(|name| shell(name))),
        }
    }
    words.join(" ")
}

/// How many of the first names count up without a gap. At least one.
fn row(names: &[&str]) -> usize {
    let follows = |pair: &[&str]| match pair {
        [one, next] => is_next(&split(one), &split(next)),
        _ => false,
    };
    1 + names.windows(2).take_while(|pair| follows(pair)).count()
}

fn is_next(one: &Parts<'_>, next: &Parts<'_>) -> bool {
    let number = |parts: &Parts<'_>| parts.digits.parse::<u32>().ok().filter(|_| parts.digits.len() <= DIGITS);
    let same = (one.head, one.tail, one.digits.len()) == (next.head, next.tail, next.digits.len());
    same && number(one).zip(number(next)).is_some_and(|(one, next)| one + 1 == next)
}

fn split(name: &str) -> Parts<'_> {
    let is_digit = |c: char| c.is_ascii_digit();
    let end = name.rfind(is_digit).map_or(name.len(), |last| last + 1);
    let start = name[..end].trim_end_matches(is_digit).len();
    Parts { head: &name[..start], digits: &name[start..end], tail: &name[end..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_ranges() {
        for (names, words) in [
            (&["web17", "web05", "web03", "web04"][..], "'web[03-05]' web17"),
            (&["web3", "web4"], "web3 web4"),
            (&["web8", "web9", "web10", "web11"], "web8 web9 web10 web11"),
            (&["web8", "web9", "web10", "web11", "web12"], "web8 web9 'web[10-12]'"),
            (&["a1-x", "a2-x", "a3-x", "a3-y", "db"], "'a[1-3]-x' a3-y db"),
            (&["web03", "web03", "web04", "web05"], "'web[03-05]'"),
            (&["r1-web01", "r1-web02", "r1-web03", "r2-web04"], "'r1-web[01-03]' r2-web04"),
            (&["n1000000", "n1000001", "n1000002"], "n1000000 n1000001 n1000002"),
            (&["it's"], "'it'\\''s'"),
            (&[], ""),
        ] {
            assert_eq!(collapse(names.iter().copied()), words);
        }
    }

    #[test]
    fn numbers_count() {
        let mut names = ["web10", "db", "web9", "web09", "app2-b", "app2-a", "web"];
        names.sort_by(|one, other| compare(one, other));
        assert_eq!(names, ["app2-a", "app2-b", "db", "web", "web09", "web9", "web10"]);
    }
}
