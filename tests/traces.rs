//! P7: which messages become traces, what a trace looks like, and what becomes of traces
//! when the collector does not take them.

mod away;
mod exemplars;
mod failed;
mod flood;
mod off;
mod parents;
mod shape;
mod slow;
mod slow_list;
mod walk;
