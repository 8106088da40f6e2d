//! The layers of the engine: a folder of `src` uses only folders before it in the list below, and no files use each
//! other in a circle.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers, the lowest first. A folder may use those before it.
const ORDER: [&str; 12] = [
    "error",
    "kernels",
    "task",
    "storage",
    "format",
    "codec",
    "layout",
    "chunks",
    "save",
    "restore",
    "files",
    "repository",
];
/// Pairs of folders of which neither uses the other.
const APART: [(&str, &str); 3] = [("save", "restore"), ("files", "save"), ("files", "restore")];

/// The modules that each module uses, as paths such as `storage` or `storage::lock`.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The path of a file's module. That of a `mod.rs` is the name of its folder.
fn module(root: &Path, path: &Path) -> String {
    let name = path.strip_prefix(root).unwrap().with_extension("").to_str().unwrap().replace(['/', '\\'], "::");
    name.strip_suffix("::mod").unwrap_or(&name).to_owned()
}

/// The code of a file, without comments and without the tests at its end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The paths after `start`, of up to two names. A list in braces gives a path for each of its names.
fn paths<'a>(code: &'a str, start: &'a str) -> impl Iterator<Item = Vec<String>> + 'a {
    code.match_indices(start).flat_map(move |(at, _)| expand(&code[at + start.len()..], 2))
}

fn expand(rest: &str, depth: usize) -> Vec<Vec<String>> {
    if depth == 0 {
        return vec![vec![]];
    }
    if let Some(list) = rest.strip_prefix('{') {
        let list = &list[..end_of(list)];
        return parts(list).into_iter().flat_map(|part| expand(part.trim(), depth)).collect();
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    let below = match behind.strip_prefix("::") {
        Some(behind) => expand(behind, depth - 1),
        None => vec![vec![]],
    };
    below.into_iter().map(|tail| [vec![name.to_owned()], tail].concat()).collect()
}

/// The position of the closing brace.
fn end_of(list: &str) -> usize {
    let mut open = 1;
    for (at, c) in list.char_indices() {
        open += i32::from(c == '{') - i32::from(c == '}');
        if open == 0 {
            return at;
        }
    }
    list.len()
}

/// The parts of a list, between the commas that are not in inner braces.
fn parts(list: &str) -> Vec<&str> {
    let mut open = 0;
    let is_between = |c: char| {
        open += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && open == 0
    };
    list.split(is_between).collect()
}

fn uses() -> Uses {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    sources(&root, &mut files);
    let files: BTreeMap<String, PathBuf> = files.into_iter().map(|path| (module(&root, &path), path)).collect();
    let code_of = |name: &str| code(&files[name]);
    let known = |path: &[String]| {
        let long = path.join("::");
        if files.contains_key(&long) {
            Some(long)
        } else {
            path.first().filter(|top| files.contains_key(*top)).cloned()
        }
    };
    let used = |name: &String| {
        let code = code_of(name);
        let folder = name.split("::").next().unwrap_or_default();
        let mut found: BTreeSet<String> = paths(&code, "crate::").filter_map(|path| known(&path)).collect();
        let inside = |path: Vec<String>| known(&[vec![folder.to_owned()], path].concat());
        found.extend(paths(&code, "super::").filter_map(|path| inside(path[..1].to_vec())));
        // A `mod.rs` names the files beside it directly.
        let children = files.keys().filter(|child| {
            child.strip_prefix(&format!("{name}::")).is_some_and(|leaf| {
                code.match_indices(&format!("{leaf}::"))
                    .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
            })
        });
        found.extend(children.cloned());
        found.remove(name);
        found
    };
    files
        .keys()
        .filter(|name| *name != "lib" && !name.ends_with("::tests"))
        .map(|name| (name.clone(), used(name)))
        .collect()
}

#[test]
fn folders_stand_in_layers() {
    let place = |module: &str| ORDER.iter().position(|top| Some(*top) == module.split("::").next());
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    for (user, used) in uses() {
        assert!(place(&user).is_some(), "{user} is in no layer: add its folder to ORDER");
        for used in used {
            assert!(place(&used) <= place(&user), "{user} uses {used}, which is in a higher layer");
            let pair = (top(&user), top(&used));
            let apart = APART.iter().any(|(a, b)| (pair.0 == *a && pair.1 == *b) || (pair.0 == *b && pair.1 == *a));
            assert!(!apart, "{user} uses {used}, but neither may use the other");
        }
    }
}

#[test]
fn files_use_each_other_in_no_circle() {
    let mut left = uses();
    assert!(left.values().map(BTreeSet::len).sum::<usize>() > 100, "the test does not see what the files use");
    // Remove modules that use nothing that is left, and modules that nothing left uses. What stays is in a circle.
    loop {
        let (there, before) = (left.keys().cloned().collect::<BTreeSet<String>>(), left.len());
        left.values_mut().for_each(|used| used.retain(|name| there.contains(name)));
        let used: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, uses| !uses.is_empty() && used.contains(name));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "files that use each other: {left:#?}");
}

fn files_below(folder: &str) -> (PathBuf, Vec<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = vec![];
    sources(&root, &mut found);
    (root, found)
}

#[test]
fn unsafe_code_stands_where_contributing_says() {
    let (root, files) = files_below("src");
    let found = files.iter().filter(|path| code(path).contains("unsafe ")).map(|path| module(&root, path));
    let elsewhere: BTreeSet<_> = found.filter(|name| !name.starts_with("kernels")).collect();
    assert_eq!(elsewhere, ["storage::lock", "storage::writeback"].map(str::to_owned).into());
}

/// `detached` and `interruptible` turn panics into errors. pyo3 would raise a `PanicException` for them.
#[test]
fn every_call_of_the_binding_without_the_gil_is_guarded() {
    let (root, files) = files_below("../py/src");
    let found = files.iter().filter(|path| code(path).contains(".detach(")).map(|path| module(&root, path));
    assert_eq!(found.collect::<Vec<_>>(), ["interrupt"]);
}
