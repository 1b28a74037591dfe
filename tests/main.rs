//! Behaviour tests against real servers.

mod codec;
