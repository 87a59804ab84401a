//! End-to-end and contract tests.

mod command_line;
