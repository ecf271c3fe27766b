//! Attempts to get clear text past a rule that wants it encrypted, and honest flows that look like one.
