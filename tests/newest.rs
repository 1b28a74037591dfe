//! P5: the newest state of a subject, and a single event, as the API answers it, is what Postgres says,
//! whatever the cache went through; the cache saves queries and nothing else.

mod away;
mod chaos;
mod clones;
mod fixture;
mod form;
mod none;
mod races;
mod refusals;
mod served;
mod servers;
mod single;
