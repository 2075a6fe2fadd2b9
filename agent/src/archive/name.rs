//! Names of members and targets of links, without the ways in which one name can be written twice.

/// [`normal`] for the name of a member: with a slash before it, as some tools write it, it is the same.
pub(super) fn member(name: &str) -> Option<String> {
    normal("", name.trim_start_matches('/'))
}

/// `a/b/c` for `./a//b/../b/c`, seen from the directory `from`. `None` when it leads out.
pub(super) fn normal(from: &str, name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The directory of a normal name.
pub(super) fn directory(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form_and_do_not_lead_out() {
        assert_eq!(normal("", "./a//b/./c").as_deref(), Some("a/b/c"));
        assert_eq!(normal("a/b", "../c/layer.tar").as_deref(), Some("a/c/layer.tar"));
        assert_eq!(normal("", "./").as_deref(), Some(""));
        for (from, name) in [("", "../x"), ("a", "../../x"), ("", "/etc/passwd"), ("a", "b/../../../x")] {
            assert_eq!(normal(from, name), None);
        }
        assert_eq!(member("//a/./b").as_deref(), Some("a/b"));
        assert_eq!(member("/../a"), None);
        assert_eq!((directory("a/b/c"), directory("c")), ("a/b", ""));
    }
}
