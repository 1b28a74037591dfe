//! The pipeline.

pub mod dead_letter;
