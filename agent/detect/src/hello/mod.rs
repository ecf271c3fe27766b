//! The opening of an encrypted flow, read out of the first bytes of both directions.
