//! The map is complete: a file that it does not name is a file that nobody finds.

use std::path::{Path, PathBuf};

fn files_under(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                files_under(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_map_names_every_file_and_no_file_that_is_gone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = std::fs::read_to_string(source.join("ARCHITECTURE.md")).unwrap();
    let map = map.split("## The map").nth(1).and_then(|rest| rest.split("## ").next()).expect("the map");
    let first_words: Vec<&str> = map.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut files = Vec::new();
    files_under(&source, &mut files);
    let names: Vec<&str> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    for (name, path) in names.iter().zip(&files) {
        let is_implied = matches!(*name, "mod.rs" | "tests.rs");
        assert!(is_implied || first_words.contains(name), "{} is not on the map", path.display());
    }
    for word in first_words.iter().filter(|word| word.ends_with(".rs")) {
        assert!(names.contains(word), "{word} is on the map and does not exist");
    }
}
