//! `/metrics`: two formats with the same names, histograms that count right and stay
//! small, exemplars that never go back in time.

mod accept;
mod exemplars;
mod exposition;
mod histogram;
mod strict;
