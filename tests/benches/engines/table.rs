//! One row for each measurement, with its goal beside it.

/// What a section is about.
pub(crate) fn title(text: &str) {
    println!("\n{text}");
}

/// What something else takes, or may take: no goal.
pub(crate) fn beside(what: &str, figure: String) {
    println!("  {what:74} {figure:>10}");
}

/// A figure that is to be at most so much.
pub(crate) fn at_most(what: &str, figure: f64, goal: f64, unit: &str) {
    verdict(what, figure, &format!("≤ {goal}{unit}"), unit, figure <= goal);
}

/// A figure that is to be at least so much.
pub(crate) fn at_least(what: &str, figure: f64, goal: f64, unit: &str) {
    verdict(what, figure, &format!("≥ {goal}{unit}"), unit, figure >= goal);
}

/// Seconds, for people.
pub(crate) fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn verdict(what: &str, figure: f64, goal: &str, unit: &str, is_met: bool) {
    let digits = if figure.abs() < 10.0 { 2 } else { 0 };
    println!("  {what:74} {:>10}  goal {goal:10} {}", format!("{figure:.digits$}{unit}"), if is_met { "met" } else { "MISSED" });
}
