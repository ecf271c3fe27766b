//! What is encrypted between whom, and how well: by zone edge and service port, in bounded memory.
