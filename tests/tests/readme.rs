//! What the README shows is what compiles.

/// The text with a space between any two words, however its lines are broken.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_example_of_the_library_is_one_that_compiles() {
    let readme = include_str!("../../README.md");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown = words(shown.expect("a block of Rust"));
    let example = words(include_str!("../../runtime-tokio/examples/library.rs"));
    assert!(example.contains(&shown), "runtime-tokio/examples/library.rs lacks this: {shown}");
}
