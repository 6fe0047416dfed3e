//! What `docs/porting.md` shows of the kernel is in the kernel, and what `docs/new-device.md` shows is in its example.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every excerpt of a guide is in the file that is named before it; how many there are.
fn excerpts(guide: &str) -> usize {
    let mut excerpts = 0;
    let mut rest = guide;
    while let Some(start) = rest.find("```rust\n") {
        let before = &rest[..start];
        let marker = before.trim_end().lines().next_back().unwrap_or_default();
        let file = marker.strip_prefix("<!-- ").and_then(|m| m.strip_suffix(" -->"));
        let file = file.unwrap_or_else(|| panic!("an excerpt without its file, after: {marker}"));
        let body = &rest[start + "```rust\n".len()..];
        let end = body.find("```").expect("an excerpt ends");
        let source = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&body[..end]), "not in {file}:\n{}", &body[..end]);
        excerpts += 1;
        rest = &body[end + 3..];
    }
    excerpts
}

#[test]
fn every_excerpt_in_the_porting_guide_is_in_the_file_that_it_names() {
    let guide = fs::read_to_string(root().join("docs/porting.md")).unwrap();
    let excerpts = excerpts(&guide);
    assert!(excerpts >= 10, "only {excerpts} excerpts");
    for line in guide.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`")) {
        let file = line.rsplit('`').nth(1).unwrap();
        assert!(root().join("guest/src").join(file).is_file(), "{line}");
    }
}

#[test]
fn the_guide_to_new_devices_shows_its_example_which_is_as_short_as_it_says() {
    let guide = fs::read_to_string(root().join("docs/new-device.md")).unwrap();
    assert!(excerpts(&guide) >= 8);
    for file in ["driver.rs", "device.rs", "main.rs"] {
        let path = root().join("crates/drivers/examples/new_device").join(file);
        let lines = fs::read_to_string(path).unwrap().lines().count();
        assert!(lines < 150, "{file} has {lines} lines");
        let row = format!("new_device/{file}) | {lines} |");
        assert!(guide.contains(&row), "the guide does not say that {file} has {lines} lines");
    }
}
