//! No file imports itself, not even through others: an import goes to the file that defines the name, through any
//! re-exports. So what a folder's `mod.rs` defines stands above the files of the folder, and what they share below them.
//!
//! Reads Rust as text, which is enough for this code base: `use` trees, paths that begin with `crate`, `super` or `self`,
//! and paths that begin with an imported module. Test modules and re-exports are no imports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use crate::imports::branches;

/// A module path without `crate`.
type Module = Vec<String>;

struct Source {
    file: String,
    /// Names that the file defines at its top level.
    items: HashSet<String>,
    imports: Vec<Import>,
    /// The code without its `use` declarations.
    code: String,
}

#[derive(Clone)]
struct Import {
    path: Vec<String>,
    /// The name in this file.
    name: String,
    exported: bool,
}

struct Tree {
    sources: HashMap<Module, Source>,
}

#[test]
fn no_file_is_in_an_import_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let tree = Tree::read(&root);
    assert!(tree.sources.len() > 300, "the files were found");
    let imports = tree.imports();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 1_000, "the imports were read");
    let circles = circles(&imports);
    assert!(circles.is_empty(), "files that import each other:\n{}", circles.join("\n"));
}

impl Tree {
    fn read(root: &Path) -> Self {
        let mut tree = Self { sources: HashMap::new() };
        for (module, file) in [(Vec::new(), "lib.rs"), (vec!["main".to_owned()], "main.rs")] {
            tree.add(root, module, file.to_owned());
        }
        tree
    }

    /// Follows `mod` declarations, except those of tests.
    fn add(&mut self, root: &Path, module: Module, file: String) {
        let text = std::fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let text = without_comments(&text);
        let text = without_test_modules(&text);
        for name in declared_modules(&text) {
            let mut child = module.clone();
            child.push(name);
            let path = child.join("/");
            let place = [format!("{path}.rs"), format!("{path}/mod.rs")].into_iter().find(|p| root.join(p).exists());
            self.add(root, child, place.unwrap_or_else(|| panic!("{file}: no file of the module {path}")));
        }
        let (imports, code) = imports(&text);
        self.sources.insert(module, Source { file, items: items(&text), imports, code });
    }

    /// Each file with the files whose names it uses.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all = BTreeMap::new();
        for (module, source) in &self.sources {
            let own = source.imports.iter().filter(|import| !import.exported);
            let mut paths: Vec<Vec<String>> = own.map(|import| import.path.clone()).collect();
            paths.extend(paths_in(&source.code).into_iter().map(|path| {
                // A path may begin with a module that is imported.
                let first = source.imports.iter().find(|import| import.name == path[0]);
                match first {
                    Some(import) => import.path.iter().chain(&path[1..]).cloned().collect(),
                    None => path,
                }
            }));
            let files = paths.iter().filter_map(|path| self.definition(module, path, 0));
            let files = files.filter(|file| *file != source.file).collect();
            all.insert(source.file.as_str(), files);
        }
        all
    }

    /// The file that defines what `path` names, seen from `from`. None for other crates.
    fn definition(&self, from: &Module, path: &[String], depth: usize) -> Option<&str> {
        if depth > 16 {
            return None;
        }
        let mut module = from.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" | "causality" => (module, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                module.push(first.to_owned());
                self.sources.get(&module)?;
                rest = &rest[1..];
            }
        }
        while let Some(part) = rest.first() {
            module.push(part.clone());
            if !self.sources.contains_key(&module) {
                module.pop();
                break;
            }
            rest = &rest[1..];
        }
        let source = self.sources.get(&module)?;
        let Some(name) = rest.first().filter(|name| !source.items.contains(*name)) else {
            return Some(&source.file);
        };
        for import in source.imports.iter().filter(|import| import.path != path) {
            let named = import.name == *name;
            let through: Vec<String> = match import.name.as_str() {
                "*" => import.path.iter().cloned().chain(rest.iter().cloned()).collect(),
                _ if named => import.path.iter().chain(&rest[1..]).cloned().collect(),
                _ => continue,
            };
            let found = self.definition(&module, &through, depth + 1);
            if found.is_some() && (named || found != Some(&source.file)) {
                return found;
            }
        }
        Some(&source.file)
    }
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Removes `#[cfg(test)]` modules, in place or in files of their own.
fn without_test_modules(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("#[cfg(test)]") {
        let after = &rest[at + "#[cfg(test)]".len()..];
        kept.push_str(&rest[..at]);
        let mut item = after.trim_start();
        while item.starts_with("#[") {
            item = item[item.find(']').map_or(item.len(), |end| end + 1)..].trim_start();
        }
        let is_module = visibility(item).starts_with("mod ");
        rest = match (is_module, item.find(['{', ';'])) {
            (true, Some(end)) if item[end..].starts_with(';') => &item[end + 1..],
            (true, Some(begin)) => &item[begin + block_len(&item[begin..])..],
            _ => after,
        };
    }
    kept + rest
}

/// The length of a block that begins with a brace. Tests come last in a file, so a brace in a string does no harm.
fn block_len(text: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The item without `pub` or `pub(...)`.
fn visibility(item: &str) -> &str {
    let Some(rest) = item.strip_prefix("pub") else { return item };
    let rest = rest.trim_start();
    match rest.strip_prefix('(') {
        Some(scope) => scope[scope.find(')').map_or(0, |end| end + 1)..].trim_start(),
        None => rest,
    }
}

fn declared_modules(text: &str) -> Vec<String> {
    let (mut modules, mut elsewhere) = (Vec::new(), false);
    for line in text.lines() {
        elsewhere |= line.trim_start().starts_with("#[path");
        if let Some(name) = visibility(line).strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            if !elsewhere {
                modules.push(name.to_owned());
            }
            elsewhere = false;
        }
    }
    modules
}

