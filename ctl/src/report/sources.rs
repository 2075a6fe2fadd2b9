//! From whom a host has received, in a few words.

use proto::control::Source;
use proto::text::escape;

/// `web06`, or with shares `web06, stapp01 12 %`: the first has the rest. Nothing when nobody is known.
pub(super) fn shares(sources: &[Source]) -> String {
    let total_bytes: u128 = sources.iter().map(|source| u128::from(source.received_bytes)).sum();
    let mut words: Vec<String> = sources.iter().take(1).map(|first| escape(&first.host)).collect();
    for source in sources.iter().skip(1) {
        let percent = (u128::from(source.received_bytes) * 100 + total_bytes / 2) / total_bytes.max(1);
        // Who gave next to nothing is no help to know.
        if percent > 0 {
            words.push(format!("{} {percent} %", escape(&source.host)));
        }
    }
    words.join(", ")
}

/// `web06`, or `web06 +2`: for a column.
pub(super) fn column(sources: &[Source]) -> String {
    match sources {
        [] => "-".to_owned(),
        [only] => escape(&only.host),
        [first, others @ ..] => format!("{} +{}", escape(&first.host), others.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_words() {
        let source = |host: &str, received_bytes| Source { host: host.to_owned(), received_bytes };
        let all = [source("web06", 870), source("stapp01", 116), source("b\u{1b}", 10), source("c", 4)];
        assert_eq!((shares(&[]), column(&[])), (String::new(), "-".to_owned()));
        assert_eq!((shares(&all[..1]), column(&all[..1])), ("web06".to_owned(), "web06".to_owned()));
        assert_eq!(shares(&all), "web06, stapp01 12 %, b\\u{1b} 1 %");
        assert_eq!(column(&all), "web06 +3");
    }
}
