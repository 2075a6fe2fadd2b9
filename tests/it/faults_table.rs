//! The table of faults in `tests/README.md`: long enough, and made of tests that exist.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Rows that the table has at least.
const ROWS: usize = 100;

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rows of the table: fault, required outcome, and the cited tests.
fn rows(text: &str) -> Vec<[String; 3]> {
    let (_, faults) = text.split_once("\n## Faults\n").expect("the section of faults");
    let rows = faults.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault |"));
    rows.map(|row| {
        let cells: Vec<String> = row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        cells.try_into().unwrap_or_else(|cells| panic!("a row of three cells: {cells:?}"))
    })
    .collect()
}

/// Directory or file of the tests behind the first word of a citation.
fn place(word: &str) -> PathBuf {
    match word {
        "it" => tests().join("it"),
        "conformance" => tests().join("src/conformance.rs"),
        "simulation" => tests().join("../proto/tests/simulation"),
        "agent" | "ctl" | "proto" => tests().join("..").join(word).join("src"),
        _ => panic!("{word} is no place of tests"),
    }
}

/// The file of a module: the longest part of its path that is a file; what follows is a module in that file.
fn file(place: &Path, modules: &[&str]) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_owned());
    }
    (0..=modules.len()).rev().find_map(|length| {
        let path: PathBuf = place.join(modules[..length].iter().collect::<PathBuf>());
        [path.with_extension("rs"), path.join("mod.rs"), path.join("main.rs")].into_iter().find(|file| file.is_file())
    })
}

/// True when the source has a test of this name: with an attribute, in `proptest!`, or a check that takes a store.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(number, line)| {
        let words = line.trim_start_matches("pub ").trim_start_matches("async ");
        let Some(rest) = words.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)) else { return false };
        let attributes = lines[..number].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        let is_test = attributes.into_iter().any(|line| line.contains("test"));
        rest.starts_with("<S: Store>(") || (rest.starts_with('(') && is_test)
    })
}

fn check(citation: &str) -> Result<(), String> {
    if let Some(target) = citation.strip_prefix("fuzz ") {
        let file = tests().join("fuzz/fuzz_targets").join(target).with_extension("rs");
        return if file.is_file() { Ok(()) } else { Err(format!("{citation}: no {}", file.display())) };
    }
    let words: Vec<&str> = citation.split("::").collect();
    let [first, modules @ .., name] = &words[..] else { return Err(format!("{citation} is no path")) };
    let file = file(&place(first), modules).ok_or_else(|| format!("{citation}: no such module"))?;
    let source = std::fs::read_to_string(&file).unwrap();
    if has_test(&source, name) { Ok(()) } else { Err(format!("{citation}: no such test in {}", file.display())) }
}

#[test]
fn every_cited_test_exists() {
    let rows = rows(&std::fs::read_to_string(tests().join("README.md")).unwrap());
    assert!(rows.len() >= ROWS, "{} rows", rows.len());
    let faults: HashSet<&str> = rows.iter().map(|[fault, ..]| fault.as_str()).collect();
    assert_eq!(faults.len(), rows.len(), "a fault has two rows");
    let mut wrong = vec![];
    for [fault, outcome, cited] in &rows {
        let citations: Vec<&str> = cited.split(", ").map(|citation| citation.trim_matches('`')).collect();
        assert!(!fault.is_empty() && !outcome.is_empty() && !cited.is_empty(), "an empty cell: {fault} {outcome} {cited}");
        wrong.extend(citations.into_iter().filter_map(|citation| check(citation).err()));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_promise_of_the_threat_model_has_its_tests() {
    let text = std::fs::read_to_string(tests().join("../agent/SECURITY.md")).unwrap();
    let (_, promises) = text.split_once("\n| promise | test |\n|---|---|\n").expect("the table of promises");
    let rows: Vec<&str> = promises.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    let cited = |row: &&str| row.trim_matches('|').split(" | ").nth(1).map(str::to_owned).unwrap_or_default();
    let citations: Vec<String> = rows.iter().flat_map(|row| cited(row).split(", ").map(str::to_owned).collect::<Vec<_>>()).collect();
    let wrong: Vec<String> = citations.iter().filter_map(|citation| check(citation.trim().trim_matches('`')).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_citation_of_nothing_is_found() {
    assert_eq!(check("it::faults_table::a_citation_of_nothing_is_found"), Ok(()));
    for citation in ["it::faults_table::check", "it::faults_table::nothing", "it::send", "agent::nowhere::tests::x", "fuzz nothing", "it"] {
        assert!(check(citation).is_err(), "{citation}");
    }
}
