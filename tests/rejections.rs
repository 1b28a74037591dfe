//! P3: one bad message costs only itself. Each classic poison ends as one dead letter that
//! says why, or as a row; all that came with it is stored; and what is bad in most messages
//! stops the pipeline instead of emptying the stream into the dead letters.

mod constraints;
mod cost;
mod methods;
mod pause;
mod poison;
mod transient;
mod unanswered;
mod unexplained;
