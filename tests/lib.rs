//! What needs a kernel to be tested: this library is what such tests are made of, the tests
//! themselves are beside it in `tests/`.

pub mod corpus;
pub mod harness;
