//! What `docs/porting.md` shows of the kernel is in the kernel.

use std::fs;
use std::path::Path;

#[test]
fn every_excerpt_in_the_porting_guide_is_in_the_file_that_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = fs::read_to_string(root.join("docs/porting.md")).unwrap();
    let mut excerpts = 0;
    let mut rest = guide.as_str();
    while let Some(start) = rest.find("```rust\n") {
        let before = &rest[..start];
        let marker = before.trim_end().lines().next_back().unwrap_or_default();
        let file = marker.strip_prefix("<!-- ").and_then(|m| m.strip_suffix(" -->"));
        let file = file.unwrap_or_else(|| panic!("an excerpt without its file, after: {marker}"));
        let body = &rest[start + "```rust\n".len()..];
        let end = body.find("```").expect("an excerpt ends");
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&body[..end]), "not in {file}:\n{}", &body[..end]);
        excerpts += 1;
        rest = &body[end + 3..];
    }
    assert!(excerpts >= 10, "only {excerpts} excerpts");
    for line in guide.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`")) {
        let file = line.rsplit('`').nth(1).unwrap();
        assert!(root.join("guest/src").join(file).is_file(), "{line}");
    }
}
