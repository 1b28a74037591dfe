//! The reads of the API have connections of their own, and a role that may only read. Whatever becomes of them,
//! the pipeline goes on.

mod flood;
mod refusals;
mod role;