fn items(text: &str) -> HashSet<String> {
    let mut items = HashSet::new();
    for line in text.lines() {
        let mut words = visibility(line).split_whitespace().peekable();
        while words.next_if(|word| matches!(*word, "async" | "unsafe") || word.starts_with("extern")).is_some() {}
        let Some(kind) = words.next() else { continue };
        let name = match kind {
            "struct" | "enum" | "fn" | "trait" | "type" | "static" | "union" | "macro_rules!" => words.next(),
            "const" => words.find(|word| *word != "fn"),
            _ => None,
        };
        if line.starts_with(|first: char| !first.is_whitespace()) {
            items.extend(name.map(identifier).map(str::to_owned));
        }
    }
    items
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The `use` declarations, and the rest of the code.
fn imports(text: &str) -> (Vec<Import>, String) {
    let (mut found, mut code, mut rest) = (Vec::new(), String::new(), text);
    while let Some(begin) = rest.lines().find(|line| visibility(line.trim_start()).starts_with("use ")) {
        let at = begin.as_ptr() as usize - rest.as_ptr() as usize;
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        code.push_str(&rest[..at]);
        let declaration = rest[at..end].trim_start();
        let tree = visibility(declaration).trim_start_matches("use ");
        add_tree(tree, &[], declaration.starts_with("pub"), &mut found);
        rest = &rest[(end + 1).min(rest.len())..];
    }
    (found, code + rest)
}

fn add_tree(tree: &str, before: &[String], exported: bool, found: &mut Vec<Import>) {
    let tree = tree.trim();
    // Behind a trailing comma.
    if tree.is_empty() {
        return;
    }
    let (path, group) = match tree.find('{') {
        Some(at) => (&tree[..at], Some(&tree[at + 1..])),
        None => (tree, None),
    };
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias.trim())));
    let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty());
    let mut path: Vec<String> = before.iter().cloned().chain(parts.map(str::to_owned)).collect();
    match group {
        Some(group) => branches(group).into_iter().for_each(|branch| add_tree(branch, &path, exported, found)),
        None => {
            path.pop_if(|last| last == "self");
            let name = alias.map(str::to_owned).or_else(|| path.last().cloned()).unwrap_or_default();
            path.pop_if(|last| last == "*");
            found.push(Import { path, name, exported });
        }
    }
}

/// Paths of two parts and more.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let mut paths: Vec<Vec<String>> = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in code.match_indices("::") {
        let begin = code[..at].rfind(|c| !is_word(c)).map_or(0, |end| end + 1);
        // Only the beginning of a path.
        if begin == at || code[..begin].ends_with("::") {
            continue;
        }
        let end = code[begin..].find(|c: char| !is_word(c) && c != ':').map_or(code.len(), |end| begin + end);
        let path = code[begin..end].split("::").filter(|part| !part.is_empty() && part.chars().all(is_word));
        paths.push(path.map(str::to_owned).collect());
    }
    paths.retain(|path| path.len() > 1);
    paths
}

/// Groups of files that reach each other, as text.
fn circles(imports: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let reach: HashMap<&str, HashSet<&str>> = imports.keys().map(|file| (*file, reachable(file, imports))).collect();
    let (mut circles, mut seen) = (Vec::new(), HashSet::new());
    for file in imports.keys() {
        let circle: Vec<&str> = imports
            .keys()
            .copied()
            .filter(|other| reach[file].contains(other) && reach[other].contains(file))
            .collect();
        if !circle.is_empty() && seen.insert(circle.clone()) {
            circles.push(circle.join(" "));
        }
    }
    circles
}

fn reachable<'a>(file: &str, imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> HashSet<&'a str> {
    let (mut reached, mut waiting) = (HashSet::new(), vec![file]);
    while let Some(next) = waiting.pop() {
        for import in imports.get(next).into_iter().flatten() {
            if reached.insert(*import) {
                waiting.push(import);
            }
        }
    }
    reached
}

#[test]
fn an_import_leads_to_the_file_that_defines_the_name() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("main.rs", "fn main() { causality::a::Top; }");
    write("lib.rs", "pub mod a;\npub mod b;");
    write("a/mod.rs", "mod low;\nmod high;\npub use low::{Low, other};\n\npub struct Top(high::High);");
    write("a/low.rs", "pub struct Low;\npub fn other() {}\n#[cfg(test)]\nmod tests {\n    use super::super::Top;\n}");
    write("a/high.rs", "use super::{\n    Low,\n    low,\n};\npub struct High(Low, low::Low);");
    write("b.rs", "use crate::a;\nfn b() { a::other(); }");
    let tree = Tree::read(directory.path());
    let imports = tree.imports();
    let of = |file: &str| imports[file].iter().copied().collect::<Vec<_>>();
    assert_eq!(of("a/mod.rs"), ["a/high.rs"]);
    assert_eq!(of("a/high.rs"), ["a/low.rs"]);
    assert_eq!(of("a/low.rs"), [""; 0]);
    assert_eq!(of("b.rs"), ["a/low.rs", "a/mod.rs"]);
    assert_eq!(of("main.rs"), ["a/mod.rs"]);
    assert_eq!(circles(&imports), [""; 0]);
    write("a/low.rs", "use super::Top;\npub struct Low(Top);\npub fn other() {}");
    let tree = Tree::read(directory.path());
    assert_eq!(circles(&tree.imports()), ["a/high.rs a/low.rs a/mod.rs"]);
}
