//! Rules for source files.

use crate::known::{LONG_ALLOWED, UNSAFE_ALLOWED};

/// Lines a file may have. It should have about 300.
pub const MAX_LINES: usize = 500;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Words that start a note to do something later. In two halves, so that this file does not hold them itself.
const LATER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders of somebody's machine.
const HOST_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// Everything that is wrong with one file. The path is from the workspace's root.
#[must_use]
pub fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONG_ALLOWED.contains(&path) {
        faults.push(format!(
            "{path} has {lines} lines; {MAX_LINES} is the limit, 300 the aim"
        ));
    }
    if path
        .split('/')
        .any(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))
    {
        faults.push(format!("{path}: the name says nothing"));
    }
    let may_be_unsafe = UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed));
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        if !may_be_unsafe && is_unsafe(line) {
            faults.push(format!("{place}: unsafe outside the kernels"));
        }
        for word in LATER {
            if let Some(rest) = after_word(line, word)
                && !names_an_issue(rest)
            {
                faults.push(format!(
                    "{place}: {word} without the number of an issue, as in {word}(#12)"
                ));
            }
        }
        for folder in HOST_PATHS {
            if line.contains(folder) {
                faults.push(format!("{place}: a path of somebody's machine"));
            }
        }
    }
    faults
}

/// Code that is unsafe, or that allows itself to be.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    ["unsafe", "unsafe_code"].iter().any(|word| {
        after_word(code, word).is_some_and(|rest| {
            let rest = rest.trim_start();
            // The keyword stands before one of these, or ends the line; in a text it rarely does.
            *word == "unsafe_code" && (rest.is_empty() || rest.starts_with([',', ')']))
                || rest.is_empty() && code.trim() == *word
                || ["{", "fn ", "impl", "extern", "trait "]
                    .iter()
                    .any(|next| rest.starts_with(next))
        })
    })
}

/// What follows the first place where `word` stands by itself.
fn after_word<'line>(line: &'line str, word: &str) -> Option<&'line str> {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).find_map(|(start, _)| {
        let (before, rest) = (&line[..start], &line[start + word.len()..]);
        (!before.ends_with(is_part) && !rest.starts_with(is_part)).then_some(rest)
    })
}

fn names_an_issue(rest: &str) -> bool {
    let rest = rest.trim_start().trim_start_matches('(');
    rest.strip_prefix('#')
        .is_some_and(|number| number.starts_with(|char: char| char.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beyond_the_limit_is_a_fault() {
        let long = "\n".repeat(501);
        assert_eq!(faults("libs/a/src/b.rs", &long).len(), 1);
        assert!(faults("libs/wire/src/generated.rs", &long).is_empty());
        assert!(faults("libs/a/src/b.rs", &"\n".repeat(500)).is_empty());
    }

    #[test]
    fn unsafe_code_is_a_fault_outside_the_kernels() {
        let word = concat!("un", "safe");
        for code in [
            format!("    {word} {{ *pointer }}"),
            format!("pub {word} fn read() {{"),
            format!("{word} impl Send for Thing {{}}"),
            format!("{word} extern \"C\" {{"),
            format!("#![allow({word}_code)]"),
            format!("    {word}_code,"),
        ] {
            assert_eq!(faults("libs/a/src/b.rs", &code).len(), 1, "{code}");
            assert!(faults("kernels/cpu/src/dot.rs", &code).is_empty());
            assert!(faults("libs/model/src/mapping.rs", &code).is_empty());
        }
        for harmless in [
            format!("// The {word} part is elsewhere."),
            format!("let text = \"{word}\";"),
        ] {
            assert!(faults("libs/a/src/b.rs", &harmless).is_empty(), "{harmless}");
        }
    }

    #[test]
    fn a_note_for_later_names_its_issue() {
        for word in LATER {
            assert_eq!(faults("a.rs", &format!("// {word}: tidy up")).len(), 1);
            assert!(faults("a.rs", &format!("// {word}(#12): tidy up")).is_empty());
            assert!(faults("a.rs", &format!("// {word} #12: tidy up")).is_empty());
            assert!(faults("a.rs", &format!("let A{word}B = 1;")).is_empty());
        }
    }

    #[test]
    fn files_have_names_that_say_something() {
        assert_eq!(faults("libs/a/src/utils.rs", "").len(), 1);
        assert_eq!(faults("libs/common/src/lib.rs", "").len(), 1);
        assert!(faults("libs/a/src/commonality.rs", "").is_empty());
    }

    #[test]
    fn paths_of_a_machine_are_faults() {
        assert_eq!(
            faults("a.rs", concat!("let path = \"/ho", "me/me/model\";")).len(),
            1
        );
    }
}
