//! The command line: parse, validate, build, serve, drain. Never a decision of business.
fn main() {}
