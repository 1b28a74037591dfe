//! The dead-letter stage: durable first, settled after.

use crate::event::DecodeReason;

/// Why a message became a dead letter: a closed list, and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It could not be decoded.
    Decode(DecodeReason),
    /// Postgres refused its row.
    RejectedRow,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; DecodeReason::ALL.len() + 1] = {
        let mut all = [Self::RejectedRow; DecodeReason::ALL.len() + 1];
        let mut i = 0;
        while i < DecodeReason::ALL.len() {
            all[i] = Self::Decode(DecodeReason::ALL[i]);
            i += 1;
        }
        all
    };

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode(reason) => reason.as_str(),
            Self::RejectedRow => "rejected_row",
        }
    }

    /// Its place in [`Reason::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Decode(reason) => reason as usize,
            Self::RejectedRow => DecodeReason::ALL.len(),
        }
    }
}
