//! Documents: links that lead somewhere, and no path of anybody's machine.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::{files, paths};

/// Starts of paths that exist on one machine only. Written apart, so that this file is not found itself.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/"), concat!("/ho", "me/")];

/// Relative links in Markdown whose file or heading is missing.
pub(crate) fn broken_links(names: &[String]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".md")) {
        let Some(text) = files::text(name)? else { continue };
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { PathBuf::from(name) } else { beside(name, file) };
            if !paths::root().join(&target).exists() {
                broken.push(format!("{name}: link to {link}: no such file"));
            } else if !anchor.is_empty() && target.extension().is_some_and(|e| e == "md") {
                let there = files::text(&target.to_string_lossy())?.unwrap_or_default();
                if !anchors(&there).contains(anchor) {
                    broken.push(format!("{name}: link to {link}: no such heading"));
                }
            }
        }
    }
    Ok(broken)
}

/// Lines that contain a path of somebody's machine.
pub(crate) fn machine_paths(names: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names {
        let Some(text) = files::text(name)? else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(path) = MACHINE_PATHS.iter().find(|path| starts_a_word(line, path)) {
                found.push(format!("{name}:{}: a path of one machine ({path}…)", number + 1));
            }
        }
    }
    Ok(found)
}

/// Whether the needle stands where no longer path contains it.
fn starts_a_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '*'))
    })
}

/// The targets of all links outside code.
fn links(text: &str) -> Vec<String> {
    let prose = without_code(text);
    let mut links = Vec::new();
    for piece in prose.split("](").skip(1) {
        if let Some(target) = piece.split(')').next() {
            links.push(target.split_whitespace().next().unwrap_or_default().to_owned());
        }
    }
    for line in prose.lines().filter(|line| line.starts_with('[')) {
        if let Some((_, target)) = line.split_once("]: ") {
            links.push(target.split_whitespace().next().unwrap_or_default().to_owned());
        }
    }
    links
}

/// The anchors that a forge makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in without_code_blocks(text).lines().filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let slug: String = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let first = slug.clone();
        let mut repeated = 0;
        let mut slug = slug;
        while !anchors.insert(slug) {
            repeated += 1;
            slug = format!("{first}-{repeated}");
        }
    }
    anchors
}

fn without_code(text: &str) -> String {
    let prose = without_code_blocks(text);
    // Every second piece stands between backticks.
    prose.split('`').step_by(2).collect()
}

fn without_code_blocks(text: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// A path as written in a document, from the root.
fn beside(document: &str, link: &str) -> PathBuf {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let mut path = PathBuf::new();
    for part in folder.join(link).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "See [a](docs/a.md#b) and `[no](x.md)`.\n```\n[no](y.md)\n```\n[r]: ../z.md \"title\"\n";
        assert_eq!(links(text), ["docs/a.md#b", "../z.md"]);
    }

    #[test]
    fn headings_become_anchors_as_forges_write_them() {
        let found = anchors("# One `two`: three!\n```\n# no\n```\n## Same\n## Same\n");
        assert_eq!(found, ["one-two-three", "same", "same-1"].map(str::to_owned).into());
    }

    #[test]
    fn a_link_is_read_from_the_folder_of_its_document() {
        assert_eq!(beside("docs/decisions/x.md", "../../README.md"), PathBuf::from("README.md"));
        assert_eq!(beside("README.md", "./docs/a.md"), PathBuf::from("docs/a.md"));
    }

    #[test]
    fn machine_paths_are_told_from_longer_paths() {
        let path = MACHINE_PATHS[0];
        assert!(starts_a_word(&format!("cd {path}x"), path));
        assert!(starts_a_word(&format!("\"{path}x\""), path));
        assert!(!starts_a_word(&format!("https://host.example{path}x"), path));
        assert!(!starts_a_word("nothing here", path));
    }
}
