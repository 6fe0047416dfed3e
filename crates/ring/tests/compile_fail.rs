//! What safe code must not be able to write: each file in `compile_fail` is refused for the reason in its name.

#[test]
fn unsound_uses_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
